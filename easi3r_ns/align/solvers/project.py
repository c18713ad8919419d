"""Variable projection: the depths that go best with given cameras and pairs, and the objective there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from ...core.config import AlignConfig
from .. import terms
from ..problem import Problem
from ..residuals import dot
from .frontal import last_uses, widest
from .normal import named
from .unknowns import Numbering, Unknowns
from .views import (
    Rays,
    View,
    Weights,
    land,
    pointmap_weight,
    rays_at,
    seen_points,
    shortest,
    unit_rays,
)
from .views import views as views_of

NEWTON_SHARE = 0.5
"""Of the depths' own steps (see :mod:`.normal`)."""
PRECISION = torch.float32
"""Enough here: everything is in the frame's own camera. The normal equations of long clips need double precision."""
LARGEST_FRONT = 2048
"""Unknowns in one dense matrix beyond which the first-order solver is faster (all pairs of 24 frames)."""
LEAST_FACTOR, LARGEST_FACTOR = 0.3, 3.0
"""One round changes a depth by no more than this."""


@dataclass(frozen=True)
class System:
    """One problem at one resolution, laid out for the solver."""

    problem: Problem
    config: AlignConfig
    numbering: Numbering
    views: list[View]
    last: torch.Tensor
    """(N,) the last frame that feels each unknown."""
    prior: torch.Tensor | None
    """(F, P) log-depths of the depth prior, None where it is off."""

    def weights(self, counts: tuple[float, ...], newton: float = 0.0) -> Weights:
        """Factors of the terms. ``counts``: of the flow term (see :class:`Cost`), empty to leave it out."""
        problem, config = self.problem, self.config
        pixels = problem.points.shape[-1]
        flow = tuple(config.flow_strength * f.weight / (n + terms.EPS) for f, n in zip(problem.flows, counts))
        prior = config.depth_weight / (problem.num_frames * pixels) if self.prior is not None else 0.0
        return Weights(1.0 / (len(problem.edges) * pixels), flow, prior, newton)


@dataclass(frozen=True)
class Cost:
    """The terms of the objective at one point, unweighted."""

    pairwise: float
    flow: float
    """0 where it was not asked for."""
    counts: tuple[float, ...]
    """Pixels, times coordinates, that take part in the flow term, per set of flow observations."""
    smooth: float
    prior: float

    def total(self, config: AlignConfig) -> float:
        """The objective."""
        regular = config.smooth_weight * self.smooth + config.depth_weight * self.prior
        return self.pairwise + config.flow_strength * self.flow + regular


def prepare(problem: Problem, config: AlignConfig, focals: int, prior: torch.Tensor) -> System:
    """Lay out a problem. ``focals``: 0 known, 1 shared, F one per frame; ``prior``: (F, P) log-depths."""
    numbering = Numbering(problem.num_frames, len(problem.edges), focals)
    found = views_of(problem)
    smooth = config.smooth_weight > 0
    last = last_uses((named(v, numbering, smooth) for v in found), numbering.size)
    return System(problem, config, numbering, found, last, prior.double() if config.depth_weight > 0 else None)


def front_width(problem: Problem, focals: int) -> int:
    """Side of the largest matrix that the normal equations need; memory goes with its square, time with its cube."""
    numbering = Numbering(problem.num_frames, len(problem.edges), focals)
    names = [named(view, numbering, smooth=False) for view in views_of(problem)]
    return widest(names, last_uses(names, numbering.size))


def project(u: Unknowns, system: System, weights: Weights, rounds: int) -> tuple[Unknowns, Cost]:
    """Depths after ``rounds`` of Newton's method in each, everything else fixed, and the objective there."""
    problem, with_flow = system.problem, bool(weights.flow)
    depth, pairwise = torch.empty_like(u.depth), 0.0
    sums, counts = np.zeros(len(problem.flows)), np.zeros(len(problem.flows))
    for view in system.views:
        line = _line_of(u, system, view, weights)
        x = u.depth[view.frame].to(PRECISION)
        if rounds:
            x = _best_depths(x, rounds, lambda at: _depth_step(at, line, u, system, view, weights))
        depth[view.frame] = x
        pairwise += float((line.weight * line.distance(x)).sum(dtype=torch.float64))
        if with_flow and len(view.targets):
            loss, used = _flow_sums(u, problem, view, line.rays(x))
            sums, counts = sums + loss, counts + used
    u = replace(u, depth=depth)
    weight = np.array([f.weight for f in problem.flows])
    flow = float((weight * sums / (counts + terms.EPS)).sum())
    return u, Cost(pairwise, flow, tuple(counts) if with_flow else (), *_regular_terms(u, system))


