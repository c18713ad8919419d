"""Variable projection for all frames of a batch at once: the depths that fit given cameras and pairs best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from .batched_flow import Seen, TargetCameras, factors, reproject, target_cameras
from .frame_batch import FrameBatch
from .observations import LARGEST_FACTOR, LEAST_FACTOR, LEAST_LENGTH, NEWTON_SHARE, TermWeights
from .unknowns import Unknowns

PRECISION = torch.float32
"""As in :mod:`.project`: single precision is enough in a frame's own camera."""


class FlowTerm(NamedTuple):
    """What the flow term needs beside the points."""

    cameras: TargetCameras
    factor: torch.Tensor
    """(B, m, 1, 1) of each target's loss in the objective."""


@dataclass(frozen=True)
class RayLines:
    """The problem of a batch in its depths: every pixel moves along its ray, past the points that n pairs predict.

    A place on a ray is its distance from the camera.
    """

    ray: torch.Tensor
    """(B, 3, P) of unit length, in the frames' cameras."""
    length: torch.Tensor
    """(B, P) distance from the camera per z-depth."""
    along: torch.Tensor
    """(B, n, P) where the ray is nearest to a point."""
    across: torch.Tensor
    """(B, n, P) distance there."""
    weight: torch.Tensor
    """(B, n, P) of the distances in the objective."""
    least: torch.Tensor
    """(B, 1, 1) lengths in denominators are at least this."""
    prior: torch.Tensor | None
    """(B, P) log-depths of the depth prior, None where it is off."""

    def distances(self, place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, n, P) how far the pairs' points lie behind the places (B, P), and their distances."""
        ahead = self.along - place.unsqueeze(1)
        return ahead, torch.hypot(ahead, self.across)


def frame_points(u: Unknowns, batch: FrameBatch, dtype: torch.dtype) -> torch.Tensor:
    """(B, n, 3, P) the points that the pairs predict, in the cameras of the frames."""
    # Rows of (A', b'), so that one product turns them into the frames' axes.
    rows = torch.cat([u.pair_A.transpose(1, 2), u.pair_b.unsqueeze(1)], dim=1)[batch.pairs]
    rows[:, :, 3] -= u.centre[batch.frames].unsqueeze(1)
    own = (rows.flatten(1, 2) @ u.R[batch.frames]).to(dtype).view(-1, 4, 3)
    A, b = own[:, :3].transpose(1, 2), own[:, 3].unsqueeze(-1)
    return torch.baddbmm(b, A, batch.points.to(dtype)).unflatten(0, batch.pairs.shape)


def unit_depth_rays(u: Unknowns, batch: FrameBatch, dtype: torch.dtype) -> torch.Tensor:
    """(B, 3, P) rays of the pixels in their cameras, z = 1."""
    planar = batch.centred / u.log_focal[batch.frames].exp().to(dtype)[:, None, None]
    return torch.cat([planar, torch.ones_like(planar[:, :1])], dim=1)


def line_of(u: Unknowns, batch: FrameBatch, weights: TermWeights, prior: torch.Tensor | None) -> RayLines:
    """See :class:`RayLines`. ``prior``: (F, P), or None."""
    ray, q = unit_depth_rays(u, batch, PRECISION), frame_points(u, batch, PRECISION)
    length = torch.linalg.vector_norm(ray, dim=1)
    unit = ray / length.unsqueeze(1)
    along = (q * unit.unsqueeze(1)).sum(dim=2)
    across = torch.linalg.vector_norm(torch.addcmul(q, along.unsqueeze(2), unit.unsqueeze(1), value=-1), dim=2)
    least = (LEAST_LENGTH * u.depth[batch.frames].mean(dim=1)).to(PRECISION)[:, None, None]
    own = None if prior is None else prior[batch.frames].to(PRECISION)
    return RayLines(unit, length, along, across, batch.weight * weights.pairwise, least, own)


