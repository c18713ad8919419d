"""How strongly every pixel breaks the camera's motion: mean and deviation over the pairs of a frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from ...core.types import PairGraph
from ..flow.provider import FlowProvider, forward_backward_consistent
from .background import FEWEST_SAMPLES, Kind, distance, fit, homography_preferred, sample

STATIC_NOISE_PX = 0.3
STATIC_NOISE_PER_FLOW = 0.02
"""Deviation of optical flow on a textured static surface, in pixels and as a share of the pair's median flow."""
TEXTURE_NOISE = 0.3
TEXTURE_NOISE_MOST_PX = 3.0
"""Deviation of flow in pixels over the square root of the weaker eigenvalue of the structure tensor, and its bound."""
TEXTURE_WINDOW_PX = 3.5
MOST_DEVIATIONS = 30.0
"""Residuals above this many deviations all count the same."""
INCONSISTENT_WEIGHT = 0.1
"""Weight of a pixel whose forward and backward flow disagree: little, but it decides where no pair agrees."""
FOLLOWED = 0.3
"""Share of consistent pixels from which on the flow of a pair is used at all."""
VOTING_PAIRS = 12
"""Approximate number of pairs that decide between homography and fundamental matrix."""

Load = Callable[[Sequence[int]], np.ndarray]
"""Numbers of n frames -> their images (n, H, W, 3) uint8 RGB."""
Links = Callable[[int, int, np.ndarray], None]
"""Called with (i, j, flow (H, W, 2) from i to j) for every ordered pair."""


@dataclass(frozen=True)
class MotionStats:
    """Mean and deviation, over the pairs of a frame, of the residual in [0, 1]."""

    mean: np.ndarray
    """(F, H, W) float32."""
    deviation: np.ndarray
    """(F, H, W) float32."""
    trust: np.ndarray
    """(F, H, W) float32 in [0, 1]: share of the frame's pairs whose flow is consistent here."""
    pairs_used: int
    """Unordered pairs whose flow was used."""


def motion_stats(
    images: np.ndarray,
    graph: PairGraph,
    kind: Kind,
    provider: FlowProvider,
    advance: Callable[[int], None],
    links: Links | None = None,
) -> MotionStats:
    """Residuals of all pairs of a clip under one kind of model.

    Args:
        images: (F, H, W, 3) uint8 RGB.
        kind: from :func:`choose_kind`.
        advance: called with the number of unordered pairs that were done.
        links: is handed every flow, which is not kept.
    """
    noise = [_texture_noise(image) for image in images]
    moments = _Moments(images.shape[:3])
    used = 0
    for i, j in unordered(graph):
        flows, agree = _both_ways(images[[i, j]], provider)
        followed = min(mask.mean() for mask in agree) >= FOLLOWED
        used += followed
        for (first, second), flow, consistent in zip(((i, j), (j, i)), flows, agree, strict=True):
            if links is not None:
                links(first, second, flow)
            residual = _residual(kind, flow, consistent, noise[first]) if followed else None
            if residual is not None:
                moments.add(first, residual, np.where(consistent, 1.0, INCONSISTENT_WEIGHT).astype(np.float32))
        advance(1)
    return moments.finish(used)


def unordered(graph: PairGraph) -> list[tuple[int, int]]:
    """The pairs (i, j) of a graph with i < j."""
    return [(i, j) for i, j in graph.edges.tolist() if i < j]


def choose_kind(load: Load, graph: PairGraph, provider: FlowProvider) -> Kind:
    """Homography or fundamental matrix: GRIC over pairs with the longest gap that flow can follow.

    A homography describes the background of a turning camera, and a flat background. A fundamental matrix would then
    explain moving objects as parallax. Parallax is largest over long gaps, so that only the longest gap that flow can
    follow decides. One kind holds for the whole clip: the residuals of both are not comparable.
    """
    pairs = unordered(graph)
    for gap in sorted({j - i for i, j in pairs}, reverse=True):
        of_gap = [pair for pair in pairs if pair[1] - pair[0] == gap]
        step = max(1, len(of_gap) // VOTING_PAIRS)
        votes = []
        for i, j in of_gap[step // 2 :: step]:
            flows, agree = _both_ways(load([i, j]), provider)
            vote = homography_preferred(sample(flows[0], agree[0])) if agree[0].mean() >= FOLLOWED else None
            votes.append(vote)
        cast = [vote for vote in votes if vote is not None]
        if 2 * len(cast) > len(votes):
            return "homography" if float(np.mean(cast)) > 0 else "fundamental"
    return "homography"


def _both_ways(
    images: np.ndarray, provider: FlowProvider
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Flows (H, W, 2) between two images (2, H, W, 3), there and back, and where each agrees with the other (H, W)."""
    fields = provider.flow(images, images[[1, 0]])
    there = torch.from_numpy(fields).permute(0, 3, 1, 2)
    agree = forward_backward_consistent(there, there.flip(0)).numpy()
    return (fields[0], fields[1]), (agree[0], agree[1])


def _residual(kind: Kind, flow: np.ndarray, consistent: np.ndarray, texture: np.ndarray) -> np.ndarray | None:
    """(H, W) in [0, 1]: logarithm of the residual in deviations of static flow; None where no model fits."""
    samples = sample(flow, consistent)
    model = fit(kind, samples) if len(samples) >= FEWEST_SAMPLES else None
    if model is None:
        return None
    height, width = consistent.shape
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    start = np.stack([columns, rows], axis=-1)
    off = distance(kind, model, start, start + flow)
    deviation = np.sqrt(STATIC_NOISE_PX**2 + (STATIC_NOISE_PER_FLOW * samples.median_flow) ** 2 + texture**2)
    return (np.log1p(np.minimum(off / deviation, MOST_DEVIATIONS)) / np.log1p(MOST_DEVIATIONS)).astype(np.float32)


def _texture_noise(image: np.ndarray) -> np.ndarray:
    """(H, W) pixels of deviation that optical flow has because there is little texture."""
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.0)
    across, down = (cv2.Sobel(grey, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1)))
    products = (across * across, across * down, down * down)
    xx, xy, yy = (cv2.GaussianBlur(product, (0, 0), TEXTURE_WINDOW_PX) for product in products)
    weaker = (xx + yy) / 2 - np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    return np.minimum(TEXTURE_NOISE / np.sqrt(np.maximum(weaker, 0) + 1e-3), TEXTURE_NOISE_MOST_PX)


class _Moments:
    """Weighted mean and deviation per frame, pair by pair (West, 1979): memory grows with F, not with the pairs."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._weight, self._mean, self._m2 = (np.zeros(shape, dtype=np.float32) for _ in range(3))
        self._count = np.zeros(shape[0])

    def add(self, frame: int, value: np.ndarray, weight: np.ndarray) -> None:
        """Take in one pair: ``value`` and ``weight`` (H, W)."""
        self._count[frame] += 1
        self._weight[frame] += weight
        delta = value - self._mean[frame]
        self._mean[frame] += delta * weight / self._weight[frame]
        self._m2[frame] += weight * delta * (value - self._mean[frame])

    def finish(self, pairs_used: int) -> MotionStats:
        deviation = np.sqrt(np.maximum(self._m2, 0) / np.maximum(self._weight, 1e-6))
        trust = self._weight / np.maximum(self._count, 1)[:, None, None]
        return MotionStats(self._mean, deviation, trust.astype(np.float32), pairs_used)
