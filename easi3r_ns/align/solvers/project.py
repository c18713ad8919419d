"""Variable projection: the depths that fit given cameras and pairs best, and the objective there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from ...core.config import AlignConfig
from .. import terms
from ..problem import Problem
from ..residuals import dot
from .batched import Batches, prepare_batches
from .frontal import last_uses, widest
from .normal import unknowns_of
from .observations import (
    LARGEST_FACTOR,
    LEAST_FACTOR,
    NEWTON_SHARE,
    FrameObservations,
    RayPoints,
    TermWeights,
    least_length,
    observations_by_frame,
    pointmap_weight,
    points_at,
    reproject,
    seen_points,
    unit_rays,
)
from .unknowns import Numbering, Unknowns

PRECISION = torch.float32
"""Single precision is enough in a frame's own camera; the normal equations of long clips need double precision."""
LARGEST_FRONT = 2048
"""Side of the largest front (see :mod:`.frontal`) up to which this solver is used; all pairs of 24 frames reach it.
Beyond it the first-order solver is faster."""


@dataclass(frozen=True)
class System:
    """One problem at one resolution, laid out for the solver."""

    problem: Problem
    config: AlignConfig
    numbering: Numbering
    observations: list[FrameObservations]
    last: torch.Tensor
    """(N,) the last frame that depends on each unknown."""
    prior: torch.Tensor | None
    """(F, P) log-depths of the depth prior, None where it is off."""
    batches: Batches | None = None
    """The same for all frames at once; None on a CPU."""

    def weights(self, counts: tuple[float, ...], newton: float = 0.0) -> TermWeights:
        """Factors of the terms. ``counts``: those of :class:`Cost`, empty to leave the flow term out; ``newton``: t."""
        problem, config = self.problem, self.config
        pixels = problem.points.shape[-1]
        flow = tuple(config.flow_strength * f.weight / (n + terms.EPS) for f, n in zip(problem.flows, counts))
        prior = config.depth_weight / (problem.num_frames * pixels) if self.prior is not None else 0.0
        return TermWeights(1.0 / (len(problem.edges) * pixels), flow, prior, newton)


@dataclass(frozen=True)
class Cost:
    """The terms of the objective at one set of unknowns, without their weights."""

    pairwise: float
    flow: float
    """0 where the flow term is left out."""
    counts: tuple[float, ...]
    """Per set of flow observations how many coordinates of pixels take part; empty where the flow term is left out."""
    smooth: float
    """Temporal smoothness of the camera path."""
    prior: float
    """Depth prior."""

    def total(self, config: AlignConfig) -> float:
        """The objective."""
        regular = config.smooth_weight * self.smooth + config.depth_weight * self.prior
        return self.pairwise + config.flow_strength * self.flow + regular


def prepare(problem: Problem, config: AlignConfig, focals: int, prior: torch.Tensor) -> System:
    """Lay out a problem. ``focals``: how many are solved for (0: known, 1: shared, F); ``prior``: (F, P) log-depths."""
    numbering = Numbering(problem.num_frames, len(problem.edges), focals)
    found = observations_by_frame(problem)
    smooth = config.smooth_weight > 0
    last = last_uses((unknowns_of(v, numbering, smooth) for v in found), numbering.size)
    known = prior.double() if config.depth_weight > 0 else None
    on_cpu = problem.points.device.type == "cpu"
    batches = None if on_cpu else prepare_batches(problem, found, numbering, last, (config, known))
    return System(problem, config, numbering, found, last, known, batches)


def front_width(problem: Problem, focals: int) -> int:
    """Side of the largest front that the normal equations need. ``focals``: as in :func:`prepare`."""
    numbering = Numbering(problem.num_frames, len(problem.edges), focals)
    names = [unknowns_of(observed, numbering, smooth=False) for observed in observations_by_frame(problem)]
    return widest(names, last_uses(names, numbering.size))


def project(u: Unknowns, system: System, weights: TermWeights, rounds: int) -> tuple[Unknowns, Cost]:
    """The unknowns after ``rounds`` of Newton's method in every depth, the rest fixed, and the terms there."""
    if system.batches is not None:
        u, values = system.batches.project(u, weights, rounds)
        return u, _cost(values, system, weights)
    problem, with_flow = system.problem, bool(weights.flow)
    depth, pairwise = torch.empty_like(u.depth), 0.0
    sums, counts = np.zeros(len(problem.flows)), np.zeros(len(problem.flows))
    for observed in system.observations:
        line = _line_of(u, system, observed, weights)
        x = u.depth[observed.frame].to(PRECISION)
        if rounds:
            x = _best_depths(x, rounds, lambda at: _depth_step(at, line, u, system, observed, weights))
        depth[observed.frame] = x
        pairwise += float((line.weight * line.distance(x)).sum(dtype=torch.float64))
        if with_flow and len(observed.targets):
            loss, used = _flow_sums(u, problem, observed, line.points(x))
            sums, counts = sums + loss, counts + used
    u = replace(u, depth=depth)
    weight = np.array([f.weight for f in problem.flows])
    flow = float((weight * sums / (counts + terms.EPS)).sum())
    return u, Cost(pairwise, flow, tuple(counts) if with_flow else (), *_regular_terms(u, system))


def _cost(values: np.ndarray, system: System, weights: TermWeights) -> Cost:
    """The terms from those of :meth:`.batched.Batches.project`."""
    pairwise, smooth, prior = values[:3].tolist()
    if not weights.flow:
        return Cost(pairwise, 0.0, (), smooth, prior)
    sums, counts = values[3:].reshape(2, -1)
    weight = np.array([f.weight for f in system.problem.flows])
    return Cost(pairwise, float((weight * sums / (counts + terms.EPS)).sum()), tuple(counts.tolist()), smooth, prior)


