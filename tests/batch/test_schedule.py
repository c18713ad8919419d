"""Order, second attempts and ends of a batch, with work that takes no time."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest

from easi3r_ns.batch.jobs import ClipJob
from easi3r_ns.batch.record import ClipRecord
from easi3r_ns.batch.schedule import Crash, Needs, Schedule
from easi3r_ns.batch.work import Attempt, Examination

MADE = Attempt(datasets=({"folder": "x", "made": True, "verdict": "train"},))
KILLED = Attempt("its process was ended by SIGKILL", again=True)


class Told:
    """Answers at once with what it was told of each clip, and remembers what it was asked."""

    def __init__(self, slots: int = 1, **results: list) -> None:
        self.slots = slots
        self._results = {name: deque(found) for name, found in results.items()}
        self._ready: list[tuple[str, object]] = []
        self.asked: list[str] = []
        self.needs: list[Needs] = []
        self.most = 0

    def _answer(self, job: ClipJob) -> None:
        self._ready.append((job.name, self._results[job.name].popleft()))
        self.most = max(self.most, len(self._ready))

    def examine(self, job: ClipJob) -> None:
        self.asked.append(f"look {job.name}")
        self._answer(job)

    def attempt(self, job: ClipJob, needs: Needs) -> None:
        self.asked.append(f"make {job.name}")
        self.needs.append(needs)
        self._answer(job)

    def ended(self, timeout: float) -> list:
        return [self._ready.pop(0)]

    def stop(self) -> None: ...


def worked(told: Told, tmp_path: Path, **options: object) -> dict[str, ClipRecord]:
    jobs = [ClipJob(name, f"{name}.mp4", str(tmp_path), {}) for name in told._results]
    entries = {job.name: ClipRecord(job.name, job.data) for job in jobs}
    Schedule(jobs, entries, told, **options).run()
    return entries


def test_clips_come_by_priority_and_one_is_made_before_the_next_is_looked_at(tmp_path: Path) -> None:
    told = Told(a=[Examination(), MADE], b=[Examination(), MADE])
    worked(told, tmp_path, priorities={"a": 1, "b": 0})
    assert told.asked == ["look b", "make b", "look a", "make a"]


def test_no_more_clips_are_begun_than_there_are_slots(tmp_path: Path) -> None:
    told = Told(2, **{name: [Examination(), MADE] for name in "abcde"})
    assert all(entry.state == "done" for entry in worked(told, tmp_path).values()) and told.most == 2


def test_every_clip_ends_in_one_state_with_its_reason(tmp_path: Path) -> None:
    told = Told(
        made=[Examination(), MADE],
        there=[Examination(finished=True)],
        refused=[Examination(failure="cannot be opened")],
        bad=[Examination(), Attempt("no cameras")],
    )
    ends = {name: (entry.state, entry.reason) for name, entry in worked(told, tmp_path).items()}
    assert ends["made"] == ("done", "") and ends["there"][0] == "skipped"
    assert ends["refused"] == ("failed", "cannot be opened") and ends["bad"] == ("failed", "no cameras")


def test_what_ended_from_outside_is_tried_again_with_its_reason_kept(tmp_path: Path) -> None:
    told = Told(a=[Examination(), KILLED, Crash("its worker is gone"), MADE])
    entry = worked(told, tmp_path)["a"]
    assert entry.state == "done" and entry.attempts == [KILLED.reason, "its worker is gone"]


@pytest.mark.parametrize("retries", [0, 2])
def test_attempts_have_an_end(retries: int, tmp_path: Path) -> None:
    told = Told(a=[Examination(), *[KILLED] * 5])
    entry = worked(told, tmp_path, retries=retries)["a"]
    assert entry.state == "failed" and entry.reason.startswith(KILLED.reason)
    assert told.asked.count("make a") == retries + 1


def test_a_worker_that_goes_while_a_clip_is_examined_is_no_end(tmp_path: Path) -> None:
    told = Told(a=[Crash("its worker is gone"), Examination(), MADE])
    assert worked(told, tmp_path)["a"].state == "done" and told.asked == ["look a", "look a", "make a"]


def test_memory_is_reserved_by_the_forecast_and_doubled_where_it_did_not_suffice(tmp_path: Path) -> None:
    lack = Attempt("out of memory", again=True, lack=True)
    told = Told(a=[Examination(memory_bytes=1e9, gpu_share=0.25), lack, MADE])
    worked(told, tmp_path)
    assert [need.memory_bytes for need in told.needs] == pytest.approx([1.5e9, 3e9])
    assert told.needs[0].gpu_share == 0.25


def test_what_an_earlier_command_knew_of_a_finished_clip_stays(tmp_path: Path) -> None:
    job = ClipJob("a", "a.mp4", str(tmp_path), {})
    entry = ClipRecord("a", "a.mp4", datasets=[{"folder": "a", "made": True, "verdict": "train", "level": 0}])
    told = Told(a=[Examination(finished=True, datasets=({"folder": "a", "report": True},))])
    Schedule([job], {"a": entry}, told).run()
    assert entry.state == "skipped" and entry.verdict == "train"
