"""Which clip is worked on when: by priority, with second attempts, until every clip has ended in one state."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from .jobs import ClipJob
from .record import DONE, FAILED, RUNNING, SKIPPED, ClipRecord
from .work import Attempt, Examination, reported_attempt

ALREADY = "finished already: the same clip and options made it"
LOOK_SECONDS = 0.25
"""How often progress is shown while nothing ends."""
MARGIN = 1.5
"""Memory that is reserved for a clip, per byte of its forecast; 1.36 were taken with --weights tiny."""


@dataclass(frozen=True)
class Needs:
    """What a clip reserves on a cluster."""

    memory_bytes: float = 0.0
    gpu_share: float = 0.0


@dataclass(frozen=True)
class Crash:
    """The worker, or its machine, is gone, and with it what it was doing."""

    reason: str
    lack: bool = False
    """The machine ran out of memory."""


class Executor(Protocol):
    """Where work is done: in this process, or on a cluster."""

    @property
    def slots(self) -> int:
        """How many clips are worked on at once."""

    def examine(self, job: ClipJob) -> None:
        """Begin to examine a clip."""

    def attempt(self, job: ClipJob, needs: Needs) -> None:
        """Begin to make the dataset of a clip."""

    def ended(self, timeout: float) -> list[tuple[str, Examination | Attempt | Crash]]:
        """(name of the clip, result) of all work that has ended, waiting ``timeout`` seconds for the first."""

    def stop(self) -> None:
        """End all work; what was not finished can be continued."""


@dataclass
class _Clip:
    job: ClipJob
    entry: ClipRecord
    rank: tuple[int, int]
    """Priority, then position in the command; the least comes first."""
    examined: bool = False
    needs: Needs = Needs()


@dataclass
class Schedule:
    """A batch that is worked on."""

    jobs: Sequence[ClipJob]
    entries: Mapping[str, ClipRecord]
    executor: Executor
    priorities: Mapping[str, int] = field(default_factory=dict)
    retries: int = 2
    """Further attempts for a clip whose process or worker was ended by something else than the clip."""

    def run(self, show: Callable[[], None] = lambda: None) -> None:
        """Work until every clip has ended; ``show`` is called after each change and between."""
        clips = {
            job.name: _Clip(job, self.entries[job.name], (self.priorities.get(job.name, 0), position))
            for position, job in enumerate(self.jobs)
        }
        waiting, busy = [(clip.rank, name) for name, clip in clips.items()], dict[str, _Clip]()
        heapq.heapify(waiting)
        while waiting or busy:
            while waiting and len(busy) < self.executor.slots:
                _, name = heapq.heappop(waiting)
                busy[name] = clips[name]
                self._begin(busy[name])
            show()
            for name, result in self.executor.ended(LOOK_SECONDS):
                clip = busy.pop(name)
                self._take(clip, result)
                if not clip.entry.ended:
                    heapq.heappush(waiting, (clip.rank, name))
        show()

    def _begin(self, clip: _Clip) -> None:
        clip.entry.state = RUNNING
        if clip.examined:
            clip.job.file(".json").unlink(missing_ok=True)  # an earlier report is none of this attempt
            self.executor.attempt(clip.job, clip.needs)
        else:
            self.executor.examine(clip.job)

    def _take(self, clip: _Clip, result: Examination | Attempt | Crash) -> None:
        if isinstance(result, Examination):
            self._take_examination(clip, result)
            return
        if isinstance(result, Crash):
            ended = reported_attempt(clip.job) if clip.examined else None
            if ended is None:
                self._fail(clip, result.reason, again=True, lack=result.lack)
                return
            result = ended  # the worker went after its work was done
        entry = clip.entry
        entry.seconds, entry.cpu_seconds = result.seconds, result.cpu_seconds
        entry.peak_memory_bytes = result.peak_memory_bytes
        if result.reason:
            self._fail(clip, result.reason, again=result.again, lack=result.lack)
            return
        entry.datasets = _joined(entry.datasets, result.datasets)
        made = any(dataset.get("made") for dataset in result.datasets)
        entry.state, entry.reason = (DONE, "") if made else (SKIPPED, ALREADY)

    def _take_examination(self, clip: _Clip, result: Examination) -> None:
        clip.examined = True
        clip.needs = Needs(MARGIN * result.memory_bytes, result.gpu_share)
        entry = clip.entry
        entry.forecast = result.words
        if result.finished:
            entry.state, entry.reason = SKIPPED, ALREADY
            entry.datasets = _joined(entry.datasets, result.datasets)
        elif result.failure:
            entry.state, entry.reason = FAILED, result.failure

    def _fail(self, clip: _Clip, reason: str, *, again: bool, lack: bool) -> None:
        entry = clip.entry
        if again and len(entry.attempts) < self.retries:
            entry.attempts.append(reason)
            if lack:  # beside fewer others, or alone on its machine, it may fit
                clip.needs = replace(clip.needs, memory_bytes=2 * clip.needs.memory_bytes)
            return
        tried = f" ({len(entry.attempts) + 1} attempts)" if entry.attempts else ""
        entry.state, entry.reason = FAILED, reason + tried


def _joined(known: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The datasets that were found; where an earlier command knew more of one, what it knew."""
    earlier = {dataset["folder"]: dataset for dataset in known}
    return [dict(facts if facts.get("made") else {**facts, **earlier.get(facts["folder"], {})}) for facts in found]
