"""How much of the work is in memory at once; the planner decides it, the network and alignment stages keep to it."""

from __future__ import annotations

import math
from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Budget:
    """Chosen before a run from counts alone (see :mod:`easi3r_ns.plan.plan`)."""

    batch_size: int
    """Most images or pairs per network call; 0: chosen by device, free memory and size of the image."""
    window: int
    """Frames that are aligned together; 0: all of them at once."""
    spill: bool
    """Whether encoder features and pair predictions are kept in memory-mapped files of the workspace."""
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
"""No limit: all frames are processed together, in memory."""
