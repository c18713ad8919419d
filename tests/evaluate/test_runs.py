"""`easi3r evaluate`: what is computed again, what is kept, what a failure leaves, and a run from end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro
from rich.console import Console

from easi3r_ns.cli.evaluate import EvaluateFolder
from easi3r_ns.cli.main import main
from easi3r_ns.core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene
from easi3r_ns.core.types import DynamicMasks, PixelMap
from easi3r_ns.dataset.scene_folder import write_scene
from easi3r_ns.evaluate import runs
from easi3r_ns.pipelines.run import RunConfig
from easi3r_ns.storage.files import write_png
from easi3r_ns.training.scenes import render_clip

SIZE = (48, 64)
KEYS = [f"{k:03d}" for k in range(6)]


def capture_folder(folder: Path, frames: int = 6, broken: bool = False) -> None:
    """Rendered frames with true masks; ``broken``: files that are no images."""
    clip = render_clip(10_003, frames, *SIZE, 2)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for k in range(frames):
        write_png(folder / "images" / f"{k:03d}.png", clip.images[k])
        write_png(folder / "masks" / f"{k:03d}.png", clip.moving[k].astype(np.uint8) * 255)
        if broken:
            (folder / "images" / f"{k:03d}.png").write_bytes(b"no image")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        capture_folder(tmp_path / "root" / name)
    return tmp_path / "root"


class FakeRuns:
    """In place of the child process: writes a scene in which nothing moves, or fails as told."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.failures: dict[str, dict[str, Any]] = {}
        self.selections: list[FrameConfig] = []

    def __call__(self, job: runs.CaptureRun, state: dict[str, Any], again: bool) -> dict[str, Any]:
        self.done.append(job.capture.name)
        self.selections.append(job.config.frames)
        state = {"key": job.key, "finished": True, "requested": KEYS, "cpu_seconds": 1.5}
        if job.capture.name in self.failures:
            state = {"key": job.key, "finished": False, **self.failures[job.capture.name]}
        else:
            write_scene(still_scene(), job.folder / "scene")
            (job.folder / "transforms.json").write_text("{}")
        (job.folder / runs.RUN).write_text(json.dumps(state))
        return state


def still_scene() -> Scene:
    height, width = SIZE
    return Scene(
        images=np.zeros((6, *SIZE, 3), np.uint8),
        T_world_cam=np.tile(np.eye(4), (6, 1, 1)),
        focals=np.full(6, 50.0),
        principal_point=np.array([31.5, 23.5]),
        depth=np.ones((6, *SIZE), np.float32),
        confidence=np.ones((6, *SIZE), np.float32),
        dynamic=DynamicMasks(np.zeros((6, *SIZE), bool), np.zeros((6, 1, 1), np.float32), 0.5),
        pixel_map=PixelMap((width, height), (width, height), (0, 0, width, height)),
        times=np.arange(6.0),
        indices=np.arange(6),
        names=tuple(f"{k:03d}.png" for k in range(6)),
        source_paths=(Path("x"),) * 6,
    )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRuns:
    fake = FakeRuns()
    monkeypatch.setattr(runs, "_reconstruct", fake)
    return fake


def command(root: Path, *more: str) -> list[str]:
    out = str(root.parent / "out")
    return ["evaluate", "folder", "--root", str(root), "--output-dir", out, "--weights", "tiny", *more]


def test_only_what_changed_is_computed_again(root: Path, fake: FakeRuns) -> None:
    main(command(root))
    assert fake.done == ["one", "two"]
    main(command(root))
    assert fake.done == ["one", "two"]
    main(command(root, "--num-frames-target", "4"))  # other options
    assert fake.done == ["one", "two"] * 2
    main(command(root, "--num-frames-target", "4", "--row", "other"))  # another row has its own folders
    assert fake.done == ["one", "two"] * 3
    (root.parent / "out" / "tiny" / "two" / "transforms.json").unlink()
    main(command(root, "--num-frames-target", "4"))  # a dataset that is gone
    assert fake.done == ["one", "two"] * 3 + ["two"]
    write_png(root / "one" / "images" / "000.png", np.zeros((*SIZE, 3), np.uint8))
    main(command(root, "--num-frames-target", "4"))  # another clip
    assert fake.done == ["one", "two"] * 3 + ["two", "one"]
    main(command(root, "--num-frames-target", "4", "--again", "--sequences", "two"))
    assert fake.done[-2:] == ["one", "two"] and len(fake.done) == 9


