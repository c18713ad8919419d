"""`easi3r view`: what it opens, what it refuses and how, what it says, how it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from easi3r_ns.cli import main as cli
from easi3r_ns.cli import view as viewing
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import SparsePoints
from easi3r_ns.core.types import DynamicMasks
from easi3r_ns.dataset.scene_folder import write_scene
from easi3r_ns.view import window
from easi3r_ns.view.cameras import camera_track
from easi3r_ns.view.clouds import build_clouds
from easi3r_ns.view.config import ViewConfig
from easi3r_ns.view.look import Look, Painter
from tests.support.dataset_scene import make_scene

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return make_scene(tmp_path_factory.mktemp("store"), (320, 213))[0]


@pytest.fixture(scope="module")
def dataset(scene, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    write_scene(scene, folder / "scene")
    return folder


def code_of(*arguments: str) -> int:
    try:
        cli.main(["view", *arguments])
    except SystemExit as exit_request:
        return int(exit_request.code or 0)
    return 0


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that refuses the arguments."""
    assert code_of(*arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_not_a_dataset(tmp_path, capsys):
    assert str(tmp_path / "missing") in refused(capsys, str(tmp_path / "missing"))
    assert "scene.json" in refused(capsys, str(tmp_path))
    (tmp_path / "clip.mp4").write_bytes(b"")
    assert "scene.json" in refused(capsys, str(tmp_path / "clip.mp4"))
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene" / "scene.json").write_text("{")
    assert "scene.json" in refused(capsys, str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--port", "70000"), "--port 70000"),
        (("--host", "no-such-host.invalid"), "--host no-such-host.invalid"),
        (("--turntable", "clip.avi"), "clip.avi"),
        (("--open3d", "--turntable", "clip.mp4"), "contradict"),
    ],
)
def test_impossible_options(dataset, capsys, arguments, named):
    assert named in refused(capsys, str(dataset), *arguments)


@pytest.mark.parametrize("arguments", [("--trail", "-1"), ("--orbit.width", "33"), ("--color", "pink")])
def test_wrong_options_are_usage_errors(dataset, capsys, arguments):
    assert code_of(str(dataset), *arguments) == 2
    assert arguments[1] in capsys.readouterr().err


def test_without_a_display_open3d_is_refused(dataset, capsys, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert "needs a display" in refused(capsys, str(dataset), "--open3d")
    monkeypatch.setenv("DISPLAY", ":1")
    window.require_display()


def test_what_open3d_shows(scene):
    import open3d

    painter, track = Painter.of(build_clouds(scene, ViewConfig())), camera_track(scene)
    shown = window.geometries(painter, track, Look(frame=2, trail=1, cameras="all", color="mask"))
    clouds = [g for g in shown if isinstance(g, open3d.geometry.PointCloud)]
    lines = [g for g in shown if isinstance(g, open3d.geometry.LineSet)]
    assert [len(cloud.points) for cloud in clouds] == [
        len(painter.clouds.static), len(painter.clouds.moving[2]), len(painter.clouds.moving[1])
    ]  # fmt: skip
    np.testing.assert_allclose(np.asarray(clouds[1].points), painter.clouds.moving[2].points, atol=1e-6)
    np.testing.assert_allclose(np.asarray(lines[2].points)[0], track.T_world_cam[2, :3, 3])
    np.testing.assert_allclose(np.asarray(lines[2].points)[1:], track.corners(2))
    np.testing.assert_allclose(np.asarray(lines[-1].points), track.T_world_cam[:, :3, 3])
    assert len(lines) == len(scene) + 1
    assert window.geometries(painter, track, Look(static=False, moving=False, cameras="none", trajectory=False)) == []


def test_a_mesh_is_read_or_refused(tmp_path):
    import open3d

    open3d.io.write_triangle_mesh(str(tmp_path / "mesh.ply"), open3d.geometry.TriangleMesh.create_box())
    mesh = window.read_mesh(tmp_path / "mesh.ply")
    assert len(mesh.triangles) == 12 and mesh.has_vertex_normals()
    (tmp_path / "bad.ply").write_text("ply\n")
    with pytest.raises(window.InputError, match="bad.ply"):
        window.read_mesh(tmp_path / "bad.ply")


def test_the_exported_mesh_is_found(tmp_path):
    (tmp_path / "export").mkdir()
    (tmp_path / "scene").mkdir()
    assert viewing.exported_meshes(tmp_path) == []
    for name in ("export/mesh.obj", "export/mesh.ply"):
        (tmp_path / name).write_text("")
    for path in (tmp_path, tmp_path / "scene", tmp_path / "transforms.json", tmp_path / "scene" / "scene.json"):
        assert viewing.exported_meshes(path)[0] == tmp_path / "export" / "mesh.ply"


def test_turntable_of_every_kind_of_path(dataset, tmp_path, capsys):
    small = ("--orbit.seconds", "0.2", "--orbit.fps", "10", "--orbit.width", "64", "--orbit.height", "48")
    for number, path in enumerate((dataset, dataset / "scene", dataset / "transforms.json")):
        if number == 2:
            path.write_text("{}")
        target = tmp_path / f"{number}.mp4"
        assert code_of(str(path), "--turntable", str(target), *small) == 0, capsys.readouterr().err
        with av.open(str(target)) as file:
            assert len(list(file.decode(video=0))) == 2
    assert (tmp_path / "0.mp4").read_bytes() == (tmp_path / "1.mp4").read_bytes()
    assert str(tmp_path / "0.mp4") in capsys.readouterr().err


def test_a_turntable_that_cannot_be_written(dataset, tmp_path, capsys):
    (tmp_path / "folder.mp4").mkdir()
    for target in (tmp_path / "folder.mp4", tmp_path / "missing" / "clip.mp4"):
        assert code_of(str(dataset), "--turntable", str(target), "--orbit.seconds", "0.1") == 5
        assert "Traceback" not in capsys.readouterr().err


def test_says_what_is_missing(scene):
    def said(shown) -> str:
        log = RunLog()
        viewing.say_what_is_missing(shown, build_clouds(shown, ViewConfig()), log)
        return "\n".join(log.warnings)

    def informed(shown) -> str:
        log, lines = RunLog(), []
        log.info = lines.append
        viewing.say_what_is_missing(shown, build_clouds(shown, ViewConfig()), log)
        return "\n".join(lines)

    assert said(scene) == ""
    none = np.zeros_like(scene.dynamic.masks)
    assert "nothing moves" in said(replace(scene, dynamic=DynamicMasks(none, scene.dynamic.score, 0.5, "user")))
    assert "confidence 99" in said(replace(scene, min_confidence=99.0))
    depth = np.where(scene.dynamic.masks, 0, scene.depth)
    assert "moves has a trusted depth" in said(replace(scene, depth=depth))
    assumed = replace(scene, depth=depth, assumed_depth=np.where(scene.dynamic.masks, np.float32(2), 0))
    assert said(assumed) == "" and "assumed from where it stands: for viewing only" in informed(assumed)
    assert informed(scene) == ""
    bare = replace(scene, depth=np.zeros_like(scene.depth), confidence=np.zeros_like(scene.confidence))
    assert "neither depth nor" in said(bare)
    index = np.zeros(1, np.int64)
    point = SparsePoints(np.zeros((1, 3)), np.zeros((1, 3), np.uint8), np.zeros(1), index, index, np.zeros((1, 2)))
    assert "triangulated points and its cameras" in said(replace(bare, sparse=point))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal for one process")
def test_serves_until_interrupted(dataset):
    command = [sys.executable, "-W", "ignore", "-m", "easi3r_ns", "view", str(dataset), "--port", "0"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "40"},
        # A background job of a script ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        said, url = [], None
        for line in process.stderr:
            said.append(line)
            if url := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        assert url, said
        with urllib.request.urlopen(url[0], timeout=120) as response:
            assert b"easi3r" in response.read()
        # Rich prints a line once more that is interrupted before its print has returned.
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, rest = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0
    assert rest.strip() == "closed" and out == ""
