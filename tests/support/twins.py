"""Slow, obvious twins of fast routines, and shorthands that keep all statistics in memory."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation
from torch import Tensor

from easi3r_ns.core.score import ScoreFormula
from easi3r_ns.core.types import AttentionStats, PairGraph, PairPredictions
from easi3r_ns.depth import movers
from easi3r_ns.motion.attention.statistics import AttentionAccumulator, MapSummary, maps_of, without_sink
from easi3r_ns.motion.rigid.prediction import NEAREST_SHARE, DepthRange
from easi3r_ns.network.blocks import Silence
from easi3r_ns.network.compute import Compute
from easi3r_ns.network.inference import Advance, PairNetwork, map_dtype, map_shapes
from easi3r_ns.network.model import DUSt3R, Grid
from easi3r_ns.refine.individual import ROBUST_PX, SMOOTH, Adjusted, TrackedCameras, Tracks
from easi3r_ns.storage.rows import MemoryRows


def collect_attention(
    model: DUSt3R,
    features: Tensor,
    graph: PairGraph,
    grid: Grid,
    compute: Compute,
    advance: Advance,
    *,
    centred: bool = False,
) -> AttentionStats:
    """Pass 1 with all of its statistics; see :meth:`PairNetwork.attend`.

    ``centred``: see :class:`~easi3r_ns.core.score.ScoreFormula`.
    """
    accumulator = AttentionAccumulator(graph.num_frames, centred)
    PairNetwork(model, features, grid, compute).attend(graph.edges, accumulator, advance)
    return accumulator.finish()


def decode_pairs(
    model: DUSt3R,
    features: Tensor,
    graph: PairGraph,
    grid: Grid,
    token_masks: np.ndarray | None,
    compute: Compute,
    advance: Advance,
    *,
    centred: bool = False,
) -> tuple[PairPredictions, AttentionStats]:
    """Pass 2 into memory, with all of its statistics; see :meth:`PairNetwork.decode`."""
    accumulator = AttentionAccumulator(graph.num_frames, centred)
    height, width = (side * model.config.patch_size for side in grid)
    store = MemoryRows(map_shapes(len(graph), height, width), map_dtype(len(graph), height, width))
    network = PairNetwork(model, features, grid, compute)
    network.decode(graph.edges, token_masks, store, accumulator, advance)
    return PairPredictions(graph, **store.tensors), accumulator.finish()


def attention_stats_naive(edges: np.ndarray, on_j: np.ndarray, on_i: np.ndarray, num_frames: int) -> AttentionStats:
    """All maps (E, h, w, C) at once: the slow twin of :class:`AttentionAccumulator`."""
    on_j, on_i = (without_sink(torch.from_numpy(maps)).numpy() for maps in (on_j, on_i))
    groups_src = [on_j[edges[:, 1] == f] for f in range(num_frames)]
    groups_ref = [on_i[edges[:, 0] == f] for f in range(num_frames)]

    def deviation(group: np.ndarray) -> np.ndarray:
        return group.std(axis=0, ddof=1) if len(group) > 1 else np.zeros_like(group[0])

    return AttentionStats(
        np.stack([g.mean(axis=0) for g in groups_src]),
        np.stack([deviation(g) for g in groups_src]),
        np.stack([g.mean(axis=0) for g in groups_ref]),
        np.stack([deviation(g) for g in groups_ref]),
    )


def confidence_loss_naive(
    predicted: Sequence[Tensor], confidence: Sequence[Tensor], truth: Sequence[Tensor], alpha: float
) -> float:
    """DUSt3R's loss from its definition, one pair and one pixel at a time; both views of points and confidence."""
    total = 0.0
    for b in range(len(predicted[0])):
        norms = []
        for views in (predicted, truth):
            distances = [float(p.norm()) for view in views for p in view[b].reshape(-1, 3)]
            norms.append(sum(distances) / len(distances))
        for v in range(2):
            points = predicted[v][b].reshape(-1, 3), truth[v][b].reshape(-1, 3)
            pixels = zip(*points, confidence[v][b].flatten(), strict=True)
            terms = [
                float(c) * float((p / norms[0] - t / norms[1]).norm()) - alpha * float(torch.log(c))
                for p, t, c in pixels
            ]
            total += sum(terms) / len(terms) / len(predicted[0])
    return total


def cross_attention_naive(q: Tensor, k: Tensor, v: Tensor, silence: Silence | None = None) -> tuple[Tensor, Tensor]:
    """Explicit softmax, the reference of :class:`CrossAttention`: returns (B, H, N, d) and (B, H, N, M) logits."""
    logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    weights = logits.softmax(dim=-1)
    if silence is not None:
        silenced = ~silence.query_dynamic[:, None, :, None] & silence.key_dynamic[:, None, None, :]
        weights = weights.masked_fill(silenced, 0.0)
    return weights @ v, logits


