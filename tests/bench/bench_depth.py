"""Depth of ``--weights none`` on captures with true depth, and the mesh of the example clip against true surfaces.

    python -m tests.bench.bench_depth --data DATA --results examples/results

DATA holds ``hololens/`` and ``rgbd5/`` (see examples/results/README.md); the example clip comes on top. All options
are the defaults, and every frame is used. Writes ``depth.md``. Set OMP_NUM_THREADS=1 for comparable CPU seconds.
"""

from __future__ import annotations

import argparse
import os
import runpy
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from easi3r_ns.core.config import DatasetConfig, Easi3RConfig, FrameConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene
from easi3r_ns.core.similarity import align_cameras
from easi3r_ns.core.surface import trusted_depth
from easi3r_ns.evaluate.datasets import Capture, find_captures, read_depth, read_mask
from easi3r_ns.evaluate.depth import compare_depths
from easi3r_ns.evaluate.scoring import true_depth_on_network
from easi3r_ns.export.mesh.static import static_mesh
from easi3r_ns.pipelines.run import RunConfig, process
from easi3r_ns.storage.files import write_bytes
from tests.support.clip_scene import TrueSurface

EXAMPLES = Path(__file__).parents[2] / "examples"
STAGES = ("stereo", "stereo agreement")
SURFACE_HEIGHT = 240
"""Rows of the rendering whose points stand for the true surface of the example clip."""
NEAR_MISS = 0.005
"""Share of the scene's size within which a true point counts as covered by the mesh."""
MOVERS = (
    "a ball that rolls out of the picture",
    "a crate that slides over the carpet",
    "a ball that flies",
)
"""What moves in the example clip, in the order of its object ids."""
GOALS = {
    "hololens": "AbsRel <= .03, d<1.25 >= .98, coverage >= .65, 60 CPU s",
    "clip": "AbsRel <= .01, coverage >= .8",
}


@dataclass(frozen=True)
class Row:
    """One capture."""

    name: str
    frames: int
    size: str
    coverage: float
    abs_rel: float
    median: float
    delta: float
    seconds: float
    marked: float


def reconstruct(capture: Capture, folder: Path) -> tuple[Scene, float]:
    """The scene, and CPU seconds of the stages of stereo. Five frames do not tell their lens: it is given."""
    log, few = RunLog(), not capture.is_video and len(list(capture.data.iterdir())) < 10
    focal = capture.intrinsics.fl_x if few and capture.intrinsics else None
    config = RunConfig(
        FrameConfig(num_frames_target=0),
        Easi3RConfig(weights="none", focal_length=focal, device="cpu"),
        dataset=DatasetConfig(num_downscales=0, report=False),
    )
    scene = process(capture.data, folder, config, overwrite=True, log=log).scene
    return scene, sum(stage.cpu_seconds for stage in log.stages if stage.name in STAGES)


def row(capture: Capture, scene: Scene, seconds: float) -> Row:
    """Errors after one scale, over pixels that stand still by the true masks (where there are any)."""
    keys = capture.keys(scene.names, [int(i) for i in scene.indices])
    truth = np.stack([true_depth_on_network(read_depth(capture.depth[key]), scene) for key in keys])
    for frame, key in enumerate(keys):
        if key in capture.masks:
            moving = true_depth_on_network(read_mask(capture.masks[key]).astype(np.uint8), scene) > 0
            truth[frame][moving] = 0
    depth = np.stack([trusted_depth(scene, frame) for frame in range(len(scene))])
    errors = compare_depths(depth, truth)
    both = (depth > 0) & (truth > 0)
    relative = np.abs(depth[both] * errors.by_scale.scale / truth[both] - 1)
    return Row(
        name=capture.name,
        frames=len(scene),
        size="x".join(map(str, scene.pixel_map.network_wh)),
        coverage=errors.coverage,
        abs_rel=errors.by_scale.abs_rel,
        median=float(np.median(relative)),
        delta=errors.by_scale.delta,
        seconds=seconds,
        marked=float(scene.dynamic.coverage.mean()),
    )


