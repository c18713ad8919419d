"""What the pairs and the optical flow say about the pixels of one frame, for the second-order solver.

One frame's pixels are points on rays from its camera. Here are those points, the points that the frame's pairs predict
for the same pixels, and the places where its flow targets see the points; all in camera coordinates (OpenCV axes, units
of the scene) or network pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from .. import residuals
from ..problem import LEAST_WEIGHT, Problem
from ..residuals import lengths
from .unknowns import Unknowns

LEAST_LENGTH = 1e-6
"""Lengths of residuals in denominators are at least this, in units of the mean depth: the norm has a kink at 0."""
NEWTON_SHARE = 0.5
"""t of :mod:`.normal` in the steps of the depths."""
LEAST_FACTOR, LARGEST_FACTOR = 0.3, 3.0
"""Bounds of the factor by which one round changes a depth."""
LEAST_Z = 1e-9
"""Least absolute z-coordinate of a point that is projected."""


@dataclass(frozen=True)
class FrameObservations:
    """Which rows of a :class:`~easi3r_ns.align.problem.Problem` concern one frame; index tensors on the CPU."""

    frame: int
    rows: torch.Tensor
    """(n,) rows of ``problem.points``: the pointmaps that show the frame."""
    pairs: torch.Tensor
    """(n,) their pairs."""
    references: torch.Tensor
    """(n,) the reference frames of these pairs."""
    flow_rows: tuple[torch.Tensor, ...]
    """Per set of flow observations the rows with this frame as the source."""
    targets: torch.Tensor
    """(m,) target frames of these rows, one set after the other."""
    pixels: slice = field(default_factory=lambda: slice(None))
    """Which pixels take part: a frame can be linearised in blocks."""
    patterns: dict[Any, Any] = field(default_factory=dict, compare=False)
    """Index patterns that :func:`.normal.local_to_global` keeps between the steps of the solver."""


def observations_by_frame(problem: Problem) -> list[FrameObservations]:
    """One entry per frame, in order."""
    frame, pair = problem.frame.cpu(), problem.pair.cpu()
    edges = problem.edges.cpu()
    flows = [(flow.source.cpu(), flow.target.cpu()) for flow in problem.flows]
    found = []
    for f in range(problem.num_frames):
        rows = torch.nonzero(frame == f)[:, 0]
        flow_rows = tuple(torch.nonzero(source == f)[:, 0] for source, _ in flows)
        targets = [target[r] for (_, target), r in zip(flows, flow_rows)]
        references = edges[pair[rows], 0]
        found.append(FrameObservations(f, rows, pair[rows], references, flow_rows, torch.cat([rows[:0], *targets])))
    return found


@dataclass(frozen=True)
class TermWeights:
    """Factors of the terms of the objective, and the share of Newton's method in the model of the lengths."""

    pairwise: float
    flow: tuple[float, ...] = ()
    """Per set of flow observations; empty: the flow term is off."""
    prior: float = 0.0
    """Per pixel, of the squared distance to the prior's log-depth."""
    newton: float = 0.5
    """t in the second derivative of a residual's length, from 0 to 1 (see :mod:`.normal`)."""


@dataclass(frozen=True)
class RayPoints:
    """The pixels of one frame as points of its camera, (3, P) each."""

    point: torch.Tensor
    """Depth times ray."""
    by_focal: torch.Tensor
    """Minus the derivative of ``point`` by the log of the focal length."""


def unit_rays(
    u: Unknowns, problem: Problem, frame: int, dtype: torch.dtype = torch.float64, pixels: slice = slice(None)
) -> torch.Tensor:
    """(3, P) rays of a frame's pixels in its camera, z = 1."""
    centred = problem.sample.xy[:, pixels] - problem.principal_point[frame, :, None]
    planar = centred.to(dtype) / u.log_focal[frame].exp()
    return torch.cat([planar, torch.ones_like(planar[:1])])


def points_at(ray: torch.Tensor, depth: torch.Tensor) -> RayPoints:
    """The points at depths (P,) along the rays (3, P)."""
    point = ray * depth
    by_focal = point.clone()
    by_focal[2] = 0
    return RayPoints(point, by_focal)


def frame_points(u: Unknowns, problem: Problem, frame: int) -> RayPoints:
    """The points at a frame's current depths, all of its pixels."""
    return points_at(unit_rays(u, problem, frame), u.depth[frame])


