"""The optical flow of all frames of a batch at once: :func:`.observations.reproject` and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .. import residuals
from .frame_batch import FrameBatch
from .observations import LEAST_Z, TermWeights
from .unknowns import Unknowns


@dataclass(frozen=True)
class TargetCameras:
    """The cameras of a batch's flow targets, seen from those of its frames."""

    R: torch.Tensor
    """(B, m, 3, 3) rotation from the frame's camera to the target's."""
    t: torch.Tensor
    """(B, m, 3, 1) translation."""
    focal: torch.Tensor
    """(B, m, 1, 1) of the targets, in pixels."""


def target_cameras(u: Unknowns, batch: FrameBatch, dtype: torch.dtype) -> TargetCameras:
    """See :class:`TargetCameras`."""
    back = u.R[batch.targets].transpose(2, 3)
    offset = u.centre[batch.frames].unsqueeze(1) - u.centre[batch.targets]
    R, t = back @ u.R[batch.frames].unsqueeze(1), back @ offset.unsqueeze(-1)
    focal = u.log_focal[batch.targets].exp()[..., None, None]
    return TargetCameras(R.to(dtype), t.to(dtype), focal.to(dtype))


@dataclass(frozen=True)
class Seen:
    """Where the points of the frames are seen in their targets, against the observed flow."""

    point: torch.Tensor
    """(B, m, 3, P) in the target's camera."""
    z: torch.Tensor
    """(B, m, 1, P) its z-coordinate, away from 0."""
    image: torch.Tensor
    """(B, m, 2, P) pixels from the principal point."""
    error: torch.Tensor
    """(B, m, 2, P) pixels: projected minus observed."""
    used: torch.Tensor
    """(B, m, 2, P) bool: the coordinate takes part and is no mismatch."""
    loss: torch.Tensor
    """(B, m, 2, P), 0 for those that take no part."""
    cameras: TargetCameras

    def by(self, motion: torch.Tensor) -> torch.Tensor:
        """(B, m, 2, P) change of the image for a motion (B, m, 3, P) of the points; 0 where no part is taken."""
        planar = motion[:, :, :2] - self.point[:, :, :2] * (motion[:, :, 2:] / self.z)
        return torch.where(self.used, self.cameras.focal / self.z * planar, 0.0)

    def by_depth(self) -> torch.Tensor:
        """(B, m, 2, P) change of the image for a relative step of the depth."""
        return self.by(self.point - self.cameras.t)

    def slope(self) -> torch.Tensor:
        """(B, m, 2, P) derivative of the loss by the error."""
        return torch.where(self.used, residuals.FLOW_LOSS.slope(self.error), 0.0)

    def curvature(self) -> torch.Tensor:
        """(B, m, 2, P) curvature of the loss for the normal equations."""
        return torch.where(self.used, residuals.FLOW_LOSS.curvature(self.error), 0.0)


def reproject(cameras: TargetCameras, batch: FrameBatch, point: torch.Tensor) -> Seen:
    """Project the points (B, 3, P) of the frames into their targets."""
    count = batch.targets.shape[1]
    moved = torch.baddbmm(cameras.t.flatten(1, 2), cameras.R.flatten(1, 2), point).unflatten(1, (count, 3))
    # A point in the plane of the target's camera has no image; its error is far too large to take part anyway.
    z = torch.where(moved[:, :, 2:].abs() < LEAST_Z, LEAST_Z, moved[:, :, 2:])
    image = cameras.focal * moved[:, :, :2] / z
    error = image - batch.landing
    loss = residuals.FLOW_LOSS.value(error)
    used = (loss < residuals.FLOW_LOSS.cutoff) & batch.used
    return Seen(moved, z, image, error, used, torch.where(used, loss, 0.0), cameras)


def factors(batch: FrameBatch, weights: TermWeights) -> torch.Tensor:
    """(B, m, 1, 1) factor of each target's loss in the objective."""
    parts = [member * weight for member, weight in zip(batch.sets, weights.flow, strict=True)]
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(dim=0)


@dataclass(frozen=True)
class FlowEquations:
    """Normal equations of the flow of each target, over (motion (6), log focal of the frame, that of the target)."""

    H: torch.Tensor
    """(B, m, 8, 8)."""
    g: torch.Tensor
    """(B, m, 8) gradient."""
    V: torch.Tensor
    """(B, m, 8, P) coupling with the depths."""
    h: torch.Tensor
    """(B, P) second derivative of each depth."""
    d: torch.Tensor
    """(B, P) gradient of each depth."""


def flow_equations(seen: Seen, factor: torch.Tensor, point: torch.Tensor) -> FlowEquations:
    """See :class:`FlowEquations`. ``point``: (B, 3, P) of the frames, those that were projected."""
    slope, curvature = factor * seen.slope(), factor * seen.curvature()
    by_depth = seen.by_depth()
    by_focal = -seen.by(seen.cameras.R[..., :2] @ point[:, None, :2])
    # One row of the image's derivative by the point for each axis: (B, m, 3, 2, P).
    scale = torch.where(seen.used, seen.cameras.focal / seen.z, 0.0)
    eye = torch.eye(2, dtype=scale.dtype, device=scale.device)[..., None]
    planar = eye * scale.unsqueeze(2)
    row = torch.cat([planar, -(scale * seen.image / seen.cameras.focal).unsqueeze(2)], dim=2)
    turn = torch.linalg.cross(seen.point.unsqueeze(3).expand_as(row), row, dim=2)
    own = torch.where(seen.used, seen.image, 0.0)
    J = torch.cat([row, turn, by_focal.unsqueeze(2), own.unsqueeze(2)], dim=2)
    weighted = J * curvature.unsqueeze(2)
    flat = J.flatten(3)
    return FlowEquations(
        H=weighted.flatten(3) @ flat.transpose(2, 3),
        g=(flat @ slope.flatten(2).unsqueeze(-1)).squeeze(-1),
        V=(weighted * by_depth.unsqueeze(2)).sum(dim=3),
        h=(curvature * by_depth.square()).sum(dim=(1, 2)),
        d=(slope * by_depth).sum(dim=(1, 2)),
    )