def mesh_line(scene: Scene, capture: Capture) -> str:
    """What the mesh of the example clip is worth, by the room from which the clip was rendered."""
    clip = runpy.run_path(str(EXAMPLES / "render_clip.py"))["shoot"]((SURFACE_HEIGHT, SURFACE_HEIGHT * 4 // 3))
    surface = TrueSurface(clip)
    keys = capture.keys(scene.names, [int(i) for i in scene.indices])
    to_truth = align_cameras(scene.T_world_cam, np.stack([capture.T_world_cam[key] for key in keys]))
    vertices = to_truth.points(static_mesh(scene).vertices.astype(float))
    size = float(np.linalg.norm(np.ptp(np.quantile(surface.static, [0.01, 0.99], axis=0), axis=0)))
    apart, missing = surface.distances(vertices) / size, surface.completeness(vertices) / size
    return (
        f"Mesh of the example clip (`easi3r export --format mesh`): {len(vertices):,} vertices; distance to the "
        f"nearest true surface {100 * np.median(apart):.3f} % of the scene's size ({size:.1f} m) in the median, "
        f"{100 * np.quantile(apart, 0.9):.2f} % at the 90 % quantile (goal: median <= 0.5 %). "
        f"{100 * (missing < NEAR_MISS).mean():.0f} % of the true static surface that the clip shows lies within "
        f"{100 * NEAR_MISS:.1f} % of a vertex."
    )


def mover_table(scene: Scene) -> str:
    """What the assumed depth of the movers of the example clip is worth, by the rendering at the network's size."""
    clip = runpy.run_path(str(EXAMPLES / "render_clip.py"))["shoot"](scene.depth.shape[1:])
    clip_depth, object_id = clip.depth[scene.indices], clip.object_id[scene.indices]
    static = (scene.depth > 0) & ~clip.moving[scene.indices]
    scale = np.median(clip_depth[static] / scene.depth[static])
    assumed = np.zeros_like(scene.depth) if scene.assumed_depth is None else scene.assumed_depth * scale
    lines = ["| what moves | placed | error: median (10 %, 90 %) | within 10 % |", "|---" * 4 + "|"]
    for mover, name in zip(clip.mover_ids, MOVERS, strict=True):
        pixels = object_id == mover
        placed = pixels & (assumed > 0)
        error = 100 * (assumed[placed] / clip_depth[placed] - 1)
        low, middle, high = np.quantile(error, [0.1, 0.5, 0.9])
        shares = 100 * placed.sum() / pixels.sum(), 100 * (np.abs(error) < 10).mean()
        lines.append(f"| {name} | {shares[0]:.0f} % | {middle:+.0f} % ({low:+.0f}, {high:+.0f}) | {shares[1]:.0f} % |")
    return "\n".join(lines)


def page(rows: list[Row], mesh: str, movers: str, command: str) -> str:
    """The tables as Markdown."""
    head = ("capture", "frames", "grid", "coverage", "AbsRel", "median", "d<1.25", "CPU s", "marked as moving", "goal")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for r in rows:
        numbers = f"{r.coverage:.3f} | {r.abs_rel:.4f} | {r.median:.4f} | {r.delta:.4f} | {r.seconds:.0f}"
        goal = GOALS.get(r.name, "")
        lines.append(f"| {r.name} | {r.frames} | {r.size} | {numbers} | {100 * r.marked:.1f} % | {goal} |")
    return TEXT.format(command=command, table="\n".join(lines), mesh=textwrap.fill(mesh, 118), movers=movers)


TEXT = """# Depth without a network

What `--weights none` measures by multi-view stereo, against true depth, at the size of the network's grid. All options
are the defaults.

    {command}

{table}

{mesh}

* Coverage: share of the pixels with a true depth that have a trusted one. In the example clip the true masks leave out
  what moves; what the run itself marks as moving counts as missed.
* AbsRel, median: mean and median of |depth - truth| / truth, after one scale for the whole clip.
* CPU s: of stereo alone, user and system, one thread, on a loaded two-core machine. Cameras and masks come before it.

## How

Each frame is compared with up to eight others, chosen one by one for the triangulated points that they add, weighted by
the angle between the rays (5 degrees are best). At half size a sweep of 24 to 96 planes in inverse depth (NCC 5x5, mean
of the better half of the views) is smoothed along eight directions; two searches about the surface that it gives follow
at full size (NCC 7x7 along the surface, parabola). Kept is what at least two other frames measured within 1.5 %.

What the parts bring (measured once, on the cameras of one run; coverage / AbsRel):

| | hololens | example clip |
|---|---|---|
| six neighbours with the most points in common, one search | .591 / .0293 | .738 / .0094 |
| and median and bilateral filter of the measured surface | .638 / .0294 | .760 / .0095 |
| and neighbours chosen for what they add | .659 / .0292 | .840 / .0089 |
| and eight of them | .682 / .0294 | .848 / .0089 |
| and a second search | .688 / .0294 | .857 / .0087 |
| and without speckles (fewer than 60 pixels) | .679 / .0286 | .856 / .0086 |
| and windows in which a neighbour shows a mover or its border left out exactly | .674 / .0285 | .843 / .0086 |

## What moves

It is placed, for viewing only, at the depth of what it stands on: each connected region of the masks is a plane
parallel to the picture, at the median depth of the static pixels just below its foot, smoothed over time in inverse
depth. The example clip against the depth from which it was rendered, after one scale; "placed" is the share of the
thing's pixels that have an assumed depth.

{movers}

A ball touches the floor behind its front. Below the border of the picture its foot is not seen: it keeps the depth
that it had before, and gets none where its mask falls to pieces. What flies is put on what is seen below it. That is
why these depths are shown and marked, and used for nothing else.

[A depth prior](prior.md) (`--depth-prior`) gives it a depth of its own, and fills what stereo leaves unknown.

## What is bad about it

* A rim of about three pixels around near things often gets their depth: the windows see the strong edge. Clouds and
  meshes leave depth edges out, the depth maps do not.
* Walls without texture, shining floors, the borders of the first and last frames, and what movers hide in most
  neighbours stay unknown.
* `rgbd5` (five dark pictures, the camera walks forward) gives little: most pixels have no second partner.
* The error that remains on `hololens` is mostly that of the cameras: the scale of the depth drifts by 5 % along the
  walk, with the sensor's own poses by 4 %.
* torch on CUDA and MPS runs the same sweep. It is tested equal to OpenCV's on the CPU; on a GPU it has not been timed.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    args = parser.parse_args()
    cv2.setNumThreads(int(os.environ.get("OMP_NUM_THREADS", "0")) or -1)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        captures = find_captures([args.data / "hololens"]) + find_captures([EXAMPLES / "clip"])
        for capture in captures + find_captures([args.data / "rgbd5"]):
            scene, seconds = reconstruct(capture, Path(temporary) / capture.name)
            rows.append(row(capture, scene, seconds))
            print(rows[-1], flush=True)
            if capture.name == "clip":
                mesh, movers = mesh_line(scene, capture), mover_table(scene)
                print(mesh, movers, sep="\n", flush=True)
    command = "OMP_NUM_THREADS=1 python -m tests.bench.bench_depth --data DATA --results examples/results"
    write_bytes(args.results / "depth.md", page(rows, mesh, movers, command).encode())


if __name__ == "__main__":
    main()