def seen_points(
    u: Unknowns, problem: Problem, observed: FrameObservations, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """(n, 3, P) the points that the pairs predict, in the camera of the frame."""
    R, centre = u.R[observed.frame], u.centre[observed.frame]
    A = R.T @ u.pair_A[observed.pairs]
    b = (u.pair_b[observed.pairs] - centre) @ R
    points = problem.points[observed.rows, :, observed.pixels].to(dtype)
    return torch.baddbmm(b.unsqueeze(-1).to(dtype), A.to(dtype), points)


def pointmap_weight(
    problem: Problem, observed: FrameObservations, weights: TermWeights, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """(n, P) weight of each residual's length in the objective; 0 where the pointmap has no finite point."""
    known = problem.confidence[observed.rows, observed.pixels] > 0
    weight = problem.weight[observed.rows, observed.pixels].to(dtype) + LEAST_WEIGHT
    return torch.where(known, weights.pairwise * weight, 0.0)


def least_length(depth: torch.Tensor) -> float:
    """:data:`LEAST_LENGTH` in units of the scene, for depths (P,)."""
    return LEAST_LENGTH * float(depth.mean())


def curvature_and_direction(
    residual: torch.Tensor, weight: torch.Tensor, depth: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """weight / |r| (n, P), the curvature in re-weighted least squares, and r / |r| (n, 3, P).

    ``residual``: r, (n, 3, P); ``weight``: (n, P); ``depth``: (P,), the scale of :func:`least_length`.
    """
    inverse = lengths(residual).clamp_min_(least_length(depth)).reciprocal_()
    return weight * inverse, residual * inverse.unsqueeze(1)


@dataclass(frozen=True)
class Reprojection:
    """Where the pixels of a frame are seen in its m flow targets, against the observed flow."""

    point: torch.Tensor
    """(m, 3, P) in the target's camera."""
    R: torch.Tensor
    """(m, 3, 3) rotation from the frame's camera to the target's."""
    t: torch.Tensor
    """(m, 3) translation from the frame's camera to the target's."""
    image: torch.Tensor
    """(m, 2, P) pixels from the principal point."""
    error: torch.Tensor
    """(m, 2, P) pixels: projected minus observed."""
    used: torch.Tensor
    """(m, 2, P) bool: the coordinate takes part and is no mismatch."""
    focal: torch.Tensor
    """(m,) of the targets, in pixels."""

    def by(self, motion: torch.Tensor) -> torch.Tensor:
        """(m, 2, P) change of the image for a motion (m, 3, P) of the points; 0 for coordinates that take no part."""
        z = _away_from_zero(self.point[:, 2:])
        planar = motion[:, :2] - self.point[:, :2] * (motion[:, 2:] / z)
        return torch.where(self.used, self.focal[:, None, None] / z * planar, 0.0)

    def loss(self) -> torch.Tensor:
        """(m, 2, P) of every coordinate; 0 for those that take no part."""
        return torch.where(self.used, residuals.FLOW_LOSS.value(self.error), 0.0)

    def slope(self) -> torch.Tensor:
        """(m, 2, P) derivative of :meth:`loss` by the error."""
        return torch.where(self.used, residuals.FLOW_LOSS.slope(self.error), 0.0)

    def curvature(self) -> torch.Tensor:
        """(m, 2, P) curvature of :meth:`loss` for the normal equations."""
        return torch.where(self.used, residuals.FLOW_LOSS.curvature(self.error), 0.0)

    def factors(self, weights: TermWeights, observed: FrameObservations) -> torch.Tensor:
        """(m, 1, 1) factor of each target's loss in the objective."""
        factor = torch.cat([torch.full((len(r),), x) for x, r in zip(weights.flow, observed.flow_rows)])
        return factor.to(self.error)[:, None, None]


def reproject(u: Unknowns, problem: Problem, observed: FrameObservations, ray: RayPoints) -> Reprojection:
    """Project the points of a frame into its flow targets, in the precision of ``ray``."""
    target, like = observed.targets, ray.point
    Rt = u.R[target].transpose(1, 2)
    t = (Rt @ (u.centre[observed.frame] - u.centre[target]).unsqueeze(-1)).squeeze(-1).to(like)
    R, focal = (Rt @ u.R[observed.frame]).to(like), u.log_focal[target].exp().to(like)
    point = torch.baddbmm(t.unsqueeze(-1), R, like.expand(len(target), 3, -1))
    image = focal[:, None, None] * point[:, :2] / _away_from_zero(point[:, 2:])
    sets = list(zip(problem.flows, observed.flow_rows))
    landing = torch.cat([flow.landing[rows, :, observed.pixels] for flow, rows in sets]).to(like)
    used = torch.cat([flow.used[rows, observed.pixels] for flow, rows in sets])
    error = image + problem.principal_point[target].to(like).unsqueeze(-1) - landing
    keep = (residuals.FLOW_LOSS.value(error) < residuals.FLOW_LOSS.cutoff) & used.unsqueeze(1)
    return Reprojection(point, R, t, image, error, keep, focal)


def _away_from_zero(z: torch.Tensor) -> torch.Tensor:
    # A point in the plane of the target's camera has no image; its error is far too large to take part anyway.
    return torch.where(z.abs() < LEAST_Z, LEAST_Z, z)
