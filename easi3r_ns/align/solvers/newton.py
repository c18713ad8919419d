"""Second-order solver of the alignment: Levenberg-Marquardt on the L1-type objective, coarse to fine.

The same objective as :mod:`.solve` and the same optimum, in tens of steps on a few pixels instead of hundreds on many:
cameras and similarities are far fewer than the pixels that determine them. Every step solves for cameras, pairs and
focal lengths together (:mod:`.normal`, :mod:`.frontal`), gives each depth its best value (:mod:`.project`: variable
projection) and is taken only if the objective falls. The loop only sequences small functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from ...core.config import AlignConfig
from ...core.errors import AlignmentError
from ..depth import sampled_depths
from ..problem import Problem, thinned
from ..state import State, decode
from .frontal import Clique, NotPositiveDefinite, solve
from .normal import clique, joined, smoothness_clique
from .project import Cost, System, prepare, project
from .unknowns import Unknowns, moved, to_state, to_unknowns
from .views import Weights

COARSE = 768
"""Pixels per frame of the first descents; the last one has all those of the problem."""
ROUGH, FINE = 1e-2, 3e-5
"""Relative fall of the objective in a step that ends a descent: the next one would bring a tenth of it or less."""
FIRST_ROUNDS, ROUNDS = 2, 3
"""Rounds of Newton's method in the depths: at the start of a stage, where they may be far off, and after a step."""


@dataclass(frozen=True)
class Trust:
    """How far the quadratic model is believed. Far from the minimum only the re-weighted least squares can be trusted:
    they lie above the objective, while Newton's model may lie below it and lead far away."""

    damping: float
    """Share of the diagonal that is added to the normal equations."""
    newton: float
    """Share of the residuals' curvature along themselves that is taken away (see :mod:`.normal`)."""

    def more(self) -> Trust:
        """After a step that was taken."""
        return Trust(max(self.damping / 10, 1e-7), min(0.97, 0.5 * (1 + self.newton)))

    def less(self) -> Trust:
        """After a step that was not."""
        return Trust(10 * self.damping, 0.0)

    @property
    def exhausted(self) -> bool:
        """Whether no step is small enough to lower the objective: it is at its minimum as far as numbers go."""
        return self.damping > 1e3


FAR, NEAR = Trust(1e-4, 0.0), Trust(1e-6, 0.5)
"""At the start, and where a descent goes on from the end of another."""


@dataclass(frozen=True)
class Point:
    """Where the descent is."""

    unknowns: Unknowns
    cost: Cost
    """The flow term is in use where it has counts."""
    value: float
    """The objective."""


def optimise(
    problem: Problem, start: State, config: AlignConfig, fixed_focal: bool, advance: Callable[[int], None]
) -> tuple[State, np.ndarray]:
    """From ``start`` to the minimum; returns the final state and the objective before the first and after each step.

    At most ``config.iterations`` steps. The values of a coarser stage are those of its own pixels. Raises
    :class:`AlignmentError` when the start is not finite.
    """
    device = problem.points.device
    if config.iterations == 0:
        return start, np.zeros(0)
    if device.type == "mps":  # it has no double precision, and these systems are small
        final, curve = optimise(problem.to("cpu"), start.map(torch.Tensor.cpu), config, fixed_focal, advance)
        return final.map(lambda x: x.to(device)), curve
    focals = 0 if fixed_focal else len(start.focal)
    flow = bool(problem.flows) and config.flow_strength > 0
    u, left, curve = to_unknowns(start, problem), config.iterations, np.zeros(0)
    plan = stages(problem.points.shape[-1], flow)
    for stage in plan:
        columns = stage.columns(problem)
        system = prepare(problem.columns(columns), config, focals, start.log_depth[:, columns])
        if u.depth.shape[1] != len(columns):
            u = _at_pixels(u, system.problem, start, columns)
            u, _ = project(u, system, system.weights(()), FIRST_ROUNDS)
        point = first_point(system, u, stage.flow)
        if stage is not plan[-1] and stage.flow and not point.cost.counts:
            continue
        trust = FAR if stage is plan[0] else NEAR
        point, values, steps = descend(system, point, (trust, stage.tolerance), left, advance)
        u, left, curve = point.unknowns, left - steps, np.concatenate([curve, values])
        without_flow = stage is plan[-1] and stage.flow and not point.cost.counts
        if left > 0 and without_flow and first_point(system, u, True).cost.counts:
            plan.append(stage)  # the pointmaps alone have brought the cameras near enough for the flow
    if left > 0:
        advance(left)
    return to_state(u, start), curve


