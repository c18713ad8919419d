"""Cost and accuracy of the alignment's solvers, side by side, on the golden scene and on a synthetic clip.

``python -m tests.bench.bench_align`` prints one table per scene. Rows: ``plain`` is the reference's form of the loop
(autograd over all pixels, every intermediate kept, both directions of the flow), ``fused`` the same loop with our
hand-written gradients, ``sampled`` that on sampled pixels with full depths solved afterwards (--align.solver adam),
``newton`` the second-order solver (the default). Every row runs in a process of its own after a warm-up that loads the
libraries, so that its peak memory is its own; memory is what it adds to the scene and the libraries. All start from
the same pointmaps and end with full depth maps; what :func:`easi3r_ns.align.align.align` does beside (screening of the
pairs, clean-up of points, uncertainty) costs the same with every solver and is not in the table.

A plain loop of hours is not run to its end (``--plain-iterations``): its time is then extrapolated from those steps,
and its errors are those of ``fused``, whose values and gradients are the same (tests/align/test_terms.py); the row says
so. ``--converged N`` adds the fused loop with N ever smaller steps: where the plain loop would end if it ran on.
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

from easi3r_ns.align import init, problem, residuals, state, terms
from easi3r_ns.align.align import _with_fitted_depths
from easi3r_ns.align.depth import full_depths
from easi3r_ns.align.solvers import adam, newton
from easi3r_ns.core.config import AlignConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.types import PairFlow, PairGraph, PairPredictions
from tests.support.align_scene import AlignScene, depth_error, make_scene, trajectory_errors, window_graph
from tests.support.helpers import load_golden

VARIANTS = ("plain", "fused", "sampled", "newton")
COLUMNS = ("cpu_s", "memory_MiB", "ate", "rpe_trans", "rpe_rot_deg", "focal_error_percent", "depth_error")
OFFSETS = (1, 3, 5, 7, 9)


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
    keep = (loss < residuals.FLOW_LOSS.cutoff) & used.unsqueeze(1)
    return torch.where(keep, loss, 0.0).sum() / (keep.sum() + terms.EPS)


def begin(scene: AlignScene, masks: np.ndarray | None, config: AlignConfig) -> tuple[problem.Problem, state.State]:
    """What every solver starts from."""
    height, width = scene.depth.shape[1:]
    log, sample = RunLog(), problem.sample_pixels(height, width, config.pixel_budget)
    p = problem.build_problem(scene.predictions, sample, scene.principal_point, log)
    start = init.initialise(p, None, True, log).state
    return replace(p, flows=(problem.flow_observations(p, scene.flow, masks, False),)), start


def plain_loop(p: problem.Problem, start: state.State, config: AlignConfig, steps: int) -> tuple[state.State, float]:
    """The state after ``steps``, and the CPU seconds of all ``config.iterations``."""
    x, spent = start.map(lambda t: t.clone().requires_grad_(True)), {False: [], True: []}
    optimiser = torch.optim.Adam(list(x.tensors().values()), lr=config.learning_rate, betas=adam.ADAM_BETAS)
    for iteration in np.linspace(0, config.iterations - 1, steps).round().astype(int).tolist():
        began = time.process_time()
        optimiser.param_groups[0]["lr"] = adam.learning_rate(config, iteration)
        optimiser.zero_grad()
        with_flow = adam.flow_is_on(config, iteration)
        plain_objective(x, p, config, with_flow).backward()
        optimiser.step()
        spent[with_flow].append(time.process_time() - began)
    seconds = sum(float(np.mean(spent[adam.flow_is_on(config, k)])) for k in range(config.iterations))
    return x.map(torch.Tensor.detach), seconds


def run(
    scene: AlignScene, masks: np.ndarray | None, config: AlignConfig, plain_steps: int
) -> tuple[np.ndarray, float, np.ndarray, float, int]:
    """Cameras, focal, depths, CPU seconds and steps. ``plain_steps``: of the plain loop; 0 for the other solvers."""
    began = time.process_time()
    p, x = begin(scene, masks, config)
    if plain_steps:
        seconds = time.process_time() - began
        x, loop = plain_loop(p, x, config, plain_steps)
        seconds, steps = seconds + loop, plain_steps
    else:
        x = _with_fitted_depths(p, x)
        x, curve = {"adam": adam.optimise, "newton": newton.optimise}[config.solver](
            p, x, config, False, lambda n: None
        )
        steps = len(curve)
    now = state.decode(x, p.sample.xy, p.principal_point)
    complete = p.sample.complete
    depth = (now.depth.view(-1, *p.sample.size) if complete else full_depths(p, scene.predictions, now)).numpy()
    T = np.tile(np.eye(4), (len(now.R), 1, 1))
    T[:, :3, :3], T[:, :3, 3] = now.R, now.centre
    return T, float(now.focal[0]), depth, seconds if plain_steps else time.process_time() - began, steps


def golden_scene() -> tuple[AlignScene, np.ndarray]:
    """The scene of tests/golden/align and its dynamic masks."""
    raw = load_golden("align", "inputs")
    tensors = [torch.from_numpy(raw[k]) for k in ("pred_i", "conf_i", "pred_j", "conf_j")]
    graph = PairGraph(raw["edges"].astype(np.int64), len(raw["gt_depths"]))
    flow = torch.from_numpy(raw["flow_ij"])
    used = torch.ones(len(flow), *flow.shape[2:], dtype=torch.bool)
    pp = np.array([flow.shape[3] / 2, flow.shape[2] / 2])
    truth = raw["gt_poses_c2w"], raw["gt_depths"], float(raw["gt_focal"])
    scene = AlignScene(*truth, pp, PairPredictions(graph, *tensors), PairFlow(graph, flow, used))
    return scene, raw["dynamic_masks"]


def synthetic_scene(args: argparse.Namespace) -> AlignScene:
    size = (args.height, args.width)
    graph = window_graph(args.frames, OFFSETS)
    scene = make_scene(
        num_frames=args.frames, size=size, focal=0.9 * max(size), graph=graph, dtype=torch.float16, noise=args.noise
    )
    return replace(scene, flow=replace(scene.flow, flow=scene.flow.flow.half()))


def make(args: argparse.Namespace) -> None:
    """Write the scene to ``args.file``; in a process of its own, whose memory is not counted."""
    scene, masks = golden_scene() if args.scene == "golden" else (synthetic_scene(args), None)
    torch.save((scene, masks), args.file)


def memory_mib(key: str) -> float:
    """A line of /proc/self/status in MiB."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key))
    return int(line.split()[1]) / 1024


