"""What a worker does: it examines a clip, or starts the process that makes its dataset and watches that."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..core.budget import GIB
from ..storage.files import make_folder, writing
from .jobs import ClipJob
from .record import report_of

HELPER = "easi3r_ns.batch.helper"
_LOOK_SECONDS = 0.1
"""Time between two looks at a process; a process that allocates a GiB a second gains a tenth of that meanwhile."""


@dataclass(frozen=True)
class Examination:
    """What is known of a clip before its run."""

    finished: bool = False
    """The same clip and options have made its dataset already."""
    failure: str = ""
    """Why a run cannot succeed, in one line; empty: nothing speaks against it."""
    memory_bytes: float = 0.0
    """Largest resident memory of the run, as it is forecast; 0: there is no forecast."""
    gpu_share: float = 0.0
    """Share of the memory of one GPU."""
    seconds: float = 0.0
    words: str = ""
    """The forecast in words."""
    datasets: tuple[Mapping[str, Any], ...] = ()
    """What is there, where the clip is finished."""


@dataclass(frozen=True)
class Attempt:
    """How a process that was to make a dataset ended."""

    reason: str = ""
    """Why there is no dataset, in one line; empty: there is one."""
    again: bool = False
    """Whether another attempt may succeed where this one did not: the clip was not what ended it."""
    lack: bool = False
    """The memory of the machine did not suffice."""
    datasets: tuple[Mapping[str, Any], ...] = ()
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_bytes: float = 0.0


def examine(job: ClipJob) -> Examination:
    """Ask the runner of the job what a run would be; an error of ours is a failure of this clip alone."""
    try:
        found: Examination = importlib.import_module(job.runner).examine(job)
        return found
    except Exception as error:
        return Examination(failure=f"{type(error).__name__}: {' '.join(str(error).split())}")


def attempt(job: ClipJob, cpus: int = 1, stop: threading.Event | None = None) -> Attempt:
    """Make the dataset of a job in a process of its own, which gets no more memory than the options allow.

    The process ends with the one that called this, whatever ends that. An earlier attempt is continued.

    Args:
        cpus: threads that numerical libraries of the process may use.
        stop: ends the process when it is set.
    """
    begin, limit = time.monotonic(), _limit(job)
    order = {"job": asdict(job), "worker": os.getpid()}
    code, peak, refused = _run(job.runner, order, job.file(".log"), cpus, limit, stop)
    seconds = time.monotonic() - begin
    if refused:
        assert limit is not None
        reason = (
            f"took {peak / GIB:.1f} GiB of memory, and --max-memory {limit / GIB:g} allows less: allow more, or use "
            "fewer frames (--num-frames-target)"
        )
        return Attempt(reason, seconds=seconds, peak_memory_bytes=peak)
    reported = reported_attempt(job)
    if reported is None:
        return Attempt(_ended(code), again=True, seconds=seconds, peak_memory_bytes=peak)
    return replace(reported, seconds=seconds, peak_memory_bytes=peak)


def help_clip(job: ClipJob, cpus: int = 1) -> None:
    """Align windows of a clip that another worker reconstructs, in a process of its own; its errors cost nothing."""
    _run(HELPER, {"folder": str(job.windows)}, job.file(".helpers.log"), cpus, _limit(job), None)


def _limit(job: ClipJob) -> float | None:
    """Bytes that a process of the clip may take."""
    limit = job.options.get("easi3r", {}).get("max_memory")
    return None if limit is None else float(limit) * GIB


def _run(
    module: str, order: Mapping[str, Any], log: Path, cpus: int, limit: float | None, stop: threading.Event | None
) -> tuple[int, float, bool]:
    """Run a module as a program that gets an order; its exit code, peak memory, and whether it was too large."""
    make_folder(log.parent)
    with writing(log), open(log, "ab") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=_environment(cpus),
            start_new_session=True,  # Ctrl-C is for the command, which then ends its workers in order
        )
    try:
        assert child.stdin is not None
        with contextlib.suppress(OSError):  # it has ended already: its exit code tells
            child.stdin.write(json.dumps(order).encode() + b"\n")
            child.stdin.flush()
        peak, refused = _watch(child, limit, stop)
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        with contextlib.suppress(OSError):
            child.stdin.close()  # type: ignore[union-attr]
    return child.returncode, peak, refused


def reported_attempt(job: ClipJob) -> Attempt | None:
    """What the process of a clip said at its end; None: it has not come so far."""
    outcome = report_of(job).get("outcome")
    if outcome is None:
        return None
    lack, cost = bool(outcome["lack"]), (float(outcome["seconds"]), float(outcome["cpu_seconds"]))
    return Attempt(str(outcome["reason"]), lack, lack, tuple(outcome["datasets"]), *cost)


def _watch(child: subprocess.Popen[bytes], limit: float | None, stop: threading.Event | None) -> tuple[float, bool]:
    """Wait for a process; its largest resident memory in bytes, and whether it was ended for taking too much."""
    peak = 0.0
    while child.poll() is None:
        peak = max(peak, resident_bytes(child.pid))
        if limit is not None and peak > limit:
            child.kill()
            return peak, True
        if stop is not None and stop.is_set():
            child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_LOOK_SECONDS)
    return peak, False


def resident_bytes(pid: int) -> float:
    """Resident memory of a process; 0 where it is gone, or the system does not tell."""
    with contextlib.suppress(OSError, ValueError, StopIteration), open(f"/proc/{pid}/status") as status:
        return 1024.0 * int(next(line for line in status if line.startswith("VmRSS")).split()[1])
    return 0.0


def _ended(code: int) -> str:
    if code >= 0:
        return f"its process ended with code {code} and no report"
    with contextlib.suppress(ValueError):
        name = signal.Signals(-code).name
        hint = ": the system does so when its memory runs out" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process was ended by signal {-code}"


def _environment(cpus: int) -> dict[str, str]:
    """The process finds the modules that this one does, and leaves other clips their processors."""
    paths = [path for path in sys.path if path]
    threads = {name: str(cpus) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    return threads | os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
