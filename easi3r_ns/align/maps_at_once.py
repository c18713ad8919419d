"""Depth, confidence and clean-up of frames as in :mod:`.depth`, for devices on which every call costs time (GPUs).

All tensors stay on the device; the host does not wait for it, except to choose the views of :func:`clean`, once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..core.types import PairPredictions
from ..network.compute import free_memory
from .depth import CLEANING_VIEWS, IN_FRONT, ray_depths, valid
from .problem import LEAST_WEIGHT, Problem
from .state import Decoded
from .visibility import views_of_frames

MEMORY_SHARE = 0.25
"""Share of the device's free memory that the temporaries of one block may take."""
NUMBERS_PER_POINT = 24
"""Upper bound of the temporaries per point of a pointmap, and per pixel and view of the clean-up, counted,
in float32 numbers."""


def sampled_depths(problem: Problem, decoded: Decoded) -> torch.Tensor:
    """(F, P) see :func:`.depth.sampled_depths`."""
    device, (frames, pixels) = decoded.depth.device, decoded.depth.shape
    frame = problem.frame.cpu()
    rows = [torch.nonzero(frame == f)[:, 0] for f in range(frames)]
    most = max(len(r) for r in rows)
    table = torch.full((most, frames), -1)
    for f, own in enumerate(rows):
        table[: len(own), f] = own
    table = table.to(device)
    weight = torch.where(problem.confidence > 0, problem.weight + LEAST_WEIGHT, 0.0)
    parts = []
    for block in _blocks(frames, most * pixels, device):
        own = table[:, block]
        known = (own >= 0).unsqueeze(-1)
        at = own.clamp_min(0)
        found = _depths(
            decoded,
            block,
            problem.pair[at],
            problem.points[at],
            torch.where(known, weight[at], 0.0),
            decoded.rays[block],
        )
        parts.append(torch.where(found > 0, found, decoded.depth[block]))
    return torch.cat(parts)


def full_maps(problem: Problem, predictions: PairPredictions, decoded: Decoded) -> tuple[torch.Tensor, torch.Tensor]:
    """(F, H, W) depth as :func:`.depth.full_depths`, and (F, H, W) confidence as :func:`.depth.full_confidence`.

    Each pointmap is copied to the device once, in the precision in which it is stored.
    """
    device, (height, width) = decoded.depth.device, problem.sample.size
    depth = torch.zeros(problem.num_frames, height * width, device=device)
    confidence = torch.zeros_like(depth)
    edges, kept = problem.edges.cpu(), problem.kept.cpu()
    for frame in range(problem.num_frames):
        pairs = [torch.nonzero(edges[:, side] == frame)[:, 0] for side in (0, 1)]
        on_device = torch.cat(pairs).to(device)
        sides = ((predictions.points_i, predictions.conf_i), (predictions.points_j, predictions.conf_j))
        for block in _blocks(height * width, len(on_device), device):
            points, values = (
                torch.cat([maps[k].flatten(1, 2)[kept[rows], block] for maps, rows in zip(sides, pairs)]).to(device)
                for k in (0, 1)
            )
            points, values = points.float(), values.float()
            known = valid(points, values)
            confidence[frame, block] = torch.where(known, values, 0.0).amax(dim=0)
            weight = torch.where(known, values.clamp_min(1.0).log() + LEAST_WEIGHT, 0.0)
            points = torch.where(known.unsqueeze(-1), points, 0.0).transpose(1, 2)
            own = slice(frame, frame + 1)
            rays = _rays(problem, decoded, own, block)
            found = _depths(decoded, own, on_device[:, None], points.unsqueeze(1), weight.unsqueeze(1), rays)
            depth[frame, block] = torch.where(found > 0, found, 0.0)[0]
    return depth.view(-1, height, width), confidence.view(-1, height, width)


def clean(
    confidence: torch.Tensor, depth: torch.Tensor, R: torch.Tensor, centre: torch.Tensor, K: torch.Tensor
) -> torch.Tensor:
    """See :func:`.depth.clean`; a frame is compared with all of its views at once."""
    device, (frames, height, width) = depth.device, depth.shape
    result, flat_depth = confidence.reshape(frames, -1).clone(), depth.reshape(frames, -1)
    chosen = views_of_frames(depth, R, centre, K, CLEANING_VIEWS)
    most = max(1, max(len(views) for views in chosen))
    # A frame does not contradict itself: it fills the places that are left.
    table = torch.tensor([views + [f] * (most - len(views)) for f, views in enumerate(chosen)]).to(device)
    into = K @ R.transpose(1, 2)
    shift = -(into @ centre.unsqueeze(-1))
    out = R @ torch.linalg.inv_ex(K).inverse
    number = torch.arange(height * width, device=device)
    pixels = torch.stack([number % width, torch.div(number, width, rounding_mode="floor"), torch.ones_like(number)])
    pixels = pixels.to(depth)
    for i in range(frames):
        for block in _blocks(height * width, most, device):
            points = torch.addmm(centre[i, :, None], out[i], pixels[:, block] * flat_depth[i, block])
            seen = into[table[i]] @ points + shift[table[i]]
            z = seen[:, 2]
            u, v = (seen[:, :2] / z.unsqueeze(1)).round_().unbind(dim=1)
            inside = (z > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
            at = torch.where(inside, v * width + u, 0.0).long() + table[i, :, None] * (height * width)
            own = result[i, block]
            bad = inside & (z < (1 - IN_FRONT) * flat_depth.view(-1)[at]) & (own < result.view(-1)[at])
            own.masked_fill_(bad.any(dim=0), 0.0)
    return result.view_as(confidence)


def _blocks(count: int, numbers_each: int, device: torch.device) -> Iterator[slice]:
    """Slices of ``range(count)`` whose temporaries fit the device; ``numbers_each``: points of one of them."""
    free = free_memory(device)
    step = count
    if free is not None:
        step = max(1, min(count, int(MEMORY_SHARE * free / (4 * NUMBERS_PER_POINT * max(1, numbers_each)))))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _rays(problem: Problem, decoded: Decoded, frames: slice, pixels: slice) -> torch.Tensor:
    """(B, 3, P) rays of a block of all pixels, z = 1."""
    width = problem.sample.size[1]
    index = torch.arange(pixels.start, pixels.stop, device=decoded.depth.device)
    rows = torch.div(index, width, rounding_mode="floor") / problem.sample.aspect
    xy = torch.stack([(index % width).float(), rows])
    planar = (xy - problem.principal_point[frames].unsqueeze(-1)) / decoded.focal[frames, None, None]
    return torch.cat([planar, torch.ones_like(planar[:, :1])], dim=1)


def _depths(
    decoded: Decoded,
    frames: slice,
    pairs: torch.Tensor,
    points: torch.Tensor,
    weight: torch.Tensor,
    rays: torch.Tensor,
) -> torch.Tensor:
    """(B, P) depths along the rays (B, 3, P) of some frames that fit the points (n, B, 3, P) of pairs (n, B) best.

    ``weight``: (n, B, P). 0 where unknown.
    """
    back = decoded.R[frames].transpose(1, 2)
    shift = back @ (decoded.pair_b[pairs] - decoded.centre[frames]).unsqueeze(-1)
    q = back @ decoded.pair_A[pairs] @ points + shift
    ray_square = rays.square().sum(dim=1)
    along = (q * rays).sum(dim=2) / ray_square
    across = (q - along.unsqueeze(2) * rays).square().sum(dim=2)
    depth = ray_depths(along, across, weight, ray_square)
    return torch.where(torch.isfinite(depth) & (depth > 0), depth, 0.0)