def warm_up() -> None:
    """Load whatever is loaded on first use."""
    scene = make_scene(num_frames=3, size=(16, 20), focal=20.0, graph=window_graph(3, (1, 2)))
    for solver, steps in (("adam", 2), ("adam", 0), ("newton", 0)):
        run(scene, None, AlignConfig(solver=solver, iterations=2, flow_start=0.5), steps)


def config_of(args: argparse.Namespace) -> AlignConfig:
    """What the row ``args.variant`` runs with."""
    config = AlignConfig(iterations=args.iterations, solver="newton" if args.variant == "newton" else "adam")
    if args.variant in ("plain", "fused"):
        return replace(config, max_pixels=0)
    if args.variant == "converged":
        return replace(config, max_pixels=0, iterations=args.converged, learning_rate_min=1e-5)
    return config


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """One variant, in this process."""
    torch.set_num_threads(1)
    warm_up()
    scene, masks = torch.load(args.file, weights_only=False)
    before, config = memory_mib("VmRSS"), config_of(args)
    Path("/proc/self/clear_refs").write_text("5")
    plain = min(args.plain_iterations or config.iterations, config.iterations) if args.variant == "plain" else 0
    T, focal, depth, seconds, steps = run(scene, masks, config, plain)
    extrapolated = args.variant == "plain" and steps < config.iterations
    row = {"variant": args.variant, "steps": steps, "cpu_s": seconds, "memory_MiB": memory_mib("VmHWM") - before}
    row |= {"pairs": len(scene.predictions.graph), "extrapolated": extrapolated}
    if extrapolated:
        return row
    errors = trajectory_errors(T, scene.T_world_cam)
    focal_error = 100 * abs(focal / scene.focal - 1)
    return row | errors | {"focal_error_percent": focal_error, "depth_error": depth_error(depth, scene.depth)}


def table(title: str, rows: list[dict[str, Any]]) -> str:
    """The rows as text, with the ratios to the plain loop."""
    first = rows[0]
    by_name = {row["variant"]: row for row in rows}
    lines = [f"{title}, {first['pairs']} pairs", f"{'':10}{'steps':>7}" + "".join(f"{c:>21}" for c in COLUMNS)]
    for row in rows:
        shown = row | {k: v for k, v in by_name.get("fused", {}).items() if k not in row}
        cells = []
        for column in COLUMNS:
            value = shown.get(column)
            text = "-" if value is None else f"{value:.5g}"
            if column in ("cpu_s", "memory_MiB") and row is not first:
                text += f" (1/{first[column] / max(value, 1e-9):.1f})"
            cells.append(f"{text:>21}")
        note = "  time extrapolated, errors those of fused" if row["extrapolated"] else ""
        lines.append(f"{row['variant']:10}{row['steps']:>7}" + "".join(cells) + note)
    return "\n".join(lines) + "\n"


def bench(scene: str, variants: tuple[str, ...]) -> None:
    """All variants of one scene, one process after the other."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.bench.bench_align", *sys.argv[1:], "--scene", scene]
        command += ["--file", f"{folder}/scene.pt"]
        subprocess.run([*command, "--variant", "make"], check=True)
        rows = []
        for variant in variants:
            done = subprocess.run([*command, "--variant", variant], check=True, stdout=subprocess.PIPE)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            sys.stderr.write(json.dumps(rows[-1]) + "\n")
        sys.stdout.write(table(scene, rows) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Run every scene and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", nargs="+", choices=("golden", "synthetic"), default=("golden", "synthetic"))
    parser.add_argument("--frames", type=int, default=60, help="of the synthetic clip")
    parser.add_argument("--height", type=int, default=120)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--noise", type=float, default=0.02, help="relative error of the pointmaps")
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--plain-iterations", type=int, default=20, help="of the synthetic clip's plain loop; 0: all")
    parser.add_argument("--converged", type=int, default=0, help="steps of a further row on the golden scene")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--scene", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--variant", choices=(*VARIANTS, "make", "converged"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.scene == "golden":
        args.plain_iterations = 0
    if args.variant == "make":
        make(args)
    elif args.variant:
        sys.stdout.write(json.dumps(measure(args)) + "\n")
    else:
        for scene in args.scenes:
            extra = ("converged",) if args.converged and scene == "golden" else ()
            bench(scene, (*args.variants, *extra))


if __name__ == "__main__":
    main()
