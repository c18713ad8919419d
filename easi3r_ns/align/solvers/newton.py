"""Second-order solver of the alignment: Levenberg-Marquardt on the L1-type objective, coarse to fine.

The objective and its minimum are those of :mod:`.adam`, reached in tens of steps on few pixels instead of hundreds of
steps on many: cameras and similarities are far fewer than the pixels that determine them. Every step solves for
cameras, pairs and focal lengths together (:mod:`.normal`, :mod:`.frontal`), then for each depth (:mod:`.project`:
variable projection), and is taken only if the objective falls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from ...core.config import AlignConfig
from ...core.errors import AlignmentError
from .. import depth, maps_at_once
from ..problem import Problem, thinned
from ..state import State, decode
from .batched import moved_at_once
from .frontal import Clique, NotPositiveDefinite, solve_frontal
from .normal import clique, joined, smoothness_clique
from .observations import TermWeights
from .project import Cost, System, prepare, project
from .unknowns import Unknowns, moved, to_state, to_unknowns

COARSE = 768
"""Pixels per frame in the first stages; the last stage has all those of the problem."""
ROUGH, FINE = 1e-2, 3e-5
"""Relative fall of the objective in a step that ends a stage; a next step would lower it by a tenth of that or less."""
FIRST_ROUNDS, ROUNDS = 2, 3
"""Rounds of Newton's method in the depths: at new pixels, where they may be far off, and after every step."""


@dataclass(frozen=True)
class Trust:
    """How far the quadratic model of the objective is trusted.

    Far from the minimum only re-weighted least squares are safe: their model lies above the objective, while Newton's
    model may lie below it and lead far away.
    """

    damping: float
    """Share of the diagonal of the normal equations that is added to it."""
    newton: float
    """t of :mod:`.normal`: 0 re-weighted least squares, 1 Newton's method."""

    def after_success(self) -> Trust:
        """What follows a step that lowered the objective."""
        return Trust(max(self.damping / 10, 1e-7), min(0.97, 0.5 * (1 + self.newton)))

    def after_failure(self) -> Trust:
        """What follows a step that did not."""
        return Trust(10 * self.damping, 0.0)

    @property
    def exhausted(self) -> bool:
        """Whether even tiny steps do not lower the objective: it is at its minimum, to the precision of the numbers."""
        return self.damping > 1e3


FAR, NEAR = Trust(1e-4, 0.0), Trust(1e-6, 0.5)
"""At the start of the first stage, and of the later ones, which begin near the minimum."""


@dataclass(frozen=True)
class Iterate:
    """One accepted or tried set of unknowns, and the objective there."""

    unknowns: Unknowns
    cost: Cost
    """The terms; the flow term takes part where its counts are not empty."""
    value: float
    """The objective."""


def optimise(
    problem: Problem, start: State, config: AlignConfig, fixed_focal: bool, advance: Callable[[int], None]
) -> tuple[State, np.ndarray]:
    """From ``start`` to the minimum; returns the final state and the objective before each stage and after each step.

    At most ``config.iterations`` steps. The objective of a coarse stage is that of its own pixels. ``fixed_focal``:
    keep the focal lengths of ``start``; ``advance``: called with the count of finished steps. Raises
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
        point = first_iterate(system, u, stage.flow)
        if stage is not plan[-1] and stage.flow and not point.cost.counts:
            continue
        trust = FAR if stage is plan[0] else NEAR
        point, values, steps = descend(system, point, (trust, stage.tolerance), left, advance)
        u, left, curve = point.unknowns, left - steps, np.concatenate([curve, values])
        without_flow = stage is plan[-1] and stage.flow and not point.cost.counts
        if left > 0 and without_flow and first_iterate(system, u, True).cost.counts:
            plan.append(stage)  # the pointmaps alone have brought the cameras near enough for the flow
    if left > 0:
        advance(left)
    return to_state(u, start), curve


def _at_pixels(u: Unknowns, part: Problem, start: State, columns: torch.Tensor) -> Unknowns:
    """The same cameras and pairs at other pixels of the problem, with the depths that fit the pairs' points."""
    u = replace(u, depth=start.log_depth[:, columns].double().exp())
    now = decode(to_state(u, start), part.sample.xy, part.principal_point)
    fit = depth.sampled_depths if u.depth.device.type == "cpu" else maps_at_once.sampled_depths
    return replace(u, depth=fit(part, now).double())


