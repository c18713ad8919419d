"""The network stage beside a textbook twin of the reference's schedule, on the same frames, in one process.

    python -m tests.bench.bench_network                                  # CPU: published size, 4 frames, twin on 2
    python -m tests.bench.bench_network --device cuda --dtype bf16 --frames 86 --twin-frames 6
    python -m tests.bench.bench_network --size toy                       # seconds, for a look at the table

The twin (:mod:`tests.bench.textbook`) encodes both views of every pair in both passes, keeps every attention matrix of
a pair and computes both heads twice, in float32 with batch 1. It runs on the first ``--twin-frames`` frames and is
scaled by the number of pairs; the table says so. Weights and frames are random: time does not know them. Operations are
counted from the architecture (:mod:`easi3r_ns.backbone.costs`); the share of the peak is against a square matrix
product of the same precision, measured in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from easi3r_ns.attention import dynamic_score
from easi3r_ns.backbone.config import DUSt3RConfig
from easi3r_ns.backbone.costs import network_cost
from easi3r_ns.backbone.model import DUSt3R
from easi3r_ns.dynamic import cluster_tokens, segment_dynamic, token_masks
from easi3r_ns.inference import Compute, choose_compute, collect_attention, decode_pairs, encode_frames, normalise
from easi3r_ns.pairs import make_pairs
from easi3r_ns.runlog import RunLog
from easi3r_ns.types import PairGraph
from tests.bench.textbook import run_pass

GRAPH = "swinstride-5-noncyclic"
SIZES = {
    "published": (DUSt3RConfig(), (288, 512)),
    "toy": (
        DUSt3RConfig(enc_embed_dim=64, enc_depth=2, enc_num_heads=4, dec_embed_dim=48, dec_depth=4, dec_num_heads=4),
        (48, 64),
    ),
}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    stage: str
    seconds: float
    cpu_seconds: float
    operations: float
    peak_bytes: int
    """Of the process on a CPU, of PyTorch's allocations on a GPU."""


@dataclass(frozen=True)
class Comparison:
    """Ours and the twin's rows; those of the twin are scaled from ``twin_pairs`` to ``num_pairs``."""

    ours: tuple[Row, ...]
    twin: tuple[Row, ...]
    num_pairs: int
    twin_pairs: int
    peak_rate: float
    """Operations per second of a large matrix product."""


def random_model(config: DUSt3RConfig, device: torch.device) -> DUSt3R:
    """Seeded random weights."""
    torch.manual_seed(0)
    with torch.device(device):
        return DUSt3R(config).eval().requires_grad_(False)


def matmul_rate(compute: Compute) -> float:
    """Operations per second of a square matrix product in the precision of the network."""
    n, repeats = (8192, 20) if compute.device.type == "cuda" else (1536, 5)
    a = torch.randn(n, n, device=compute.device, dtype=compute.dtype)
    rows: list[Row] = []
    for _ in range(2):  # the first round warms up
        with measured("product", 2.0 * n**3 * repeats, compute, rows):
            for _ in range(repeats):
                a @ a
    return rows[-1].operations / rows[-1].seconds


@contextlib.contextmanager
def measured(stage: str, operations: float, compute: Compute, rows: list[Row]) -> Iterator[Callable[[int], None]]:
    """Append a row about the block; waits for the GPU before and after."""
    log, on_gpu = RunLog(), compute.device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    with log.stage(stage) as advance:
        yield advance
        if on_gpu:
            torch.cuda.synchronize()
    record = log.stages[0]
    peak = torch.cuda.max_memory_allocated() if on_gpu else record.peak_memory_bytes
    rows.append(Row(stage, record.seconds, record.cpu_seconds, operations, peak))


def run_ours(model: DUSt3R, images: np.ndarray, graph: PairGraph, compute: Compute) -> tuple[list[Row], np.ndarray]:
    """The network stage as the pipeline runs it; the rows, and the tokens that pass 1 found to move."""
    rows: list[Row] = []
    grid = model.token_grid(*images.shape[1:3])
    cost = network_cost(model.config, grid)
    with measured("encode", cost.encode * len(images), compute, rows) as advance:
        features = encode_frames(model, images, compute, advance)
    with measured("pass 1", cost.attention * len(graph), compute, rows) as advance:
        stats = collect_attention(model, features, graph, grid, compute, advance)
    with measured("masks", 0.0, compute, rows):
        labels = cluster_tokens(features.unflatten(1, grid).cpu().numpy(), seed=0)
        dynamic = segment_dynamic(dynamic_score(stats), labels, model.config.patch_size)
        tokens = token_masks(dynamic.masks, model.config.patch_size)
    with measured("pass 2", (cost.decode + cost.silence + cost.heads) * len(graph), compute, rows) as advance:
        decode_pairs(model, features, graph, grid, tokens, compute, advance)
    return rows, tokens


