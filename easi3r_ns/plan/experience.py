"""What this machine is known to need: its speed, measured once, and how earlier runs compared with their forecasts.

Kept in ``speed.json`` in the user's cache, for each machine and release of PyTorch; a file that cannot be read or
written is no obstacle. ``EASI3R_NS_CACHE`` names another folder.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from ..core.errors import OutputError
from ..core.runlog import StageRecord
from ..core.workers import usable_cores
from ..storage.files import make_folder, write_json
from .stages import StageForecast

VERSION = 1
MOST_RUNS = 9
"""Runs that are remembered of each stage."""
MOST_MACHINES = 8
LIMITS = (1 / 8, 8.0)
"""A run that took fewer or more times its forecast says nothing about the next one."""
STARVED = 0.6
"""Share of the time for which a run on the CPU has to have had a core: below it, other programs kept it waiting, and
its times say nothing about the next one."""
REFERENCE_SECONDS = 0.026
"""CPU seconds of :func:`_classical_work` on the machine on which the constants of the forecast were measured."""
UNTRIED = (0.5, 2.0)
"""Range of a stage that never ran on this machine, as a multiple of its forecast."""
SPREAD = (0.75, 1.4)
"""Range of a stage that did, around the median of its runs: clips differ."""

MAPPING = "mapping"
"""In the names of all stages that map."""
COVERS = {
    "frames": ("choosing frames", "cuts", "frames"),
    "encode frames": ("load encoder", "encode frames"),
    "pass 1": ("load decoder", "pass 1: attention", "pass 1: motion"),
    "pass 2": ("pass 2: pointmaps", "pass 2: motion"),
    "motion from flow": ("motion from flow",),
    "motion from geometry": ("motion from geometry",),
    "optical flow": ("optical flow",),
    "global alignment": (
        *("global alignment", "align windows", "align windows with one focal length", "find loops", "join windows"),
        "does the camera stand still",
    ),
    "bundle adjustment": ("features", "matching", "bundle adjustment", MAPPING, "does the lens zoom", "refit depths"),
    "stereo": ("stereo", "stereo agreement"),
    "motion against the scene": ("motion against the scene",),
    "dataset": ("dataset", "check", "preview", "report", "motion outside of the masks"),
}
"""Stage of a forecast -> stages of a run that it stands for, all kinds of mapping being one; the first two decide
whether it ran at all."""


@dataclass
class Experience:
    """What is known of this machine."""

    factor: float | None = None
    """Seconds of classical work here over those on the reference machine; None: not measured yet."""
    ratios: dict[str, list[float]] = field(default_factory=dict)
    """Key of a stage -> seconds over the forecast of the latest runs, the newest last."""
    rates: dict[str, list[float]] = field(default_factory=dict)
    """Key of a network and image size -> seconds of its parts."""

    def corrected(self, stages: Sequence[StageForecast], key: Callable[[str], str]) -> tuple[StageForecast, ...]:
        """Stages with their times as on this machine, and the ranges in which these will probably lie.

        ``key``: name of a stage -> under which its runs are kept.
        """
        return tuple(self._corrected(stage, key(stage.name)) for stage in stages)

    def _corrected(self, stage: StageForecast, key: str) -> StageForecast:
        known = self.ratios.get(key)
        if not known:
            low, high = (limit * stage.seconds for limit in UNTRIED)
            return replace(stage, low_seconds=low, high_seconds=high)
        middle = float(np.median(known))
        low, high = min(min(known), SPREAD[0] * middle), max(max(known), SPREAD[1] * middle)
        seconds, low, high = (times * stage.seconds for times in (middle, low, high))
        return replace(stage, seconds=seconds, low_seconds=low, high_seconds=high, known=True)

    def learn(self, stages: Sequence[StageForecast], key: Callable[[str], str], taken: Sequence[StageRecord]) -> None:
        """Remember how long the stages of a finished run took; those that did not run, or were resumed, are left out.

        ``stages``: forecasts before they were corrected.
        """
        for stage in stages:
            names = COVERS.get(stage.name, (stage.name,))
            own = [record for record in taken if (MAPPING if MAPPING in record.name else record.name) in names]
            seconds = sum(record.seconds for record in own)
            if stage.seconds > 0 and any(record.name in names[:2] for record in own):
                ratio = seconds / stage.seconds
                if LIMITS[0] <= ratio <= LIMITS[1]:
                    self.ratios[key(stage.name)] = [*self.ratios.get(key(stage.name), []), ratio][-MOST_RUNS:]


def load_experience() -> Experience:
    """What is kept of this machine; its speed is measured where that never happened (a fifth of a second)."""
    found = _read().get(machine_key())
    experience = _parsed(found) if isinstance(found, dict) else Experience()
    if experience.factor is None:
        experience.factor = _classical_work() / REFERENCE_SECONDS
        keep_experience(experience)
    return experience


def keep_experience(experience: Experience) -> None:
    """Write it; where the disk refuses, nothing is kept."""
    machines = _read()
    machines.pop(machine_key(), None)
    latest = dict(list(machines.items())[-(MOST_MACHINES - 1) :])
    latest[machine_key()] = {"factor": experience.factor, "ratios": experience.ratios, "rates": experience.rates}
    with contextlib.suppress(OutputError, OSError, RuntimeError):
        make_folder(_file().parent)
        write_json(_file(), {"version": VERSION, "machines": latest})


def remembered_rates(experience: Experience, key: str, measure: Callable[[], Sequence[float]]) -> list[float]:
    """Rates that were measured on this machine before, or are measured now and kept."""
    if key not in experience.rates:
        experience.rates[key] = [float(rate) for rate in measure()]
        keep_experience(experience)
    return experience.rates[key]


def machine_key() -> str:
    """What the speed depends on: processor, cores, threads, release of PyTorch."""
    cores = usable_cores()
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    parts = (platform.node(), platform.machine(), f"{cores} cores", f"{torch.get_num_threads()} threads", gpu)
    return ", ".join((*parts, f"torch {torch.__version__}"))


def _file() -> Path:
    return Path(os.environ.get("EASI3R_NS_CACHE") or Path.home() / ".cache" / "easi3r-ns") / "speed.json"


def _read() -> dict[str, Any]:
    try:
        found = json.loads(_file().read_text(encoding="utf-8"))
        return dict(found["machines"]) if found["version"] == VERSION else {}
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, RecursionError):
        return {}


def _parsed(found: dict[str, Any]) -> Experience:
    def numbers(name: str) -> dict[str, list[float]]:
        table = found.get(name)
        lists = table.items() if isinstance(table, dict) else ()
        return {str(key): rows for key, rows in lists if isinstance(rows, list) and rows and all(map(_positive, rows))}

    factor: Any = found.get("factor")
    return Experience(float(factor) if _positive(factor) else None, numbers("ratios"), numbers("rates"))


def _positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _classical_work() -> float:
    """CPU seconds of optical flow and of a sort, the fastest of several times: other programs hardly change them."""
    noise = np.random.default_rng(0).integers(0, 256, (384, 512), dtype=np.uint8)
    picture = cv2.GaussianBlur(noise, (0, 0), 2)
    moved, flow = np.roll(picture, 3, axis=1), cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    taken = []
    for _ in range(7):
        begin = time.process_time()
        flow.calc(picture, moved, np.zeros((*picture.shape, 2), dtype=np.float32))
        np.sort(noise, axis=None)
        taken.append(time.process_time() - begin)
    return min(taken)