def _at_pixels(u: Unknowns, part: Problem, start: State, columns: torch.Tensor) -> Unknowns:
    """The same cameras and pairs with the depths of other pixels, as the pairs have them."""
    u = replace(u, depth=start.log_depth[:, columns].double().exp())
    now = decode(to_state(u, start), part.sample.xy, part.principal_point)
    return replace(u, depth=sampled_depths(part, now).double())


@dataclass(frozen=True)
class Stage:
    """One descent."""

    pixels: int
    """Per frame; 0: all."""
    flow: bool
    tolerance: float
    """Relative fall of the objective in one step that ends it."""

    def columns(self, problem: Problem) -> torch.Tensor:
        """Which of the problem's pixels take part."""
        return thinned(problem.sample, self.pixels)


def stages(pixels: int, flow: bool) -> list[Stage]:
    """Coarse to fine; the flow term sets in when the pointmaps alone have brought the cameras near."""
    if pixels <= COARSE:
        return [Stage(0, False, ROUGH), Stage(0, True, FINE)] if flow else [Stage(0, False, FINE)]
    joined_by_flow = [Stage(COARSE, True, ROUGH / 10)] if flow else []
    return [Stage(COARSE, False, ROUGH), *joined_by_flow, Stage(0, flow, FINE)]


def first_point(system: System, u: Unknowns, wants_flow: bool) -> Point:
    """The point where a descent begins. Flow that is off by more than the threshold stays out of it: then the cameras
    are still wrong, or the flow is."""
    weights = system.weights((1.0,) * len(system.problem.flows) if wants_flow else ())
    _, cost = project(u, system, weights, 0)
    if cost.flow > system.config.flow_threshold:
        cost = replace(cost, flow=0.0, counts=())
    value = cost.total(system.config)
    if not np.isfinite(value):
        raise AlignmentError("the alignment has no finite start: the pointmaps or the flow hold impossible numbers")
    return Point(u, cost, value)


def descend(
    system: System, point: Point, effort: tuple[Trust, float], limit: int, advance: Callable[[int], None]
) -> tuple[Point, list[float], int]:
    """Levenberg-Marquardt until a step brings less than the tolerance, the second part of ``effort``; the values of the
    accepted points and how many steps were tried. Every accepted point has a lower objective than the one before."""
    (trust, tolerance), values, steps = effort, [point.value], 0
    while steps < limit and not trust.exhausted:
        trial = attempt(system, point, trust)
        steps += 1
        advance(1)
        if trial is None or not trial.value < point.value:
            trust = trust.less()
            continue
        fall = 1 - trial.value / point.value
        point, trust = trial, trust.more()
        values.append(point.value)
        if fall < tolerance:
            break
    return point, values, steps


def attempt(system: System, point: Point, trust: Trust) -> Point | None:
    """The point one step away, or None when the damped normal equations have no solution."""
    weights = system.weights(point.cost.counts, trust.newton)
    try:
        step = step_of(point.unknowns, system, weights, trust.damping)
    except NotPositiveDefinite:
        return None
    there = moved(point.unknowns, step, system.problem.edges, system.numbering)
    there, cost = project(there, system, weights, ROUNDS)
    return Point(there, cost, cost.total(system.config))


def step_of(u: Unknowns, system: System, weights: Weights, damping: float) -> torch.Tensor:
    """(N,) the damped step of cameras, pairs and focal lengths; the mean log-scale of the pairs does not change."""
    gauge = u.R.new_zeros(system.numbering.size, 1)
    gauge[system.numbering.scales.to(u.R.device)] = 1
    X = solve(cliques(u, system, weights), system.last, damping, gauge)
    free, along = X.unbind(1)
    return free - along * (gauge[:, 0] @ free) / (gauge[:, 0] @ along)


def cliques(u: Unknowns, system: System, weights: Weights) -> Iterator[Clique]:
    """The normal equations at ``u``, frame by frame."""
    for view in system.views:
        prior = system.prior[view.frame] if system.prior is not None else None
        own = clique(u, system.problem, view, weights, system.numbering, prior)
        if system.config.smooth_weight > 0 and view.frame > 0:
            own = joined(own, smoothness_clique(u, view.frame, system.config, system.numbering))
        yield own
