"""The second-order solver: derivatives against autograd, elimination against dense algebra, optimum, invariances."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from easi3r_ns.align import align as align_module
from easi3r_ns.align import init, terms, uncertainty
from easi3r_ns.align.depth import sampled_depths
from easi3r_ns.align.problem import LEAST_WEIGHT, Problem, build_problem, flow_observations, sample_pixels, thinned
from easi3r_ns.align.solvers import adam, newton, normal, observations
from easi3r_ns.align.solvers.project import System, front_width, prepare, project
from easi3r_ns.align.solvers.unknowns import Unknowns, moved, to_state, to_unknowns
from easi3r_ns.align.state import State, decode
from easi3r_ns.core.config import AlignConfig
from easi3r_ns.core.errors import AlignmentError
from easi3r_ns.core.runlog import RunLog
from tests.support.align_scene import make_scene, window_graph

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
    weight = problem.weight.double() + LEAST_WEIGHT
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
def test_gradient_is_that_of_autograd(focals, monkeypatch):
    """The reduced gradient is g - V d / h: with the depths at their best (d = 0) it is the gradient itself."""
    monkeypatch.setattr("easi3r_ns.align.solvers.project.PRECISION", torch.float64)
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


@pytest.mark.parametrize("flow", [False, True])
def test_no_round_makes_a_pixel_worse(flow):
    """From depths that are far off, where plain Newton steps overshoot."""
    problem = small_problem(flow=flow)
    config = replace(ALL_TERMS, depth_weight=0.0)
    u = disturbed(problem, True)
    generator = torch.Generator().manual_seed(1)
    u = replace(u, depth=u.depth * torch.empty_like(u.depth).uniform_(-2.5, 2.5, generator=generator).exp())
    system = prepare(problem, config, 1, u.depth.log())
    weights = system.weights((1e3,) if flow else ())
    before = [naive_pixel_costs(u, system, weights, observed) for observed in system.observations]
    for rounds in range(1, 8):
        found, _ = project(u, system, weights, rounds)
        after = [naive_pixel_costs(found, system, weights, observed) for observed in system.observations]
        assert all(bool((b <= a * (1 + 1e-4)).all()) for a, b in zip(before, after))
    assert sum(float(b.sum()) for b in after) < 0.7 * sum(float(a.sum()) for a in before)


def naive_pixel_costs(u: Unknowns, system: System, weights, observed) -> torch.Tensor:
    """(P,) what the depths of one frame decide of the objective."""
    problem, f = system.problem, observed.frame
    focal, pp = u.log_focal.exp()[f], problem.principal_point[f].double()
    ray = torch.cat([(problem.sample.xy.double() - pp[:, None]) / focal, torch.ones(1, u.depth.shape[1]).double()])
    world = u.R[f] @ (ray * u.depth[f]) + u.centre[f][:, None]
    total, e = torch.zeros(u.depth.shape[1], dtype=torch.float64), len(problem.edges)
    for row in torch.nonzero(problem.frame == f)[:, 0].tolist():
        aligned = u.pair_A[row % e] @ problem.points[row].double() + u.pair_b[row % e][:, None]
        weight = weights.pairwise * (problem.weight[row].double() + LEAST_WEIGHT)
        total += weight * (world - aligned).norm(dim=0)
    for flow, factor in zip(problem.flows, weights.flow):
        for d in torch.nonzero(flow.source == f)[:, 0].tolist():
            j = int(flow.target[d])
            seen = u.R[j].T @ (world - u.centre[j][:, None])
            landing = u.log_focal.exp()[j] * seen[:2] / (seen[2] + 1e-6) + problem.principal_point[j].double()[:, None]
            error = torch.nn.functional.smooth_l1_loss(landing, flow.landing[d].double(), reduction="none")
            total += factor * torch.where((error < 50) & flow.used[d], error, 0.0).sum(dim=0)
    return total


def dense_normal(u: Unknowns, problem: Problem, weights, size: int, move) -> torch.Tensor:
    """The normal matrix from autograd's Jacobians of every residual, depths eliminated by dense algebra."""
    frames, pixels = u.depth.shape
    count = size + u.depth.numel()

    def residuals(x: torch.Tensor) -> torch.Tensor:
        v = replace(move(u, x[:size]), depth=u.depth * (1 + x[size:].view(frames, pixels)))
        parts = []
        for observed in observations.observations_by_frame(problem):
            ray = observations.frame_points(v, problem, observed.frame)
            parts.append((observations.seen_points(v, problem, observed) - ray.point).transpose(1, 2).reshape(-1))
            parts.append(observations.reproject(v, problem, observed, ray).error.reshape(-1))
        return torch.cat(parts)

    zero = torch.zeros(count, dtype=torch.float64)
    J, r = torch.autograd.functional.jacobian(residuals, zero, vectorize=True), residuals(zero)
    H, at = torch.zeros(count, count, dtype=torch.float64), 0
    for observed in observations.observations_by_frame(problem):
        w = observations.pointmap_weight(problem, observed, weights).reshape(-1)
        for k in w.tolist():
            own, d = J[at : at + 3], r[at : at + 3]
            unit = d / d.norm()
            middle = k / d.norm() * (torch.eye(3) - weights.newton * torch.outer(unit, unit))
            H, at = H + own.T @ middle @ own, at + 3
        seen = observations.reproject(u, problem, observed, observations.frame_points(u, problem, observed.frame))
        k = (seen.factors(weights, observed) * seen.curvature()).reshape(-1)
        own = J[at : at + len(k)]
        H, at = H + own.T @ (k[:, None] * own), at + len(k)
    D = H[size:, size:]
    assert torch.equal(D, D.diag().diag()) or (D - D.diag().diag()).abs().max() < 1e-12
    return H[:size, :size] - H[:size, size:] @ (H[size:, :size] / D.diag()[:, None])


