"""Clips one after another on this machine, without Ray."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait

from ..core.workers import usable_cores
from .jobs import ClipJob
from .schedule import Crash, Needs
from .work import Attempt, Examination, attempt, examine


class OneByOne:
    """An :class:`~.schedule.Executor` that works on one clip at a time; it may use all processors."""

    slots = 1

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1)  # the caller's thread shows progress meanwhile
        self._busy: dict[str, Future[Examination | Attempt]] = {}

    def examine(self, job: ClipJob) -> None:
        """See :class:`~.schedule.Executor`."""
        self._busy[job.name] = self._pool.submit(examine, job)

    def attempt(self, job: ClipJob, needs: Needs) -> None:
        """See :class:`~.schedule.Executor`."""
        self._busy[job.name] = self._pool.submit(attempt, job, usable_cores(), self._stop)

    def ended(self, timeout: float) -> list[tuple[str, Examination | Attempt | Crash]]:
        """See :class:`~.schedule.Executor`."""
        done, _ = wait(self._busy.values(), timeout)
        names = [name for name, future in self._busy.items() if future in done]
        return [(name, self._busy.pop(name).result()) for name in names]

    def stop(self) -> None:
        """See :class:`~.schedule.Executor`."""
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
