"""The second-order solver: derivatives against autograd, elimination against dense algebra, optimum, invariances."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from easi3r_ns.align import init, newton, views
from easi3r_ns.align.problem import Problem, build_problem, flow_observations, sample_pixels
from easi3r_ns.align.project import System, prepare, project
from easi3r_ns.align.state import State
from easi3r_ns.align.unknowns import Unknowns, moved, to_unknowns
from easi3r_ns.config import AlignConfig
from easi3r_ns.runlog import RunLog

from .align_scene import make_scene, window_graph

SIZE = (8, 10)
ALL_TERMS = AlignConfig(flow_weight=0.05, smooth_weight=0.02, smooth_translation_weight=0.7, depth_weight=0.5)


def small_problem(num_frames: int = 4, size=SIZE, flow: bool = True, **options) -> Problem:
    options.setdefault("graph", window_graph(num_frames, (1, 2)))
    scene = make_scene(num_frames=num_frames, size=size, focal=1.1 * size[1], **options)
    problem = build_problem(scene.predictions, sample_pixels(*size, 0), scene.principal_point, RunLog())
    flows = (flow_observations(problem, scene.flow, None, False),) if flow else ()
    return replace(problem, flows=flows)


def start_of(problem: Problem, shared: bool = True, focal: float | None = None) -> State:
    return init.initialise(problem, focal, shared, RunLog()).state


def disturbed(problem: Problem, shared: bool, size: float = 0.02) -> Unknowns:
    """Away from every minimum and symmetry."""
    g = torch.Generator().manual_seed(4)
    u = to_unknowns(start_of(problem, shared), problem)
    system = prepare(problem, ALL_TERMS, 1 if shared else problem.num_frames, u.depth.log())
    step = size * torch.randn(system.numbering.size, generator=g, dtype=torch.float64)
    u = moved(u, step, problem.edges, system.numbering)
    return replace(u, depth=u.depth * (1 + size * torch.randn(u.depth.shape, generator=g, dtype=torch.float64)))


def naive_objective(u: Unknowns, problem: Problem, config: AlignConfig, prior: torch.Tensor) -> torch.Tensor:
    """Pair by pair with plain tensors in double precision; the pointmap weights as the solver has them."""
    xy, pp = problem.sample.xy.double(), problem.principal_point.double()
    focal = u.log_focal.exp()
    rays = torch.cat([(xy - pp[:, :, None]) / focal[:, None, None], torch.ones(len(pp), 1, xy.shape[1]).double()], 1)
    camera = rays * u.depth[:, None]
    world = u.R @ camera + u.centre[:, :, None]
    weight = problem.weight.double() + views.LEAST_WEIGHT
    total, e = 0.0, len(problem.edges)
    for row in range(2 * e):
        aligned = u.pair_A[row % e] @ problem.points[row].double() + u.pair_b[row % e][:, None]
        total = total + (weight[row] * (world[problem.frame[row]] - aligned).norm(dim=0)).sum()
    total = total / (e * xy.shape[1])
    for flow in problem.flows:
        loss, count = 0.0, 0
        for d, (i, j) in enumerate(zip(flow.source.tolist(), flow.target.tolist())):
            seen = u.R[j].T @ (world[i] - u.centre[j][:, None])
            landing = focal[j] * seen[:2] / seen[2] + pp[j][:, None]
            error = torch.nn.functional.smooth_l1_loss(landing, flow.landing[d].double(), reduction="none")
            keep = (error < 50) & flow.used[d]
            loss, count = loss + error[keep].sum(), count + int(keep.sum())
        total = total + config.flow_strength * flow.weight * loss / (count + 1e-6)
    for a in range(len(u.R) - 1):
        turn = u.R[a].T @ u.R[a + 1] - torch.eye(3).double()
        step = u.R[a].T @ (u.centre[a + 1] - u.centre[a])
        total = total + config.smooth_weight * (turn.norm() + config.smooth_translation_weight * step.norm())
    off = u.depth.log() - prior
    return total + config.depth_weight * (off - off.mean(dim=1, keepdim=True)).square().mean()


def summed(system: System, u: Unknowns, weights) -> tuple[torch.Tensor, torch.Tensor]:
    """Dense normal matrix and gradient."""
    size = system.numbering.size
    H, g = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for clique in newton.cliques(u, system, weights):
        H[clique.index[:, None], clique.index] += clique.matrix
        g[clique.index] += clique.gradient
    return H, g


@pytest.mark.parametrize("focals", ["known", "shared", "each"])
def test_gradient_is_that_of_autograd(focals):
    """The reduced gradient is g - V d / h: with the depths at their best (d = 0) it is the gradient itself."""
    problem = small_problem()
    u = disturbed(problem, focals != "each")
    prior = u.depth.log() + 0.1 * torch.sin(torch.arange(u.depth.numel()).double()).view_as(u.depth)
    count = {"known": 0, "shared": 1, "each": problem.num_frames}[focals]
    system = prepare(problem, ALL_TERMS, count, prior)
    _, cost = project(u, system, system.weights((1.0,)), 0)
    for _ in range(3):  # the flow's count of pixels follows the depths
        u, cost = project(u, system, system.weights(cost.counts), 60)
    assert cost.total(ALL_TERMS) == pytest.approx(float(naive_objective(u, problem, ALL_TERMS, prior)), rel=1e-6)
    _, ours = summed(system, u, system.weights(cost.counts))
    step = torch.zeros(system.numbering.size, dtype=torch.float64, requires_grad=True)
    naive_objective(moved(u, step, problem.edges, system.numbering), problem, ALL_TERMS, prior).backward()
    held = step.grad.clone()
    held[:6] = 0
    torch.testing.assert_close(ours, held, rtol=1e-4, atol=1e-6 * float(held.abs().max()))
    assert float(held.abs().max()) > 1e-3
