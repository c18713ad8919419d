"""How much of the work is in memory at once: what the planner decides and the network and alignment stages obey."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30
FREE_SHARE = 0.9
"""Of the memory that is free on the machine, for a run without a limit of its own: the rest is for what else runs."""


@dataclass(frozen=True)
class Budget:
    """Chosen before a run from counts alone (see :mod:`easi3r_ns.plan`)."""

    batch_size: int
    """Most images or pairs per network call; 0: by device, free memory and size of the image."""
    window: int
    """Frames that are aligned together; 0: all of them at once."""
    spill: bool
    """Encoder features and pair predictions lie in memory-mapped files of the workspace, not in memory."""
    memory_bytes: float
    """Limit on the memory of the process; infinity: none."""

    @property
    def bounded(self) -> bool:
        """Whether there is a limit."""
        return self.memory_bytes < math.inf

    def __str__(self) -> str:
        """For example 'pairs one by one, intermediate results on disk, windows of 24 frames'."""
        parts = [
            {0: "", 1: "pairs one by one"}.get(self.batch_size, f"{self.batch_size} pairs per call"),
            "intermediate results on disk" if self.spill else "",
            f"windows of {self.window} frames" if self.window else "",
        ]
        return ", ".join(part for part in parts if part) or "all frames at once, in memory"


UNBOUNDED = Budget(batch_size=0, window=0, spill=False, memory_bytes=math.inf)
"""Everything at once, in memory."""


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
