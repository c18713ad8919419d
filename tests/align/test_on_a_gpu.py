"""The alignment on a pretend GPU: nothing mixes devices, and the result is that of the CPU."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from easi3r_ns.align import align as align_module
from easi3r_ns.align import maps_at_once
from easi3r_ns.align.align import AlignResult
from easi3r_ns.align.problem import build_problem, sample_pixels
from easi3r_ns.align.solvers import batched
from easi3r_ns.align.solvers.newton import NEAR, attempt, first_iterate
from easi3r_ns.align.solvers.project import prepare
from easi3r_ns.align.solvers.unknowns import to_unknowns
from easi3r_ns.align.state import decode
from easi3r_ns.align.terms import intrinsics
from easi3r_ns.core.config import AlignConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.network.compute import tensor_float
from tests.align.test_newton import small_problem, start_of
from tests.support.align_scene import make_scene, window_graph
from tests.support.pretend_cuda import Counts, pretend_cuda

SIZE = (16, 24)
LAUNCHES, LAUNCHES_WITH_FLOW = 285, 550
"""Of one attempt, however many frames: counted, with a little air; see tests/bench/bench_align_device.py."""
EVERY_TERM = {"flow_weight": 0.05, "smooth_weight": 0.02, "depth_weight": 0.1}


@pytest.mark.parametrize("solver", ["newton", "adam"])
def test_both_solvers_run_with_every_term(solver: Literal["newton", "adam"]) -> None:
    scene = make_scene(num_frames=3, size=SIZE, focal=26.0, graph=window_graph(3, (1, 2)))
    config = AlignConfig(solver=solver, iterations=3, max_pixels=256, **EVERY_TERM)
    masks = np.zeros((3, *SIZE), dtype=bool)
    masks[0, :3] = True

    def result(device: str) -> AlignResult:
        options = {"principal_point": scene.principal_point, "config": config, "flow": scene.flow}
        return align_module.align(scene.predictions, **options, dynamic_masks=masks, device=device)

    with pretend_cuda() as counts:
        ours = result("cuda")
    expected = result("cpu")
    if solver == "newton":
        # A layout of 40 copies for each of the stages, of which few pixels need two; once 50 for the problem, its start
        # and its uncertainty; one an attempt; and three a frame for the whole depths; 130 in all.
        assert counts.waits <= 2 * 40 + 50 + config.iterations + 3 * 3 + 10, counts.where
    assert counts.launches > 0
    np.testing.assert_allclose(ours.T_world_cam, expected.T_world_cam, atol=1e-4)
    np.testing.assert_allclose(ours.depth, expected.depth, rtol=1e-3)
    np.testing.assert_allclose(ours.focals, expected.focals, rtol=1e-4)


def attempt_counts(num_frames: int, flow: bool) -> Counts:
    """What one attempt of the solver asks of the device."""
    problem = small_problem(num_frames, graph=window_graph(num_frames, (1, 3)), flow=flow)
    config = AlignConfig(flow_weight=0.05 if flow else 0.0)
    start = start_of(problem)
    with pretend_cuda() as counts:
        there, state = problem.to("cuda"), start.map(lambda x: x.to("cuda"))
        system = prepare(there, config, 1, state.log_depth)
        point = first_iterate(system, to_unknowns(state, there), flow)
        assert bool(point.cost.counts) == flow
        before = counts.copy()
        assert attempt(system, point, NEAR) is not None
        return counts.since(before)


@pytest.mark.parametrize(("flow", "launches"), [(False, LAUNCHES), (True, LAUNCHES_WITH_FLOW)])
def test_an_attempt_waits_once_and_its_launches_do_not_grow_with_the_frames(flow: bool, launches: int) -> None:
    few, many = (attempt_counts(n, flow) for n in (5, 11))
    assert few.launches == many.launches <= launches
    for counts in (few, many):
        assert (counts.to_device, counts.to_host, counts.waits) == (0, 1, 1), counts.where


def test_too_many_unknowns_for_one_matrix_are_solved_for_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batched, "LARGEST_DENSE", 0)
    counts = attempt_counts(5, flow=True)
    # The frames' equations come back in three copies a batch, with the gauge; the step goes to the device.
    assert (counts.to_device, counts.to_host, counts.waits) == (1, 5, 6), counts.where


def test_whole_frames_are_copied_once_each_way() -> None:
    """Depth, confidence and clean-up at full size: the pairs' maps in, a table of rows a frame, the results out."""
    frames, scene = 4, make_scene(num_frames=4, size=SIZE, focal=26.0, graph=window_graph(4, (1, 2)))
    problem = build_problem(scene.predictions, sample_pixels(*SIZE, 256), scene.principal_point, RunLog())
    start = start_of(problem)
    with pretend_cuda() as counts:
        there, state = problem.to("cuda"), start.map(lambda x: x.to("cuda"))
        now = decode(state, there.sample.xy, there.principal_point)
        before = counts.copy()
        maps = maps_at_once.full_maps(there, scene.predictions, now)
        solved = counts.since(before)
        assert solved.to_device <= 3 * frames and solved.to_host == 1  # the edges
        maps_at_once.clean(*maps[::-1], now.R, now.centre, intrinsics(now.focal, there.principal_point))
        cleaned = counts.since(before)
        assert cleaned.to_device - solved.to_device <= 1 and cleaned.to_host == 1
        assert cleaned.launches <= 240 * frames, "counted: 193 for the depths of a frame, 36 for its clean-up"


def test_products_are_not_rounded_to_three_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a program around this has asked for TensorFloat-32."""
    seen, screen = [], align_module.screen
    monkeypatch.setattr(
        align_module,
        "screen",
        lambda *args: seen.append(torch.backends.cuda.matmul.allow_tf32) or screen(*args),
    )
    scene = make_scene(num_frames=2, size=SIZE, focal=26.0, graph=window_graph(2, (1,)))
    options = {"principal_point": scene.principal_point, "config": AlignConfig(iterations=0), "device": "cuda"}
    with pretend_cuda(), tensor_float(True):
        align_module.align(scene.predictions, **options)
        assert seen == [False] and torch.backends.cuda.matmul.allow_tf32
