"""Views of one frame's pixels for the second-order solver: points on their rays, the pairs' points, flow landings."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from .. import residuals
from ..problem import Problem
from ..residuals import lengths
from .unknowns import Unknowns

LEAST_WEIGHT = 1e-6
"""Added to every weight, so that a frame that no pair is confident about is still determined."""
SHORTEST = 1e-6
"""Residuals are taken for at least this long (units of the depth), where the norm has its kink."""


@dataclass(frozen=True)
class View:
    """Where the observations of one frame lie in the problem."""

    frame: int
    rows: torch.Tensor
    """(n,) pointmaps that show it."""
    pairs: torch.Tensor
    """(n,) their pairs."""
    references: torch.Tensor
    """(n,) the pairs' reference frames."""
    flow_rows: tuple[torch.Tensor, ...]
    """Per set of flow observations the rows with this frame as the source."""
    targets: torch.Tensor
    """(m,) target frames of all of them, one set after the other."""
    pixels: slice = field(default_factory=lambda: slice(None))
    """Which pixels are looked at: a frame can be linearised in blocks."""
    patterns: dict = field(default_factory=dict, compare=False)
    """What :func:`.normal.carried` need not find out twice."""


def views(problem: Problem) -> list[View]:
    """One per frame."""
    frame, pair = problem.frame.cpu(), problem.pair.cpu()
    edges = problem.edges.cpu()
    found = []
    for f in range(problem.num_frames):
        rows = torch.nonzero(frame == f)[:, 0]
        flow_rows = tuple(torch.nonzero(flow.source.cpu() == f)[:, 0] for flow in problem.flows)
        targets = [flow.target.cpu()[r] for flow, r in zip(problem.flows, flow_rows)]
        found.append(View(f, rows, pair[rows], edges[pair[rows], 0], flow_rows, torch.cat([rows[:0], *targets])))
    return found


@dataclass(frozen=True)
class Weights:
    """Factors of the terms."""

    pairwise: float
    flow: tuple[float, ...] = ()
    """Per set of flow observations; empty: the flow term is off."""
    prior: float = 0.0
    """Per pixel, of the squared distance to the prior's log-depth."""
    newton: float = 0.5
    """t in the second derivative of a residual's length (see the module)."""


@dataclass(frozen=True)
class Rays:
    """Pixels of one frame as points: (3, P) each, and their P depths' worth of derivatives."""

    point: torch.Tensor
    """Depth times ray."""
    by_focal: torch.Tensor
    """Minus the derivative of ``point`` by the log of the focal length."""


def unit_rays(
    u: Unknowns, problem: Problem, frame: int, dtype: torch.dtype = torch.float64, pixels: slice = slice(None)
) -> torch.Tensor:
    """(3, P) rays of a frame's pixels, z = 1."""
    centred = problem.sample.xy[:, pixels] - problem.principal_point[frame, :, None]
    planar = centred.to(dtype) / u.log_focal[frame].exp()
    return torch.cat([planar, torch.ones_like(planar[:1])])


def rays_at(ray: torch.Tensor, depth: torch.Tensor) -> Rays:
    """The points that depths (P,) stand for."""
    point = ray * depth
    by_focal = point.clone()
    by_focal[2] = 0
    return Rays(point, by_focal)


def rays(u: Unknowns, problem: Problem, frame: int) -> Rays:
    """The points that the depths of a frame stand for."""
    return rays_at(unit_rays(u, problem, frame), u.depth[frame])


def seen_points(u: Unknowns, problem: Problem, view: View, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """(n, 3, P) the pairs' points in the camera of the view's frame."""
    R, centre = u.R[view.frame], u.centre[view.frame]
    A = R.T @ u.pair_A[view.pairs]
    b = (u.pair_b[view.pairs] - centre) @ R
    return torch.baddbmm(b.unsqueeze(-1).to(dtype), A.to(dtype), problem.points[view.rows, :, view.pixels].to(dtype))


def pointmap_weight(problem: Problem, view: View, weights: Weights, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """(n, P) weight of each residual's length."""
    known = problem.confidence[view.rows, view.pixels] > 0
    weight = problem.weight[view.rows, view.pixels].to(dtype) + LEAST_WEIGHT
    return torch.where(known, weights.pairwise * weight, 0.0)


def shortest(depth: torch.Tensor) -> float:
    """Length that a residual is taken for at least."""
    return SHORTEST * float(depth.mean())


def stiffness(residual: torch.Tensor, weight: torch.Tensor, depth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """weight / |r| (n, P) and r / |r| (n, 3, P)."""
    inverse = lengths(residual).clamp_min_(shortest(depth)).reciprocal_()
    return weight * inverse, residual * inverse.unsqueeze(1)


@dataclass(frozen=True)
class Landing:
    """Where the pixels of a frame are seen in its m flow targets."""

    point: torch.Tensor
    """(m, 3, P) in the target's camera."""
    R: torch.Tensor
    """(m, 3, 3) rotation from the frame's camera to the target's."""
    t: torch.Tensor
    """(m, 3)."""
    image: torch.Tensor
    """(m, 2, P) pixels from the principal point."""
    error: torch.Tensor
    """(m, 2, P) pixels."""
    used: torch.Tensor
    """(m, 2, P) bool: takes part and is no mismatch."""
    focal: torch.Tensor
    """(m,) of the targets."""

    def by(self, motion: torch.Tensor) -> torch.Tensor:
        """(m, 2, P) change of the image per motion (m, 3, P) of the points."""
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

    def factors(self, factors: tuple[float, ...], view: View) -> torch.Tensor:
        """(m, 1, 1) factor of each target's loss."""
        factor = torch.cat([torch.full((len(r),), x) for x, r in zip(factors, view.flow_rows)])
        return factor.to(self.error)[:, None, None]


def land(u: Unknowns, problem: Problem, view: View, ray: Rays) -> Landing:
    """Project the points of a frame into its flow targets, in the precision of ``ray``."""
    target, like = view.targets, ray.point
    Rt = u.R[target].transpose(1, 2)
    t = (Rt @ (u.centre[view.frame] - u.centre[target]).unsqueeze(-1)).squeeze(-1).to(like)
    R, focal = (Rt @ u.R[view.frame]).to(like), u.log_focal[target].exp().to(like)
    point = torch.baddbmm(t.unsqueeze(-1), R, like.expand(len(target), 3, -1))
    image = focal[:, None, None] * point[:, :2] / _away_from_zero(point[:, 2:])
    observed = torch.cat([f.landing[r, :, view.pixels] for f, r in zip(problem.flows, view.flow_rows)]).to(like)
    used = torch.cat([f.used[r, view.pixels] for f, r in zip(problem.flows, view.flow_rows)])
    error = image + problem.principal_point[target].to(like).unsqueeze(-1) - observed
    keep = (residuals.FLOW_LOSS.value(error) < residuals.FLOW_LOSS.cutoff) & used.unsqueeze(1)
    return Landing(point, R, t, image, error, keep, focal)


def _away_from_zero(z: torch.Tensor) -> torch.Tensor:
    # A point in the plane of the target's camera has no image; its error is far too large to take part anyway.
    return torch.where(z.abs() < 1e-9, 1e-9, z)
