"""Windows of one clip that several processes share: the result is that of one process, whatever becomes of helpers."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.align.long import spread
from easi3r_ns.align.long.spread import help_with, is_open, windows_shared_in, work_together
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.training.scenes import Clip
from tests.pipelines.test_long_clips import run
from tests.support.long_clip import LongStandIn, closed_clip

WAIT = 60.0


@dataclass(frozen=True)
class Written:
    """Does a job by writing a file; the first of them may wait, fail, or find its process gone."""

    folder: Path
    does: str = ""

    def do(self, job: int) -> None:
        if self.does == "waits" and job == 0:
            wait_for(lambda: (self.folder / "go").exists())
        if self.does == "fails" and job == 0:
            raise KeyError("of the code")
        with (self.folder / f"{job}.txt").open("a") as file:
            file.write(f"{threading.current_thread().name}\n")


def wait_for(true: object) -> None:
    end = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def done(folder: Path) -> dict[int, list[str]]:
    return {int(path.stem): path.read_text().split() for path in sorted(folder.glob("*.txt"))}


def test_each_job_is_done_once_by_whoever_is_free(tmp_path: Path) -> None:
    work, shared = Written(tmp_path, "waits"), tmp_path / "shared"
    owner = threading.Thread(target=work_together, args=(shared, work, range(4), RunLog()), name="owner")
    owner.start()
    wait_for(lambda: (shared / "1-0.claim").exists())
    assert is_open(shared)
    helped = threading.Thread(target=help_with, args=(shared,), name="helper")
    helped.start()
    helped.join(WAIT)
    assert done(tmp_path) == {1: ["helper"], 2: ["helper"], 3: ["helper"]} and not is_open(shared)
    (tmp_path / "go").touch()
    owner.join(WAIT)
    assert not owner.is_alive() and done(tmp_path)[0] == ["owner"]
    assert help_with(shared) == 0, "it is closed"
    work_together(shared, Written(tmp_path), [7], RunLog())  # a second round is not taken for the first
    assert done(tmp_path)[7] == ["MainThread"] and json.loads((shared / "jobs.json").read_text())["round"] == 2


def test_what_a_helper_leaves_undone_is_left_to_the_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "LOST_SECONDS", 0.5)
    shared = tmp_path / "shared"
    work_together(shared, Written(tmp_path, "fails"), range(2), RunLog())
    assert (shared / "1-0.failed").exists() and done(tmp_path).keys() == {1}
    original = spread._do_what_is_free

    def after_a_claim(folder: Path, number: int, jobs: object, work: object) -> int:
        (folder / f"{number}-1.claim").touch()  # of a helper that is gone
        return original(folder, number, jobs, work)

    monkeypatch.setattr(spread, "_do_what_is_free", after_a_claim)
    begin = time.monotonic()
    work_together(shared, Written(tmp_path), [10, 11, 12], RunLog())
    assert done(tmp_path).keys() == {1, 10, 12} and time.monotonic() - begin < 10


def test_work_that_cannot_leave_the_process_is_left_to_the_owner(tmp_path: Path) -> None:
    @dataclass
    class Local:
        def do(self, job: int) -> None:
            raise AssertionError("nothing is shared")

    work_together(tmp_path / "shared", Local(), range(2), RunLog())
    assert not is_open(tmp_path / "shared")
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(Local())


def test_a_folder_of_another_run_is_emptied_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "work.pickle").write_bytes(b"somebody's")
    with windows_shared_in(tmp_path / "w"):
        assert not (tmp_path / "w").exists() and spread.FOLDER.get() == tmp_path / "w"
    assert spread.FOLDER.get() is None


@pytest.fixture(scope="module")
def clip() -> Clip:
    return closed_clip(16)


@pytest.mark.slow
def test_a_clip_with_a_helper_is_that_of_one_process(clip: Clip, tmp_path: Path) -> None:
    """The helper is a process as a worker starts it; what it aligned is compared number by number."""
    options = {"window": 7, "loop_closure": False}
    alone = run(clip, LongStandIn(clip), tmp_path / "alone", **options)
    shared = tmp_path / "shared"
    code = (
        "import sys, time; from pathlib import Path; from easi3r_ns.align.long.spread import *\n"
        "import easi3r_ns.pipelines.network; Path(sys.argv[2]).touch()\n"
        "folder, done, end = Path(sys.argv[1]), 0, time.monotonic() + 60\n"
        "while not done and time.monotonic() < end: done = help_with(folder); time.sleep(0.01)\n"
        "print(done)"
    )
    helper = subprocess.Popen(
        [sys.executable, "-c", code, str(shared), str(tmp_path / "ready")], stdout=subprocess.PIPE, text=True
    )
    wait_for((tmp_path / "ready").exists)  # it has loaded PyTorch, which takes longer than these small windows
    with windows_shared_in(shared):
        together = run(clip, LongStandIn(clip), tmp_path / "together", **options)
    helper.wait(WAIT)
    assert int(helper.stdout.read()) > 0, "the helper aligned none"
    for name in ("T_world_cam", "focals", "depth", "confidence"):
        np.testing.assert_allclose(getattr(together, name), getattr(alone, name), rtol=1e-6, atol=1e-6)
    assert together.provenance["windows"] == alone.provenance["windows"]
