"""How much of the work is in memory at once: what the planner decides and the network and alignment stages obey."""

from __future__ import annotations

import math
from dataclasses import dataclass


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


UNBOUNDED = Budget(batch_size=0, window=0, spill=False, memory_bytes=math.inf)
"""Everything at once, in memory."""
