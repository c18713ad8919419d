"""Full-resolution depth maps for known cameras and similarities, and the clean-up of contradicted points."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..core.types import PairPredictions
from .problem import LARGEST_COORDINATE, LEAST_WEIGHT, Problem
from .state import Decoded
from .visibility import views_of_frames

IRLS_ROUNDS = 12
"""Rounds of iterative re-weighting."""
BLOCK_NUMBERS = 1 << 21
"""Pointmaps times pixels per block: bounds the memory for any count of pairs."""
CLEANING_VIEWS = 64
"""Most views that the points of a frame are compared with."""
IN_FRONT = 1e-3
"""A point nearer than a view's depth by more than this share of it lies in front of that depth."""


@dataclass(frozen=True)
class FramePointmaps:
    """All pointmaps of one frame: rows of the predictions, and which of the two views of the pair it is."""

    rows: torch.Tensor
    """(n,) int64 rows of the pair graph."""
    pairs: torch.Tensor
    """(n,) int64 pairs of the problem."""
    is_reference: torch.Tensor
    """(n,) bool."""


def full_depths(problem: Problem, predictions: PairPredictions, decoded: Decoded) -> torch.Tensor:
    """(F, H, W) float32 z-depths that minimise the pairwise term for fixed cameras and similarities; 0 where unknown.

    The unknown of a pixel is its depth along its ray: a weighted sum of distances from points, minimised by iterative
    re-weighting.
    """
    height, width = problem.sample.size
    depth = torch.zeros(problem.num_frames, height * width)
    for frame in range(problem.num_frames):
        pointmaps = frame_pointmaps(problem, frame)
        step = max(1, BLOCK_NUMBERS // len(pointmaps.rows))
        for start in range(0, height * width, step):
            pixels = slice(start, min(start + step, height * width))
            depth[frame, pixels] = _solve_block(problem, predictions, decoded, frame, pointmaps, pixels)
    return depth.view(-1, height, width)


def sampled_depths(problem: Problem, decoded: Decoded) -> torch.Tensor:
    """(F, P) as :func:`full_depths`, at the sampled pixels only; the depth of ``decoded`` where no pair gives one."""
    depth = decoded.depth.clone()
    weight = torch.where(problem.confidence > 0, problem.weight + LEAST_WEIGHT, 0.0)
    for frame in range(problem.num_frames):
        rows = torch.nonzero(problem.frame == frame)[:, 0]
        pairs = problem.pair[rows]
        solved = _frame_depths(decoded, frame, pairs, problem.points[rows], weight[rows], decoded.rays[frame])
        depth[frame] = torch.where(solved > 0, solved, depth[frame])
    return depth


def frame_pointmaps(problem: Problem, frame: int) -> FramePointmaps:
    """Rows of the pointmaps that show one frame, on the CPU."""
    reference = torch.nonzero(problem.edges[:, 0].cpu() == frame)[:, 0]
    other = torch.nonzero(problem.edges[:, 1].cpu() == frame)[:, 0]
    pairs = torch.cat([reference, other])
    is_reference = torch.arange(len(pairs)) < len(reference)
    return FramePointmaps(problem.kept.cpu()[pairs], pairs, is_reference)


def ray_depths(
    along: torch.Tensor, across: torch.Tensor, weight: torch.Tensor, ray_square: torch.Tensor
) -> torch.Tensor:
    """(..., P) depths d that minimise sum_n weight |d ray - q_n| for points q_n, by iterative re-weighting.

    ``along``: (n, ..., P) depth at which the ray is nearest to q_n; ``across``: (n, ..., P) squared distance there;
    ``weight``: (n, ..., P); ``ray_square``: (..., P) squared length of the ray (z = 1).
    """
    total = weight.sum(dim=0)
    depth = (weight * along).sum(dim=0) / total
    floor = (1e-4 * depth).square() + 1e-20
    for _ in range(IRLS_ROUNDS):
        inverse_distance = ((along - depth).square_().mul_(ray_square).add_(across).add_(floor)).rsqrt_()
        inverse_distance.mul_(weight)
        depth = (inverse_distance * along).sum(dim=0) / inverse_distance.sum(dim=0)
    return depth


def full_confidence(predictions: PairPredictions, kept: torch.Tensor) -> torch.Tensor:
    """(F, H, W) float32 largest confidence that any pair in rows ``kept`` gives a pixel; 0 where none is finite."""
    graph = predictions.graph
    best = torch.zeros(graph.num_frames, *predictions.conf_i.shape[1:])
    for e in kept.tolist():
        i, j = graph.edges[e]
        for frame, confidence, points in (
            (i, predictions.conf_i[e], predictions.points_i[e]),
            (j, predictions.conf_j[e], predictions.points_j[e]),
        ):
            values = torch.where(valid(points, confidence), confidence.float(), 0.0).cpu()
            torch.maximum(best[frame], values, out=best[frame])
    return best


def clean(
    confidence: torch.Tensor, depth: torch.Tensor, R: torch.Tensor, centre: torch.Tensor, K: torch.Tensor
) -> torch.Tensor:
    """Confidence (F, H, W), 0 where a point contradicts a more confident view by lying in front of its depth map.

    ``depth``: (F, H, W), 0 where unknown; ``R`` (F, 3, 3), ``centre`` (F, 3): camera-to-world; ``K``: (F, 3, 3) for
    integer pixel centres. Frames are visited in order and later ones use the lowered confidences, as in DUSt3R's
    clean_pointcloud. A frame is compared with at most :data:`CLEANING_VIEWS` views, those that see most of it: the work
    for a long clip then grows with F instead of its square.
    """
    frames, height, width = depth.shape
    result = confidence.clone().view(frames, -1)
    flat_depth = depth.reshape(frames, -1)
    rows, cols = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([cols.flatten(), rows.flatten(), torch.ones(height * width)]).to(depth)
    for i, views in enumerate(views_of_frames(depth, R, centre, K, CLEANING_VIEWS)):
        points = torch.addmm(centre[i, :, None], R[i] @ torch.linalg.inv(K[i]), pixels * flat_depth[i])
        for j in views:
            P = K[j] @ R[j].T
            seen = torch.addmm(-(P @ centre[j])[:, None], P, points)
            _lower(result[i], seen, result[j], flat_depth[j], (height, width))
    return result.view_as(confidence)


def _lower(
    confidence: torch.Tensor, seen: torch.Tensor, other: torch.Tensor, depth: torch.Tensor, size: tuple[int, int]
) -> None:
    """Set ``confidence`` (P,) to 0 in place where the points ``seen`` (3, P homogeneous pixels) contradict a view.

    ``other``, ``depth``: (H * W,) confidence and depth of the view; ``size``: (H, W).
    """
    height, width = size
    z = seen[2]
    u, v = (seen[:2] / z).round_()
    inside = (z > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    pixel = torch.where(inside, v * width + u, 0).long()
    bad = inside & (z < (1 - IN_FRONT) * depth[pixel]) & (confidence < other[pixel])
    confidence.masked_fill_(bad, 0.0)


def _gather(
    predictions: PairPredictions, pointmaps: FramePointmaps, pixels: slice
) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, P, 3) points in their pairs' reference cameras and (n, P) weights of one frame's block of pixels."""
    points, weight = [], []
    for row, is_reference in zip(pointmaps.rows.tolist(), pointmaps.is_reference.tolist()):
        source = (
            (predictions.points_i, predictions.conf_i) if is_reference else (predictions.points_j, predictions.conf_j)
        )
        x = source[0][row].reshape(-1, 3)[pixels].float()
        c = source[1][row].reshape(-1)[pixels].float()
        known = valid(x, c)
        points.append(torch.where(known[:, None], x, 0.0))
        weight.append(torch.where(known, c.clamp_min(1.0).log() + LEAST_WEIGHT, 0.0))
    return torch.stack(points), torch.stack(weight)


def _solve_block(
    problem: Problem,
    predictions: PairPredictions,
    decoded: Decoded,
    frame: int,
    pointmaps: FramePointmaps,
    pixels: slice,
) -> torch.Tensor:
    """(P,) depths of one frame's block of pixels, 0 where unknown."""
    device = decoded.R.device
    points, weight = (x.to(device) for x in _gather(predictions, pointmaps, pixels))
    index = torch.arange(pixels.start, pixels.stop, device=device)
    width = problem.sample.size[1]
    rows = torch.div(index, width, rounding_mode="floor") / problem.sample.aspect
    xy = torch.stack([(index % width).float(), rows])
    planar = (xy - problem.principal_point[frame, :, None]) / decoded.focal[frame]
    rays = torch.cat([planar, torch.ones_like(planar[:1])])
    return _frame_depths(decoded, frame, pointmaps.pairs.to(device), points.transpose(1, 2), weight, rays).cpu()


def _frame_depths(
    decoded: Decoded, frame: int, pairs: torch.Tensor, points: torch.Tensor, weight: torch.Tensor, rays: torch.Tensor
) -> torch.Tensor:
    """(P,) depths along the rays (3, P) of one frame that fit its pairs' points (n, 3, P) best; 0 where unknown."""
    to_camera = decoded.R[frame].T @ decoded.pair_A[pairs]
    shift = (decoded.pair_b[pairs] - decoded.centre[frame]) @ decoded.R[frame]
    q = torch.baddbmm(shift.unsqueeze(-1), to_camera, points)
    ray_square = rays.square().sum(dim=0)
    along = (q * rays).sum(dim=1) / ray_square
    across = (q - along.unsqueeze(1) * rays).square().sum(dim=1)
    depth = ray_depths(along, across, weight, ray_square)
    return torch.where(torch.isfinite(depth) & (depth > 0), depth, 0.0)


def valid(points: torch.Tensor, confidence: torch.Tensor) -> torch.Tensor:
    """(...) bool: the network gave a finite answer, of points (..., 3) and confidences (...)."""
    return torch.isfinite(confidence) & (confidence > 0) & (points.abs() < LARGEST_COORDINATE).all(dim=-1)
