"""Free memory of the machine or container."""

from __future__ import annotations

import contextlib
from pathlib import Path


def available_memory_bytes(root: Path = Path("/")) -> float | None:
    """Bytes that a process can still allocate without swapping, within the limits of its container and of itself.

    None outside Linux.
    """
    machine = _numbers(root / "proc/meminfo").get("MemAvailable:")
    if machine is None:
        return None
    groups = [
        _left_in_group(root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        _left_in_group(
            root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        ),
    ]
    lefts = [*groups, _left_to_process(root / "proc/self/status")]
    return max(0.0, min([1024.0 * machine, *(left for left in lefts if left is not None)]))


def _left_to_process(status: Path) -> float | None:
    """Bytes of addresses that the process may still take where it has a limit (``ulimit -v``)."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        limit, taken = resource.getrlimit(resource.RLIMIT_AS)[0], _numbers(status).get("VmSize:")
        if taken is not None and limit != resource.RLIM_INFINITY:
            return float(limit - 1024 * taken)
    return None


def _left_in_group(folder: Path, limit: str, usage: str, cached: str) -> float | None:
    """Bytes left to a control group; cached files count as free."""
    with contextlib.suppress(OSError, ValueError):
        left = int((folder / limit).read_text()) - int((folder / usage).read_text())
        return float(left + _numbers(folder / "memory.stat").get(cached, 0))
    return None


def _numbers(path: Path) -> dict[str, int]:
    """Name -> number of every line that begins with a word and an integer; empty where the file cannot be read."""
    with contextlib.suppress(OSError):
        words = (line.split()[:2] for line in path.read_text().splitlines())
        return {pair[0]: int(pair[1]) for pair in words if len(pair) == 2 and pair[1].isdigit()}
    return {}
