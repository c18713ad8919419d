"""Cost and accuracy of the alignment on a synthetic clip, beside the plain loop over every pixel.

``python -m tests.bench.bench_align --frames 10 --height 288 --width 512`` prints one line per variant: the plain loop
(autograd over all pixels, the reference's form), the fused loop over all pixels, and the default (sampled pixels, full
depths solved afterwards). Every variant runs in its own process, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from easi3r_ns.align import align, init, problem, solve, state, terms
from easi3r_ns.config import AlignConfig
from easi3r_ns.runlog import RunLog
from tests.align_scene import AlignScene, depth_error, make_scene, trajectory_errors, window_graph

VARIANTS = ("plain", "fused", "sampled")


def plain_objective(x: state.State, p: problem.Problem, config: AlignConfig, with_flow: bool) -> torch.Tensor:
    """The objective as one writes it down: whole tensors, autograd keeps every intermediate."""
    now = state.decode(x, p.sample.xy, p.principal_point)
    world = now.world_points()
    aligned = torch.baddbmm(now.pair_b[p.pair].unsqueeze(-1), now.pair_A[p.pair], p.points)
    distance = ((world[p.frame] - aligned).square().sum(dim=1) + 1e-20).sqrt()
    total = (p.weight * distance).sum() / (len(p.edges) * p.points.shape[-1])
    if with_flow:
        flows = [plain_flow(now, p, f.source, f.target, f.landing, f.used) for f in both_directions(p)]
        total = total + config.flow_strength * sum(flows)
    return total


def both_directions(p: problem.Problem) -> list[problem.FlowObservations]:
    """The flow of (i, j) and that of (j, i) for every ordered pair, as the reference sums them."""
    forward = replace(p.flows[0], weight=1.0)
    row_of = {edge: k for k, edge in enumerate(map(tuple, p.edges.tolist()))}
    back = torch.tensor([row_of[j, i] for i, j in p.edges.tolist()])
    names = ("source", "target", "landing", "used")
    return [forward, replace(forward, **{n: getattr(forward, n)[back] for n in names})]


def plain_flow(now, p, source, target, landing, used) -> torch.Tensor:
    seen = now.R[target].transpose(1, 2) @ (now.world_points()[source] - now.centre[target].unsqueeze(-1))
    pixel = now.focal[target][:, None, None] * seen[:, :2] / seen[:, 2:] + p.principal_point[target].unsqueeze(-1)
    loss = torch.nn.functional.smooth_l1_loss(pixel, landing, reduction="none")
    keep = (loss < terms.LARGEST_FLOW_LOSS) & used.unsqueeze(1)
    return torch.where(keep, loss, 0.0).sum() / (keep.sum() + terms.EPS)


def run_plain(scene: AlignScene, config: AlignConfig) -> tuple[np.ndarray, float, np.ndarray]:
    """Cameras, focal and depths after the plain loop."""
    height, width = scene.depth.shape[1:]
    log = RunLog()
    p = problem.build_problem(scene.predictions, problem.sample_pixels(height, width, 0), scene.principal_point, log)
    p = replace(p, flows=(problem.flow_observations(p, scene.flow, None, False),))
    x = init.initialise(p, None, True, log).state.map(lambda t: t.clone().requires_grad_(True))
    adam = torch.optim.Adam(list(x.tensors().values()), lr=config.learning_rate, betas=solve.ADAM_BETAS)
    for iteration in range(config.iterations):
        adam.param_groups[0]["lr"] = solve.learning_rate(config, iteration)
        adam.zero_grad()
        plain_objective(x, p, config, solve.flow_is_on(config, iteration)).backward()
        adam.step()
    now = state.decode(x.map(torch.Tensor.detach), p.sample.xy, p.principal_point)
    T = np.tile(np.eye(4), (len(now.R), 1, 1))
    T[:, :3, :3], T[:, :3, 3] = now.R, now.centre
    return T, float(now.focal[0]), now.depth.view(-1, height, width).numpy()


def make(args: argparse.Namespace) -> None:
    """Write the scene to ``args.scene``; in a process of its own, whose memory is not counted."""
    size = (args.height, args.width)
    graph = window_graph(args.frames, (1, 3, 5, 7, 9))
    scene = make_scene(
        num_frames=args.frames, size=size, focal=0.9 * max(size), graph=graph, dtype=torch.float16, noise=args.noise
    )
    torch.save(replace(scene, flow=replace(scene.flow, flow=scene.flow.flow.half())), args.scene)


def memory_mib(key: str) -> int:
    """A line of /proc/self/status in MiB."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key))
    return int(line.split()[1]) // 1024


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """One variant, in this process."""
    torch.set_num_threads(1)
    scene: AlignScene = torch.load(args.scene, weights_only=False)
    before = memory_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    config = AlignConfig(iterations=args.iterations, max_pixels=args.pixels if args.variant == "sampled" else 0)
    wall, cpu = time.perf_counter(), time.process_time()
    if args.variant == "plain":
        T, focal, depth = run_plain(scene, config)
    else:
        result = align(scene.predictions, principal_point=scene.principal_point, config=config, flow=scene.flow)
        T, focal, depth = result.T_world_cam, float(result.focals[0]), result.depth
    cost = {"cpu_s": round(time.process_time() - cpu, 1), "wall_s": round(time.perf_counter() - wall, 1)}
    return {
        "variant": args.variant,
        "pairs": len(scene.predictions.graph),
        "iterations": args.iterations,
        **cost,
        "memory_before_MiB": before,
        "peak_MiB": memory_mib("VmHWM"),
        **{k: round(v, 5) for k, v in trajectory_errors(T, scene.T_world_cam).items()},
        "focal_error_percent": round(100 * abs(focal / scene.focal - 1), 4),
        "depth_error": round(depth_error(depth, scene.depth), 5),
    }


def main() -> None:
    """Run the variants one after the other and print a line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--height", type=int, default=288)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--noise", type=float, default=0.01, help="relative error of the pointmaps")
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--pixels", type=int, default=AlignConfig.max_pixels, help="budget of the sampled variant")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--scene", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--variant", choices=(*VARIANTS, "make"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant == "make":
        make(args)
    elif args.variant:
        sys.stdout.write(json.dumps(measure(args)) + "\n")
    else:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "tests.bench.bench_align", *sys.argv[1:], "--scene", f"{folder}/scene.pt"]
            for variant in ("make", *args.variants):
                subprocess.run([*command, "--variant", variant], check=True)


if __name__ == "__main__":
    main()
