"""Memory limit of a run: the one that the user sets, or the free memory of the machine or container."""

from __future__ import annotations

import math

from ..core.budget import GIB
from ..core.free_memory import available_memory_bytes

__all__ = ["FREE_SHARE", "available_memory_bytes", "memory_limit"]

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
