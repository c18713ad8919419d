"""Runs with --refine, and runs that were interrupted or find foreign files: what is done again, and what is not."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest

from easi3r_ns.core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from easi3r_ns.core.errors import OutputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import SparsePoints
from easi3r_ns.frames import ImageGeometry, plan_preprocessing
from easi3r_ns.pipelines import run
from easi3r_ns.pipelines.network import NetworkPipeline
from easi3r_ns.pipelines.pipeline import RunConfig
from easi3r_ns.pipelines.run import WORKSPACE, process
from easi3r_ns.refine import kept
from easi3r_ns.storage.cache import StageCache
from easi3r_ns.training.scenes import Clip, render_clip
from tests.pipelines.test_network import SMALL, dataset_cameras
from tests.support.helpers import align_sim3
from tests.support.refine_clip import make_scene
from tests.support.standin import StandIn

NUM_FRAMES = 6


@pytest.fixture(scope="module")
def clip() -> Clip:
    return render_clip(5, NUM_FRAMES, 240, 320)


def stand_in(clip: Clip, noise: float = 0.003) -> StandIn:
    geometry = ImageGeometry(SMALL.image_size, SMALL.patch_size)
    return StandIn(clip, plan_preprocessing((320, 240), geometry), SMALL, noise)


def images(clip: Clip, folder: Path, frames: range = range(NUM_FRAMES)) -> Path:
    folder.mkdir()
    for k in frames:
        cv2.imwrite(str(folder / f"shot_{k}.png"), clip.images[k][..., ::-1])
    return folder


def options(refine: Literal["auto", "colmap", "none"] = "none", eval_data: Path | None = None) -> RunConfig:
    return RunConfig(
        FrameConfig(num_frames_target=0),
        Easi3RConfig(weights="stand-in", device="cpu", motion="attention"),
        AlignConfig(iterations=60),
        DatasetConfig(num_downscales=1, report=False),
        RefineConfig(refine),
        eval_data,
    )


def go(backbone: StandIn, data: Path, out: Path, config: RunConfig, *, overwrite: bool = False) -> RunLog:
    log = RunLog()
    process(data, out, config, overwrite=overwrite, log=log, pipeline=NetworkPipeline(config, backbone))
    return log


def test_refined_evaluation_views_are_the_val_and_test_splits(tmp_path: Path, clip: Clip) -> None:
    data, held_out = images(clip, tmp_path / "clip", range(4)), images(clip, tmp_path / "eval", range(4, NUM_FRAMES))
    go(stand_in(clip, noise=0.02), data, tmp_path / "out", options("colmap", held_out))
    meta = json.loads((tmp_path / "out" / "transforms.json").read_text())
    assert [len(meta[f"{split}_filenames"]) for split in ("train", "val", "test")] == [4, 2, 2]
    record = meta["easi3r"]["refine"]
    assert {"network", record["kept"]} < set(record) and set(record) & {"bundle adjustment", "mapping"}
    if record["kept"] != "network":
        assert {frame["pose_source"] for frame in meta["frames"]} <= {"colmap", "aligned"}
    poses, _ = dataset_cameras(tmp_path / "out")
    assert align_sim3(poses[:, :3, 3], clip.T_world_cam[:, :3, 3]).rmse < 0.01


@pytest.mark.slow
def test_by_default_the_better_cameras_are_kept(tmp_path: Path, clip: Clip) -> None:
    """Without an option, a network whose cameras are off gives way to bundle adjustment; none leaves them alone."""
    data, errors = images(clip, tmp_path / "clip"), {}
    assert RunConfig().refine.refine == "auto"
    for refine in ("auto", "none"):
        log = go(stand_in(clip, noise=0.05), data, tmp_path / refine, options(refine))
        poses, _ = dataset_cameras(tmp_path / refine)
        errors[refine] = align_sim3(poses[:, :3, 3], clip.T_world_cam[:, :3, 3]).rmse
        meta = json.loads((tmp_path / refine / "transforms.json").read_text())
        assert ("refine" in meta["easi3r"]) == (refine == "auto")
        assert not any("refine" in text or "COLMAP" in text for text in log.warnings)
    assert errors["auto"] < 0.3 * errors["none"]


def test_one_focal_length_per_frame_does_not_fail_by_default(tmp_path: Path, clip: Clip) -> None:
    config = options("auto")
    config = replace(config, align=replace(config.align, shared_focal=False))
    log = go(stand_in(clip), images(clip, tmp_path / "clip"), tmp_path / "out", config)
    assert not any("refine" in text for text in log.warnings) and (tmp_path / "out" / "transforms.json").exists()


@pytest.fixture
def interrupted(tmp_path: Path, clip: Clip, monkeypatch: pytest.MonkeyPatch):
    """Run until the dataset is to be written; returns the folders of the clip and of the output."""

    def start(config: RunConfig, *, overwrite: bool = False) -> tuple[Path, Path]:
        data = tmp_path / "clip"
        if not data.exists():
            images(clip, data)
        with monkeypatch.context() as patch:
            patch.setattr(run, "write_dataset", lambda *args, **options: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                go(stand_in(clip), data, tmp_path / "out", config, overwrite=overwrite)
        return data, tmp_path / "out"

    return start


@pytest.mark.slow
def test_a_finished_refinement_is_not_done_again(interrupted, clip, monkeypatch) -> None:
    calls, config = [], options("colmap")

    def refined(scene, *args, **options):
        calls.append(scene)
        return replace(scene, distortion=(0.25, 0.0, 0.0, 0.0), provenance=scene.provenance | {"refine": {"kept": "x"}})

    monkeypatch.setattr(kept, "refine_scene", refined)
    data, out = interrupted(config)
    go(stand_in(clip), data, out, config)
    assert len(calls) == 1
    assert json.loads((out / "transforms.json").read_text())["k1"] == 0.25
    interrupted(replace(config, refine=RefineConfig("colmap", "opencv")), overwrite=True)
    assert len(calls) == 2


@pytest.mark.long
def test_an_interrupted_overwrite_goes_on(interrupted, clip) -> None:
    config = options()
    data, out = interrupted(config)
    go(stand_in(clip), data, out, config)
    before = (out / "transforms.json").read_bytes()
    interrupted(config, overwrite=True)
    assert (out / "transforms.json").read_bytes() == before and (out / WORKSPACE).is_dir()
    again = stand_in(clip)
    go(again, data, out, config, overwrite=True)
    assert again.encoded == 0 and not (out / WORKSPACE).exists()


@pytest.mark.parametrize(
    "file",
    [
        "sparse_pc.ply",
        "scene/scene.json",
        "images/frame_00006.png",
        "masks_2/frame_00001.png",
        "dynamic/frame_00003.ply",
        "depths",
        "report.html",
    ],
)
def test_foreign_files_are_found_before_the_work(file: str, tmp_path: Path, clip: Clip) -> None:
    data, out, backbone = images(clip, tmp_path / "clip"), tmp_path / "out", stand_in(clip)
    (out / file).parent.mkdir(parents=True)
    (out / file).write_text("mine")
    config = replace(options(), dataset=DatasetConfig(num_downscales=1))
    with pytest.raises(OutputError, match=Path(file).name):
        go(backbone, data, out, config)
    assert backbone.encoded == 0 and (out / file).read_text() == "mine"


def test_foreign_files_that_nothing_is_written_over_stay(tmp_path: Path, clip: Clip) -> None:
    data, out = images(clip, tmp_path / "clip"), tmp_path / "out"
    for file in ("images/frame_00007.png", "masks_4/frame_00001.png", "report.html", "notes.txt"):
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        (out / file).write_text("mine")
    go(stand_in(clip), data, out, options())
    assert (out / "images/frame_00007.png").read_text() == (out / "report.html").read_text() == "mine"


@pytest.mark.parametrize("changed", [True, False])
def test_what_is_kept_is_what_was_refined(changed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    scene = make_scene(np.tile(np.eye(4), (3, 1, 1)), 500.0, np.ones((3, 96, 128)))
    sparse = SparsePoints(
        rng.normal(size=(5, 3)), rng.integers(0, 255, (5, 3)).astype(np.uint8), np.ones(5),
        np.arange(5), np.arange(5) % 3, rng.normal(size=(5, 2)),
    )  # fmt: skip
    T = scene.T_world_cam.copy()
    T[1, 0, 3] = 1.0
    refined = replace(
        scene, T_world_cam=T, focals=scene.focals + 1, principal_point=scene.principal_point + 0.5,
        depth=2 * scene.depth, confidence=scene.confidence + 1, distortion=(0.1, 0.2, 0.3, 0.4), sparse=sparse,
        pose_sources=("colmap", "aligned", "colmap"),
    )  # fmt: skip
    refined = replace(refined if changed else scene, provenance=scene.provenance | {"refine": {"kept": "a", "b": None}})
    calls = []

    def refine(scene, config, log, seed, *, fixed_focal, **options):
        calls.append(seed)
        log.warn("mind this")
        return refined

    monkeypatch.setattr(kept, "refine_scene", refine)
    cache = StageCache(tmp_path)
    for call in range(2):
        log = RunLog()
        result = kept.refine_kept(scene, RefineConfig("colmap"), log, 0, cache)
        assert log.warnings == ["mind this"]
        for entry in fields(type(scene)):
            ours, theirs = getattr(result, entry.name), getattr(refined, entry.name)
            if entry.name == "sparse" and theirs is not None:
                for part in fields(SparsePoints):
                    np.testing.assert_array_equal(getattr(ours, part.name), getattr(theirs, part.name))
            elif isinstance(theirs, np.ndarray):
                np.testing.assert_array_equal(ours, theirs)
                assert ours.dtype == theirs.dtype
            else:
                assert ours == theirs or ours is theirs, entry.name
    kept.refine_kept(scene, RefineConfig("colmap"), RunLog(), 1, cache)
    assert calls == [0, 1]
    # Trusted depths decide the unit of the refined scene.
    kept.refine_kept(replace(scene, min_confidence=2.0), RefineConfig("colmap"), RunLog(), 1, cache)
    assert calls == [0, 1, 1]