def best_depths(
    u: Unknowns, batch: FrameBatch, weights: TermWeights, line: RayLines, rounds: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(B, P) z-depths after ``rounds`` of Newton's method, and (2, sets) the flow's loss and how much of it counts.

    A depth that a round makes worse goes half the way back (geometrically).
    """
    flow = None
    if weights.flow and batch.size[2]:
        flow = FlowTerm(target_cameras(u, batch, PRECISION), factors(batch, weights))
    x = u.depth[batch.frames].to(PRECISION) * line.length
    if rounds:
        best, lowest = x, torch.full_like(x, torch.inf)
        for _ in range(rounds):
            change, value = _step(x, line, batch, weights, flow)
            better = value <= lowest
            best, lowest = torch.where(better, x, best), torch.fmin(value, lowest)
            x = torch.where(better, x * change, (x * best).sqrt())
        value = _value(x, line, batch, flow)
        x = torch.where(value <= lowest, x, best)
    sums = None if flow is None else _flow_sums(batch, _seen(x, line, batch, flow))
    return x, sums


def pairwise_sum(line: RayLines, place: torch.Tensor) -> torch.Tensor:
    """Weighted sum of the distances, scalar in double precision."""
    return (line.weight * line.distances(place)[1]).sum(dtype=torch.float64)


def _seen(place: torch.Tensor, line: RayLines, batch: FrameBatch, flow: FlowTerm) -> Seen:
    return reproject(flow.cameras, batch, line.ray * place.unsqueeze(1))


def _flow_sums(batch: FrameBatch, seen: Seen) -> torch.Tensor:
    loss, used = (x.sum(dim=(2, 3), keepdim=True, dtype=torch.float64) for x in (seen.loss, seen.used))
    return torch.stack([torch.stack([(member * x).sum() for member in batch.sets]) for x in (loss, used)])


def _value(place: torch.Tensor, line: RayLines, batch: FrameBatch, flow: FlowTerm | None) -> torch.Tensor:
    """(B, P) every pixel's share of the objective."""
    if line.prior is not None:
        return torch.zeros_like(place)  # the common offset couples the pixels: none can be judged alone
    value = (line.weight * line.distances(place)[1]).sum(dim=1)
    if flow is not None:
        value = value + (flow.factor * _seen(place, line, batch, flow).loss).sum(dim=(1, 2))
    return value


def _step(
    place: torch.Tensor,
    line: RayLines,
    batch: FrameBatch,
    weights: TermWeights,
    flow: FlowTerm | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, P) factors by which the places (B, P) should change, and every pixel's share of the objective."""
    ahead, distance = line.distances(place)
    value = (line.weight * distance).sum(dim=1)
    clamped = distance.clamp_min(line.least)
    scaled, straight = line.weight / clamped, ahead / clamped
    pull = line.weight * straight
    # Ascent and curvature by the logarithm of the place, both divided by the place.
    ascent = pull.sum(dim=1)
    curve = place * torch.addcdiv(scaled, pull * straight, clamped, value=-NEWTON_SHARE).sum(dim=1)
    if flow is not None:
        seen, weight = _seen(place, line, batch, flow), flow.factor
        by_depth = seen.by_depth()
        value = value + (weight * seen.loss).sum(dim=(1, 2))
        ascent = ascent - (weight * seen.slope() * by_depth).sum(dim=(1, 2)) / place
        curve = curve + (weight * seen.curvature() * by_depth.square()).sum(dim=(1, 2)) / place
    if line.prior is not None:
        # A quadratic of curvature c per pixel around the prior plus an offset, whose own best step is eliminated.
        c, difference = 2 * weights.prior, (place / line.length).log() - line.prior
        value = torch.zeros_like(value)
        ascent = ascent - c * (difference - difference.mean(dim=1, keepdim=True)) / place
        curve = curve + c / place
        total = c * (place * curve).reciprocal().sum(dim=1, keepdim=True) - place.shape[1]
        ascent = ascent - c * (ascent / curve).sum(dim=1, keepdim=True) / total / place
    # The curvature is 0 only where no pair and no flow tells anything, and so is the ascent.
    factor = torch.addcdiv(torch.ones_like(place), ascent, curve.clamp_min(torch.finfo(PRECISION).tiny))
    return factor.clamp_(LEAST_FACTOR, LARGEST_FACTOR), value
