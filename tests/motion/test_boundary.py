"""Motion just outside of masks: little around true ones, much around those that are too small all around."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from easi3r_ns.core.config import FrameConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.types import Frames, PixelMap
from easi3r_ns.frames import ImageGeometry, load_frames
from easi3r_ns.frames.user_masks import read_user_masks
from easi3r_ns.motion import boundary
from easi3r_ns.motion.boundary import moving_outside
from easi3r_ns.motion.flow.dis import DISFlow
from easi3r_ns.report.rules import care_limit

CLIP = Path(__file__).parents[2] / "examples" / "clip"


def frames_of(tmp_path: Path, geometry: ImageGeometry) -> Frames:
    select = FrameConfig(num_frames_target=4)
    return load_frames(CLIP / "clip.mp4", tmp_path / "store", select=select, geometry=geometry, log=RunLog())


def test_masks_that_are_too_small_are_told(tmp_path, monkeypatch):
    """The grid of a small network: flow is followed in larger images all the same."""
    frames = frames_of(tmp_path, ImageGeometry(128, 8))
    looked = []
    residuals = boundary._residuals

    def once(*args):
        if not looked:
            looked.append(residuals(*args))
        return looked[0]

    monkeypatch.setattr(boundary, "_residuals", once)
    monkeypatch.setattr(boundary, "LOOKED_AT", 2)
    true = read_user_masks(CLIP / "masks", frames, RunLog()).moving(True)
    log = RunLog()
    right = moving_outside(true, frames, DISFlow(), log)
    assert [stage.name for stage in log.stages] == ["motion outside of the masks"]
    assert {values.shape for values in looked[0].values()} == {(384, 512)}
    small = np.stack([cv2.erode(mask.astype(np.uint8), np.ones((5, 5))) > 0 for mask in true])
    wrong = moving_outside(small, frames, DISFlow(), RunLog())
    assert right < 0.55 < care_limit("moving_outside") < wrong


def test_what_is_not_measured(tmp_path, monkeypatch):
    frames = frames_of(tmp_path, ImageGeometry(128, 8))
    monkeypatch.setattr(boundary, "_residuals", lambda *args: pytest.fail("there is nothing to look at"))
    none, everything = (np.full(frames.images.shape[:3], value) for value in (False, True))
    assert moving_outside(none, frames, DISFlow(), RunLog()) is None
    assert moving_outside(everything, frames, DISFlow(), RunLog()) is None
    some = none.copy()
    some[:, 10:40, 10:40] = True
    small = replace(frames, pixel_map=replace(frames.pixel_map, source_wh=(320, 240)))
    assert isinstance(small.pixel_map, PixelMap)
    assert moving_outside(some, small, DISFlow(), RunLog()) is None
