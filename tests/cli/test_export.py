"""`easi3r export` and `easi3r import` on the command line: defaults, exit codes, one-line errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.cli import main as cli
from easi3r_ns.cli.export import _where, chosen
from easi3r_ns.core.config import DatasetConfig, ExportConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.dataset.nerfstudio import write_dataset
from easi3r_ns.dataset.scene_folder import find_scene
from easi3r_ns.export import EXPORT_FORMATS
from easi3r_ns.export.formats import export_scene
from tests.export.test_colmap import tracked
from tests.support.dataset_scene import make_scene


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    scene, _ = make_scene(folder / "store", (160, 120), 3)
    write_dataset(scene, folder / "out", DatasetConfig(num_downscales=0), RunLog())
    return folder / "out"


@pytest.mark.parametrize("words", [("mesh,tum", "cloud"), ("mesh", "tum", "cloud"), ("mesh,", "tum,cloud")])
def test_commas_and_spaces(words):
    assert chosen(words) == ("mesh", "tum", "cloud")


def test_where_the_files_are():
    """A folder of its own, a single file, and files beside a folder."""
    assert _where(Path("e"), ["splat/init.ply", "splat/images/1.png"]) == f"{Path('e/splat')} (2 files)"
    assert _where(Path("e"), ["scene.glb"]) == str(Path("e/scene.glb"))
    assert _where(Path("e"), ["cloud.ply", "dynamic/1.ply", "dynamic/2.ply", "dynamic/3.ply"]).endswith(" and 1 more")
    assert _where(Path("e"), []) == "nothing: nothing moves"


def test_all_is_all():
    assert chosen(("all",)) == EXPORT_FORMATS


@pytest.mark.parametrize("words", [("mesh", "stl"), (), (",",), ("all", "mesh")])
def test_other_words_are_refused(words):
    with pytest.raises(InputError, match="choose from mesh, dynamic-mesh"):
        chosen(words)


@pytest.mark.parametrize("part", [".", "scene", "transforms.json", "scene/scene.json"])
def test_files_lie_in_the_dataset(dataset, part, capsys):
    cli.main(["export", str(dataset / part), "--format", "tum", "--overwrite"])
    assert (dataset / "export" / "trajectory_tum.txt").is_file() and not (dataset / "scene" / "export").exists()
    assert "trajectory_tum.txt" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["export", "nowhere"], 2, "nowhere does not exist"),
        (["export", "DATASET", "--format", "stl"], 2, "choose from mesh"),
        (["export", "DATASET", "--mesh.voxel-size", "-1"], 2, "--mesh.voxel-size -1"),
        (["import", "nowhere", "--output-dir", "OUT"], 2, "nowhere does not exist"),
        (["import", "DATASET", "--output-dir", "OUT"], 2, "is a dataset of easi3r already"),
        (["import", "DATASET", "--output-dir", "DATASET"], 5, "already holds a dataset"),
    ],
)
def test_errors_are_one_line(dataset, tmp_path, capsys, arguments, code, message):
    places = {"DATASET": str(dataset), "OUT": str(tmp_path / "out")}
    with pytest.raises(SystemExit) as caught:
        cli.main([places.get(word, word) for word in arguments])
    printed = capsys.readouterr()
    assert caught.value.code == code and message in " ".join((printed.err + printed.out).split())
    assert "Traceback" not in printed.err and not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def flat(tmp_path_factory) -> Path:
    """A dataset without depth, as --weights none --depth none leaves it."""
    folder = tmp_path_factory.mktemp("flat")
    scene, truth = make_scene(folder / "store", (320, 213), 3)
    nothing = np.zeros_like(scene.depth)
    scene = replace(tracked(scene, truth), depth=nothing, confidence=nothing)
    write_dataset(scene, folder / "out", DatasetConfig(num_downscales=0), RunLog())
    return folder / "out"


def test_what_is_possible_is_exported_and_the_rest_told(flat, tmp_path, capsys):
    cli.main(["export", str(flat), "--output-dir", str(tmp_path / "e")])
    printed = capsys.readouterr()
    assert "mesh is not written: the scene has no depth" in " ".join(printed.err.split())
    assert {path.name for path in (tmp_path / "e").iterdir()} == {"cloud.ply", "scene.glb", ".easi3r_files.json"}
    cli.main(["export", str(flat), "--format", "all", "--output-dir", str(tmp_path / "all")])
    assert (tmp_path / "all/splat/images").is_dir() and not (tmp_path / "all/mesh.ply").exists()
    assert "megasam is not written" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("words", [["mesh"], ["tum", "mesh"]])
def test_what_was_asked_for_and_is_not_possible_leaves_nothing(flat, tmp_path, capsys, words):
    with pytest.raises(SystemExit) as caught:
        cli.main(["export", str(flat), "--format", *words, "--output-dir", str(tmp_path / "e")])
    assert caught.value.code == 2 and "--format mesh: the scene has no depth" in capsys.readouterr().err
    assert not (tmp_path / "e").exists()


def test_a_format_that_fails_while_it_writes_leaves_nothing(dataset, tmp_path, monkeypatch):
    """A static cloud in which nothing is static; an earlier export of it stays."""
    scene = find_scene(dataset)
    moving = replace(scene, dynamic=replace(scene.dynamic, masks=np.ones_like(scene.dynamic.masks)))
    with pytest.raises(InputError, match="no point is static"):
        export_scene(moving, tmp_path / "e", ["cloud"], ExportConfig(), RunLog())
    assert not (tmp_path / "e").exists()
    export_scene(scene, tmp_path / "e", ["cloud"], ExportConfig(), RunLog())
    before = {path: path.read_bytes() for path in (tmp_path / "e").rglob("*") if path.is_file()}
    log = RunLog()
    done = export_scene(moving, tmp_path / "e", ["cloud", "tum"], ExportConfig(), log, overwrite=True, keep_going=True)
    assert list(done) == ["tum"] and any("cloud is not written: no point is static" in text for text in log.warnings)
    assert all(path.read_bytes() == content for path, content in before.items() if path.suffix == ".ply")


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        (["brush"], "splat"),
        (["4dgaussians"], "dnerf"),
        (["ngp"], "ngp"),
        (["postshot", "--format", "colmap"], "colmap"),
    ],
)
def test_an_export_for_a_program_is_checked_by_its_rules(dataset, tmp_path, capsys, words, folder):
    cli.main(["export", str(dataset), "--for", *words, "--output-dir", str(tmp_path / "e")])
    assert {path.name for path in (tmp_path / "e").iterdir()} == {folder, ".easi3r_files.json"}
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'e' / folder} (" in printed and "files)" in printed, "the folder that the program is given"
    assert "by its rules" in printed and "fail" not in printed
    if folder == "colmap":
        assert (tmp_path / "e/colmap/masks/colmap_00001.png").is_file()


def test_a_program_and_a_format_that_is_not_for_it_are_told(dataset, tmp_path, capsys):
    """Nothing is called fit for a program without having been checked."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["export", str(dataset), "--for", "brush", "--format", "cloud", "--output-dir", str(tmp_path / "e")])
    assert caught.value.code == 2 and "leave --format out" in capsys.readouterr().err
    assert not (tmp_path / "e").exists()
    cli.main(["export", str(dataset), "--for", "brush", "--format", "dnerf", "--output-dir", str(tmp_path / "d")])
    assert "Brush 1.0, by its rules" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        cli.main(["export", str(dataset), "--for", "ngp", "--format", "splat", "--output-dir", str(tmp_path / "n")])
    assert caught.value.code == 1 and "no transforms.json" in capsys.readouterr().out


def test_an_export_that_a_program_would_not_read_ends_with_1(dataset, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["export", str(dataset), "--for", "gsplat", "--format", "colmap", "--output-dir", str(tmp_path / "e")])
    assert caught.value.code == 1 and "there is no images_4" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        cli.main(["export", str(dataset), "--for", "nerfstudio", "--output-dir", str(tmp_path / "n")])
    assert caught.value.code == 2 and "reads the dataset itself" in capsys.readouterr().err
