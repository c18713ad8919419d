"""`easi3r edit`: what it opens, what it refuses and how, how it ends, and solving a real run again from the page."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from easi3r_ns.cli import main as cli
from easi3r_ns.cli.edit import open_server
from easi3r_ns.dataset.scene_folder import write_scene
from easi3r_ns.pipelines import run
from tests.support.dataset_scene import make_scene
from tests.support.killed_accept import InstantWithMasks, made

ROOT = Path(__file__).parents[2]


@pytest.fixture
def dataset(tmp_path):
    scene, _ = make_scene(tmp_path / "store", (160, 120), 3)
    write_scene(scene, tmp_path / "out" / "scene")
    return tmp_path / "out"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that refuses the arguments."""
    with pytest.raises(SystemExit) as end:
        cli.main(["edit", *arguments])
    assert end.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_not_a_dataset(tmp_path, capsys):
    assert str(tmp_path / "missing") in refused(capsys, str(tmp_path / "missing"))
    assert "scene.json" in refused(capsys, str(tmp_path))
    assert "--port 70000" in refused(capsys, str(tmp_path), "--port", "70000")


@pytest.mark.parametrize("content", ["{", '{"version": 9}', '{"version": 1, "size": [160, 120], "strokes": [5]}'])
def test_damaged_corrections_are_refused_and_stay(dataset, capsys, content):
    folder = dataset / "corrections"
    folder.mkdir()
    (folder / "corrections.json").write_text(content)
    assert "corrections" in refused(capsys, str(dataset), "--port", "0")
    assert (folder / "corrections.json").read_text() == content and len(list(folder.iterdir())) == 1


@pytest.mark.skipif(not hasattr(os, "symlink") or sys.platform == "win32", reason="links need rights on Windows")
def test_corrections_that_lead_elsewhere_are_refused(dataset, tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "frame_00001.png").write_bytes(b"")
    (dataset / "corrections").symlink_to(tmp_path / "elsewhere")
    assert "corrections" in refused(capsys, str(dataset), "--port", "0")


def test_a_dataset_without_kept_stages_can_be_corrected_and_says_why_not_solved(dataset):
    server = open_server(dataset, 0)
    try:
        state = server.desk.state()
        assert "keeps no intermediate results" in state["why_not"] and len(state["frames"]) == 3
    finally:
        server.server_close()


def test_a_taken_port_gives_way(dataset):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = open_server(dataset, port)
    try:
        assert port < server.server_address[1] < port + 100
    finally:
        server.server_close()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal for one process")
def test_serves_until_interrupted(dataset):
    command = [sys.executable, "-W", "ignore", "-m", "easi3r_ns", "edit", str(dataset), "--port", "0"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A background job of a script ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        said, url = [], None
        for line in process.stderr:
            said.append(line)
            if url := re.search(r"http://127\.0\.0\.1:\d+/[0-9a-f]{32}/", line):
                break
        assert url, said
        with urllib.request.urlopen(url[0], timeout=120) as response:
            assert b"easi3r edit" in response.read()
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(url[0].rsplit("/", 2)[0] + "/", timeout=120)
        process.send_signal(signal.SIGINT)
        out, rest = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0
    assert rest.strip().endswith("closed; every change was saved") and out == ""


def solved(server) -> dict:
    """Solve again and wait for it; what the page says then."""
    server.desk.change("solve", {})
    end = time.monotonic() + 120
    while server.desk.jobs.progress.running:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert server.desk.jobs.progress.error == ""
    return server.desk.state()


@pytest.mark.slow
def test_a_run_is_solved_again_refused_and_accepted(tmp_path, monkeypatch):
    """The commands behind the buttons, with a pipeline that takes no time: nothing moves but what a hand says."""
    monkeypatch.setattr(run, "choose_pipeline", lambda config: InstantWithMasks())
    out = made(tmp_path)
    server = open_server(out, 0)
    desk = server.desk
    try:
        desk.change("box", {"frame": 1, "places": [[2, 2], [20, 12]], "value": "moves"})
        desk.change("flag", {"frame": 0, "name": "excluded", "on": True})
        before = (out / "transforms.json").read_bytes()
        state = solved(server)
        figures = {name: values for name, *values in state["solved"]["figures"]}
        assert figures["Frames"] == ["5", "4"] and len(state["frames"]) == 5 and "Verdict" in figures
        assert (out / "transforms.json").read_bytes() == before
        desk.change("back", {})
        assert desk.state()["solved"] is None and (out / "transforms.json").read_bytes() == before
        solved(server)
        desk.change("accept", {})
        state = desk.state()
        assert len(state["frames"]) == 4 and state["frames"][0]["corrected"] and state["frames"][0]["share"] > 0
        assert state["frames"][0]["found"] == 0, "what was found stays known"
        assert len(state["left_out"]) == 1
        assert state["undo"] is None, "steps count the frames of another dataset"
        desk.change("take_back", {})
        solved(server)
        desk.change("accept", {})
        assert [frame["corrected"] for frame in desk.state()["frames"]] == [False, True, False, False, False]
    finally:
        server.server_close()


def test_a_solution_that_waits_is_there_after_a_restart(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "choose_pipeline", lambda config: InstantWithMasks())
    out = made(tmp_path)
    first = open_server(out, 0)
    first.server_close()
    first.desk.change("box", {"frame": 1, "places": [[2, 2], [20, 12]], "value": "moves"})
    solved(first)
    again = open_server(out, 0)
    again.server_close()
    assert again.desk.state()["solved"]["figures"] == first.desk.state()["solved"]["figures"]
    again.desk.change("back", {})
    assert again.desk.state()["undo"] == "box: moves"