@pytest.mark.parametrize("shared", [True, False])
def test_normal_matrix_is_that_of_autograd(shared, monkeypatch):
    monkeypatch.setattr(normal, "BLOCK_NUMBERS", 600)
    problem = small_problem(3, (4, 5), graph=window_graph(3))
    u = disturbed(problem, shared)
    config = AlignConfig(flow_weight=0.05)
    system = prepare(problem, config, 1 if shared else 3, u.depth.log())
    _, cost = project(u, system, system.weights((1.0,)), 0)
    weights = system.weights(cost.counts, newton=0.6)
    ours, _ = summed(system, u, weights)
    size = system.numbering.size
    expected = dense_normal(u, problem, weights, size, lambda v, x: moved(v, x, problem.edges, system.numbering))
    expected[:6] = expected[:, :6] = 0
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-7 * float(expected.abs().max()))


def test_pairs_that_reach_too_far_take_the_first_order_solver(monkeypatch):
    near = front_width(small_problem(8, flow=False), 1)
    everything = small_problem(8, flow=False, graph=window_graph(8, tuple(range(1, 8))))
    assert front_width(everything, 1) > 2 * near
    scene = make_scene(num_frames=5, size=SIZE, focal=11.0, graph=window_graph(5, (1, 2)))
    log, config = RunLog(), AlignConfig(iterations=7, flow_weight=0.0)
    for module in (align_module, uncertainty):
        monkeypatch.setattr(module, "LARGEST_FRONT", 20)
    result = align_module.align(scene.predictions, principal_point=scene.principal_point, config=config, log=log)
    assert len(result.loss_curve) == 7 and result.uncertainty is None
    assert any("--align.solver adam" in warning for warning in log.warnings)


def test_state_and_unknowns_are_inverses():
    problem = small_problem(flow=False)
    state = start_of(problem, shared=False)
    again = to_state(to_unknowns(state, problem), state)
    now, then = (decode(x, problem.sample.xy, problem.principal_point) for x in (again, state))
    for name in ("R", "centre", "focal", "depth", "pair_A", "pair_b"):
        torch.testing.assert_close(getattr(now, name), getattr(then, name), rtol=1e-5, atol=1e-5)


def solved(problem: Problem, config: AlignConfig, start: State | None = None, fixed: bool = False):
    steps = []
    start = start if start is not None else start_of(problem, config.shared_focal)
    final, curve = newton.optimise(problem, start, config, fixed, steps.append)
    return final, curve, steps


