"""Memory limit of a run: the one that the user sets, or the free memory of the machine or container."""

from __future__ import annotations

import math

from ..core.budget import GIB
from ..core.free_memory import available_memory_bytes
from ..core.workers import default_workers

__all__ = ["FREE_SHARE", "available_memory_bytes", "memory_limit", "sweep_bytes", "sweep_threads"]

SWEEP_BYTES = 500.0
"""Of a thread of the plane sweep, per pixel of a frame: 280 to 370 were measured, and 96 planes take more."""
FREE_SHARE = 0.9
"""Share of the free memory that a run without a limit of its own may take; the rest is left to other programs."""


def memory_limit(max_memory: float | None, resident_bytes: float) -> float:
    """Limit on the memory of the process in bytes.

    ``max_memory`` GiB where it is given, else the ``resident_bytes`` of the process plus :data:`FREE_SHARE` of the free
    memory; infinity where the system does not report free memory.
    """
    if max_memory is not None:
        return max_memory * GIB
    free = available_memory_bytes()
    return math.inf if free is None else resident_bytes + FREE_SHARE * free


def sweep_threads(max_memory: float | None, pixels: int, resident_bytes: float) -> int:
    """Threads of the plane sweep that keep a limit of ``max_memory`` GiB; at least one, and one a core without a limit.

    ``pixels``: of a frame; ``resident_bytes``: what the process takes without them.
    """
    if max_memory is None:
        return default_workers()
    spare = max_memory * GIB - resident_bytes
    return max(1, min(default_workers(), int(spare / (SWEEP_BYTES * pixels))))


def sweep_bytes(max_memory: float | None, pixels: int, resident_bytes: float) -> float:
    """Memory of the threads of :func:`sweep_threads`."""
    return SWEEP_BYTES * pixels * sweep_threads(max_memory, pixels, resident_bytes)
