"""One loss of the flow residual: its derivatives, and that every user of it follows when it is replaced."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from easi3r_ns.align import init, residuals
from easi3r_ns.align.consensus import screen
from easi3r_ns.align.diagnostics import diagnose
from easi3r_ns.align.problem import Problem, build_problem, flow_observations, sample_pixels
from easi3r_ns.align.residuals import RobustLoss, SmoothL1
from easi3r_ns.align.solvers import adam
from easi3r_ns.align.solvers.normal import linearise
from easi3r_ns.align.solvers.observations import TermWeights
from easi3r_ns.align.solvers.project import prepare, project
from easi3r_ns.align.solvers.unknowns import Unknowns, moved, to_state, to_unknowns
from easi3r_ns.align.state import decode
from easi3r_ns.core.config import AlignConfig
from easi3r_ns.core.runlog import RunLog
from tests.support.align_scene import make_scene, window_graph

CONFIG = AlignConfig(flow_weight=0.7)


@dataclass(frozen=True)
class Cauchy:
    """log(1 + e^2) / 2."""

    cutoff: float = 1.2

    def value(self, error: torch.Tensor) -> torch.Tensor:
        return 0.5 * error.square().log1p()

    def slope(self, error: torch.Tensor) -> torch.Tensor:
        return error / (1 + error.square())

    def curvature(self, error: torch.Tensor) -> torch.Tensor:
        return 1 / (1 + error.square())


LOSSES = [SmoothL1(), SmoothL1(cutoff=0.4), Cauchy()]


@pytest.mark.parametrize("loss", LOSSES)
def test_slope_is_the_derivative_and_the_parabola_lies_above(loss):
    error = torch.linspace(-7, 7, 141, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss.value(error).sum(), error)
    torch.testing.assert_close(loss.slope(error), slope)
    error = error.detach()
    torch.testing.assert_close(loss.curvature(error) * error, loss.slope(error))
    step = error - error[:, None]
    parabola = (
        loss.value(error)[:, None] + loss.slope(error)[:, None] * step + loss.curvature(error)[:, None] * step**2 / 2
    )
    assert bool((parabola >= loss.value(error) - 1e-12).all())


def test_the_default_is_torchs_smooth_l1():
    error = torch.linspace(-60, 60, 1001)
    expected = torch.nn.functional.smooth_l1_loss(error, torch.zeros(1001), reduction="none")
    torch.testing.assert_close(residuals.FLOW_LOSS.value(error), expected)
    assert residuals.FLOW_LOSS.cutoff == 50


def wrong_cameras() -> tuple[Problem, Unknowns, object, object]:
    """A problem, unknowns away from its minimum (as stored in float32), the start and the screening."""
    scene = make_scene(num_frames=3, size=(8, 10), focal=11.0, graph=window_graph(3, (1, 2)))
    problem = build_problem(scene.predictions, sample_pixels(8, 10, 0), scene.principal_point, RunLog())
    start, screened = init.initialise(problem, None, True, RunLog()), screen(problem, range(3), RunLog())
    problem = replace(problem, flows=(flow_observations(problem, scene.flow, None, False),))
    u = to_unknowns(start.state, problem)
    generator = torch.Generator().manual_seed(4)
    numbering = prepare(problem, CONFIG, 1, u.depth.log()).numbering
    u = moved(u, 0.03 * torch.randn(numbering.size, generator=generator, dtype=torch.float64), problem.edges, numbering)
    return problem, to_unknowns(to_state(u, start.state), problem), start, screened


def flow_errors(u: Unknowns, problem: Problem, row: int) -> torch.Tensor:
    """(2, P) induced minus observed flow of one row of the flow observations, with plain tensors."""
    xy, pp, focal = problem.sample.xy.double(), problem.principal_point.double(), u.log_focal.exp()
    flow = problem.flows[0]
    i, j = int(flow.source[row]), int(flow.target[row])
    ray = torch.cat([(xy - pp[i, :, None]) / focal[i], torch.ones(1, xy.shape[1]).double()])
    seen = u.R[j].T @ (u.R[i] @ (ray * u.depth[i]) + (u.centre[i] - u.centre[j])[:, None])
    return focal[j] * seen[:2] / seen[2] + pp[j, :, None] - flow.landing[row].double()


def mean_loss(u: Unknowns, problem: Problem, loss: RobustLoss) -> torch.Tensor:
    """The flow term row by row."""
    (flow,), total, count = problem.flows, 0.0, 0
    for row in range(len(flow.source)):
        value = loss.value(flow_errors(u, problem, row))
        keep = (value < loss.cutoff) & flow.used[row]
        total, count = total + value[keep].sum(), count + int(keep.sum())
    return flow.weight * total / count


@pytest.mark.parametrize("loss", LOSSES)
def test_both_solvers_and_the_diagnostics_follow_the_one_loss(loss, monkeypatch):
    monkeypatch.setattr("easi3r_ns.align.solvers.project.PRECISION", torch.float64)
    monkeypatch.setattr(residuals, "FLOW_LOSS", loss)
    problem, u, start, screened = wrong_cameras()
    system = prepare(problem, CONFIG, 1, u.depth.log())
    value = float(mean_loss(u, problem, loss))

    # Values: second-order solver, diagnostics, first-order loop.
    _, cost = project(u, system, system.weights((1.0,)), 0)
    assert cost.flow == pytest.approx(value, rel=1e-6)
    state = to_state(u, start.state)
    now = decode(state, problem.sample.xy, problem.principal_point)
    assert diagnose(problem, now, now.depth.view(3, 8, 10), start, screened).final_flow == pytest.approx(
        value, rel=1e-4
    )
    with_flow, without = (adam.objective(state, problem, CONFIG, None, on) for on in (True, False))
    assert float(with_flow - without) == pytest.approx(CONFIG.flow_strength * value, rel=1e-3)

    # Slopes by the log-depths: the plain form by autograd, the first-order loop, the second-order solver.
    log_depth = u.depth.log().requires_grad_(True)
    plain = CONFIG.flow_strength * mean_loss(replace(u, depth=log_depth.exp()), problem, loss)
    (slope,) = torch.autograd.grad(plain, log_depth)
    assert float(slope.abs().max()) > 1e-3
    leaf = replace(state, log_depth=state.log_depth.clone().requires_grad_(True))
    difference = adam.objective(leaf, problem, CONFIG, None, True) - adam.objective(leaf, problem, CONFIG, None, False)
    (first_order,) = torch.autograd.grad(difference, leaf.log_depth)
    torch.testing.assert_close(first_order.double(), slope, rtol=1e-3, atol=1e-5)
    flow_only = TermWeights(0.0, system.weights(cost.counts).flow)
    found = [linearise(u, problem, observed, flow_only, None) for observed in system.observations]
    torch.testing.assert_close(torch.stack([local.d for local in found]), slope, rtol=1e-5, atol=1e-9)

    # Curvatures by the log-depths: J' c J over the coordinates in use.
    expected = torch.stack([depth_curvature(u, problem, loss, frame) for frame in range(3)]) * flow_only.flow[0]
    torch.testing.assert_close(torch.stack([local.h for local in found]), expected, rtol=1e-5, atol=1e-9)

    # The depths' own step is slope / curvature, where it lowers the loss.
    stepped, _ = project(u, system, flow_only, 1)
    factor = stepped.depth / u.depth
    taken = (factor - 1).abs() > 1e-12
    assert float(taken.double().mean()) > 0.5
    torch.testing.assert_close(factor[taken], (1 - slope / expected).clamp(0.3, 3.0)[taken], rtol=1e-5, atol=1e-9)


def depth_curvature(u: Unknowns, problem: Problem, loss: RobustLoss, frame: int) -> torch.Tensor:
    """(P,) sum of curvature times the squared derivative of the error by the log-depth, over a frame's flow rows."""
    log_depth, total = u.depth.log().requires_grad_(True), torch.zeros(u.depth.shape[1], dtype=torch.float64)
    flow = problem.flows[0]
    for row in torch.nonzero(flow.source == frame)[:, 0].tolist():
        error = flow_errors(replace(u, depth=log_depth.exp()), problem, row)
        for coordinate in error:
            (by_depth,) = torch.autograd.grad(coordinate.sum(), log_depth, retain_graph=True)
            keep = (loss.value(coordinate) < loss.cutoff) & flow.used[row]
            total += torch.where(keep, loss.curvature(coordinate) * by_depth[frame].square(), 0.0).detach()
    return total
