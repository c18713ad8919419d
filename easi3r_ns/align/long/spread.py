"""Windows of one clip as tasks: processes that see the same folder share the work, each window is aligned by one.

The process that reconstructs the clip (the owner) leaves in the folder what a window needs, and the list of windows.
It and any number of helpers each claim a window, align it and keep the result in the cache of the clip, which must lie
where all of them reach it. The owner then reads all windows from the cache, as if it had aligned them itself: every
window is computed by the same code from the same files, whoever does it. A window whose helper is gone, or failed, is
aligned by the owner; so a helper is never needed, and its errors are none of the clip's.

::

    work.pickle      the :class:`Work`, which only the owner of this run writes (an earlier one is deleted first)
    jobs.json        {"round": 1, "jobs": [...]}, arguments of :meth:`Work.do`
    1-3.claim        somebody works on job 3 of round 1: its time is renewed every few seconds
    1-3.done         its result is in the cache
    1-3.failed       whoever worked on it could not
    closed           nothing is left to do
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

from ...core.runlog import RunLog
from ...storage.files import make_folder, write_bytes, write_json

WORK, JOBS, CLOSED = "work.pickle", "jobs.json", "closed"
_BEAT_SECONDS = 2.0
LOST_SECONDS = 60.0
"""After this time without a renewal whoever claimed a window counts as gone."""
_LOOK_SECONDS = 0.2

FOLDER: ContextVar[Path | None] = ContextVar("folder of shared windows", default=None)
"""Where the windows of the clips of this process are shared; None: they are not."""


class Work(Protocol):
    """What the owner and its helpers do; it is pickled."""

    def do(self, job: Any) -> None:
        """Compute and keep the result of one job."""


@contextlib.contextmanager
def windows_shared_in(folder: Path) -> Iterator[None]:
    """Clips that are reconstructed in this block share their windows in ``folder``, which is ours: it is emptied before
    and after."""
    shutil.rmtree(folder, ignore_errors=True)
    token = FOLDER.set(folder)
    try:
        yield
    finally:
        FOLDER.reset(token)
        shutil.rmtree(folder, ignore_errors=True)


def is_open(folder: Path) -> bool:
    """Whether a helper finds something to do."""
    listed = _listed(folder)
    return listed is not None and any(not _file(folder, listed[0], k, "claim").exists() for k in range(len(listed[1])))


def work_together(folder: Path, work: Work, jobs: Sequence[Any], log: RunLog) -> None:
    """Do all jobs, with the help of those who look into ``folder``; returns when each is done or left to the caller.

    A job that failed is left: the caller computes it again and gets its error. Where the work cannot be pickled, or
    the folder not be written, all are.
    """
    try:
        make_folder(folder)
        listed = _listed(folder, even_closed=True)
        number = 1 if listed is None else listed[0] + 1
        (folder / CLOSED).unlink(missing_ok=True)
        write_bytes(folder / WORK, pickle.dumps(work))
        write_json(folder / JOBS, {"round": number, "jobs": list(jobs)})
    except Exception as error:  # pickle raises what it likes
        log.info(f"the windows are aligned by this process alone: {type(error).__name__}: {error}")
        return
    try:
        _do_what_is_free(folder, number, jobs, work)
        _wait_for_others(folder, number, len(jobs))
    finally:
        (folder / CLOSED).touch()


def help_with(folder: Path) -> int:
    """Do jobs of a clip until none is free; how many. Errors are left to the owner."""
    listed = _listed(folder)
    if listed is None:
        return 0
    try:
        work: Work = pickle.loads((folder / WORK).read_bytes())  # noqa: S301 - written by the owner of this run
    except Exception:
        return 0  # the owner has gone on
    return _do_what_is_free(folder, *listed, work)


def _do_what_is_free(folder: Path, number: int, jobs: Sequence[Any], work: Work) -> int:
    done = 0
    for k, job in enumerate(jobs):
        if (folder / CLOSED).exists() or not _claimed(folder, number, k):
            continue
        with _renewed(_file(folder, number, k, "claim")):
            try:
                work.do(job)
                end = "done"
                done += 1
            except Exception:  # the owner computes it again and has the error
                end = "failed"
        with contextlib.suppress(OSError):
            _file(folder, number, k, end).touch()
    return done


def _wait_for_others(folder: Path, number: int, count: int) -> None:
    """Return when each job is done, failed, or its helper gone, by this machine's clock alone."""
    seen: dict[int, tuple[float, float]] = {}
    while True:
        waiting = [k for k in range(count) if not any(_file(folder, number, k, e).exists() for e in ("done", "failed"))]
        now = time.monotonic()
        lost = 0
        for k in waiting:
            try:
                stamp = _file(folder, number, k, "claim").stat().st_mtime
            except OSError:
                stamp = 0.0
            if k not in seen or seen[k][0] != stamp:
                seen[k] = (stamp, now)
            lost += now - seen[k][1] > LOST_SECONDS
        if lost == len(waiting):
            return
        time.sleep(_LOOK_SECONDS)


def _claimed(folder: Path, number: int, k: int) -> bool:
    try:
        os.close(os.open(_file(folder, number, k, "claim"), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        return True
    except OSError:
        return False


@contextlib.contextmanager
def _renewed(claim: Path) -> Iterator[None]:
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(_BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(claim)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _listed(folder: Path, *, even_closed: bool = False) -> tuple[int, list[Any]] | None:
    """The round and its jobs; None where there are none, or nothing is left to do."""
    if not even_closed and (folder / CLOSED).exists():
        return None
    try:
        content = json.loads((folder / JOBS).read_text(encoding="utf-8"))
        return int(content["round"]), list(content["jobs"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _file(folder: Path, number: int, k: int, what: str) -> Path:
    return folder / f"{number}-{k}.{what}"
