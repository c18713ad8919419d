"""Cost of a whole run with a network of the published size (ViT-L, 512x288), weights random: time does not know them.

    python -m tests.bench.bench_vitl clip.mp4 [--frames 10]

Prints seconds, CPU-seconds and peak memory by stage beside the recorded cost of the reference implementation (CPU,
2 threads, float32). Pointmaps of random weights are no scene, so the alignment gets synthetic ones of the same shape,
in the same tensors. Needs 2.3 GB of disk for the weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors import safe_open
from safetensors.torch import save_file

from easi3r_ns.align.align import AlignResult, align
from easi3r_ns.cli.display import RichRunLog
from easi3r_ns.core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from easi3r_ns.core.pairs import make_pairs
from easi3r_ns.core.types import PairPredictions
from easi3r_ns.network.config import DUSt3RConfig
from easi3r_ns.network.model import DUSt3R
from easi3r_ns.pipelines import network as pipeline
from easi3r_ns.pipelines.run import RunConfig, process
from tests.support.align_scene import make_scene

# Recorded on the reference, 10 frames (50 ordered pairs): CPU-seconds per call and GiB.
REFERENCE = {"pass 1": 50 * 23.4, "pass 2": 50 * 24.0, "masks": 2 * 6.9, "alignment": 30 * 3.25 + 270 * 6.3}
REFERENCE_PEAK_GIB = 4.26
REFERENCE_FRAMES = 10
MAPS = ("points_i", "conf_i", "points_j", "conf_j")
SIZE = (288, 512)
"""Height and width of a 16:9 clip on the network grid."""


def random_weights(folder: Path) -> None:
    """A published-size checkpoint with seeded random weights, as safetensors."""
    config = DUSt3RConfig()
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in DUSt3R(config).state_dict().items()}
    generator, state = torch.Generator().manual_seed(0), {}
    for name, shape in shapes.items():
        if name.endswith("bias"):
            state[name] = torch.zeros(shape)
        elif len(shape) == 1:
            state[name] = torch.ones(shape)
        else:
            state[name] = torch.randn(shape, generator=generator) * shape[1:].numel() ** -0.5
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(config)))


def synthetic_pointmaps(folder: Path, frames: int, size: tuple[int, int]) -> None:
    """Pointmaps of a synthetic scene for the default pair graph."""
    graph = make_pairs(pipeline.DEFAULT_GRAPH, frames)
    scene = make_scene(num_frames=frames, size=size, focal=size[1], graph=graph)
    save_file({name: getattr(scene.predictions, name) for name in MAPS}, folder / "pointmaps.safetensors")


def align_synthetic(folder: Path, size: tuple[int, int], predictions: PairPredictions, **options) -> AlignResult:
    """The alignment of a synthetic scene whose pointmaps overwrite the given ones, so that no memory is added."""
    in_its_own_process(synthetic_pointmaps, folder, predictions.graph.num_frames, size)
    options["log"].info("pointmaps are replaced by those of a synthetic scene")
    with torch.inference_mode(), safe_open(folder / "pointmaps.safetensors", framework="pt") as file:
        for name in MAPS:
            rows = file.get_slice(name)
            for pair, target in enumerate(getattr(predictions, name)):
                target.copy_(rows[pair])
    return align(predictions, **options)


def in_its_own_process(function: Callable, *arguments) -> None:
    """So that its memory is not counted as the run's."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{function.__name__} failed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--frames", type=int, default=REFERENCE_FRAMES)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    log = RichRunLog()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        in_its_own_process(random_weights, folder)
        pipeline.align = partial(align_synthetic, folder, SIZE)
        config = RunConfig(
            FrameConfig(num_frames_target=args.frames),
            Easi3RConfig(weights=str(folder), device="cpu", dtype="fp32"),
            AlignConfig(),
            DatasetConfig(),
            RefineConfig("none"),
        )
        process(args.clip, folder / "out", config, overwrite=False, log=log)
    table = Table("stage", "seconds", "CPU-s", "peak GiB", title=f"{args.frames} frames, ViT-L, 512 px, CPU, float32")
    for stage in log.stages:
        gib = stage.peak_memory_bytes / 2**30
        table.add_row(stage.name, f"{stage.seconds:.1f}", f"{stage.cpu_seconds:.1f}", f"{gib:.2f}")
    total = sum(stage.cpu_seconds for stage in log.stages)
    peak = max(stage.peak_memory_bytes for stage in log.stages) / 2**30
    table.add_row("total", f"{sum(s.seconds for s in log.stages):.1f}", f"{total:.1f}", f"{peak:.2f}", style="bold")
    if args.frames == REFERENCE_FRAMES:
        reference = sum(REFERENCE.values())
        table.add_row("reference (recorded)", "", f"{reference:.0f}", f"{REFERENCE_PEAK_GIB:.2f}")
        table.add_row("ratio", "", f"{total / reference:.3f}", f"{peak / REFERENCE_PEAK_GIB:.3f}", style="bold")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