def summarise(stats: AttentionStats, formula: ScoreFormula | None = None) -> dict[str, MapSummary]:
    """The same from the statistics of all channels at once: the plain twin of :class:`SummaryAccumulator`."""
    maps = maps_of(stats, formula or ScoreFormula())
    return {name: MapSummary(m.mean(axis=-1), float(m.min()), float(m.max())) for name, m in maps.items()}


def nearest_prediction_by_search(rays: np.ndarray, ends: np.ndarray, bounds: DepthRange, T: np.ndarray) -> np.ndarray:
    """(N,) least distance, in normalised coordinates, between an end and the places that depths in bounds lead to.

    Twin of :func:`easi3r_ns.motion.rigid.prediction.nearest_prediction`, by trying many depths.
    """
    best = []
    for ray, end, low, high in zip(rays, ends, bounds.low, bounds.high, strict=True):
        distances = []
        for w in np.linspace(low, high, 4001):
            x, y, z = T[:3, :3] @ [*ray, 1.0] + w * T[:3, 3]
            distances.append(np.hypot(x / z - end[0], y / z - end[1]) if z > NEAREST_SHARE else np.inf)
        best.append(min(distances))
    return np.array(best)


def adjust_focals_naive(
    start: TrackedCameras, tracks: Tracks, num_distortion: int, *, shared: bool = False
) -> Adjusted:
    """Bundle adjustment by scipy: numeric derivatives, all unknowns in one dense matrix, the scale held by a prior."""
    frames, distance = len(start.R), np.linalg.norm(start.t[-1] - start.t[0])

    def cameras(x: np.ndarray) -> TrackedCameras:
        poses, logs, lens, points = np.split(x, np.cumsum([6 * frames, frames, num_distortion]))
        turn, shift = poses.reshape(frames, 6)[:, :3], poses.reshape(frames, 6)[:, 3:]
        distortion = start.distortion.copy()
        distortion[:num_distortion] = lens
        return replace(
            start,
            R=Rotation.from_rotvec(turn).as_matrix() @ start.R,
            t=start.t + shift,
            focal=np.full(frames, np.exp(logs[0])) if shared else np.exp(logs),
            distortion=distortion,
            points=points.reshape(-1, 3),
        )

    def errors(x: np.ndarray) -> np.ndarray:
        now = cameras(x)
        seen, _ = now.project(tracks.frame, now.points[tracks.point])
        off = seen - tracks.pixels
        square = (off**2).sum(axis=1) / ROBUST_PX**2
        # The square of this length is the soft L1 loss.
        robust = ROBUST_PX * np.sqrt(2 * (np.sqrt(1 + square) - 1)) / np.maximum(np.linalg.norm(off, axis=1), 1e-12)
        gauge = [1e4 * x[:6], [1e2 * (np.linalg.norm(now.t[-1] - now.t[0]) / distance - 1)]]
        bends = [] if shared else [np.diff(np.log(now.focal), 2) / SMOOTH]
        unused = [x[6 * frames + 1 : 7 * frames]] if shared else []
        return np.concatenate([(robust[:, None] * off).ravel(), *gauge, *bends, *unused])

    lens = start.distortion[:num_distortion]
    x = np.concatenate([np.zeros(6 * frames), np.log(start.focal), lens, start.points.ravel()])
    found = least_squares(errors, x, x_scale="jac", xtol=1e-12, ftol=1e-12, gtol=1e-12, max_nfev=60)
    best = cameras(found.x)
    square = (best.project(tracks.frame, best.points[tracks.point])[0] - tracks.pixels) ** 2
    square = square.sum(axis=1)
    unknowns = len(found.x) - 6 - (frames - 1 if shared else 0)
    noise = (square / np.sqrt(1 + square / ROBUST_PX**2)).sum() / (2 * len(square) - unknowns)
    covariance = noise * np.linalg.inv(found.jac.T @ found.jac)[6 * frames : 7 * frames, 6 * frames : 7 * frames]
    return Adjusted(best, np.full_like(covariance, covariance[0, 0]) if shared else covariance)


def depth_below_naive(region: np.ndarray, depth: np.ndarray, reach: int) -> float:
    """Twin of :func:`easi3r_ns.depth.movers.depth_below`: column by column, row by row."""
    height, width = region.shape
    inside = [(row, column) for row in range(height) for column in range(width) if region[row, column]]
    top, bottom = min(inside)[0], max(inside)[0]
    if bottom == height - 1:
        return float("nan")
    found, columns = [], 0
    for column in {column for _, column in inside}:
        lowest = max(row for row, other in inside if other == column)
        if lowest < bottom - movers.FOOT * (bottom - top + 1):
            continue
        columns += 1
        for row in range(lowest + 1, min(height, lowest + 1 + reach)):
            if depth[row, column] > 0:
                found.append(1 / depth[row, column])
                break
    if len(found) < movers.LEAST_COLUMNS or len(found) < movers.LEAST_SHARE * columns:
        return float("nan")
    return statistics.median(found)
