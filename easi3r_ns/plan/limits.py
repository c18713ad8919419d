"""How much memory a run may take: what the user allows, or what the machine and its containers leave."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

from ..core.budget import GIB

FREE_SHARE = 0.9
"""Of the memory that is free on the machine, for a run without a limit of its own: the rest is for what else runs."""


def memory_limit(max_memory: float | None, resident_bytes: float) -> float:
    """Bytes that the process may take: ``max_memory`` GiB, or what it has and most of what is free; infinity where the
    system does not tell.
    """
    if max_memory is not None:
        return max_memory * GIB
    free = available_memory_bytes()
    return math.inf if free is None else resident_bytes + FREE_SHARE * free


def available_memory_bytes(root: Path = Path("/")) -> float | None:
    """Memory that a process could still get without swapping, containers' limits included; None outside Linux."""
    machine = _numbers(root / "proc/meminfo").get("MemAvailable:")
    if machine is None:
        return None
    groups = [
        _left_in_group(root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        _left_in_group(
            root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        ),
    ]
    return max(0.0, min([1024.0 * machine, *(left for left in groups if left is not None)]))


def _left_in_group(folder: Path, limit: str, usage: str, cached: str) -> float | None:
    """Bytes left to a control group; files that its processes have read count as free."""
    with contextlib.suppress(OSError, ValueError):
        room = int((folder / limit).read_text()) - int((folder / usage).read_text())
        return float(room + _numbers(folder / "memory.stat").get(cached, 0))
    return None


def _numbers(path: Path) -> dict[str, int]:
    """The first two words of every line, where the second is a number."""
    with contextlib.suppress(OSError):
        words = (line.split()[:2] for line in path.read_text().splitlines())
        return {pair[0]: int(pair[1]) for pair in words if len(pair) == 2 and pair[1].isdigit()}
    return {}
