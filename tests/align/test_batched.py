"""The solver's work on all frames at once against that frame by frame."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from easi3r_ns.align import depth, maps_at_once
from easi3r_ns.align.problem import Problem, build_problem, sample_pixels
from easi3r_ns.align.solvers import batched, newton
from easi3r_ns.align.solvers.batched import moved_at_once, prepare_batches
from easi3r_ns.align.solvers.project import System, prepare, project
from easi3r_ns.align.solvers.unknowns import Unknowns, moved
from easi3r_ns.align.state import Decoded, decode
from easi3r_ns.align.terms import intrinsics
from easi3r_ns.core.config import AlignConfig
from easi3r_ns.core.runlog import RunLog
from tests.align.test_newton import ALL_TERMS, disturbed, small_problem, start_of
from tests.support.align_scene import AlignScene, make_scene, window_graph


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is computed in double precision: the two agree to the single precision of weights and flow."""
    for name in ("project", "batched", "batched_depths"):
        monkeypatch.setattr(f"easi3r_ns.align.solvers.{name}.PRECISION", torch.float64)


def with_batches(system: System) -> System:
    """The same problem for all frames at once, on the CPU."""
    parts = (system.problem, system.observations, system.numbering, system.last)
    return replace(system, batches=prepare_batches(*parts, (system.config, system.prior)))


def both(config: AlignConfig, focals: str = "shared", frames: int = 4) -> tuple[Unknowns, System, System]:
    """Unknowns away from the minimum, and the same problem frame by frame and at once; frames differ in their pairs."""
    problem = small_problem(frames)
    u = disturbed(problem, focals != "each")
    prior = u.depth.log() + 0.1 * torch.sin(torch.arange(u.depth.numel()).double()).view_as(u.depth)
    one = prepare(problem, config, {"known": 0, "shared": 1, "each": frames}[focals], prior)
    return u, one, with_batches(one)


CONFIGS = {
    "plain": replace(ALL_TERMS, flow_weight=0.0, smooth_weight=0.0, depth_weight=0.0),
    "flow": replace(ALL_TERMS, smooth_weight=0.0, depth_weight=0.0),
    "all terms": ALL_TERMS,
}


@pytest.mark.parametrize("name", list(CONFIGS))
def test_depths_and_terms_are_those_of_single_frames(double, name):
    config = CONFIGS[name]
    u, one, at_once = both(config)
    counts = (100.0,) if config.flow_strength else ()
    for rounds in (0, 1, 3):
        (ours, cost), (expected, single) = (project(u, s, s.weights(counts), rounds) for s in (at_once, one))
        torch.testing.assert_close(ours.depth, expected.depth, rtol=1e-6, atol=0)
        for field in ("pairwise", "flow", "smooth", "prior"):
            assert getattr(cost, field) == pytest.approx(getattr(single, field), rel=1e-6, abs=1e-12)
        assert cost.counts == single.counts


@pytest.mark.parametrize("focals", ["known", "shared", "each"])
@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("dense", [True, False])
def test_a_step_is_that_of_single_frames(double, monkeypatch, name, focals, dense):
    monkeypatch.setattr(batched, "LARGEST_DENSE", 10**6 if dense else 0)
    config = CONFIGS[name]
    u, one, at_once = both(config, focals)
    counts = (100.0,) if config.flow_strength else ()
    steps = [newton.step_of(u, s, s.weights(counts, 0.5), 1e-3) for s in (at_once, one)]
    torch.testing.assert_close(*steps, rtol=1e-5, atol=1e-6 * float(steps[1].abs().max()))
    assert float(steps[1].abs().max()) > 1e-4


@pytest.mark.parametrize("focals", ["known", "shared", "each"])
def test_a_motion_is_that_of_single_steps(focals):
    u, system, _ = both(CONFIGS["plain"], focals)
    generator = torch.Generator().manual_seed(2)
    step = 0.5 * torch.randn(system.numbering.size, generator=generator, dtype=torch.float64)
    step[6:12] = 0.0  # a rotation about no axis
    ours, expected = (f(u, step, system.problem.edges, system.numbering) for f in (moved_at_once, moved))
    for name in ("R", "centre", "log_focal", "pair_A", "pair_b"):
        torch.testing.assert_close(getattr(ours, name), getattr(expected, name), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["plain", "flow"])
