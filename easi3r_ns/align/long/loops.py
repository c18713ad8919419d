"""Places that the camera comes back to: found by the encoder's features, verified by decoding the pair of frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ...core.similarity import between
from ...core.types import PairGraph, PairPredictions
from ..align import AlignResult
from .overlap import Correspondences, Fit, relative_distance, robust_similarity
from .posegraph import Link
from .stitch import Pieces, link_of, sample

MOST_CANDIDATES = 16
LEAST_SIMILARITY = 0.5
"""Of a candidate's frames, as a share of the usual similarity of frames that the pair graph joins."""
LEAST_USUAL = 0.2
"""Usual similarity below which these features do not tell what a frame shows."""
LEAST_CONFIDENCE = 0.5
"""Mean log-confidence of a candidate, as a share of that of the clip's own pairs."""
LEAST_INLIERS = 0.5
"""Share of a candidate's points that must fit the window of their frame."""
AGREEMENT = 0.1
"""Distance, in units of the depth, within which both orders of a candidate must place the second frame's points."""
SAMPLED_PAIRS = 64
"""Of the clip, whose confidence says what is usual."""


def describe_frames(features: torch.Tensor, moving: np.ndarray | None) -> np.ndarray:
    """(F, D) unit vectors: the mean encoder feature of what stands still, less that of the clip.

    Args:
        features: (F, N, D) of the encoder, any device and precision; read frame by frame.
        moving: (F, N) bool, tokens to leave out; a frame that has no others is described by all of its tokens.
    """
    pooled = []
    for frame in range(len(features)):
        tokens = features[frame].float().cpu()
        static = None if moving is None else torch.from_numpy(~moving[frame])
        pooled.append((tokens if static is None or not bool(static.any()) else tokens[static]).mean(dim=0))
    described = torch.stack(pooled).double().numpy()
    described -= described.mean(axis=0)
    return described / np.maximum(np.linalg.norm(described, axis=1, keepdims=True), 1e-12)


def loop_candidates(described: np.ndarray, graph: PairGraph, gap: int, most: int = MOST_CANDIDATES) -> np.ndarray:
    """(K, 2) frames p < q, at least ``gap`` apart, that look alike: the best first, none near a better one.

    ``described``: (F, D) unit vectors of the graph's first F frames. What counts as alike is measured on the pairs of
    the graph itself, which are known to see the same place.
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
    """The graph of K >= 1 candidates: (p, q) of candidate k in row 2 k, (q, p) in the next."""
    edges = np.stack([candidates, candidates[:, ::-1]], axis=1).reshape(-1, 2)
    return PairGraph(edges, num_frames, "loops")


def verify_loops(pieces: Pieces, candidates: np.ndarray, decoded: PairPredictions, usual: float) -> list[Link]:
    """The candidates (K, 2) that are true loops, as links of the pose graph.

    ``decoded``: pointmaps of :func:`both_orders`. ``usual``: :func:`usual_confidence` of the clip.
    """
    links = [_verified(pieces, (int(p), int(q)), decoded, 2 * k, usual) for k, (p, q) in enumerate(candidates)]
    return [link for link in links if link is not None]


def usual_confidence(predictions: PairPredictions) -> float:
    """Median over some pairs of a pair's mean log-confidence."""
    rows = np.unique(np.linspace(0, len(predictions.graph) - 1, SAMPLED_PAIRS).round().astype(int))
    return float(np.median([_log_confidence(predictions, int(row)) for row in rows]))


def _log_confidence(predictions: PairPredictions, row: int) -> float:
    both = torch.stack([predictions.conf_i[row], predictions.conf_j[row]]).float().cpu()
    return float(both.clamp_min(1).log().mean(dim=(1, 2)).min())


def _verified(pieces: Pieces, frames: tuple[int, int], decoded: PairPredictions, row: int, usual: float) -> Link | None:
    homes = [pieces.home(frame) for frame in frames]
    (a, _), (b, position) = homes
    if np.isin(pieces.windows[a].frames, pieces.windows[b].frames).any():
        return None  # overlapping windows know each other better
    if min(_log_confidence(decoded, row), _log_confidence(decoded, row + 1)) < LEAST_CONFIDENCE * usual:
        return None
    results = [pieces.load(a), pieces.load(b)]
    there = _motion(pieces, frames, homes, results, (decoded.points_i[row], decoded.points_j[row]))
    back = _motion(pieces, frames, homes, results, (decoded.points_j[row + 1], decoded.points_i[row + 1]))
    if there is None or back is None:
        return None
    seen = _see(pieces, frames[1], homes[1], results[1])
    here = there.similarity.points(seen.points)
    gap = Correspondences(seen.points, here, seen.depth * there.similarity.scale, np.ones(len(here)))
    agreement = float(np.median(relative_distance(gap, back.similarity)))
    if agreement > AGREEMENT:
        return None
    similarity = between(there.similarity, back.similarity, 0.5, results[1].T_world_cam[position, :3, 3])
    residual = max(there.residual, back.residual, agreement)
    return link_of(a, b, similarity, residual, (results[1], position), frames)


@dataclass(frozen=True)
class _Seen:
    """Trusted points of a frame in the world of its window."""

    pixels: np.ndarray
    """(N,) flat numbers."""
    points: np.ndarray
    """(N, 3)."""
    depth: np.ndarray
    """(N,) z-depth."""


def _see(pieces: Pieces, frame: int, home: tuple[int, int], result: AlignResult) -> _Seen:
    pixels = sample(pieces.trusted(result, home[1], frame), pieces.seed + frame)
    points = pieces.points(result, home[1]).reshape(-1, 3)[pixels]
    return _Seen(pixels, points, np.asarray(result.depth[home[1]], dtype=float).ravel()[pixels])


def _motion(
    pieces: Pieces,
    frames: tuple[int, int],
    homes: list[tuple[int, int]],
    results: list[AlignResult],
    pointmaps: tuple[torch.Tensor, torch.Tensor],
) -> Fit | None:
    """From the world of the second frame's window to that of the first's, by the pointmaps (H, W, 3) of one pair."""
    fits = []
    for frame, home, result, points in zip(frames, homes, results, pointmaps):
        seen = _see(pieces, frame, home, result)
        source = points.float().cpu().numpy().reshape(-1, 3)[seen.pixels].astype(float)
        data = Correspondences(source, seen.points, seen.depth, np.ones(len(seen.pixels)))
        fit = robust_similarity(data, pieces.seed)
        if fit is None or fit.inliers < LEAST_INLIERS:
            return None
        fits.append(fit)
    motion = fits[0].similarity.after(fits[1].similarity.inverse())
    return Fit(motion, max(fit.residual for fit in fits), min(fit.inliers for fit in fits))
