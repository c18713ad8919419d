"""Work that takes longer than a request: one job at a time, in a thread of its own; a page can ask how far it is."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from ..core.errors import Easi3RError
from ..core.runlog import RunLog, stage_unit, stage_words

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far a job is."""

    name: str = ""
    """'follow' or 'solve'; empty: there was none yet."""
    running: bool = False
    words: str = ""
    """What it is doing."""
    unit: str = ""
    """Of the steps, in the plural."""
    done: int = 0
    total: int = 0
    """Steps of the stage; 0: unknown."""
    seconds: float = 0.0
    """Since its start."""
    error: str = ""
    """Why it failed, for the user."""
    result: Any = None
    """What it gave, as JSON."""
    warnings: tuple[str, ...] = ()


def our_mistake(error: Exception) -> str:
    """What a user is told of an error that is none of theirs."""
    return f"this failed by a mistake of the program ({type(error).__name__}: {error}); what you corrected is saved"


class BusyError(Easi3RError):
    """A job is asked for while another runs."""


class StoppedError(Easi3RError):
    """The user has stopped the job."""


@dataclass
class JobLog(RunLog):
    """Tells a page the stage that runs and its steps."""

    show: Callable[..., None] = field(default=lambda **_: None)
    stopped: threading.Event = field(default_factory=threading.Event)
    """Set by the user: the next step raises StoppedError."""

    @contextlib.contextmanager
    def _display(self, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        done = 0
        self.show(words=stage_words(name), unit=stage_unit(name), done=0, total=total or 0)

        def advance(steps: int = 1) -> None:
            nonlocal done
            done += steps
            self.show(done=done)
            self._end_if_stopped()

        self._end_if_stopped()
        yield advance

    def _end_if_stopped(self) -> None:
        if self.stopped.is_set():
            raise StoppedError("stopped")


class Jobs:
    """Runs one job at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state = Progress()
        self._began, self._stopped = 0.0, threading.Event()

    @property
    def progress(self) -> Progress:
        """How far the job is that runs, or ran last."""
        with self._lock:
            if not self._state.running:
                return self._state
            return replace(self._state, seconds=time.monotonic() - self._began)

    def start(self, name: str, words: str, work: Callable[[JobLog], Any]) -> threading.Thread:
        """Begin to work. Raises BusyError while another job runs."""
        with self._lock:
            if self._state.running:
                raise BusyError(f"wait for the work that runs ({self._state.words})")
            self._state, self._began = Progress(name, True, words), time.monotonic()
            self._stopped = threading.Event()
        thread = threading.Thread(target=self._run, args=(work,), name=f"easi3r edit: {name}", daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        """Ask the job that runs to end at its next step."""
        with self._lock:
            if self._state.running:
                self._stopped.set()
                self._state = replace(self._state, words=f"stopping: {self._state.words}")

    def refuse_while_running(self) -> None:
        """Raises BusyError while a job runs."""
        with self._lock:
            if self._state.running:
                raise BusyError(f"wait for the work that runs ({self._state.words})")

    def _run(self, work: Callable[[JobLog], Any]) -> None:
        log = JobLog(show=self._show, stopped=self._stopped)
        try:
            self._show(result=work(log))
        except Easi3RError as error:
            self._show(error=str(error))
        except Exception as error:
            # The page has to hear of it, and the corrections are kept; the traceback is for whoever looks into it.
            logger.exception("the work of the page failed")
            self._show(error=our_mistake(error))
        self._show(running=False, seconds=time.monotonic() - self._began, warnings=tuple(log.warnings))

    def _show(self, **changes: Any) -> None:
        with self._lock:
            self._state = replace(self._state, **changes)