def test_single_precision_comes_to_the_same_minimum(monkeypatch, name):
    """Pixels in single precision, the solver's own settings, against frame by frame in double precision."""
    problem = small_problem(12, size=(12, 16), graph=window_graph(12, (1, 3, 5)), noise=0.03, travel=2.0)
    start, prepared = start_of(problem), newton.prepare
    result = {}
    for way in ("by frame", "at once"):
        if way == "at once":
            monkeypatch.setattr(newton, "prepare", lambda *args: with_batches(prepared(*args)))
        state, curve = newton.optimise(problem, start, CONFIGS[name], False, lambda _: None)
        result[way] = decode(state, problem.sample.xy, problem.principal_point), float(curve[-1])
    (ours, value), (expected, lowest) = result["at once"], result["by frame"]
    assert value == pytest.approx(lowest, rel=1e-5)
    # The solver stops where the objective falls by less than 3e-5; both stop at the same place to far less than that.
    torch.testing.assert_close(ours.R, expected.R, rtol=0, atol=2e-5)
    torch.testing.assert_close(ours.centre, expected.centre, rtol=0, atol=2e-5)
    torch.testing.assert_close(ours.focal, expected.focal, rtol=2e-5, atol=0)
    torch.testing.assert_close(ours.depth, expected.depth, rtol=1e-3, atol=0)


def test_several_batches_are_one(double, monkeypatch):
    """Where the memory holds two frames at a time."""
    u, one, at_once = both(ALL_TERMS, frames=5)
    rows, pixels = 7 * 8 + 7 * 4 + 2, one.problem.points.shape[-1]
    monkeypatch.setattr(
        batched, "free_memory", lambda _: 2.5 * 4 * batched.NUMBERS_PER_ROW * rows * pixels / batched.MEMORY_SHARE
    )
    several = with_batches(one)
    assert len(several.batches.batches) == 3 and len(at_once.batches.batches) == 1
    weights = one.weights((100.0,), 0.5)
    torch.testing.assert_close(*(newton.step_of(u, s, weights, 1e-3) for s in (several, at_once)))
    (a, cost), (b, whole) = (project(u, s, weights, 3) for s in (several, at_once))
    torch.testing.assert_close(a.depth, b.depth)
    assert cost.total(ALL_TERMS) == pytest.approx(whole.total(ALL_TERMS), rel=1e-12) and cost.counts == whole.counts


def test_equations_that_have_no_solution_end_the_attempt_without_a_step(monkeypatch):
    problem = small_problem(4)
    system = with_batches(prepare(problem, CONFIGS["plain"], 1, start_of(problem).log_depth))
    point = newton.first_iterate(system, disturbed(problem, True), False)
    reduced = batched.Batches._reduced
    monkeypatch.setattr(batched.Batches, "_reduced", lambda *args: tuple(-x for x in reduced(*args)))
    trial = newton.attempt(system, point, newton.FAR)
    assert trial is not None and not trial.value < point.value
    end, values, steps = newton.descend(system, point, (newton.FAR, 1e-4), 50, lambda _: None)
    assert end is point and len(values) == 1 and steps < 50


def aligned_scene(noise: float = 0.05) -> tuple[AlignScene, Problem, Decoded]:
    """A problem on a part of the pixels and unknowns near its minimum; some points have no finite answer."""
    scene = make_scene(num_frames=5, size=(20, 28), focal=30.0, graph=window_graph(5, (1, 2)), noise=noise)
    scene.predictions.points_i[0, :2] = torch.nan
    scene.predictions.conf_j[3, 4:6] = 0.0
    problem = build_problem(scene.predictions, sample_pixels(20, 28, 300), scene.principal_point, RunLog())
    return scene, problem, decode(start_of(problem), problem.sample.xy, problem.principal_point)


def test_depths_and_confidences_are_those_of_single_frames(monkeypatch):
    scene, problem, now = aligned_scene()
    expected = depth.full_depths(problem, scene.predictions, now)
    known = depth.full_confidence(scene.predictions, problem.kept)
    sampled = depth.sampled_depths(problem, now)
    for free in (None, 2e5):
        monkeypatch.setattr(maps_at_once, "free_memory", lambda _, free=free: free)
        torch.testing.assert_close(maps_at_once.sampled_depths(problem, now), sampled, rtol=1e-4, atol=0)
        found, confidence = maps_at_once.full_maps(problem, scene.predictions, now)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
        torch.testing.assert_close(confidence, known, rtol=0, atol=0)


def test_what_contradicts_a_view_is_the_same_for_all_views_at_once(monkeypatch):
    scene, problem, now = aligned_scene(noise=0.3)
    found, confidence = maps_at_once.full_maps(problem, scene.predictions, now)
    K = intrinsics(now.focal, problem.principal_point)
    for views in (2, 64):
        for module in (depth, maps_at_once):
            monkeypatch.setattr(module, "CLEANING_VIEWS", views)
        expected = depth.clean(confidence, found, now.R, now.centre, K)
        assert 0.02 < float((expected < confidence).float().mean()) < 0.9
        ours = maps_at_once.clean(confidence, found, now.R, now.centre, K)
        assert float((ours != expected).float().mean()) < 1e-3  # a place between two pixels may round to either