def run_twin(
    model: DUSt3R, images: np.ndarray, graph: PairGraph, tokens: np.ndarray, compute: Compute, scale: float
) -> list[Row]:
    """The reference's schedule in float32; costs times ``scale``."""
    rows: list[Row] = []
    cost = network_cost(model.config, model.token_grid(*images.shape[1:3]))
    each = 2 * cost.encode + cost.decode + cost.heads
    pixels = normalise(images, compute.device)
    for name, masks in (("twin, pass 1", None), ("twin, pass 2", tokens)):
        with measured(name, each * len(graph), compute, rows) as advance:
            run_pass(model, pixels, graph.edges, masks, advance)
    return [Row(r.stage, r.seconds * scale, r.cpu_seconds * scale, r.operations * scale, r.peak_bytes) for r in rows]


def compare(size: str, frames: int, twin_frames: int, compute: Compute) -> Comparison:
    """Run both on the same frames, ours first."""
    config, (height, width) = SIZES[size]
    images = np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    graph, twin_graph = make_pairs(GRAPH, frames), make_pairs(GRAPH, twin_frames)
    model = random_model(config, compute.device)
    peak_rate = matmul_rate(compute)
    if compute.device.type == "cuda":
        run_ours(model, images[:2], make_pairs(GRAPH, 2), compute)  # compiles, loads kernels
    ours, tokens = run_ours(model, images, graph, compute)
    scale = len(graph) / len(twin_graph)
    twin = run_twin(model, images[:twin_frames], twin_graph, tokens[:twin_frames], compute, scale)
    return Comparison(tuple(ours), tuple(twin), len(graph), len(twin_graph), peak_rate)


def show(result: Comparison, title: str, console: Console) -> None:
    """Print the table: every stage, the two totals, their ratios."""
    table = Table("stage", "seconds", "CPU-s", "TFLOP", "TFLOP/s", "of peak", "peak GiB", title=title)

    def add(row: Row, style: str | None = None) -> None:
        rate = row.operations / row.seconds
        counted = (f"{row.operations / 1e12:.3g}", f"{rate / 1e12:.3g}", f"{100 * rate / result.peak_rate:.0f} %")
        shown = counted if row.operations else ("", "", "")
        table.add_row(
            row.stage,
            f"{row.seconds:.2f}",
            f"{row.cpu_seconds:.1f}",
            *shown,
            f"{row.peak_bytes / 2**30:.2f}",
            style=style,
        )

    totals = []
    for name, rows in (("ours", result.ours), ("twin", result.twin)):
        for row in rows:
            add(row)
        totals.append(total(name, rows))
        add(totals[-1], "bold")
    ours, twin = totals
    table.add_row(
        "ours / twin",
        f"{ours.seconds / twin.seconds:.3f}",
        f"{ours.cpu_seconds / twin.cpu_seconds:.3f}",
        f"{ours.operations / twin.operations:.3f}",
        "",
        "",
        f"{ours.peak_bytes / twin.peak_bytes:.3f}",
        style="bold",
    )
    console.print(table)
    console.print(
        f"{result.num_pairs} pairs; the twin ran {result.twin_pairs} and is scaled. Matrix product: "
        f"{result.peak_rate / 1e12:.3g} TFLOP/s."
    )


def total(name: str, rows: Sequence[Row]) -> Row:
    """The sum of the rows, and the largest of their peaks."""
    return Row(
        name,
        sum(r.seconds for r in rows),
        sum(r.cpu_seconds for r in rows),
        sum(r.operations for r in rows),
        max(r.peak_bytes for r in rows),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="published")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--twin-frames", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    compute = choose_compute(args.device, args.dtype, args.batch_size)
    title = f"{args.frames} frames, {args.size} network, {args.device}, {args.dtype}"
    show(compare(args.size, args.frames, args.twin_frames, compute), title, Console(width=110))


if __name__ == "__main__":
    main()
