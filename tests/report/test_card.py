"""report.html and preview.mp4 in a dataset: who owns them, what a run does when they fail, `easi3r report`."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from easi3r_ns.cli.report import Report
from easi3r_ns.core.config import DatasetConfig
from easi3r_ns.core.errors import OutputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene
from easi3r_ns.dataset.nerfstudio import write_dataset
from easi3r_ns.report import card as report_card
from easi3r_ns.report.card import drop_report_card, try_report_card, write_report_card
from easi3r_ns.report.verdict import Level
from easi3r_ns.storage.owned import MANIFEST
from tests.support.dataset_scene import make_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("room"), (160, 120), 10)[0]


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_both_files_are_written_and_ours(scene: Scene, tmp_path: Path) -> None:
    log = RunLog()
    card = write_report_card(scene, tmp_path, log)
    assert card.report == tmp_path / "report.html" and card.preview == tmp_path / "preview.mp4"
    assert card.verdict.level is Level.TRAIN
    assert files(tmp_path) == {"report.html", "preview.mp4", MANIFEST}
    assert json.loads((tmp_path / MANIFEST).read_text())["report"] == ["preview.mp4", "report.html"]
    assert [stage.name for stage in log.stages] == ["preview", "report"]
    (step,) = card.steps
    text = html.unescape((tmp_path / "report.html").read_text())
    assert step.command in text and step.command.endswith(f"--data {tmp_path}")
    before = (tmp_path / "preview.mp4").read_bytes()
    write_report_card(scene, tmp_path, RunLog())
    assert (tmp_path / "preview.mp4").read_bytes() == before
    drop_report_card(tmp_path)
    assert files(tmp_path) == {MANIFEST}


def test_timings_of_the_run_and_of_the_preview_are_in_the_report(scene: Scene, tmp_path: Path) -> None:
    stages = [{"name": "check", "seconds": 7.0, "cpu_seconds": 8.0, "peak_memory_bytes": 2**30}]
    write_report_card(replace(scene, provenance={"stages": stages}), tmp_path, RunLog())
    text = (tmp_path / "report.html").read_text()
    row = r"<td>load the dataset for a check</td>\s*<td>7.0</td>\s*<td>8.0</td>\s*<td>1.00</td>"
    assert re.search(row, text) and "<td>write preview.mp4</td>" in text


@pytest.mark.parametrize("name", ["report.html", "preview.mp4"])
def test_files_of_others_stay(scene: Scene, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match=f"{name} is in the way"):
        write_report_card(scene, tmp_path, RunLog())
    log = RunLog()
    card = try_report_card(scene, tmp_path, log)
    assert card.report is None and card.preview is None and card.verdict is None
    (warning,) = log.warnings
    assert name in warning and "easi3r report" in warning
    drop_report_card(tmp_path)
    assert (tmp_path / name).read_text() == "mine" and files(tmp_path) <= {name, MANIFEST}


def test_a_report_that_fails_is_a_warning_with_the_reason(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError("seven")

    write_report_card(scene, tmp_path, RunLog())
    monkeypatch.setattr("easi3r_ns.report.page.write_report", fail)
    log = RunLog()
    card = try_report_card(scene, tmp_path, log)
    assert card.report is None and card.verdict is None and card.preview is not None
    assert "ZeroDivisionError: seven" in log.warnings[0]
    assert "report.html" not in files(tmp_path), "that of the run before would be a lie"
    monkeypatch.undo()
    monkeypatch.setattr("easi3r_ns.report.preview.write_preview", fail)
    card = try_report_card(scene, tmp_path, RunLog())
    assert card.report is not None and card.verdict is not None and card.preview is None


def test_interrupts_are_not_swallowed(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(report_card, "_preview", interrupt)
    with pytest.raises(KeyboardInterrupt):
        try_report_card(scene, tmp_path, RunLog())


@pytest.mark.parametrize("where", ["", "transforms.json", "scene"])
def test_report_command(scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str) -> None:
    tmp_path = tmp_path / "my [clips]"
    write_dataset(scene, tmp_path, DatasetConfig(num_downscales=0), RunLog())
    Report(tmp_path / where).main()
    out = capsys.readouterr().out
    assert out.startswith("Train. Nothing that can be checked")
    assert f"{tmp_path / 'report.html'}\n{tmp_path / 'preview.mp4'}\n" in out
    assert {"report.html", "preview.mp4", "transforms.json"} <= files(tmp_path)


def test_an_overwritten_dataset_keeps_no_old_report(scene: Scene, tmp_path: Path) -> None:
    write_dataset(scene, tmp_path, DatasetConfig(num_downscales=0), RunLog())
    write_report_card(scene, tmp_path, RunLog())
    write_dataset(scene, tmp_path, DatasetConfig(num_downscales=0), RunLog(), overwrite=True)
    assert "report.html" in files(tmp_path), "a dataset does not touch other groups"
    drop_report_card(tmp_path)
    assert not {"report.html", "preview.mp4"} & files(tmp_path)


@pytest.mark.parametrize("where", ["", "missing"])
def test_report_of_nothing(tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str]) -> None:
    from easi3r_ns.cli.main import main

    with pytest.raises(SystemExit) as caught:
        main(["report", str(tmp_path / where)])
    assert caught.value.code == 2
    assert "easi3r" in capsys.readouterr().err and not list(tmp_path.iterdir())
