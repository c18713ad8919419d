"""What one alignment asks of a GPU, counted on a pretend one.

``python -m tests.bench.bench_align_device`` prints a table: launches, copies and waits of one attempt of the
second-order solver at 86 frames, frame by frame and all frames at once, with and without the flow term, and of the
stages after it. Launches are counted by function of ATen: a factorisation or a product counts as one. Needs no GPU and
measures no time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

import torch

from easi3r_ns.align import depth, init, maps_at_once
from easi3r_ns.align.problem import Problem, build_problem, flow_observations, sample_pixels
from easi3r_ns.align.solvers.newton import Trust, attempt, first_iterate
from easi3r_ns.align.solvers.project import prepare
from easi3r_ns.align.solvers.unknowns import to_unknowns
from easi3r_ns.align.state import decode
from easi3r_ns.align.terms import intrinsics
from easi3r_ns.core.config import AlignConfig
from easi3r_ns.core.runlog import RunLog
from tests.support.align_scene import AlignScene, make_scene, window_graph
from tests.support.pretend_cuda import Counts, pretend_cuda

OFFSETS = (1, 3, 5, 7, 9)
SIZE = (12, 16)


def scene_of(frames: int) -> AlignScene:
    """Tiny frames in the default graph."""
    return make_scene(num_frames=frames, size=SIZE, focal=18.0, graph=window_graph(frames, OFFSETS))


def problem_of(scene: AlignScene) -> Problem:
    """All of its pixels."""
    problem = build_problem(scene.predictions, sample_pixels(*SIZE, 0), scene.principal_point, RunLog())
    return replace(problem, flows=(flow_observations(problem, scene.flow, None, False),))


def counted(counts: Counts, work: Callable[[], object]) -> Counts:
    """What ``work`` asks of the device."""
    before = counts.copy()
    work()
    return counts.since(before)


def attempts(problem: Problem, counts: Counts, *, by_frame: bool) -> dict[str, Counts]:
    """One attempt without the flow term and one with it, and the preparation of a stage."""
    config = AlignConfig(flow_weight=0.01)
    state = init.initialise(problem, None, True, RunLog()).state.map(lambda x: x.to("cuda"))
    there, found = problem.to("cuda"), {}
    u = to_unknowns(state, there)

    def lay_out() -> None:
        nonlocal system
        system = prepare(there, config, 1, state.log_depth)

    system = prepare(there, config, 1, state.log_depth)
    found["preparation of a stage"] = counted(counts, lay_out)
    system = replace(system, batches=None) if by_frame else system
    for name, flow in (("attempt", False), ("attempt with flow", True)):
        point = first_iterate(system, u, flow)
        if flow:
            point = replace(point, cost=replace(point.cost, counts=(1000.0,)))
        attempt(system, point, Trust(1e-4, 0.5))  # what is kept for later attempts
        found[name] = counted(counts, lambda: attempt(system, point, Trust(1e-4, 0.5)))
    return found


def maps(scene: AlignScene, problem: Problem, counts: Counts, *, by_frame: bool) -> dict[str, Counts]:
    """Depth and confidence of whole frames, and the clean-up, which frame by frame runs on the CPU."""
    state = init.initialise(problem, None, True, RunLog()).state.map(lambda x: x.to("cuda"))
    there = problem.to("cuda")
    now = decode(state, there.sample.xy, there.principal_point)
    if by_frame:
        return {"whole depths": counted(counts, lambda: depth.full_depths(there, scene.predictions, now))}
    found: list[torch.Tensor] = []
    solved = counted(counts, lambda: found.extend(maps_at_once.full_maps(there, scene.predictions, now)))
    cameras = now.R, now.centre, intrinsics(now.focal, there.principal_point)
    cleaned = counted(counts, lambda: maps_at_once.clean(found[1], found[0], *cameras))
    return {"whole depths and confidences": solved, "clean-up": cleaned}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=86)
    frames = parser.parse_args().frames
    scene = scene_of(frames)
    problem = problem_of(scene)
    print(f"{frames} frames, {len(problem.edges)} pairs, {SIZE[1]}x{SIZE[0]} pixels\n")
    print("| step | launches | copies to the device | copies back | waits |\n| --- | --- | --- | --- | --- |")
    for by_frame in (True, False):
        with pretend_cuda() as counts, torch.inference_mode():
            rows = attempts(problem, counts, by_frame=by_frame) | maps(scene, problem, counts, by_frame=by_frame)
            for name, found in rows.items():
                way = "frame by frame" if by_frame else "all frames at once"
                row = (found.launches, found.to_device, found.to_host, found.waits)
                print(f"| {name}, {way} | " + " | ".join(f"{x:,}" for x in row) + " |", flush=True)


if __name__ == "__main__":
    main()