@pytest.mark.long
def test_the_minimum_is_that_of_adam_run_long():
    problem = small_problem(3, graph=window_graph(3, (1, 2)), noise=0.03)
    config = AlignConfig(flow_weight=0.02, smooth_weight=0.01)
    start = start_of(problem)
    long = replace(config, iterations=500, learning_rate_min=1e-5)
    ours, curve, _ = solved(problem, config, start)

    def value(x: State) -> float:
        return float(adam.objective(x, problem, config, None, True))

    # With torch 2.1 Adam ends in a shallower minimum from the start alone.
    starts = (start, ours) if torch.__version__.startswith("2.1.") else (start,)
    reference = min((adam.optimise(problem, x, long, False, lambda n: None)[0] for x in starts), key=value)
    values = [value(ours), value(reference)]
    assert curve[-1] == pytest.approx(values[0], rel=1e-4)
    assert values[0] < values[1] * (1 + 5e-5) and curve[0] > 1.05 * values[0]
    now, then = (decode(x, problem.sample.xy, problem.principal_point) for x in (ours, reference))
    torch.testing.assert_close(now.focal, then.focal, rtol=1e-3, atol=0)
    relative = [x.R[0].T @ x.R[-1] for x in (now, then)]
    torch.testing.assert_close(relative[0], relative[1], atol=1e-3, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"shared_focal": False}, {"smooth_weight": 0.05}, {"depth_weight": 1.0}])
def test_the_objective_only_falls_and_ends_before_the_limit(options):
    problem = small_problem(5, (30, 40), noise=0.03)  # coarse stages and a fine one
    config = AlignConfig(flow_weight=0.02, **options)
    _, curve, steps = solved(problem, config)
    assert len(curve) < 40 and sum(steps) == config.iterations and steps[-1] > config.iterations - 40
    system = prepare(problem, config, len(start_of(problem, config.shared_focal).focal), torch.zeros(5, 1200))
    u = to_unknowns(start_of(problem, config.shared_focal), problem)
    _, values, _ = newton.descend(system, newton.first_iterate(system, u, True), (newton.FAR, 1e-9), 12, lambda n: None)
    assert len(values) > 4 and (np.diff(values) < 0).all()


@pytest.mark.slow
def test_flow_that_disagrees_at_first_takes_part_once_the_cameras_are_near(monkeypatch):
    monkeypatch.setattr(newton, "ROUGH", 1.0)  # one step without the flow: the cameras are still wrong then
    problem = small_problem(noise=0.03)
    start = to_state(disturbed(problem, True, 0.3), start_of(problem))
    config = AlignConfig(flow_weight=1.0)
    values, flows = [], []
    for threshold in (config.flow_threshold, 0.5, 1e-3):
        final, curve, steps = solved(problem, replace(config, flow_threshold=threshold), start)
        assert sum(steps) == config.iterations
        now = decode(final, problem.sample.xy, problem.principal_point)
        values.append(curve[-1])
        flows.append(float(terms.flow_value(now, problem)))
    assert values[1] == pytest.approx(values[0], rel=1e-4) and flows[1] == pytest.approx(flows[0], rel=1e-2)
    assert flows[2] > 1.02 * flows[0], "flow that disagrees to the end stays out"


def test_a_step_that_fails_raises_the_damping(monkeypatch):
    problem = small_problem(flow=False, noise=0.03)
    system = prepare(problem, AlignConfig(), 1, torch.zeros(4, 80))
    tried, attempt = [], newton.attempt

    def failing(system, point, trust):
        tried.append(trust)
        if len(tried) == 2:
            return None  # no solution
        return replace(point, value=1.01 * point.value) if len(tried) == 3 else attempt(system, point, trust)

    monkeypatch.setattr(newton, "attempt", failing)
    point = newton.first_iterate(system, to_unknowns(start_of(problem), problem), False)
    _, values, steps = newton.descend(system, point, (newton.FAR, 1e-4), 20, lambda n: None)
    assert (np.diff(values) < 0).all() and len(values) == 1 + steps - 2
    assert tried[2].damping > tried[1].damping and tried[3].damping > tried[2].damping
    assert tried[2].newton == tried[3].newton == 0 and tried[4].damping < tried[3].damping


