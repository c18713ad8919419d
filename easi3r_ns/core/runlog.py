"""Log of a run: stages with their seconds and peak memory, and warnings. Displays subclass :class:`RunLog`."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageRecord:
    """Cost of one stage."""

    name: str
    seconds: float
    """Wall-clock seconds."""
    cpu_seconds: float
    """User plus system seconds over all threads."""
    peak_memory_bytes: int
    """Largest resident set of the process during the stage (of the whole run outside Linux, 0 on Windows)."""


@dataclass
class RunLog:
    """Records stages and warnings. The base class shows nothing on a terminal."""

    stages: list[StageRecord] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Time a stage; yields ``advance(n)``, to be called after every n of ``total`` steps."""
        _reset_peak_memory()
        wall, cpu = time.perf_counter(), time.process_time()
        with self._display(name, total) as advance:
            yield advance
        self.stages.append(
            StageRecord(name, time.perf_counter() - wall, time.process_time() - cpu, peak_memory_bytes())
        )

    def warn(self, message: str) -> None:
        """Report something that the user should act on; repeated in the summary and in the dataset's provenance."""
        if message not in self.warnings:
            self.warnings.append(message)
            logger.warning(message)

    def info(self, message: str) -> None:
        """Report progress or a decision in one line."""
        logger.info(message)

    @contextlib.contextmanager
    def _display(self, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        def advance(steps: int = 1) -> None:
            """Shows nothing."""

        yield advance


def peak_memory_bytes() -> int:
    """Largest resident set of this process in bytes: since the start of the stage on Linux, of its whole life on macOS,
    0 on Windows.
    """
    peak = _process_status("VmHWM")
    if peak is not None:
        return peak
    with contextlib.suppress(ImportError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return 0


def resident_memory_bytes() -> int:
    """Resident set of this process now, in bytes; its peak outside Linux."""
    resident = _process_status("VmRSS")
    return peak_memory_bytes() if resident is None else resident


def _process_status(field: str) -> int | None:
    """A memory field of /proc/self/status in bytes; None outside Linux."""
    with contextlib.suppress(OSError, ValueError, StopIteration), open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith(field)).split()[1]) * 1024
    return None


def _reset_peak_memory() -> None:
    # Linux resets VmHWM when "5" is written here; where that is refused, the peak stays that of the whole run.
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as clear_refs:
        clear_refs.write("5")
