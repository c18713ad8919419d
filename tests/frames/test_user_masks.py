from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from easi3r_ns.core.errors import InputError
from easi3r_ns.core.types import Frames, PixelMap, SkippedFrames
from easi3r_ns.frames.user_masks import load_user_masks, user_masks_between


@pytest.fixture
def frames(tmp_path) -> Frames:
    """Frames 0, 10 and 11 of a clip of 12, 40x20 pixels, resized to half."""
    pixel_map = PixelMap((40, 20), (20, 10), (2, 1, 18, 9))
    return Frames(
        images=np.zeros((3, 8, 16, 3), np.uint8),
        pixel_map=pixel_map,
        times=np.arange(3.0),
        indices=np.array([0, 10, 11]),
        names=("clip.mp4",) * 3,
        source_paths=(tmp_path,) * 3,
        num_source_frames=12,
    )


def moving(k: int) -> np.ndarray:
    """(20, 40) bool: a block that names its frame."""
    mask = np.zeros((20, 40), bool)
    mask[4 + k : 14, 10:30] = True
    return mask


def write(folder, count, pixels=lambda mask: mask * np.uint8(255), name="mask_{}.png"):
    folder.mkdir()
    for k in range(count):
        Image.fromarray(pixels(moving(k % 8))).save(folder / name.format(k))
    return folder


def expected(k: int) -> np.ndarray:
    """Half size by area, then the crop."""
    share = moving(k).reshape(10, 2, 20, 2).mean(axis=(1, 3))
    return share[1:9, 2:18] >= 0.5


def test_one_mask_per_used_frame(tmp_path, frames):
    result = load_user_masks(write(tmp_path / "m", 3), frames, patch_size=8)
    assert result.source == "user" and result.score.shape == (3, 1, 2)
    for k in range(3):
        np.testing.assert_array_equal(result.masks[k], expected(k))


def test_one_mask_per_source_frame_is_picked_in_natural_order(tmp_path, frames):
    result = load_user_masks(write(tmp_path / "m", 12), frames, patch_size=8)
    for row, k in enumerate(frames.indices):
        np.testing.assert_array_equal(result.masks[row], expected(k % 8))


def test_masks_of_evaluation_views_follow_those_of_the_clip(tmp_path, frames):
    views = replace(frames, indices=np.array([0, 1, 3]), num_source_frames=4)
    both = frames.followed_by(views)
    result = load_user_masks(write(tmp_path / "m", 16), both, patch_size=8)
    for row, k in enumerate([0, 10, 11, 12, 13, 15]):
        np.testing.assert_array_equal(result.masks[row], expected(k % 8))
    third = both.followed_by(views)
    np.testing.assert_array_equal(third.places, [0, 10, 11, 12, 13, 15, 16, 17, 19])
    np.testing.assert_array_equal(views.followed_by(frames.followed_by(views)).places[-3:], [16, 17, 19])


def test_frames_in_between_have_masks_where_all_frames_of_the_source_have(tmp_path, frames):
    rows = np.array([3, 5])
    skipped = SkippedFrames(rows.astype(float), rows, ("clip.mp4",) * 2, (tmp_path,) * 2)
    assert user_masks_between(write(tmp_path / "used", 3), frames, skipped) is None
    mask = user_masks_between(write(tmp_path / "all", 12), frames, skipped)
    for row, k in enumerate(rows):
        np.testing.assert_array_equal(mask(row), expected(k))


@pytest.mark.parametrize(
    "pixels",
    [
        lambda m: m.astype(np.uint8),
        lambda m: m * np.uint16(65535),
        lambda m: np.repeat(m[..., None] * np.uint8(255), 3, axis=-1),
    ],
    ids=["0/1", "16 bit", "colour"],
)
def test_other_kinds_of_masks_mean_the_same(tmp_path, frames, pixels):
    result = load_user_masks(write(tmp_path / "m", 3, pixels), frames, patch_size=8)
    np.testing.assert_array_equal(result.masks[1], expected(1))


def test_masks_that_cannot_be_meant_are_refused(tmp_path, frames):
    with pytest.raises(InputError, match="not a folder"):
        load_user_masks(tmp_path / "none", frames, 8)
    with pytest.raises(InputError, match="2 images for 3 used frames of 12"):
        load_user_masks(write(tmp_path / "few", 2), frames, 8)
    with pytest.raises(InputError, match="must be white"):
        load_user_masks(write(tmp_path / "dark", 3, lambda m: m * np.uint8(100)), frames, 8)
    with pytest.raises(InputError, match="is 10x20, the frames are 40x20"):
        load_user_masks(write(tmp_path / "small", 3, lambda m: m[:, :10] * np.uint8(255)), frames, 8)
    bad = write(tmp_path / "bad", 3)
    (bad / "mask_1.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="cannot read"):
        load_user_masks(bad, frames, 8)
