"""What a new pipeline or a new source of masks has to be, and nothing more."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.core.config import DatasetConfig, Easi3RConfig, FrameConfig
from easi3r_ns.core.errors import CheckpointError, OutputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene
from easi3r_ns.core.types import DynamicMasks, Frames
from easi3r_ns.frames import ImageGeometry
from easi3r_ns.motion import given
from easi3r_ns.motion.given import FirstLook, given_masks, masks_are_given
from easi3r_ns.pipelines.geometric import GeometricPipeline
from easi3r_ns.pipelines.network import NetworkPipeline
from easi3r_ns.pipelines.pipeline import RunConfig, choose_pipeline
from easi3r_ns.pipelines.run import process
from easi3r_ns.training.measure.paths import frames_of
from easi3r_ns.training.scenes import Clip, render_clip
from tests.pipelines.test_network import write_images
from tests.support.clip_scene import perfect_scene

CONFIG = RunConfig(FrameConfig(num_frames_target=0), dataset=DatasetConfig(num_downscales=0, report=False))


@pytest.fixture(scope="module")
def clip() -> Clip:
    return render_clip(5, 4, 96, 128)


class Oracle:
    """A pipeline that knows the truth."""

    has_depth = True
    weights = None
    geometry = ImageGeometry(128, 16)

    def __init__(self, clip: Clip, folder: Path) -> None:
        self.clip, self.folder, self.called = clip, folder, list[str]()

    def check(self, log: RunLog) -> None:
        self.called.append("check")

    def forecast(self, data: Path, log: RunLog) -> None:
        self.called.append("forecast")

    def prepare(self, log: RunLog) -> None:
        self.called.append("prepare")

    def reconstruct(self, frames: Frames, cache, log: RunLog, *, num_eval: int = 0, budget=None) -> Scene:
        self.called.append("reconstruct")
        truth = perfect_scene(self.clip, self.folder)
        return replace(truth, source_paths=frames.source_paths, names=frames.names, indices=frames.indices)


def test_a_run_takes_any_pipeline(tmp_path, clip):
    oracle, out = Oracle(clip, tmp_path / "truth"), tmp_path / "out"
    data = write_images(clip, tmp_path / "clip")
    result = process(data, out, CONFIG, overwrite=False, log=RunLog(), pipeline=oracle)
    assert oracle.called == ["check", "forecast", "prepare", "reconstruct"]
    assert result.weights is None and len(json.loads((out / "transforms.json").read_text())["frames"]) == len(clip)
    assert len(list((out / "depths").glob("*.png"))) == len(clip)


def test_a_pipeline_that_cannot_be_prepared_leaves_no_folder(tmp_path, clip):
    class Offline(Oracle):
        def prepare(self, log: RunLog) -> None:
            raise CheckpointError("no weights")

    data = write_images(clip, tmp_path / "clip")
    with pytest.raises(CheckpointError):
        process(data, tmp_path / "out", CONFIG, overwrite=False, log=RunLog(), pipeline=Offline(clip, tmp_path / "t"))
    assert not (tmp_path / "out").exists()


def test_a_taken_folder_is_refused_before_the_pipeline_is_asked(tmp_path, clip):
    oracle, out = Oracle(clip, tmp_path / "truth"), tmp_path / "out"
    out.mkdir()
    (out / "transforms.json").write_text("{}")
    with pytest.raises(OutputError):
        process(write_images(clip, tmp_path / "clip"), out, CONFIG, overwrite=False, log=RunLog(), pipeline=oracle)
    assert not oracle.called


@pytest.mark.parametrize(("weights", "kind"), [("none", GeometricPipeline), ("tiny", NetworkPipeline)])
def test_weights_choose_the_pipeline(weights, kind):
    assert type(choose_pipeline(RunConfig(easi3r=Easi3RConfig(weights=weights)))) is kind


def test_an_option_without_effect_is_named():
    log = RunLog()
    NetworkPipeline(RunConfig(easi3r=Easi3RConfig(weights="tiny", depth="none"))).check(log)
    assert "--depth none has no effect" in log.warnings[0]
    NetworkPipeline(RunConfig(easi3r=Easi3RConfig(weights="tiny"))).check(again := RunLog())
    assert not again.warnings


class LeftHalf:
    """A source of masks that needs no option."""

    def is_asked_for(self, config: Easi3RConfig) -> bool:
        return not config.no_masks

    def masks(self, config: Easi3RConfig, frames: Frames, patch_size: int, look: FirstLook) -> DynamicMasks:
        moving = np.zeros(frames.images.shape[:3], dtype=bool)
        moving[:, :, : moving.shape[2] // 2] = True
        score = np.zeros((len(frames), *(side // patch_size for side in moving.shape[1:])), dtype=np.float32)
        return DynamicMasks(moving, score, float("nan"), source="left half")


def test_a_new_source_of_masks_is_known_everywhere(tmp_path, clip, monkeypatch):
    frames, config, look = frames_of(clip, tmp_path), Easi3RConfig(), FirstLook(RunLog(), lambda: None)
    assert not masks_are_given(config) and given_masks(config, frames, 16, look) is None
    monkeypatch.setattr(given, "MASK_SOURCES", (LeftHalf(), *given.MASK_SOURCES))
    assert masks_are_given(config) and given_masks(config, frames, 16, look).source == "left half"
    assert given_masks(replace(config, no_masks=True), frames, 16, look).source == "none"


def test_motion_outside_of_the_masks_reaches_the_report(tmp_path, clip, monkeypatch):
    seen = []

    def outside(masks: np.ndarray, frames: Frames, *args: object) -> float:
        seen.append(masks)
        assert len(masks) == len(frames)
        return 0.9

    monkeypatch.setattr("easi3r_ns.pipelines.run.moving_outside", outside)
    config = replace(CONFIG, dataset=replace(CONFIG.dataset, report=True))
    data = write_images(clip, tmp_path / "clip")
    for name, options in (("with", config), ("without", CONFIG)):
        oracle = Oracle(clip, tmp_path / f"truth {name}")
        process(data, tmp_path / name, options, overwrite=False, log=RunLog(), pipeline=oracle)
    assert len(seen) == 1, "nothing is measured where nobody reads it"
    assert "90 % of a ring around them moves" in (tmp_path / "with" / "report.html").read_text(encoding="utf-8")