@dataclass(frozen=True)
class _Line:
    """One frame's problem in its depths: every pixel moves along its ray, past the points of n pairs."""

    ray: torch.Tensor
    """(3, P), z = 1."""
    square: torch.Tensor
    """(P,) of the ray's length."""
    along: torch.Tensor
    """(n, P) depth at which the ray passes a point most closely."""
    across: torch.Tensor
    """(n, P) squared distance there."""
    weight: torch.Tensor
    """(n, P)."""
    prior: torch.Tensor | None
    """(P,) log-depth."""

    def distance(self, depth: torch.Tensor) -> torch.Tensor:
        """(n, P) from the points."""
        return (self.along - depth).square_().mul_(self.square).add_(self.across).sqrt_()

    def rays(self, depth: torch.Tensor) -> Rays:
        """The points at these depths."""
        return rays_at(self.ray, depth)


def _line_of(u: Unknowns, system: System, view: View, weights: Weights) -> _Line:
    ray = unit_rays(u, system.problem, view.frame, PRECISION)
    q, square = seen_points(u, system.problem, view, PRECISION), dot(ray, ray)
    along = dot(q, ray).div_(square)
    q = torch.addcmul(q, along.unsqueeze(1), ray, value=-1)
    weight = pointmap_weight(system.problem, view, weights, PRECISION)
    prior = None if system.prior is None else system.prior[view.frame].to(PRECISION)
    return _Line(ray, square, along, dot(q, q), weight, prior)


def _regular_terms(u: Unknowns, system: System) -> tuple[float, float]:
    smooth = prior = 0.0
    if system.config.smooth_weight > 0:
        smooth = float(terms.smoothness_term(u, system.config.smooth_translation_weight))
    if system.prior is not None:
        prior = float(terms.depth_term(u.depth.log(), system.prior, None))
    return smooth, prior


def _flow_sums(u: Unknowns, problem: Problem, view: View, ray: Rays) -> tuple[np.ndarray, np.ndarray]:
    """Per set of flow observations the loss of one frame's pixels and how many take part."""
    seen = land(u, problem, view, ray)
    loss = seen.loss().sum(dim=(1, 2), dtype=torch.float64).cpu()
    used = seen.used.sum(dim=(1, 2)).cpu()
    parts = [len(r) for r in view.flow_rows]
    return tuple(np.array([float(x.sum()) for x in values.split(parts)]) for values in (loss, used))


def _best_depths(
    x: torch.Tensor, rounds: int, step: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
) -> torch.Tensor:
    """(P,) depths after ``rounds`` of ``step``; a pixel that it makes worse goes half the way back."""
    best, lowest = x, torch.full_like(x, torch.inf)
    for _ in range(rounds):
        factor, value = step(x)
        better = value <= lowest
        best, lowest = torch.where(better, x, best), torch.where(better, value, lowest)
        x = torch.where(better, x * factor, (x * best).sqrt())
    _, value = step(x)
    return torch.where(value <= lowest, x, best)


def _depth_step(
    x: torch.Tensor, line: _Line, u: Unknowns, system: System, view: View, weights: Weights
) -> tuple[torch.Tensor, torch.Tensor]:
    """(P,) factors by which one frame's depths ``x`` should change, and every pixel's share of the objective."""
    value = (line.weight * line.distance(x)).sum(dim=0)
    stiff = line.weight / line.distance(x).clamp_min_(shortest(x))
    # The point on the ray times the residual, and the latter's length along the ray, by the distance.
    ahead = (line.along - x).mul_(line.square * x)
    slope = -(stiff * ahead).sum(dim=0)
    straight = ahead.square_().div_(line.distance(x).square_().clamp_min_(shortest(x) ** 2))
    curve = (stiff * (line.square * x * x - NEWTON_SHARE * straight)).sum(dim=0)
    if weights.flow and len(view.targets):
        ray = line.rays(x)
        seen = land(u, system.problem, view, ray)
        by_depth = seen.by(seen.R @ ray.point)
        factor = seen.factors(weights.flow, view)
        value = value + (factor * seen.loss()).sum(dim=(0, 1))
        slope = slope + (factor * seen.slope() * by_depth).sum(dim=(0, 1))
        curve = curve + (factor * seen.curvature() * by_depth.square()).sum(dim=(0, 1))
    offset = 0.0
    if line.prior is not None:
        # c per pixel to the prior plus an offset, whose own best step is eliminated.
        c, difference = 2 * weights.prior, x.log() - line.prior
        value = torch.zeros_like(value)  # the offset ties the pixels together: none can be judged alone
        slope, curve = slope + c * (difference - difference.mean()), curve + c
        offset = c * (slope / curve).sum() / (c * curve.reciprocal().sum() - len(slope))
    inverse = torch.where(curve > 0, curve, torch.inf).reciprocal()
    return (1 + (offset - slope) * inverse).clamp_(LEAST_FACTOR, LARGEST_FACTOR), value
