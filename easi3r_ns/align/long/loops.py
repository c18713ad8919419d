"""Loop closure: frames that show the same place again, found by the encoder's features and verified by the network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ...core.similarity import between
from ...core.types import PairGraph, PairPredictions
from ..align import AlignResult
from .overlap import Fit, PointMatches, relative_distance, robust_similarity
from .posegraph import Link
from .stitch import AlignedWindows, link_of, sample

MOST_CANDIDATES = 16
"""Most pairs of frames that the network decodes to verify them."""
LEAST_SIMILARITY = 0.5
"""Least similarity of a candidate's frames, as a share of the median over the pairs of the graph."""
LEAST_USUAL = 0.2
"""Least median similarity that candidates are measured by: below it the features do not describe what a frame shows."""
LEAST_CONFIDENCE = 0.5
"""Least mean log-confidence of a candidate, as a share of that of the clip's own pairs."""
LEAST_INLIERS = 0.5
"""Least share of a candidate's points that must fit the window of their frame."""
AGREEMENT = 0.1
"""Largest distance, in units of the depth, between the second frame's points as the two orders of a candidate place
them."""
SAMPLED_PAIRS = 64
"""Pairs of the clip from which the usual confidence is computed."""


def describe_frames(features: torch.Tensor, moving: np.ndarray | None) -> np.ndarray:
    """(F, D) unit vectors: the mean encoder feature of a frame's static tokens, less the mean over the clip.

    Args:
        features: (F, N, D) encoder features, any device and precision; read frame by frame.
        moving: (F, N) bool, tokens to leave out; a frame without static tokens is described by all of its tokens.
    """
    pooled = []
    for frame in range(len(features)):
        tokens = features[frame].float().cpu()
        static = None if moving is None else torch.from_numpy(~moving[frame])
        pooled.append((tokens if static is None or not bool(static.any()) else tokens[static]).mean(dim=0))
    described: np.ndarray = torch.stack(pooled).double().numpy()
    described -= described.mean(axis=0)
    described /= np.maximum(np.linalg.norm(described, axis=1, keepdims=True), 1e-12)
    return described


