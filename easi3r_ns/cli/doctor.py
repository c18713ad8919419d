"""`easi3r doctor`: is everything there that a run needs?"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Literal

from .. import __version__
from ..core.errors import CheckpointError, MissingExtraError
from ..network.sources import KNOWN, resolve
from ..plugin.bridge import GROUP, SWITCH_OFF

FREE_DISK = 5 * 2**30
"""Bytes that a download of large weights and a dataset need together."""


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    state: Literal["ok", "note", "bad"]
    """'bad' makes a run impossible."""
    detail: str


def examine() -> list[Check]:
    """All checks, in the order in which they are worth reading."""
    return [check() for check in (_python, _torch, _nerfstudio, _bridge, _video, _open3d, _pycolmap, _weights, _disk)]


def _python() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    detail = f"easi3r-ns {__version__}, Python {platform.python_version()}, {platform.platform()}, {cores} cores"
    return Check("python", "ok", detail)


def _torch() -> Check:
    def load() -> str:
        import torch

        devices = ["cpu"]
        for index in range(torch.cuda.device_count()):
            gibibytes = torch.cuda.get_device_properties(index).total_memory / 2**30
            devices.append(f"{torch.cuda.get_device_name(index)} ({gibibytes:.0f} GiB)")
        if torch.backends.mps.is_available():
            devices.append("mps")
        return f"{torch.__version__}; devices: {', '.join(devices)}"

    return _importable("torch", load)


def _nerfstudio() -> Check:
    try:
        return Check("nerfstudio", "ok", version("nerfstudio"))
    except PackageNotFoundError:
        return Check("nerfstudio", "bad", "not installed: pip install nerfstudio")


def _bridge() -> Check:
    if os.environ.get(SWITCH_OFF, "0") not in ("", "0"):
        return Check("bridge", "note", f"switched off by {SWITCH_OFF}; `easi3r run` does the same without it")
    if not any(getattr(finder, "__name__", "") == "Easi3RBridge" for finder in sys.meta_path):
        return Check("bridge", "note", "easi3r_ns.pth was not read: use `easi3r run`, or install the package again")
    names = sorted({entry.name for entry in entry_points(group=GROUP)})
    if "easi3r" not in names:
        return Check(
            "bridge", "note", f"the entry point is missing (found: {', '.join(names) or 'none'}): install again"
        )
    return Check("bridge", "ok", f"ns-process-data {', '.join(names)}")


def _video() -> Check:
    def load() -> str:
        import av

        return f"PyAV {av.__version__}"

    return _importable("video", load)


def _open3d() -> Check:
    def load() -> str:
        import open3d

        return open3d.__version__

    return _importable("open3d", load, "; on Debian and Ubuntu: apt install libgl1 libgomp1 libusb-1.0-0")


def _pycolmap() -> Check:
    def load() -> str:
        from ..refine.library import load_pycolmap

        return str(load_pycolmap().__version__)

    return _importable("pycolmap", load)


def _weights() -> Check:
    found = []
    for name in KNOWN:
        try:
            resolve(name, download=False)
        except CheckpointError:
            continue
        found.append(name)
    if "tiny" not in found:
        return Check("weights", "bad", "the checkpoint that ships with the package is missing: install again")
    detail = f"here: {', '.join(found)}"
    if missing := [name for name in KNOWN if name not in found]:
        detail += f"; to be fetched on first use: {', '.join(missing)}"
    return Check("weights", "ok", detail)


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    state: Literal["ok", "note"] = "ok" if free > FREE_DISK else "note"
    return Check("disk", state, f"{free / 2**30:.0f} GiB free in {Path.cwd()}")


def _importable(name: str, load: Callable[[], str], remedy: str = "") -> Check:
    try:
        return Check(name, "ok", load())
    except (ImportError, OSError, MissingExtraError) as error:
        return Check(name, "bad", f"{error}{remedy}")