def test_whole_evenly_spaced_frames_are_scored(root: Path, fake: FakeRuns, capsys: pytest.CaptureFixture[str]) -> None:
    """The truth belongs to such frames, and a run says beforehand which it will use."""
    main(command(root))
    assert all(not (frames.sharpest or frames.crop_bars) for frames in fake.selections) and fake.selections
    with pytest.raises(SystemExit) as caught:
        main(command(root, "--crop-factor", "0", "0.1", "0", "0"))
    assert caught.value.code == 2 and "--crop-factor" in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"flow_weight": 0.5}, {"graph": "complete"}])
def test_other_weights_are_another_run(
    root: Path, fake: FakeRuns, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    main(command(root))
    original = runs.describe

    def described(source: Any) -> Any:
        model, info = original(source)
        return model, replace(info, **change)

    monkeypatch.setattr(runs, "describe", described)
    main(command(root))
    assert fake.done == ["one", "two"] * 2


def test_scores_are_computed_anew_when_the_truth_changes(root: Path, fake: FakeRuns) -> None:
    main(command(root))
    before = json.loads((root.parent / "out" / "results.json").read_text())
    for mask in (root / "one" / "masks").iterdir():
        write_png(mask, np.zeros(SIZE, np.uint8))
    main(command(root))
    after = json.loads((root.parent / "out" / "results.json").read_text())
    jaccards = [results["rows"][0]["results"][0]["scores"]["masks"]["network"] for results in (before, after)]
    assert jaccards == [[0.0] * 6, [1.0] * 6] and fake.done == ["one", "two"]


def test_a_failed_clip_is_a_row_and_is_counted(root: Path, fake: FakeRuns, capsys: pytest.CaptureFixture[str]) -> None:
    fake.failures["one"] = {"error": "the disk is full", "exit_code": 5}
    main(command(root))
    text = (root.parent / "out" / "results.md").read_text()
    assert "| one | tiny | failed |" in text and "the disk is full" in text and "2 runs, 1 failed" in text
    assert "failed" in capsys.readouterr().out
    main(command(root))  # such an error may be gone: it is tried again
    assert fake.done == ["one", "two", "one"]
    fake.failures["one"] = {"error": "no parallax", "exit_code": 4}
    main(command(root))
    main(command(root))  # but that there are no cameras is a finding
    assert fake.done == ["one", "two", "one", "one"]


def test_nothing_scored_is_exit_code_one(root: Path, fake: FakeRuns) -> None:
    fake.failures = {name: {"error": "no", "exit_code": 1} for name in ("one", "two")}
    with pytest.raises(SystemExit) as caught:
        main(command(root))
    assert caught.value.code == 1


def test_rows_stand_side_by_side(root: Path, fake: FakeRuns) -> None:
    main(command(root, "--row", "a"))
    main(command(root, "--row", "b", "--seed", "3", "--sequences", "two"))
    text = (root.parent / "out" / "results.md").read_text()
    assert "* `b`: `--weights tiny --seed 3 --num-downscales 0`" in text
    rows = json.loads((root.parent / "out" / "results.json").read_text())["rows"]
    assert [(row["row"], [r["sequence"] for r in row["results"]]) for row in rows] == [
        ("a", ["one", "two"]),
        ("b", ["two"]),
    ]


def sequences_of(root: Path, row: str) -> list[str]:
    results = json.loads((root.parent / "out" / "results.json").read_text())
    (entry,) = (entry for entry in results["rows"] if entry["row"] == row)
    return [result["sequence"] for result in entry["results"]]


def test_a_row_keeps_the_sequences_of_earlier_commands(root: Path, fake: FakeRuns) -> None:
    main(command(root, "--sequences", "one"))
    main(command(root, "--sequences", "two"))
    assert sequences_of(root, "tiny") == ["one", "two"]
    text = (root.parent / "out" / "results.md").read_text()
    assert "| one | tiny |" in text and "| two | tiny |" in text
    fake.failures["one"] = {"error": "no parallax", "exit_code": 4}
    main(command(root, "--sequences", "two", "one", "--again"))  # a new result takes the place of the old one
    assert sequences_of(root, "tiny") == ["one", "two"]
    assert "| one | tiny | failed |" in (root.parent / "out" / "results.md").read_text()


def test_a_row_holds_results_of_one_set_of_options(
    root: Path, fake: FakeRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    main(command(root, "--sequences", "one"))
    main(command(root, "--sequences", "two", "--seed", "3"))
    assert sequences_of(root, "tiny") == ["two"]
    assert "made with other options" in " ".join(capsys.readouterr().err.split())
    (root.parent / "out" / "tiny.json").write_text("{}")
    main(command(root, "--sequences", "one", "--seed", "3"))
    assert sequences_of(root, "tiny") == ["one"]


def test_an_existing_dataset_is_scored(root: Path, fake: FakeRuns, capsys: pytest.CaptureFixture[str]) -> None:
    main(command(root))
    dataset = str(root.parent / "out" / "tiny" / "one")
    main(["evaluate", "dataset", "--dataset", dataset, "--truth", str(root / "one"), "--fixed-camera"])
    shown = capsys.readouterr().out
    assert "Motion masks" in shown and "Fixed camera" in shown
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", "dataset", "--dataset", dataset, "--truth", str(root)])
    assert caught.value.code == 2


def parse(*arguments: str) -> EvaluateFolder:
    return tyro.cli(EvaluateFolder, args=["--root", "r", "--output-dir", "o", *arguments])


def test_options_reach_the_runs() -> None:
    flags = "--weights tiny --num-frames-target 9 --refine colmap --camera-model opencv --align.iterations 5"
    parsed = parse(*flags.split())
    assert parsed.row_name() == "tiny+colmap"
    assert parse("--weights", "tiny").row_name() == "tiny"
    assert parse("--weights", "tiny", "--refine", "none").row_name() == "tiny-no-refine"
    assert parse().row_name("none") == "none"
    assert parsed.run_config() == RunConfig(
        FrameConfig(num_frames_target=9),
        Easi3RConfig(weights="tiny"),
        AlignConfig(iterations=5),
        DatasetConfig(num_downscales=0),
        RefineConfig(refine="colmap", camera_model="opencv"),
    )
    assert runs.options_text(parsed.run_config()) == (
        "--num-frames-target 9 --weights tiny --align.iterations 5 --num-downscales 0 --refine colmap "
        "--camera-model opencv"
    )


def test_the_baseline_is_plain_colmap() -> None:
    parsed = parse("--baseline", "colmap")
    config = parsed.run_config()
    assert parsed.row_name() == "colmap" and config.easi3r.weights == "none" and config.easi3r.no_masks
    for contradiction in (("--weights", "tiny"), ("--masks", "m")):
        with pytest.raises(InputError, match="--baseline colmap"):
            parse("--baseline", "colmap", *contradiction).run_config()
    for name in ("a/b", "", ".x", "results"):
        with pytest.raises(InputError, match="--row"):
            replace(parse("--row", "x"), row=name, baseline=None, config=Easi3RConfig(weights=name)).row_name()


@pytest.mark.long
def test_end_to_end_with_a_broken_clip(tmp_path: Path) -> None:
    """A real child process each: the broken clip costs its own line only."""
    capture_folder(tmp_path / "root" / "good")
    capture_folder(tmp_path / "root" / "bad", broken=True)
    main(command(tmp_path / "root", "--align.iterations", "5", "--fixed-camera", "good"))
    out = tmp_path / "out"
    bad, good = json.loads((out / "tiny.json").read_text())["results"]
    assert (bad["sequence"], good["sequence"]) == ("bad", "good")
    assert "cannot be read as an image" in bad["error"] and bad["scores"] is None
    assert good["error"] is None and good["cpu_seconds"] > 0 and good["requested"] == 6
    assert len(good["scores"]["masks"]["network"]) == 6 and good["scores"]["drift"]["rotation_deg"] > 0
    assert "global alignment" in (out / "tiny" / "good" / "log.txt").read_text()
    stamp = (out / "tiny" / "good" / "transforms.json").stat().st_mtime_ns
    main(command(tmp_path / "root", "--align.iterations", "5", "--fixed-camera", "good"))
    assert (out / "tiny" / "good" / "transforms.json").stat().st_mtime_ns == stamp


@pytest.mark.slow
def test_a_child_that_dies_is_a_failure_of_one_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capture_folder(tmp_path / "root" / "good")
    monkeypatch.setattr(runs, "_work", die)
    with pytest.raises(SystemExit) as caught:
        main(command(tmp_path / "root"))
    assert caught.value.code == 1
    (result,) = json.loads((tmp_path / "out" / "tiny.json").read_text())["results"]
    assert "ended with code 7" in result["error"]


def die(job: runs.CaptureRun, overwrite: bool) -> None:
    """What a segmentation fault or the out-of-memory killer does."""
    import os

    os._exit(7)


def test_the_printed_tables_hold_everything(root: Path, fake: FakeRuns) -> None:
    from easi3r_ns.cli.evaluate import print_sections
    from easi3r_ns.evaluate.datasets import find_captures

    config = RunConfig(easi3r=Easi3RConfig(weights="tiny"))
    runs.evaluate_captures(find_captures([root]), root.parent / "out", "tiny", config, again=False, log=RunLog())
    console = Console(record=True, width=200)
    print_sections(runs.write_tables(root.parent / "out"), console)
    text = console.export_text()
    assert "Motion masks" in text and "Runs" in text and "one" in text and "two" in text