@dataclass(frozen=True)
class _Line:
    """One frame's problem in its depths: every pixel moves along its ray, near the points that n pairs predict."""

    ray: torch.Tensor
    """(3, P) in the frame's camera, z = 1."""
    square: torch.Tensor
    """(P,) squared length of the ray."""
    along: torch.Tensor
    """(n, P) depth at which the ray is nearest to a point."""
    across: torch.Tensor
    """(n, P) squared distance there."""
    weight: torch.Tensor
    """(n, P) of the distances in the objective."""
    prior: torch.Tensor | None
    """(P,) log-depths of the depth prior, None where it is off."""

    def distance(self, depth: torch.Tensor) -> torch.Tensor:
        """(n, P) distances between the pairs' points and those at ``depth`` (P,)."""
        return (self.along - depth).square_().mul_(self.square).add_(self.across).sqrt_()

    def points(self, depth: torch.Tensor) -> RayPoints:
        """The points at depths (P,)."""
        return points_at(self.ray, depth)


def _line_of(u: Unknowns, system: System, observed: FrameObservations, weights: TermWeights) -> _Line:
    ray = unit_rays(u, system.problem, observed.frame, PRECISION)
    q, square = seen_points(u, system.problem, observed, PRECISION), dot(ray, ray)
    along = dot(q, ray).div_(square)
    q = torch.addcmul(q, along.unsqueeze(1), ray, value=-1)
    weight = pointmap_weight(system.problem, observed, weights, PRECISION)
    prior = None if system.prior is None else system.prior[observed.frame].to(PRECISION)
    return _Line(ray, square, along, dot(q, q), weight, prior)


def _regular_terms(u: Unknowns, system: System) -> tuple[float, float]:
    smooth = prior = 0.0
    if system.config.smooth_weight > 0:
        smooth = float(terms.smoothness_term(u, system.config.smooth_translation_weight))
    if system.prior is not None:
        prior = float(terms.depth_term(u.depth.log(), system.prior, None))
    return smooth, prior


def _flow_sums(
    u: Unknowns, problem: Problem, observed: FrameObservations, ray: RayPoints
) -> tuple[np.ndarray, np.ndarray]:
    """Per set of flow observations the summed loss of one frame's pixels, and how many coordinates take part."""
    seen = reproject(u, problem, observed, ray)
    loss = seen.loss().sum(dim=(1, 2), dtype=torch.float64).cpu()
    used = seen.used.sum(dim=(1, 2)).cpu()
    parts = [len(r) for r in observed.flow_rows]
    sums, counts = (np.array([float(x.sum()) for x in torch.split(values, parts)]) for values in (loss, used))
    return sums, counts


def _best_depths(
    x: torch.Tensor, rounds: int, step: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
) -> torch.Tensor:
    """(P,) depths after ``rounds`` of ``step``; a depth that it makes worse goes half the way back (geometrically).

    ``step``: depths -> (factors, the share of every pixel in the objective at these depths).
    """
    best, lowest = x, torch.full_like(x, torch.inf)
    for _ in range(rounds):
        factor, value = step(x)
        better = value <= lowest
        best, lowest = torch.where(better, x, best), torch.where(better, value, lowest)
        x = torch.where(better, x * factor, (x * best).sqrt())
    _, value = step(x)
    return torch.where(value <= lowest, x, best)


def _depth_step(
    x: torch.Tensor, line: _Line, u: Unknowns, system: System, observed: FrameObservations, weights: TermWeights
) -> tuple[torch.Tensor, torch.Tensor]:
    """(P,) factors by which one frame's depths ``x`` (P,) should change, and every pixel's share of the objective."""
    value = (line.weight * line.distance(x)).sum(dim=0)
    weight = line.weight / line.distance(x).clamp_min_(least_length(x))
    # The product of the point on the ray with the residual; then its square over the squared distance.
    ahead = (line.along - x).mul_(line.square * x)
    slope = -(weight * ahead).sum(dim=0)
    straight = ahead.square_().div_(line.distance(x).square_().clamp_min_(least_length(x) ** 2))
    curve = (weight * (line.square * x * x - NEWTON_SHARE * straight)).sum(dim=0)
    if weights.flow and len(observed.targets):
        ray = line.points(x)
        seen = reproject(u, system.problem, observed, ray)
        by_depth = seen.by(seen.R @ ray.point)
        factor = seen.factors(weights, observed)
        value = value + (factor * seen.loss()).sum(dim=(0, 1))
        slope = slope + (factor * seen.slope() * by_depth).sum(dim=(0, 1))
        curve = curve + (factor * seen.curvature() * by_depth.square()).sum(dim=(0, 1))
    offset = x.new_zeros(())
    if line.prior is not None:
        # A quadratic of curvature c per pixel around the prior plus an offset, whose own best step is eliminated.
        c, difference = 2 * weights.prior, x.log() - line.prior
        value = torch.zeros_like(value)  # the common offset couples the pixels: none can be judged alone
        slope, curve = slope + c * (difference - difference.mean()), curve + c
        offset = c * (slope / curve).sum() / (c * curve.reciprocal().sum() - len(slope))
    inverse = torch.where(curve > 0, curve, torch.inf).reciprocal()
    return (1 + (offset - slope) * inverse).clamp_(LEAST_FACTOR, LARGEST_FACTOR), value
