"""Whether white or black moves in the user's masks: told by the clip, by a record, or not at all."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from easi3r_ns.core.config import Easi3RConfig, FrameConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.types import DynamicMasks, Frames
from easi3r_ns.frames import ImageGeometry, load_frames
from easi3r_ns.frames.user_masks import MarkedFrames, read_user_masks
from easi3r_ns.motion import given, polarity
from easi3r_ns.motion.flow.dis import DISFlow
from easi3r_ns.motion.given import FirstLook, given_between, given_masks, masks_are_given
from easi3r_ns.motion.polarity import Evidence, evidence, white_moves
from easi3r_ns.storage.files import write_png

CLIP = Path(__file__).parents[2] / "examples" / "clip"


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> Frames:
    """Six of the 24 frames of the example clip."""
    store = tmp_path_factory.mktemp("store")
    select = FrameConfig(num_frames_target=6)
    return load_frames(CLIP / "clip.mp4", store, select=select, geometry=ImageGeometry(128, 8), log=RunLog())


@pytest.fixture(scope="module")
def marked(frames: Frames) -> MarkedFrames:
    return read_user_masks(CLIP / "masks", frames, RunLog())


@pytest.fixture(scope="module")
def black(tmp_path_factory) -> Path:
    """The masks of the clip as nerfstudio has them: black moves."""
    folder = tmp_path_factory.mktemp("black") / "masks"
    folder.mkdir()
    for file in (CLIP / "masks").iterdir():
        write_png(folder / file.name, 255 - cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), 0))
    return folder


def look(log: RunLog | None = None) -> FirstLook:
    return FirstLook(log or RunLog(), lambda: pytest.fail("the pipeline's own masks are not asked for"))


def test_the_clip_tells_which_side_moves(frames, marked, black):
    config = Easi3RConfig(masks=CLIP / "masks")
    log = RunLog()
    right = given_masks(config, frames, 8, look(log))
    assert right.source == "user" and not log.warnings
    turned = given_masks(replace(config, masks=black), frames, 8, look(log))
    np.testing.assert_array_equal(turned.masks, right.masks)
    (warning,) = log.warnings
    assert "black moves" in warning and "--masks-polarity white-moves, if this is wrong" in warning
    np.testing.assert_array_equal(right.masks, marked.share > 127)


def test_flow_tells_by_itself(frames, marked):
    found = evidence(marked, frames, DISFlow())
    assert found.flow > 0.9 and found.votes == (1, 1)
    turned = evidence(replace(marked, share=255 - marked.share), frames, DISFlow())
    assert turned.flow == pytest.approx(1 - found.flow, abs=0.02) and turned.votes == (-1, -1)
    assert turned.rim == pytest.approx(1 - found.rim) and turned.share == pytest.approx(1 - found.share, abs=0.01)


@pytest.mark.parametrize(
    ("flow", "rim", "told"),
    [
        (0.9, 0.1, True),
        (None, 0.1, True),
        (0.9, 0.6, True),
        (0.1, 0.9, False),
        (None, 0.9, False),
        (0.5, 0.9, False),
        (0.9, 0.9, None),  # one against the other
        (0.1, 0.1, None),
        (0.1, 0.6, None),  # flow may follow a mover that fills the picture
        (0.5, 0.6, None),
        (None, 0.6, None),
    ],
)
def test_a_doubtful_case_stops(frames, marked, monkeypatch, flow, rim, told):
    monkeypatch.setattr(polarity, "evidence", lambda *_: Evidence(flow, rim, 0.5))
    config = Easi3RConfig(masks=Path("my masks"))
    if told is not None:
        assert white_moves(marked, frames, config, RunLog()) is told
        return
    with pytest.raises(InputError) as caught:
        white_moves(marked, frames, config, RunLog())
    for word in ("--masks-polarity white-moves", "--masks-polarity black-moves", "--masks 'my masks'", "rim"):
        assert word in str(caught.value)
    for value in ("white-moves", "black-moves"):
        asked = white_moves(marked, frames, replace(config, masks_polarity=value), RunLog())
        assert asked == (value == "white-moves")


def test_masks_of_a_dataset_are_translated(frames, marked, black, tmp_path, monkeypatch):
    shutil.copytree(black, tmp_path / "out" / "masks")
    names = [{"mask_path": f"masks/{file.name}"} for file in sorted(black.iterdir())]
    (tmp_path / "out" / "transforms.json").write_text(json.dumps({"frames": names}))
    config, log = Easi3RConfig(masks=tmp_path / "out" / "masks"), RunLog()
    found = given_masks(config, frames, 8, look(log))
    np.testing.assert_array_equal(found.masks, marked.share > 127)
    assert not log.warnings
    for file in (CLIP / "masks").iterdir():  # somebody turned them round
        shutil.copy(file, tmp_path / "out" / "masks" / file.name)
    with pytest.raises(InputError, match=r"transforms\.json says that black moves, but white pixels break"):
        given_masks(config, frames, 8, look())


def test_objects_move(frames, tmp_path, monkeypatch):
    monkeypatch.setattr(polarity, "evidence", lambda *_: pytest.fail("nothing to ask"))
    for file in (CLIP / "masks").iterdir():
        mask = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), 0) > 0
        write_png(tmp_path / file.name, mask[..., None] * np.array([128, 0, 0], np.uint8))
    found = given_masks(Easi3RConfig(masks=tmp_path), frames, 8, look())
    np.testing.assert_array_equal(found.masks, read_user_masks(CLIP / "masks", frames, RunLog()).moving(True))


def test_nothing_white_means_that_nothing_moves(frames, marked):
    none = replace(marked, share=np.zeros_like(marked.share))
    assert white_moves(none, frames, Easi3RConfig(masks=Path("m")), RunLog())
    dummies = replace(marked, share=np.full_like(marked.share, 255))
    log = RunLog()
    assert not dummies.moving(white_moves(dummies, frames, Easi3RConfig(masks=Path("m")), log)).any()
    assert "black moves" in log.warnings[0], "people make white masks for frames in which everything may be used"


@pytest.fixture
def some(tmp_path) -> Path:
    """Masks of all frames that are used but the second and the last."""
    folder = tmp_path / "some"
    shutil.copytree(CLIP / "masks", folder)
    return folder


def partial(frames: Frames, folder: Path) -> Frames:
    """The frames as those of a folder of images, of which two have no mask."""
    names = tuple(f"frame_{index + 1:05d}.jpg" for index in frames.indices)
    for row in (1, 5):
        (folder / f"{Path(names[row]).stem}.png").unlink()
    return replace(frames, names=names)


def test_missing_masks_are_named_unless_told_otherwise(frames, some):
    frames = partial(frames, some)
    config = Easi3RConfig(masks=some)
    with pytest.raises(InputError) as caught:
        given_masks(config, frames, 8, look())
    for word in ("2 of 6 used frames", frames.names[1], frames.names[5], "--masks-missing static", "auto"):
        assert word in str(caught.value)
    assert frames.names[0] not in str(caught.value)
    still = given_masks(replace(config, masks_missing="static"), frames, 8, look())
    assert [mask.any() for mask in still.masks] == [True, False, True, True, True, False]


def test_missing_masks_can_be_those_of_the_pipeline(frames, some):
    frames = partial(frames, some)
    shape = frames.images.shape[:3]
    own = DynamicMasks(np.ones(shape, bool), np.ones((6, shape[1] // 8, shape[2] // 8), np.float32), 0.5)
    config = Easi3RConfig(masks=some, masks_missing="auto")
    found = given_masks(config, frames, 8, FirstLook(RunLog(), lambda: own))
    assert [mask.all() for mask in found.masks] == [False, True, False, False, False, True]
    assert [bool(score.any()) for score in found.score] == [False, True, False, False, False, True]
    assert found.source == "user" and not masks_are_given(config)


def test_frames_in_between_follow_the_same_rule(frames, black):
    from easi3r_ns.core.types import SkippedFrames

    rows = np.array([1, 2])
    skipped = SkippedFrames(rows / 24, rows, (frames.names[0],) * 2, (CLIP,) * 2)
    right = given_between(Easi3RConfig(masks=CLIP / "masks"), frames, skipped, RunLog())
    turned = given_between(Easi3RConfig(masks=black), frames, skipped, RunLog())
    for row in range(2):
        np.testing.assert_array_equal(right(row), turned(row))
        assert 0 < right(row).mean() < 0.3
    assert given_between(Easi3RConfig(), frames, skipped, RunLog()) is None


@pytest.mark.parametrize("option", [{"masks_polarity": "black-moves"}, {"masks_missing": "auto"}])
def test_options_about_masks_need_masks(option):
    with pytest.raises(InputError, match="says something about --masks: give them too"):
        Easi3RConfig(**option)


def test_masks_are_looked_for_before_any_work(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        given.check_given(Easi3RConfig(masks=tmp_path / "none"))
    given.check_given(Easi3RConfig(masks=CLIP / "masks"))
