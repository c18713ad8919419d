"""Finished datasets in places where nothing may be written, and under names that are not ASCII."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import open3d
import pytest

from easi3r_ns.cli import main as cli
from easi3r_ns.core.config import DatasetConfig
from easi3r_ns.core.errors import OutputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.dataset.loadback import check_loads
from easi3r_ns.dataset.nerfstudio import write_dataset
from easi3r_ns.dataset.scene_folder import find_scene
from easi3r_ns.plugin.dataparser import Easi3RDataParserConfig
from easi3r_ns.storage.names import plain_name
from easi3r_ns.view.clouds import build_clouds
from easi3r_ns.view.config import ViewConfig
from easi3r_ns.view.window import read_mesh
from tests.support.dataset_scene import make_scene
from tests.support.read_only import make_read_only


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    scene, _ = make_scene(folder / "store", (160, 120), 3)
    write_dataset(scene, folder / "out", DatasetConfig(num_downscales=0), RunLog())
    return folder / "out"


def code_of(*arguments: str) -> int:
    try:
        cli.main(list(arguments))
    except SystemExit as request:
        return int(request.code or 0)
    return 0


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("command", [("export", "--format", "tum"), ("export", "--format", "mesh"), ("report",)])
def test_a_read_only_dataset_needs_another_folder(dataset, tmp_path, monkeypatch, capsys, command):
    name, *options = command
    before = content(dataset)
    make_read_only(dataset, monkeypatch)
    assert code_of(name, str(dataset), *options) == 5
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1 and "cannot write" in lines[0]
    assert "Choose an --output-dir in which you may write" in lines[0]
    assert code_of(name, str(dataset), *options, "--output-dir", str(tmp_path / "else")) == 0
    assert content(dataset) == before and content(tmp_path / "else")


def test_a_read_only_dataset_can_be_viewed(dataset, monkeypatch):
    make_read_only(dataset, monkeypatch)
    scene = find_scene(dataset)
    assert build_clouds(scene, ViewConfig(), lambda _: None).num_points


def test_a_plain_name_is_left_alone_and_another_is_copied(tmp_path):
    (tmp_path / "a.ply").write_bytes(b"a")
    with plain_name(tmp_path / "a.ply") as plain:
        assert plain == tmp_path / "a.ply"
    (tmp_path / "ä.ply").write_bytes(b"b")
    with plain_name(tmp_path / "ä.ply") as plain:
        assert str(plain).isascii() and plain.suffix == ".ply" and plain.read_bytes() == b"b"
    assert not plain.exists() and (tmp_path / "ä.ply").read_bytes() == b"b"
    with pytest.raises(FileNotFoundError), plain_name(tmp_path / "ö.ply"):
        pass


NAMES = ["Füße_写真"]
if sys.platform == "linux":
    NAMES.append(os.fsdecode(b"not\xffutf8"))


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_open3d_never_sees_a_name_that_it_may_not_know(dataset, tmp_path, monkeypatch, name):
    """Such a name ends the process with some releases."""
    out = tmp_path / name / "out"
    shutil.copytree(dataset, out)
    seen = []
    for reader in ("read_point_cloud", "read_triangle_mesh"):
        read = getattr(open3d.io, reader)

        def watched(path, *args, read=read, **options):
            seen.append(str(path))
            assert str(path).isascii()
            return read(path, *args, **options)

        monkeypatch.setattr(open3d.io, reader, watched)
    check_loads(out, RunLog())
    parsed = Easi3RDataParserConfig(data=out).setup().get_dataparser_outputs("train")
    assert len(parsed.metadata["points3D_xyz"]) > 100
    open3d.io.write_triangle_mesh(str(tmp_path / "mesh.ply"), open3d.geometry.TriangleMesh.create_box())
    shutil.copy(tmp_path / "mesh.ply", out / "mesh.ply")
    assert len(read_mesh(out / "mesh.ply").triangles) == 12
    assert len(seen) >= 3


def test_points_of_such_a_dataset_are_checked(dataset, tmp_path, monkeypatch):
    out = tmp_path / "ä"
    shutil.copytree(dataset, out)
    monkeypatch.setattr(open3d.io, "read_point_cloud", lambda path: _cloud(np.nan))
    with pytest.raises(OutputError, match="a point is not finite"):
        check_loads(out, RunLog())
    (out / "sparse_pc.ply").unlink()
    with pytest.raises(OutputError, match=r"sparse_pc\.ply is missing"):
        check_loads(out, RunLog())


def _cloud(value: float) -> open3d.geometry.PointCloud:
    return open3d.geometry.PointCloud(open3d.utility.Vector3dVector(np.full((1, 3), value)))
