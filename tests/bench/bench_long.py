"""Time and memory of long clips: the whole road, images to dataset, behind a network that answers with truth and noise.

``python -m tests.bench.bench_long --frames 50 100 200 500 1000`` prints a table. Every size runs in a process of its
own, so that its peak is its own; the clip is rendered by another one before. The network's own cost is not in it (see
bench_network): the stand-in is cheap, all that is around it is the real pipeline.
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

import cv2
import numpy as np
import torch

from easi3r_ns.core.budget import UNBOUNDED
from easi3r_ns.core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from easi3r_ns.core.geometry import pixel_grid
from easi3r_ns.core.runlog import RunLog, peak_memory_bytes, resident_memory_bytes
from easi3r_ns.core.scene import Scene
from easi3r_ns.core.types import Frames
from easi3r_ns.network.config import DUSt3RConfig
from easi3r_ns.pipelines.network import NetworkPipeline
from easi3r_ns.pipelines.pipeline import RunConfig
from easi3r_ns.pipelines.run import process
from easi3r_ns.storage.cache import StageCache
from easi3r_ns.training.scenes import Clip
from tests.support.align_scene import trajectory_errors
from tests.support.long_clip import LongStandIn, closed_clip

FRAMES_PER_TURN = 120
MIB = 2**20
GROUPS = {
    "network": ("encode frames", "pass 1: attention", "pass 1: motion", "pass 2: pointmaps", "pass 2: motion"),
    "align": ("optical flow", "global alignment", "align windows", "align windows with one focal length"),
    "join": ("find loops", "decode loops", "join windows"),
}


class LazyPoints:
    """The true points of every frame, made when they are asked for: they must not fill the memory that is measured."""

    def __init__(self, depth: np.ndarray, focal: float) -> None:
        height, width = depth.shape[1:]
        planar = (pixel_grid(height, width) - [(width - 1) / 2, (height - 1) / 2]) / focal
        self.rays = np.concatenate([planar, np.ones_like(planar[..., :1])], axis=-1)
        self.depth, self.shape = depth, (*depth.shape, 3)

    def __getitem__(self, frame: int) -> np.ndarray:
        return self.rays * np.asarray(self.depth[frame], dtype=float)[..., None]


class BenchStandIn(LongStandIn):
    """Reads its truth from files."""

    def __init__(self, folder: Path, focal: float) -> None:
        depth, moving = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("depth", "moving"))
        poses = np.load(folder / "poses.npy")
        empty = np.zeros((1, *depth.shape[1:]))
        one = Clip(
            images=np.zeros((1, *depth.shape[1:], 3), np.uint8),
            depth=empty,
            object_id=empty,
            moving=empty > 0,
            would_move=empty > 0,
            T_world_cam=poses[:1],
            T_world_object=poses[:1, None],
            focal=focal,
            principal_point=np.zeros(2),
            times=np.zeros(1),
            mover_ids=(),
            seed=0,
        )
        # As many numbers per pixel as the published networks have: 1024 per token of 16 x 16.
        network = DUSt3RConfig(image_size=max(depth.shape[1:]), patch_size=8, head_type="linear", enc_embed_dim=256)
        super().__init__(one, network)
        self.points, self.moving, self.images = LazyPoints(depth, focal), moving, None
        self.T_world_cam = self.path = poses
        self.scales = np.ones(len(poses))


def make(args: argparse.Namespace) -> None:
    """Render the clip into ``args.folder``."""
    count = args.frames[0]
    clip = closed_clip(count, (args.height, args.width), turns=count / FRAMES_PER_TURN)
    (args.folder / "images").mkdir(parents=True)
    for k, image in enumerate(clip.images):
        cv2.imwrite(str(args.folder / "images" / f"{k:05d}.png"), image[..., ::-1])
    arrays = {"depth": clip.depth, "moving": clip.moving, "poses": clip.T_world_cam, "focal": np.array(clip.focal)}
    for name, values in arrays.items():
        np.save(args.folder / f"{name}.npy", values)


class Windowed(NetworkPipeline):
    """Windows of the given size, with intermediate results on disk, as a forecast would choose them."""

    def reconstruct(self, frames: Frames, cache: StageCache, log: RunLog, **options: Any) -> Scene:
        budget = replace(UNBOUNDED, window=self._config.easi3r.window, spill=True)
        return super().reconstruct(frames, cache, log, **(options | {"budget": budget}))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """One size, in this process."""
    torch.set_num_threads(1)
    network = BenchStandIn(args.folder, float(np.load(args.folder / "focal.npy")))
    config = RunConfig(
        FrameConfig(num_frames_target=0, on_cut="ignore"),
        Easi3RConfig(weights="stand-in", device="cpu", window=args.window, graph=args.graph, loop_closure=args.loops),
        AlignConfig(max_pixels=args.pixels),
        DatasetConfig(num_downscales=0, report=False),
        RefineConfig("none"),
    )
    log, before = RunLog(), resident_memory_bytes()
    wall, cpu = time.perf_counter(), time.process_time()
    pipeline = Windowed(config, network)
    result = process(args.folder / "images", args.folder / "out", config, overwrite=False, log=log, pipeline=pipeline)
    scene = result.scene
    row: dict[str, Any] = {"frames": len(scene), "pairs": scene.provenance["num_pairs"]}
    rest = set(range(len(log.stages)))
    for group, names in GROUPS.items():
        chosen = [k for k, stage in enumerate(log.stages) if stage.name in names]
        rest -= set(chosen)
        row[f"{group}_cpu_s"] = round(sum(log.stages[k].cpu_seconds for k in chosen), 1)
        row[f"{group}_MiB"] = max((log.stages[k].peak_memory_bytes for k in chosen), default=0) // MIB
    row["files_cpu_s"] = round(sum(log.stages[k].cpu_seconds for k in rest), 1)
    row["files_MiB"] = max(log.stages[k].peak_memory_bytes for k in rest) // MIB
    peak = max(*(stage.peak_memory_bytes for stage in log.stages), peak_memory_bytes())
    windows = scene.provenance.get("windows", {})
    error = trajectory_errors(scene.T_world_cam, network.T_world_cam)["ate"]
    row |= {
        "cpu_s": round(time.process_time() - cpu, 1),
        "wall_s": round(time.perf_counter() - wall, 1),
        "before_MiB": before // MIB,
        "peak_MiB": peak // MIB,
        "windows": len(windows.get("windows", [0])),
        "loops": len(windows.get("loops", [])),
        "ate_percent": round(100 * error / path_size(network), 3),
    }
    if args.stages:
        row["stages"] = {s.name: (round(s.cpu_seconds, 1), s.peak_memory_bytes // MIB) for s in log.stages}
    return row


def path_size(network: BenchStandIn) -> float:
    """Largest distance of a camera from the middle of the path."""
    centres = network.T_world_cam[:, :3, 3]
    return float(np.linalg.norm(centres - centres.mean(axis=0), axis=1).max())


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown."""
    columns = [name for name in rows[0] if name != "stages"]
    lines = [columns, ["---:"] * len(columns), *([str(row[name]) for name in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Render, run and print one size after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, nargs="+", default=[50, 100, 200, 500, 1000])
    parser.add_argument("--height", type=int, default=96)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--window", type=int, default=32, help="frames per window")
    parser.add_argument("--graph", default="swinstride-2-noncyclic")
    parser.add_argument("--loops", action=argparse.BooleanOptionalAction, default=True, help="close loops")
    parser.add_argument("--pixels", type=int, default=256, help="pixels per frame in the optimiser")
    parser.add_argument("--stages", action="store_true", help="every stage by itself, as JSON")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--work", choices=("make", "measure"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work == "make":
        make(args)
    elif args.work == "measure":
        sys.stdout.write(json.dumps(measure(args)) + "\n")
    else:
        rows = []
        for count in args.frames:
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-W", "ignore", "-m", "tests.bench.bench_long", *sys.argv[1:]]
                command += ["--frames", str(count), "--folder", f"{folder}/clip", "--work"]
                subprocess.run([*command, "make"], check=True)
                done = subprocess.run([*command, "measure"], check=True, stdout=subprocess.PIPE, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            sys.stderr.write(json.dumps(rows[-1]) + "\n")
        sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()
