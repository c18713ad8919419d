"""Records of speed that can be compared between machines, and what is slower in one than in the other beyond noise.

Seconds are divided by those of a kernel that is timed beside the runs, so that a slower machine alone is no slowdown.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from easi3r_ns import __version__
from easi3r_ns.core.code_state import code_state

FORMAT = 1
NOISE = 0.15
"""Relative difference of equal runs that is always possible: 127 and 116 CPU seconds were seen (speed.md)."""
STAGE_NOISE = 0.3
"""The same of a single stage."""
LEAST_STAGE = 2.0
"""CPU seconds below which a stage is not judged alone."""
_KERNEL_REPEATS = 5


def kernel_seconds() -> float:
    """CPU seconds of a fixed piece of work like that of a run: products, memory, a loop of Python, compression."""
    rng = np.random.default_rng(0)
    matrix, picture = rng.standard_normal((384, 384), dtype=np.float32), rng.integers(0, 8, 1 << 20, dtype=np.uint8)
    taken = []
    for _ in range(_KERNEL_REPEATS):
        begin = time.process_time()
        for _ in range(4):
            np.linalg.norm(matrix @ matrix)
            np.sort(picture)
        sum(k % 7 for k in range(200_000))
        zlib.compress(picture.tobytes(), 1)
        taken.append(time.process_time() - begin)
    return min(taken)


def make_record(kernel: float, runs: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """What is written of runs (name -> repeats of :class:`~.__main__.Taken`) and of the kernel's CPU seconds."""
    content = {
        name: [
            {"cpu": t.cpu, "wall": t.wall, "peak": t.peak, "stages": summed(t.stages), "accuracy": dict(t.accuracy)}
            for t in repeats
        ]
        for name, repeats in runs.items()
    }
    state = {"version": __version__, "code": code_state()}
    return {"format": FORMAT, "kernel": kernel, "processors": os.cpu_count(), "state": state, "runs": content}


def accuracies(record: Mapping[str, Any]) -> dict[str, list[Mapping[str, float]]]:
    """Run -> the accuracy of each of its repeats; records of before have none."""
    return {name: [run.get("accuracy", {}) for run in repeats] for name, repeats in record["runs"].items()}


def said_state(record: Mapping[str, Any]) -> str:
    """Which state of the code made a record."""
    state = record.get("state")
    return "code of before records named it" if state is None else f"code {state['code']}"


def summed(stages: Sequence[tuple[str, float]]) -> dict[str, float]:
    """CPU seconds of each stage; some come more than once."""
    total: dict[str, float] = {}
    for name, seconds in stages:
        total[name] = total.get(name, 0.0) + seconds
    return total


def read_record(path: Path) -> dict[str, Any]:
    """A record. Raises SystemExit with one line for another file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT or not found["kernel"] > 0:
            raise ValueError(f"format {found['format']}")
        return dict(found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"{path} is no record of --record ({error})") from error


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[list[str], int]:
    """Lines of a Markdown table of what both records have, and the number of slowdowns beyond noise.

    The best of equal runs counts. Noise is what is always possible, or how far the repeats of either record lie apart.
    """
    lines = [["run", "stage", "before", "after", "ratio", "noise", ""], ["---"] * 7]
    slower = 0
    for name in (name for name in before["runs"] if name in after["runs"]):
        sides = [(record["runs"][name], float(record["kernel"])) for record in (before, after)]
        stages = [stage for stage in sides[0][0][0]["stages"] if stage in sides[1][0][0]["stages"]]
        for stage in ("all", *stages):
            values = [[_seconds(run, stage) / kernel for run in runs] for runs, kernel in sides]
            seconds = [min(_seconds(run, stage) for run in runs) for runs, _ in sides]
            if stage != "all" and max(seconds) < LEAST_STAGE:
                continue
            ratio = min(values[1]) / max(min(values[0]), 1e-9)
            spread = max(max(side) / max(min(side), 1e-9) - 1 for side in values)
            noise = max(NOISE if stage == "all" else STAGE_NOISE, spread)
            said = "slower" if ratio > 1 + noise else "faster" if ratio < 1 / (1 + noise) else ""
            slower += said == "slower"
            cells = [f"{min(side):.1f}" for side in values]
            lines.append([name, stage, *cells, f"{ratio:.2f}", f"{noise:.2f}", said])
    return ["| " + " | ".join(line) + " |" for line in lines], slower


def _seconds(run: Mapping[str, Any], stage: str) -> float:
    return float(run["cpu"] if stage == "all" else run["stages"].get(stage, 0.0))
