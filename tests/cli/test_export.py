"""`easi3r export` and `easi3r import` on the command line: defaults, exit codes, one-line errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from easi3r_ns.cli import main as cli
from easi3r_ns.cli.export import chosen
from easi3r_ns.core.config import DatasetConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.dataset.nerfstudio import write_dataset
from easi3r_ns.export import EXPORT_FORMATS
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
        (["import", "nowhere", "--output-dir", "OUT"], 2, "nowhere is not a folder"),
        (["import", "DATASET", "--output-dir", "OUT"], 2, "neither pred_traj.txt"),
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