def test_gauges_and_a_known_focal_length_are_kept():
    problem = small_problem(noise=0.03)
    start = start_of(problem, focal=9.0)
    final, _, _ = solved(problem, AlignConfig(), start, fixed=True)
    assert torch.equal(final.focal, start.focal)
    now, then = (decode(x, problem.sample.xy, problem.principal_point) for x in (final, start))
    assert float(torch.linalg.det(now.pair_A).log().mean() / 3) == pytest.approx(np.log(0.5), abs=1e-5)
    torch.testing.assert_close(now.R[0], then.R[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(now.centre[0], then.centre[0], atol=1e-6, rtol=0)
    assert (now.centre[1:] - then.centre[1:]).abs().max() > 1e-3


def test_order_of_pairs_and_place_of_the_world_do_not_matter():
    problem = small_problem(noise=0.03)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(problem.edges)))
    both = torch.cat([order, order + len(order)])
    flow = problem.flows[0]
    named = {n: getattr(flow, n)[order] for n in ("source", "target", "landing", "used")}
    mixed = replace(problem, edges=problem.edges[order], points=problem.points[both])
    named_flow = replace(flow, **named)
    mixed = replace(mixed, confidence=problem.confidence[both], kept=problem.kept[order], flows=(named_flow,))
    start = start_of(problem)
    u = to_unknowns(start, problem)
    turn = torch.linalg.matrix_exp(torch.tensor([[0, 0.3, 1], [-0.3, 0, 0.2], [-1, -0.2, 0]], dtype=torch.float64))
    away = torch.tensor([1.0, -2, 0.5], dtype=torch.float64)
    elsewhere = replace(u, R=turn @ u.R, centre=u.centre @ turn.T + away)
    elsewhere = replace(elsewhere, pair_A=turn @ u.pair_A, pair_b=u.pair_b @ turn.T + away)
    elsewhere = replace(elsewhere, pair_A=elsewhere.pair_A[order], pair_b=elsewhere.pair_b[order])
    here, _, _ = solved(problem, AlignConfig(), start)
    there, _, _ = solved(mixed, AlignConfig(), to_state(elsewhere, start))
    results = []
    for state in (here, there):
        now = decode(state, problem.sample.xy, problem.principal_point)
        moved_centre = (now.centre - now.centre[0]) @ now.R[0]
        results.append((now.R[0].T @ now.R, moved_centre, now.depth, now.focal))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-4)


def test_the_limit_of_steps_holds_and_zero_changes_nothing():
    problem = small_problem(5, (30, 40))
    start = start_of(problem)
    final, curve, steps = solved(problem, AlignConfig(iterations=2), start)
    assert sum(steps) == 2 and all(bool(torch.isfinite(x).all()) for x in final.tensors().values())
    # The fine pixels' depths go with the cameras as they are, though no step is left for them.
    now = decode(final, problem.sample.xy, problem.principal_point)
    best = sampled_depths(problem, now)
    assert float((now.depth / best - 1).abs().median()) < 1e-3
    same, _, steps = solved(problem, AlignConfig(iterations=0), start)
    assert steps == []
    torch.testing.assert_close(same.log_depth, start.log_depth)
    torch.testing.assert_close(same.cam_trans, start.cam_trans, atol=1e-6, rtol=1e-5)


def test_a_start_that_is_not_finite_is_refused():
    problem = small_problem(flow=False)
    start = start_of(problem)
    with pytest.raises(AlignmentError, match="no finite start"):
        solved(problem, AlignConfig(), replace(start, cam_trans=start.cam_trans * torch.nan))


@pytest.mark.parametrize("budget", [100, 256, 700])
def test_thinning_takes_one_pixel_per_cell(budget):
    sample = sample_pixels(60, 80, 0)
    columns = thinned(sample, budget)
    assert 0.8 * budget <= len(columns) <= 1.3 * budget and (columns.diff() > 0).all()
    x, y = sample.xy[:, columns]
    assert abs(float(x.mean()) - 39.5) < 3 and abs(float(y.mean()) - 29.5) < 3
    assert len(thinned(sample, 0)) == len(thinned(sample, 10_000)) == 4800
    problem = small_problem(3, (8, 10), graph=window_graph(3))
    part = problem.columns(torch.tensor([3, 40]))
    assert torch.equal(part.points, problem.points[..., [3, 40]]) and part.flows[0].landing.shape[-1] == 2


def test_a_step_keeps_the_mean_scale_and_the_first_camera():
    problem = small_problem(noise=0.03)
    system = prepare(problem, ALL_TERMS, 1, torch.zeros(4, 80))
    u = disturbed(problem, True)
    step = newton.step_of(u, system, system.weights((50.0,)), 1e-4)
    scales = step[system.numbering.scales]
    assert abs(float(scales.sum())) < 1e-9 and float(scales.abs().max()) > 1e-4
    assert not step[:6].any() and step[6:].abs().min() > 0
