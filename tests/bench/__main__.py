"""The table of speed: ``python -m tests.bench``.

    python -m tests.bench                                 # the example clip without a network and with tiny
    python -m tests.bench --against ../old --repeats 2    # the same of another checkout, in turn
    python -m tests.bench --data clip.mp4 --runs none tiny
    python -m tests.bench --repeats 3 --record new.json   # and a record for other days and machines
    python -m tests.bench --compare old.json new.json     # what is slower or worse beyond noise; exits with 1 if any is

A record holds the accuracy of every run as well (camera error, masks and depth), and two more clips, which the
generator renders from fixed seeds, are run for it (``--no-seeds`` leaves them out).

Every run is a process of its own; CPU seconds are those of it and what it started, memory is the largest of
either. Where there
is a CUDA device, the network pipeline beside its textbook twin follows (:mod:`tests.bench.bench_network`), with 10, 30
and 86 frames in bf16 and fp32.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.accuracy import SEEDS, accuracy_of, capture_of, compare_accuracy, write_capture
from tests.bench.record import accuracies, compare, kernel_seconds, make_record, read_record, said_state

ROOT = Path(__file__).parent.parent.parent
RUNS = {
    "none": ("--weights", "none"),
    "none, no depth": ("--weights", "none", "--depth", "none"),
    "tiny": ("--weights", "tiny"),
}
ACCURATE = ("none", "tiny")
"""Runs that the rendered clips go through."""
SHOWN = 3
"""Stages that the table names: those of most CPU seconds."""
_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in which the system states the largest memory of a process."""


@dataclass(frozen=True)
class Taken:
    """What one run took."""

    wall: float
    cpu: float
    peak: float
    """Bytes."""
    stages: tuple[tuple[str, float], ...]
    """Name and CPU seconds, in their order."""
    frames: int
    accuracy: Mapping[str, float] = field(default_factory=dict)
    """See :data:`tests.bench.accuracy.MEASURES`; empty where no truth is known."""


def measure(checkout: Path, data: Path, options: Sequence[str]) -> Taken:
    """Run ``easi3r run`` of a checkout of this repository. Raises CalledProcessError where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", "-m", "easi3r_ns", "run", "--data", str(data), *options]
        command += ["--output-dir", f"{folder}/out"]
        environment = os.environ | {"PYTHONPATH": str(checkout), "EASI3R_NS_NO_BRIDGE": "1"}
        begin = time.perf_counter()
        process = subprocess.Popen(command, cwd=checkout, env=environment, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        meta = json.loads(Path(folder, "out", "transforms.json").read_text(encoding="utf-8"))
        capture = capture_of(data)
        accuracy = {} if capture is None else accuracy_of(Path(folder, "out"), capture)
    stages = tuple((stage["name"], float(stage["cpu_seconds"])) for stage in meta["easi3r"]["stages"])
    return Taken(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * _UNIT, stages, len(meta["frames"]), accuracy)


def best(runs: Sequence[Taken]) -> Taken:
    """Of several equal runs the one of fewest CPU seconds: other programs can only add to them."""
    return min(runs, key=lambda taken: taken.cpu)


def rows(measured: dict[str, tuple[Taken, Taken | None]]) -> list[str]:
    """Lines of a Markdown table; beside a run that of the other checkout, where there is one."""
    compared = any(other is not None for _, other in measured.values())
    header = ["run", "frames", "CPU s", "wall s", "peak GiB", "most CPU seconds"]
    header[5:5] = ["CPU, of before", "wall, of before", "peak before"] if compared else []
    lines = [header, ["---"] * len(header)]
    for name, (taken, other) in measured.items():
        most = sorted(taken.stages, key=lambda stage: -stage[1])[:SHOWN]
        cells = [name, str(taken.frames), f"{taken.cpu:.0f}", f"{taken.wall:.0f}", f"{taken.peak / 2**30:.2f}"]
        if compared:
            assert other is not None
            ratios = (taken.cpu / other.cpu, taken.wall / other.wall)
            cells += [*(f"{ratio:.2f}" for ratio in ratios), f"{other.peak / 2**30:.2f}"]
        lines.append([*cells, ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in most)])
    return ["| " + " | ".join(line) + " |" for line in lines]


def on_a_gpu() -> None:
    """The rows of a CUDA device, where there is one."""
    import torch

    if not torch.cuda.is_available():
        print("\nNo CUDA device is here: its rows are left out.")
        return
    for dtype in ("bf16", "fp32"):
        command = [sys.executable, "-m", "tests.bench.bench_network", "--device", "cuda", "--dtype", dtype]
        command += ["--frames", "10", "30", "86", "--measured", "0", "--twin-measured", "6"]
        subprocess.run(command, cwd=ROOT, check=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="The table of speed.")
    parser.add_argument("--data", type=Path, default=ROOT / "examples" / "clip" / "clip.mp4")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--against", type=Path, help="another checkout of this repository, run in turn")
    parser.add_argument("--repeats", type=int, default=1, help="of each run; the one of fewest CPU seconds counts")
    parser.add_argument("--record", type=Path, help="file for a record, with the seconds of a kernel beside")
    parser.add_argument("--no-seeds", action="store_true", help="leave the rendered clips out of the record")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("BEFORE", "AFTER"), help="two records; runs nothing")
    options = parser.parse_args(arguments)
    if options.compare:
        records = [read_record(path) for path in options.compare]
        print(f"{said_state(records[0])} against {said_state(records[1])}\n")
        lines, slower = compare(*records)
        print("CPU seconds per second of the kernel\n\n" + "\n".join(lines))
        lines, worse = compare_accuracy(*map(accuracies, records))
        print("\nAgainst the truth\n\n" + "\n".join(lines))
        if slower or worse:
            raise SystemExit(1)
        return
    sides = [ROOT, *([options.against.resolve()] if options.against else [])]
    measured, records = {}, {}
    kernel = kernel_seconds() if options.record else 0.0
    with tempfile.TemporaryDirectory() as folder:
        clips = {name: (options.data.resolve(), RUNS[name]) for name in options.runs}
        for seed in SEEDS if options.record and not options.no_seeds else ():
            rendered = write_capture(Path(folder, str(seed)), seed)
            clips |= {f"{name}, seed {seed}": (rendered, RUNS[name]) for name in options.runs if name in ACCURATE}
        for name, (data, words) in clips.items():
            taken: list[list[Taken]] = [[] for _ in sides]
            for _ in range(options.repeats):
                for side, found in zip(sides, taken, strict=True):
                    found.append(measure(side, data, words))
            records[name] = taken[0]
            measured[name] = (best(taken[0]), best(taken[1]) if options.against else None)
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, {options.data.name}\n")
    print("\n".join(rows(measured)))
    if options.record:  # the kernel once more: other programs can only slow it down
        content = make_record(min(kernel, kernel_seconds()), records)
        options.record.write_text(json.dumps(content, indent=1), encoding="utf-8")
    on_a_gpu()


if __name__ == "__main__":
    main()
