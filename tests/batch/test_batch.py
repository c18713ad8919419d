"""Batches of stand-in clips (tests/support/batch_standin.py), one after another and on a Ray cluster of two workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from easi3r_ns.batch.jobs import make_jobs
from easi3r_ns.batch.on_ray import OnRay
from easi3r_ns.batch.one_by_one import OneByOne
from easi3r_ns.batch.record import read_record
from easi3r_ns.batch.run import Batch
from easi3r_ns.batch.schedule import Executor, Needs
from easi3r_ns.core.config import Easi3RConfig
from easi3r_ns.core.errors import InputError, MissingExtraError, OutputError
from easi3r_ns.pipelines.pipeline import RunConfig

STANDIN = "tests.support.batch_standin"
CLIPS = {
    "good": "train",
    "killed": "kill 1\ntrain",
    "bad": "bad",
    "refused": "refused",
    "bug": "bug",
    "grows": "grow",
}
ENDS = {
    "good": ("done", "train"),
    "killed": ("done", "train"),
    "bad": ("failed", "no cameras were found: use another clip"),
    "refused": ("failed", "this clip cannot be opened"),
    "bug": ("failed", "KeyError"),
    "grows": ("failed", "--max-memory 0.5 allows less"),
}


def clips_of(folder: Path, clips: dict[str, str]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name, words in clips.items():
        (folder / f"{name}.txt").write_text(words)
    return [folder / f"{name}.txt" for name in clips]


def batch_of(tmp_path: Path, clips: dict[str, str], memory: float | None = None) -> Batch:
    config = RunConfig(easi3r=Easi3RConfig(max_memory=memory))
    jobs = make_jobs(clips_of(tmp_path / "clips", clips), tmp_path / "out", config, runner=STANDIN)
    return Batch(tmp_path / "out", jobs)


def run(batch: Batch, executor: Executor) -> dict[str, tuple[str, str]]:
    batch.run(executor, priorities={})
    return {entry.name: (entry.state, entry.reason or entry.verdict) for entry in batch.own}


def check_ends(ends: dict[str, tuple[str, str]], wanted: dict[str, tuple[str, str]]) -> None:
    assert ends.keys() == wanted.keys()
    for name, (state, words) in wanted.items():
        assert ends[name][0] == state and words in ends[name][1], (name, ends[name])


class Page(HTMLParser):
    """Texts, links and pictures of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.links: list[str] = []
        self.pictures: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert tag not in ("script", "link"), "the page loads nothing"
        self.links += [str(found["href"])] if tag == "a" else []
        self.pictures += [str(found["src"])] if tag == "img" else []

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[str, str]]]:
    """The folder of a batch that was worked on one clip after another, and how each clip ended."""
    folder = tmp_path_factory.mktemp("batch")
    return folder, run(batch_of(folder, CLIPS, memory=0.5), OneByOne())


def test_every_clip_ends_in_one_state(finished: tuple[Path, dict[str, tuple[str, str]]]) -> None:
    check_ends(finished[1], ENDS)
    record = read_record(finished[0] / "out")
    assert "SIGKILL" in record["killed"].attempts[0] and record["grows"].peak_memory_bytes > 2**29


def test_the_page_has_every_clip_with_its_verdict_or_reason(finished: tuple[Path, object]) -> None:
    page = Page(finished[0] / "out" / "index.html")
    text = "\n".join(page.texts)
    assert all(name in text for name in CLIPS) and "no cameras were found" in text
    assert sorted(page.links) == ["good/report.html", "killed/report.html"]
    assert len(page.pictures) == 2 and all(picture.startswith("data:image/jpeg;base64,") for picture in page.pictures)
    assert "2 done, 4 failed; verdicts: 2 train" in text


def test_the_same_command_skips_what_is_finished_and_tries_the_rest(finished: tuple[Path, object]) -> None:
    folder, clips = finished[0], {**CLIPS, "bad": "train"}
    again = {name: clips[name] for name in ("good", "bad", "refused")}
    ends = run(batch_of(folder, again), OneByOne())
    check_ends(ends, {"good": ("skipped", "finished already"), "bad": ("done", "train"), "refused": ENDS["refused"]})
    record = read_record(folder / "out")
    assert record["good"].verdict == "train", "what the first command knew"
    assert record["killed"].state == "done", "clips of other commands stay"


