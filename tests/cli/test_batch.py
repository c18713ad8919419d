"""`easi3r batch` as a user types it, on rendered clips: options, and one real batch on a cluster of two workers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from easi3r_ns.batch import on_ray
from easi3r_ns.batch.one_by_one import OneByOne
from easi3r_ns.cli import batch
from easi3r_ns.cli.batch import BatchCommand
from easi3r_ns.cli.main import main

CLIP = Path(__file__).parents[2] / "examples" / "clip" / "clip.mp4"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "no clip is given"),
        (["gone.mp4"], "gone.mp4 does not exist"),
        (["clip.mp4", "--workers", "0"], "--workers 0"),
        (["clip.mp4", "--clip-cpus", "0"], "--clip-cpus 0"),
        (["clip.mp4", "--retries", "-1"], "--retries -1"),
        (["clip.mp4", "--first", "dog*"], "--first dog*: no clip of the batch has such a name"),
        (["clip.mp4", "--masks", "m"], "--masks belongs to one clip"),
        (["clip.mp4", "--workers", "1", "--address", "auto"], "leave one of them out"),
        (["clip.mp4", "--num-frames-target", "1"], "--num-frames-target 1"),
    ],
)
def test_bad_options_are_one_line_and_nothing_is_made(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("clip.mp4").touch()
    with pytest.raises(SystemExit) as end:
        main(["batch", *options, "--output-dir", "out"])
    assert end.value.code == 2 and not Path("out").exists()
    assert said in capsys.readouterr().err


def test_without_ray_clips_come_one_after_another_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(on_ray, "is_installed", lambda: False)
    monkeypatch.setattr(batch, "usable_cores", lambda: 8)
    console = batch.Console(stderr=True)
    assert isinstance(BatchCommand((Path("a"),), Path("out")).executor(3, console), OneByOne)
    said = " ".join(capsys.readouterr().err.split())
    assert "Ray is not installed" in said and "3 at a time with pip install" in said and "[cluster]" in said
    assert isinstance(BatchCommand((Path("a"),), Path("out"), workers=1).executor(3, console), OneByOne)
    assert capsys.readouterr().err == "", "who asks for one worker knows"


def command(folder: Path, *options: str) -> list[str]:
    run = ("--weights", "tiny", "--refine", "none", "--num-frames-target", "5", "--max-memory", "2")
    clips = ("clips", "large")
    return [sys.executable, "-m", "easi3r_ns", "batch", *clips, "--output-dir", "out", *run, *options]


@pytest.mark.long
def test_a_killed_worker_a_corrupt_clip_and_a_large_one_stop_no_other(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    (tmp_path / "clips").mkdir()
    shutil.copy(CLIP, tmp_path / "clips" / "good.mp4")
    (tmp_path / "clips" / "broken.mp4").write_bytes(CLIP.read_bytes()[:3000])
    (tmp_path / "large").mkdir()
    for name in "12345":
        cv2.imwrite(str(tmp_path / "large" / f"{name}.png"), np.full((6000, 8000, 3), int(name), dtype=np.uint8))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command(tmp_path, "--workers", "2"), cwd=tmp_path, text=True, **pipes)
    try:
        worker = worker_at_work(tmp_path / "out" / ".batch" / "good.json", process)
        if worker is not None:
            os.kill(worker, signal.SIGKILL)
        said, _ = process.communicate()
        if "Ray does not start" in said:
            pytest.skip("this machine is too busy for Ray, which waits 30 seconds for its own processes")
    finally:
        process.kill()
    assert process.returncode == 1
    clips = {clip["name"]: clip for clip in json.loads((tmp_path / "out" / "batch.json").read_text())["clips"]}
    assert {name: clip["state"] for name, clip in clips.items()} == {
        "good": "done",
        "broken": "failed",
        "large": "failed",
    }
    assert "its worker is gone" in clips["good"]["attempts"][0] and clips["good"]["datasets"][0]["verdict"]
    assert "broken.mp4 cannot be read as a video" in said and "--max-memory 2: this run needs" in said
    before = (tmp_path / "out" / "good" / "transforms.json").stat().st_mtime_ns
    shutil.copy(CLIP, tmp_path / "clips" / "broken.mp4")
    again = subprocess.run(command(tmp_path, "--workers", "1"), cwd=tmp_path, capture_output=True, text=True)
    assert "1 done, 1 skipped, 1 failed" in again.stdout and again.returncode == 1
    assert (tmp_path / "out" / "good" / "transforms.json").stat().st_mtime_ns == before


def worker_at_work(report: Path, process: subprocess.Popen[str]) -> int | None:
    """The worker whose clip is past its frames; None: the batch ended before."""
    while process.poll() is None:
        if report.is_file():
            found = json.loads(report.read_text())
            if found["stage"] not in ("start", "choose the frames", "read the frames"):
                return int(found["worker"])
        time.sleep(0.05)
    return None