@dataclass(frozen=True)
class DescentStage:
    """One descent to the minimum at one resolution."""

    pixels: int
    """Per frame; 0: all."""
    flow: bool
    """Whether the flow term may take part."""
    tolerance: float
    """Relative fall of the objective in a step that ends the stage."""

    def columns(self, problem: Problem) -> torch.Tensor:
        """(n,) positions in the problem's sample of the pixels that take part."""
        return thinned(problem.sample, self.pixels)


def stages(pixels: int, flow: bool) -> list[DescentStage]:
    """Stages from coarse to fine for ``pixels`` per frame; the first one always goes without the flow term."""
    if pixels <= COARSE:
        return [DescentStage(0, False, ROUGH), DescentStage(0, True, FINE)] if flow else [DescentStage(0, False, FINE)]
    joined_by_flow = [DescentStage(COARSE, True, ROUGH / 10)] if flow else []
    return [DescentStage(COARSE, False, ROUGH), *joined_by_flow, DescentStage(0, flow, FINE)]


def first_iterate(system: System, u: Unknowns, wants_flow: bool) -> Iterate:
    """Where a stage begins. The flow term stays out of the stage while it exceeds ``config.flow_threshold``: then the
    cameras are still wrong, or the flow is. Raises :class:`AlignmentError` when the objective is not finite."""
    weights = system.weights((1.0,) * len(system.problem.flows) if wants_flow else ())
    _, cost = project(u, system, weights, 0)
    if cost.flow > system.config.flow_threshold:
        cost = replace(cost, flow=0.0, counts=())
    value = cost.total(system.config)
    if not np.isfinite(value):
        raise AlignmentError("the alignment has no finite start: the pointmaps or the flow hold impossible numbers")
    return Iterate(u, cost, value)


def descend(
    system: System, point: Iterate, effort: tuple[Trust, float], limit: int, advance: Callable[[int], None]
) -> tuple[Iterate, list[float], int]:
    """Levenberg-Marquardt until a step lowers the objective by less than the tolerance, or for ``limit`` steps.

    ``effort``: the first trust and the tolerance. Returns the last accepted iterate, the objective of all accepted ones
    (each lower than the one before) and how many steps were tried.
    """
    (trust, tolerance), values, steps = effort, [point.value], 0
    while steps < limit and not trust.exhausted:
        trial = attempt(system, point, trust)
        steps += 1
        advance(1)
        if trial is None or not trial.value < point.value:
            trust = trust.after_failure()
            continue
        fall = 1 - trial.value / point.value
        point, trust = trial, trust.after_success()
        values.append(point.value)
        if fall < tolerance:
            break
    return point, values, steps


def attempt(system: System, point: Iterate, trust: Trust) -> Iterate | None:
    """The iterate one step away, or None when the damped normal equations have no solution."""
    weights = system.weights(point.cost.counts, trust.newton)
    try:
        step = step_of(point.unknowns, system, weights, trust.damping)
    except NotPositiveDefinite:
        return None
    move = moved if system.batches is None else moved_at_once
    there = move(point.unknowns, step, system.problem.edges, system.numbering)
    there, cost = project(there, system, weights, ROUNDS)
    return Iterate(there, cost, cost.total(system.config))


def step_of(u: Unknowns, system: System, weights: TermWeights, damping: float) -> torch.Tensor:
    """(N,) the damped step of cameras, pairs and focal lengths; the mean log-scale of the pairs does not change."""
    if system.batches is not None:
        return system.batches.step(u, weights, damping)
    gauge = u.R.new_zeros(system.numbering.size, 1)
    gauge[system.numbering.scales.to(u.R.device)] = 1
    X = solve_frontal(cliques(u, system, weights), system.last, damping, gauge)
    free, along = X.unbind(1)
    return free - along * (gauge[:, 0] @ free) / (gauge[:, 0] @ along)


def cliques(u: Unknowns, system: System, weights: TermWeights) -> Iterator[Clique]:
    """The summands of the normal equations at ``u``, frame by frame."""
    for observed in system.observations:
        prior = system.prior[observed.frame] if system.prior is not None else None
        own = clique(u, system.problem, observed, weights, system.numbering, prior)
        if system.config.smooth_weight > 0 and observed.frame > 0:
            own = joined(own, smoothness_clique(u, observed.frame, system.config, system.numbering))
        yield own