def test_a_second_batch_in_the_same_folder_is_refused_while_one_runs(tmp_path: Path) -> None:
    from easi3r_ns.storage.lock import only_writer

    with only_writer(tmp_path / "out" / ".batch"), pytest.raises(OutputError, match="another run"):
        run(batch_of(tmp_path, {"a": "train"}), OneByOne())


def test_a_page_of_the_user_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.html").write_text("mine")
    with pytest.raises(OutputError, match="index.html is in the way"):
        run(batch_of(tmp_path, {"a": "train"}), OneByOne())
    assert (tmp_path / "out" / "index.html").read_text() == "mine"


def test_ctrl_c_ends_all_work_and_the_same_command_goes_on(tmp_path: Path) -> None:
    batch = batch_of(tmp_path, {"a": "train", "b": "slow\ntrain", "c": "train"})

    def interrupt() -> None:
        report = batch.jobs[1].file(".json")
        if report.is_file() and "read the frames" in report.read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        batch.run(OneByOne(), priorities={}, show=interrupt)
    pid = json.loads(batch.jobs[1].file(".json").read_text())["pid"]
    assert not is_alive(pid)
    assert [entry.state for entry in batch.own] == ["done", "waiting", "waiting"]
    (tmp_path / "clips" / "go").touch()
    ends = run(batch_of(tmp_path, {"a": "train", "b": "slow\ntrain", "c": "train"}), OneByOne())
    assert [state for state, _ in ends.values()] == ["skipped", "done", "done"]


def test_the_process_of_a_clip_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    (job,) = batch_of(tmp_path, {"a": "slow"}).jobs
    code = f"""
from easi3r_ns.batch.jobs import ClipJob
from easi3r_ns.batch.work import attempt
attempt(ClipJob({job.name!r}, {job.data!r}, {job.output_dir!r}, {dict(job.options)!r}, runner={STANDIN!r}))
"""
    parent = subprocess.Popen([sys.executable, "-c", code])
    try:
        report = job.file(".json")
        wait_for(lambda: report.is_file() and "read the frames" in report.read_text())
    finally:
        parent.kill()
        parent.wait()
    pid = json.loads(report.read_text())["pid"]
    wait_for(lambda: not is_alive(pid))
    assert not is_alive(pid)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/status").read_text().split("State:")[1].split()[0] != "Z"
    except (OSError, IndexError):
        return False


def wait_for(true: object, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def cluster() -> Iterator[OnRay]:
    pytest.importorskip("ray")
    try:
        executor = OnRay(2, num_gpus=1)
    except MissingExtraError as error:
        pytest.skip(f"this machine is too busy for Ray, which waits 30 seconds for its own processes: {error}")
    yield executor
    executor.stop()


@pytest.mark.slow
def test_on_ray_a_killed_worker_costs_one_attempt(tmp_path: Path, cluster: OnRay) -> None:
    """One test of all, because a cluster takes seconds to start."""
    needs = [cluster.reserved(Needs(2**30, share)) for share in (0.0, 0.001, 0.333, 1.0)]
    assert [need["num_gpus"] for need in needs] == [0, 0.05, 0.34, 1.0] and needs[0]["memory"] == 2**30
    assert cluster.reserved(Needs(1e15))["memory"] < 1e13, "more than a machine has would never be begun"
    clips = {name: CLIPS[name] for name in ("good", "bad", "killed")}
    batch = batch_of(tmp_path, {**clips, "worker": "worker 1\ngpu 0.5\ntrain", "large": "memory 9999999\ntrain"})
    ends = run(batch, cluster)
    wanted = {name: ENDS[name] for name in clips}
    check_ends(ends, wanted | {"worker": ("done", "train"), "large": ("done", "train")})
    assert "its worker is gone" in batch.entries["worker"].attempts[0]
    assert json.loads((tmp_path / "out" / "good" / "made.json").read_text())["threads"] == os.environ.get(
        "OMP_NUM_THREADS", "1"
    )
    import ray

    assert not ray.is_initialized()


def test_an_address_where_no_cluster_is_is_named() -> None:
    with pytest.raises(InputError, match="--address 127.0.0.1:1"):
        OnRay(None, address="127.0.0.1:1")
