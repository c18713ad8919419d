"""All stages of a run beside a textbook twin of the reference's schedule, on the same frames.

    python -m tests.bench.bench_network                                # CPU: published size, 3 frames, scaled to 30
    python -m tests.bench.bench_network --device cuda --dtype bf16 --frames 10 30 86 --measured 0 --twin-measured 6
    python -m tests.bench.bench_network --size toy --frames 6          # seconds, for a look at the table

The twin (:mod:`tests.bench.textbook`) encodes both views of every pair in both passes, keeps every attention matrix of
a pair until the pair is done, computes both heads twice and keeps all predictions, in float32 with batch 1; its
alignment is the plain loop over every pixel (:mod:`tests.bench.bench_align`). Each side runs in its own process. What a
side ran is scaled by frames, pairs and iterations, in all of which it is linear; bytes that the rest of the clip adds
to a peak are counted, and the table says so. Weights are random and the alignment gets a synthetic scene: time does not
know them. Operations are counted from the architecture (:mod:`easi3r_ns.network.costs`), and their rate is compared
with a square matrix product of the same precision in the same run. On a CPU seconds are CPU-seconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from tests.bench.sides import measure_ours, measure_twin, prepare
from tests.bench.stages import GRAPH, ITERATIONS, NETWORKS, Row, Setting, kept_bytes, matmul_rate, matrix_bytes

ORDER = ("decode", "encode", "pass 1", "statistics", "masks", "flow", "pass 2", "alignment", "write")
NETWORK = {"ours": ("encode", "pass 1", "masks", "pass 2"), "twin": ("pass 1", "statistics", "masks", "pass 2")}
"""The two-pass network stage. Our statistics are a part of the passes; the twin encodes in its passes."""
HEADER = (
    "stage", "ours s", "twin s", "faster", "ours TFLOP", "twin TFLOP", "ours GFLOP/s", "of peak", "ours GiB", "twin GiB"
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Both sides of one clip."""

    setting: Setting
    ours: tuple[Row, ...]
    twin: tuple[Row, ...]
    peak_rate: float
    """Operations per second of a large matrix product."""

    def seconds(self, row: Row) -> float:
        """For the whole clip; CPU-seconds on a CPU."""
        return row.factor * (row.cpu_seconds if self.setting.device == "cpu" else row.seconds)


def run_side(setting: Setting, folder: Path, side: str) -> dict:
    """One side in this process; JSON values."""
    torch.set_num_threads(setting.threads)
    if side == "prepare":
        prepare(setting, folder)
        return {}
    rows = {"ours": measure_ours, "twin": measure_twin}[side](setting, folder)
    compute = setting.compute()
    rate = matmul_rate(compute, compute.device.type == "cuda")
    return {"rows": [dataclasses.asdict(row) for row in rows], "rate": rate}


def compare(setting: Setting, *, in_this_process: bool = False) -> Comparison:
    """Prepare, measure ours, measure the twin; each in a process of its own, unless a test wants to be quick."""
    with tempfile.TemporaryDirectory() as temporary:
        results = {}
        for side in ("prepare", "ours", "twin"):
            if in_this_process:
                results[side] = run_side(setting, Path(temporary), side)
                continue
            options = json.dumps({"folder": temporary, "side": side, **dataclasses.asdict(setting)})
            command = [sys.executable, "-W", "ignore", "-m", "tests.bench.bench_network", "--one-side", options]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results[side] = json.loads(done.stdout.splitlines()[-1])
    ours, twin = (tuple(Row(**row) for row in results[side]["rows"]) for side in ("ours", "twin"))
    return Comparison(setting, ours, twin, results["ours"]["rate"])


def network_total(result: Comparison, side: str) -> Row:
    """The two-pass network stage: sums for the whole clip, and the largest peak."""
    return total([row for row in getattr(result, side) if row.stage in NETWORK[side]], "network stage")


def total(rows: Sequence[Row], name: str) -> Row:
    """The sum of rows, each scaled to the whole clip, and the largest of their peaks."""
    return Row(
        name,
        sum(r.seconds * r.factor for r in rows),
        sum(r.cpu_seconds * r.factor for r in rows),
        sum(r.operations * r.factor for r in rows),
        max((r.peak_bytes + r.counted_bytes for r in rows), default=0.0),
    )


def cells(result: Comparison) -> list[tuple[str, ...]]:
    """A line per stage and the totals, as text."""
    ours, twin = ({row.stage: row for row in rows} for rows in (result.ours, result.twin))
    lines = [_line(result, name, ours.get(name), twin.get(name)) for name in ORDER if name in ours]
    lines.append(_line(result, *_both("network stage", result)))
    whole = [row for row in result.ours if row.stage != "statistics"]
    lines.append(_line(result, "all stages of both", *_shared(whole, result.twin)))
    return lines


def _both(name: str, result: Comparison) -> tuple[str, Row, Row]:
    return name, network_total(result, "ours"), network_total(result, "twin")


def _shared(ours: Sequence[Row], twin: Sequence[Row]) -> tuple[Row, Row]:
    """Totals of what both sides do: without decoding, flow and writing, for which the twin has no other way."""
    common = {"encode", "pass 1", "statistics", "masks", "pass 2", "alignment"}
    return tuple(total([r for r in rows if r.stage in common], "all") for rows in (ours, twin))


