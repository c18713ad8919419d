"""Work on many items in threads: results in order, and a bound on what is held in memory at once.

The work of this package releases Python's lock for most of its time: compression, resizing, decoding, large arrays.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_WORKERS = 8
"""More are no faster: one thread makes the items, and the disk takes the results."""


def usable_cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """Threads of :func:`ordered` where no number is asked for."""
    return min(MOST_WORKERS, usable_cores())


def ordered(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None, limit: int | None = None
) -> Iterator[Result]:
    """``work(item)`` for every item, in their order, several at once.

    Items are taken one by one, in the calling thread, while the work goes on; at most ``limit`` (default: twice the
    ``workers``, whose default is one for each core) are held at once, with their results. An error of ``items`` or of
    ``work`` is raised here as it is; work that has not begun is then left undone, and what has begun is waited for.
    The same holds when the caller stops, for example at Ctrl-C.
    """
    workers = workers or default_workers()
    limit = limit or 2 * workers
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                if len(pending) >= limit:
                    yield pending.popleft().result()
                pending.append(pool.submit(work, item))
                del item  # else the caller's thread keeps the last one
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