def loop_candidates(described: np.ndarray, graph: PairGraph, gap: int, most: int = MOST_CANDIDATES) -> np.ndarray:
    """(K, 2) frames p < q, at least ``gap`` apart, that look alike: the most similar first, K <= ``most``.

    ``described``: (F, D) unit vectors of the graph's first F frames, from :func:`describe_frames`. The threshold is
    relative to the similarity of the graph's own pairs, which see the same place. Candidates within a quarter of
    ``gap`` of a better one in both frames are left out.
    """
    count = len(described)
    similarity = described @ described.T
    paired = graph.edges[(graph.edges < count).all(axis=1)]
    usual = float(np.median(similarity[paired[:, 0], paired[:, 1]]))
    frames = np.arange(count)
    similarity[frames[None, :] - frames[:, None] < gap] = -np.inf
    apart = max(1, gap // 4)
    found: list[tuple[int, int]] = []
    while len(found) < most:
        p, q = (int(x) for x in np.unravel_index(similarity.argmax(), similarity.shape))
        if not similarity[p, q] >= LEAST_SIMILARITY * max(usual, LEAST_USUAL):
            break
        found.append((p, q))
        similarity[max(0, p - apart) : p + apart + 1, max(0, q - apart) : q + apart + 1] = -np.inf
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def both_orders(candidates: np.ndarray, num_frames: int) -> PairGraph:
    """The pair graph of K >= 1 candidates (K, 2): (p, q) of candidate k in row 2 k, (q, p) in row 2 k + 1."""
    edges = np.stack([candidates, candidates[:, ::-1]], axis=1).reshape(-1, 2)
    return PairGraph(edges, num_frames, "loops")


def verify_loops(aligned: AlignedWindows, candidates: np.ndarray, decoded: PairPredictions, usual: float) -> list[Link]:
    """The candidates (K, 2) that pass all checks, as links of the pose graph.

    ``decoded``: pointmaps of :func:`both_orders`. ``usual``: :func:`usual_confidence` of the clip.
    """
    links = [_verified(aligned, (int(p), int(q)), decoded, 2 * k, usual) for k, (p, q) in enumerate(candidates)]
    return [link for link in links if link is not None]


def usual_confidence(predictions: PairPredictions) -> float:
    """Median over :data:`SAMPLED_PAIRS` pairs of the mean log-confidence, in the view where it is lower."""
    rows = np.unique(np.linspace(0, len(predictions.graph) - 1, SAMPLED_PAIRS).round().astype(int))
    return float(np.median([_log_confidence(predictions, int(row)) for row in rows]))


def _log_confidence(predictions: PairPredictions, row: int) -> float:
    both = torch.stack([predictions.conf_i[row], predictions.conf_j[row]]).float().cpu()
    return float(both.clamp_min(1).log().mean(dim=(1, 2)).min())


def _verified(
    aligned: AlignedWindows, frames: tuple[int, int], decoded: PairPredictions, row: int, usual: float
) -> Link | None:
    """The link of one candidate, decoded in rows ``row`` and ``row + 1``; None where it fails a check."""
    locations = [aligned.main_window(frame) for frame in frames]
    (a, _), (b, position) = locations
    if np.isin(aligned.windows[a].frames, aligned.windows[b].frames).any():
        return None  # the shared frames measure this similarity better
    if min(_log_confidence(decoded, row), _log_confidence(decoded, row + 1)) < LEAST_CONFIDENCE * usual:
        return None
    results = [aligned.load(a), aligned.load(b)]
    there = _between_worlds(aligned, frames, locations, results, (decoded.points_i[row], decoded.points_j[row]))
    back = _between_worlds(aligned, frames, locations, results, (decoded.points_j[row + 1], decoded.points_i[row + 1]))
    if there is None or back is None:
        return None
    seen = _trusted_points(aligned, frames[1], locations[1], results[1])
    here = there.similarity.points(seen.points)
    gap = PointMatches(seen.points, here, seen.depth * there.similarity.scale, np.ones(len(here)))
    agreement = float(np.median(relative_distance(gap, back.similarity)))
    if agreement > AGREEMENT:
        return None
    similarity = between(there.similarity, back.similarity, 0.5, results[1].T_world_cam[position, :3, 3])
    residual = max(there.residual, back.residual, agreement)
    return link_of(a, b, similarity, residual, (results[1], position), frames)


@dataclass(frozen=True)
class _TrustedPoints:
    """Trusted points of one frame in the world of its window."""

    pixels: np.ndarray
    """(N,) row-major pixel numbers."""
    points: np.ndarray
    """(N, 3) in the units of the window."""
    depth: np.ndarray
    """(N,) z-depth."""


def _trusted_points(
    aligned: AlignedWindows, frame: int, location: tuple[int, int], result: AlignResult
) -> _TrustedPoints:
    pixels = sample(aligned.trusted(result, location[1], frame), aligned.seed + frame)
    points = aligned.points(result, location[1]).reshape(-1, 3)[pixels]
    return _TrustedPoints(pixels, points, np.asarray(result.depth[location[1]], dtype=float).ravel()[pixels])


def _between_worlds(
    aligned: AlignedWindows,
    frames: tuple[int, int],
    locations: list[tuple[int, int]],
    results: list[AlignResult],
    pointmaps: tuple[torch.Tensor, torch.Tensor],
) -> Fit | None:
    """From the world of the second frame's window to that of the first frame's, by the pointmaps of one decoded pair.

    ``locations``: (window, position) of both frames; ``results``: of both windows; ``pointmaps``: (H, W, 3) of both
    frames in one common frame. None where too few points fit.
    """
    fits = []
    for frame, location, result, points in zip(frames, locations, results, pointmaps):
        seen = _trusted_points(aligned, frame, location, result)
        source = points.float().cpu().numpy().reshape(-1, 3)[seen.pixels].astype(float)
        data = PointMatches(source, seen.points, seen.depth, np.ones(len(seen.pixels)))
        fit = robust_similarity(data, aligned.seed)
        if fit is None or fit.inliers < LEAST_INLIERS:
            return None
        fits.append(fit)
    motion = fits[0].similarity.after(fits[1].similarity.inverse())
    return Fit(motion, max(fit.residual for fit in fits), min(fit.inliers for fit in fits))