def _line(result: Comparison, name: str, ours: Row | None, twin: Row | None) -> tuple[str, ...]:
    def seconds(row: Row | None) -> str:
        return "" if row is None else _rounded(result.seconds(row))

    def operations(row: Row | None) -> str:
        return "" if row is None or not row.operations else f"{row.operations * row.factor / 1e12:.3g}"

    def peak(row: Row | None) -> str:
        return "" if row is None or not row.peak_bytes else f"{(row.peak_bytes + row.counted_bytes) / 2**30:.2f}"

    rate = ours.operations * ours.factor / result.seconds(ours) if ours is not None and ours.operations else 0.0
    faster = "" if ours is None or twin is None else f"{result.seconds(twin) / result.seconds(ours):.1f}x"
    achieved = (_rounded(rate / 1e9), f"{100 * rate / result.peak_rate:.0f} %") if rate else ("", "")
    return (name, seconds(ours), seconds(twin), faster, operations(ours), operations(twin), *achieved) + (
        peak(ours),
        peak(twin),
    )


def _rounded(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def notes(result: Comparison) -> list[str]:
    """What was run, what is scaled and what is counted; the goals."""
    setting, job = result.setting, result.setting.job
    full, ours, twin = (job(n) for n in (setting.frames, setting.run_frames("ours"), setting.run_frames("twin")))
    network = [network_total(result, side) for side in ("ours", "twin")]
    matrices = matrix_bytes(setting)
    every = (kept_bytes(setting) + matrices) * full.num_pairs / 2**30
    on = f"{setting.threads} thread(s), CPU-seconds" if setting.device == "cpu" else setting.device
    return [
        f"{full.num_frames} frames, {full.num_pairs} ordered pairs ({GRAPH}), {setting.size} network, "
        f"{setting.image[1]}x{setting.image[0]}, {on}, {setting.dtype} (twin: fp32).",
        f"Run through the network: ours {ours.num_frames} frames, {ours.num_pairs} pairs; twin {twin.num_frames} "
        f"frames, {twin.num_pairs} pairs. The twin's alignment ran {setting.twin_iterations} of {ITERATIONS} "
        "iterations on these. Times are scaled from there; our other stages ran on all frames.",
        "Peaks: measured on what was run, plus what the rest of the clip adds (features, statistics, pointmaps; "
        "counted, not measured).",
        f"Square matrix product: {result.peak_rate / 1e9:.4g} GFLOP/s.",
        f"A pair's cross-attention matrices take {matrices / 2**20:.0f} MiB; the twin keeps them until the pair is "
        f"done. Kept for all pairs they and the predictions would take {every:.1f} GiB (counted).",
        f"Network stage: {result.seconds(network[1]) / result.seconds(network[0]):.2f} times faster than the twin, "
        f"{network[0].peak_bytes / network[1].peak_bytes:.2f} of its peak memory.",
    ]


def show(result: Comparison, console: Console) -> None:
    """Print the table and what it rests on."""
    table = Table(*HEADER, box=None, pad_edge=False)
    for line in cells(result):
        table.add_row(*line, style="bold" if line[0] in ("network stage", "all stages of both") else None)
    console.print(table)
    for note in notes(result):
        console.print(note, soft_wrap=True)


def markdown(result: Comparison) -> str:
    """The same for a file of results."""
    rows = ["| " + " | ".join(line) + " |" for line in (HEADER, ["---"] * len(HEADER), *cells(result))]
    return "\n".join([*rows, "", *(f"* {note}" for note in notes(result)), ""])


def main() -> None:
    """Measure and print; ``--one-side`` is how the sides are started."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Setting()
    parser.add_argument("--size", choices=NETWORKS, default=default.size)
    parser.add_argument("--frames", type=int, nargs="+", default=[default.frames], help="one table for each")
    parser.add_argument("--measured", type=int, default=default.measured, help="frames that are run; 0: all")
    parser.add_argument("--twin-measured", type=int, default=default.twin_measured, help="frames that the twin runs")
    parser.add_argument("--twin-iterations", type=int, default=default.twin_iterations)
    parser.add_argument("--device", default=default.device)
    parser.add_argument("--dtype", default=default.dtype)
    parser.add_argument("--threads", type=int, default=default.threads)
    parser.add_argument("--batch-size", type=int, default=default.batch_size)
    parser.add_argument("--markdown", type=Path, help="also append the tables to this file")
    parser.add_argument("--one-side", help=argparse.SUPPRESS)
    options = vars(parser.parse_args())
    one_side, target, clips = options.pop("one_side"), options.pop("markdown"), options.pop("frames")
    if one_side is not None:
        values = json.loads(one_side)
        folder, side = Path(values.pop("folder")), values.pop("side")
        sys.stdout.write("\n" + json.dumps(run_side(Setting(**values), folder, side)) + "\n")
        return
    for frames in clips:
        result = compare(Setting(frames=frames, **options))
        show(result, Console(width=140))
        if target is not None:
            with target.open("a", encoding="utf-8") as file:
                file.write(markdown(result) + "\n")


if __name__ == "__main__":
    main()
