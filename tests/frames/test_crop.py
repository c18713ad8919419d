"""What is cut off the frames: black and white bars that are bars, and the shares that the user asks for."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from easi3r_ns.core.config import FrameConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.geometry import image_centre_in_network, intrinsics_to_source
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.types import SourceCut
from easi3r_ns.frames import enlarged, load_frames, preview_source
from easi3r_ns.frames.crop import find_bars
from easi3r_ns.frames.user_masks import read_user_masks
from easi3r_ns.frames.video import Video
from easi3r_ns.storage.files import read_png, write_png
from tests.frames.test_frames import TINY, _write_video
from tests.frames.test_sharp import filmed, steady

SIZE = (96, 160)
"""Height and width of the picture of :func:`filmed`."""


def framed(
    images: np.ndarray, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0, colour: int = 0
) -> np.ndarray:
    return np.pad(images, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=colour)


def load(data: Path, tmp_path: Path, log: RunLog | None = None, **select):
    options = {"num_frames_target": 0} | select
    return load_frames(data, tmp_path / "store", select=FrameConfig(**options), geometry=TINY, log=log or RunLog())


@pytest.mark.parametrize("colour", [0, 255])
@pytest.mark.parametrize("sides", [(20, 20, 0, 0), (0, 0, 30, 30), (20, 20, 30, 30), (30, 37, 0, 0)])
def test_bars_are_found_to_the_pixel(sides, colour):
    top, bottom, left, right = sides
    found = find_bars(list(framed(filmed(steady(6)), *sides, colour=colour)))
    expected = (left, top, left + SIZE[1], top + SIZE[0])
    # A row or column beside a bar may be blended with it, so one is left out.
    trimmed = [a - b for a, b in zip(found, expected)]
    assert trimmed == [int(left > 0), int(top > 0), -int(right > 0), -int(bottom > 0)]


def test_dark_rows_beside_a_bar_do_not_shift_the_centre():
    images = framed(filmed(steady(6)), 20, 20)
    images[:, 20:22] = 0
    assert find_bars(list(images)) == (0, 23, 160, 113)


def test_bars_of_a_compressed_clip(tmp_path):
    clip, log = (
        _write_video(tmp_path / "clip.mp4", list(framed(filmed(steady(12)), 24, 24)), options={"crf": "30"}),
        RunLog(),
    )
    frames = load(clip, tmp_path, log)
    width, height = frames.pixel_map.source_wh
    assert width == SIZE[1] and 90 <= height <= 94
    assert read_png(frames.source_paths[0]).shape == (height, width, 3)
    assert frames.pixel_map.principal_xy == pytest.approx((80, height / 2), abs=1)
    again = load(clip, tmp_path)
    assert again.pixel_map == frames.pixel_map and np.array_equal(again.images, frames.images)
    assert preview_source(clip, FrameConfig(num_frames_target=0), TINY, RunLog())[1] == frames.pixel_map
    whole = load(clip, tmp_path, crop_bars=False)
    assert whole.pixel_map.source_wh == (160, 144) and whole.pixel_map.cut is None


def test_the_run_says_what_it_cut(tmp_path, caplog):
    clip = _write_video(tmp_path / "clip.mp4", list(framed(filmed(steady(4)), 0, 0, 24, 24)))
    with caplog.at_level("INFO"):
        load(clip, tmp_path)
    (line,) = [record.message for record in caplog.records if "bars are cut off" in record.message]
    assert "--no-crop-bars" in line and "208x96" in line


def night(count: int, seed: int = 0) -> np.ndarray:
    """A dark scene with noise; a lamp in the middle lights its surroundings."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    light = 200 * np.exp(-((y - 48) ** 2 + (x - 80) ** 2) / (2 * 15.0**2))
    frames = light[None, ..., None] + rng.normal(3, 2, (count, *SIZE, 3))
    return np.clip(frames, 0, 255).astype(np.uint8)


def street_at_night(count: int) -> np.ndarray:
    """A black sky above and a black road below a row of lit windows of different heights."""
    image = np.zeros((*SIZE, 3), np.uint8)
    rng = np.random.default_rng(1)
    for x in range(0, 160, 8):
        image[int(rng.integers(20, 44)) : int(rng.integers(52, 76)), x : x + 5] = 180
    return np.stack([np.roll(image, 3 * k, axis=1) for k in range(count)])


def dark_object(count: int) -> np.ndarray:
    """A black frame of a window on the left of a camera that stands still."""
    images = filmed([40.0] * count)
    images[:, :, :20] = 0
    return images


@pytest.mark.parametrize("scene", [night, street_at_night, dark_object])
def test_dark_and_white_scenes_have_no_bars(scene):
    assert find_bars(list(scene(8))) is None
    assert find_bars(list(255 - scene(8))) is None


def test_a_jagged_rim_as_undistorted_pictures_have_is_cut_off():
    images = framed(filmed(steady(6)), 6, 5, 7, 8, colour=255)
    images[:, 6, :70], images[:, 40:, 7] = 255, 255
    left, top, right, bottom = find_bars(list(images))
    assert 8 <= left <= 9 and 7 <= top <= 8 and 165 <= right <= 167 and 100 <= bottom <= 102


def test_black_clips_and_fades_have_no_bars_of_their_own(tmp_path):
    assert find_bars([np.zeros((96, 160, 3), np.uint8)] * 3) is None
    images = framed(filmed(steady(12)), 16, 16)
    images[:3] = 0
    assert find_bars(list(images)) == (0, 17, 160, 111)
    frames = load(_write_video(tmp_path / "clip.mp4", list(images), options={"crf": "12"}), tmp_path)
    assert abs(frames.pixel_map.source_wh[1] - 94) <= 2


def test_what_enters_a_bar_makes_it_picture():
    images = framed(filmed(steady(8)), 20, 20)
    images[5, 4:10, 40:90] = 200
    assert find_bars(list(images)) is None


@pytest.mark.parametrize("factor", [(0.0, 0.25, 0.0, 0.0), (0.1, 0.2, 0.3, 0.05)])
def test_the_lens_keeps_its_centre_and_focal_length(tmp_path, factor):
    clip = _write_video(tmp_path / "clip.mp4", list(filmed(steady(4))))
    frames = load(clip, tmp_path, crop_factor=factor)
    top, bottom, left, right = (
        round(factor[0] * 96),
        round(factor[1] * 96),
        round(factor[2] * 160),
        round(factor[3] * 160),
    )
    pixel_map = frames.pixel_map
    assert pixel_map.source_wh == (160 - left - right, 96 - top - bottom)
    assert pixel_map.cut == SourceCut((160, 96), (left, top, 160 - right, 96 - bottom), (0, 0, 160, 96))
    assert pixel_map.principal_xy == (80 - left, 48 - top) and pixel_map.picture_wh == (160, 96)
    for seen in (pixel_map, enlarged(pixel_map, 3)):
        centre = image_centre_in_network(seen)
        _, _, cx, cy = intrinsics_to_source(10.0, centre, seen)
        assert (cx, cy) == pytest.approx((80 - left, 48 - top))
    part = read_png(frames.source_paths[2])
    whole = read_png(load(clip, tmp_path).source_paths[2])
    np.testing.assert_array_equal(part, whole[top : 96 - bottom, left : 160 - right])


def test_bars_and_shares_together(tmp_path):
    clip = _write_video(tmp_path / "clip.mp4", list(framed(filmed(steady(6)), 24, 24)), options={"crf": "10"})
    frames = load(clip, tmp_path, crop_factor=(0.0, 0.5, 0.0, 0.0))
    assert frames.pixel_map.cut is not None
    left, top, right, bottom = frames.pixel_map.cut.picture
    assert frames.pixel_map.source_wh == (160, (bottom - top) // 2)
    assert frames.pixel_map.principal_xy == pytest.approx((80, (bottom - top) / 2), abs=1)


def test_the_focal_length_of_a_photo_is_that_of_the_whole_photo(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 28
    (tmp_path / "in").mkdir()
    for k, image in enumerate(filmed(steady(3))):
        Image.fromarray(image).save(tmp_path / "in" / f"{k}.jpg", exif=exif, quality=95)
    whole, part = load(tmp_path / "in", tmp_path), load(tmp_path / "in", tmp_path, crop_factor=(0, 0.5, 0.2, 0))
    assert whole.recorded_focal is not None and part.recorded_focal == whole.recorded_focal
    again = load(tmp_path / "in", tmp_path, crop_factor=(0, 0.5, 0.2, 0))
    assert again.recorded_focal == whole.recorded_focal


def test_masks_of_the_user_are_cut_likewise(tmp_path):
    clip = _write_video(tmp_path / "clip.mp4", list(filmed(steady(3))))
    frames = load(clip, tmp_path, crop_factor=(0.5, 0.0, 0.0, 0.0))
    (tmp_path / "masks").mkdir()
    for k in range(3):
        mask = np.zeros(SIZE, np.uint8)
        mask[48:72, 80:] = 255  # in the upper half of what is left, on the right
        write_png(tmp_path / "masks" / f"{k}.png", mask)
    for size in ((160, 96), (80, 48)):
        for k in range(3):
            write_png(tmp_path / "masks" / f"{k}.png", cv2.resize(mask, size))
        moving = read_user_masks(tmp_path / "masks", frames, RunLog()).moving(True)
        height, width = moving.shape[1:]
        assert moving[:, : height // 2 - 1, width // 2 + 1 :].all() and not moving[:, height // 2 + 1 :].any()
    for k in range(3):
        write_png(tmp_path / "masks" / f"{k}.png", mask[48:])
    assert (read_user_masks(tmp_path / "masks", frames, RunLog()).moving(True) == moving).mean() > 0.95
    for k in range(3):
        write_png(tmp_path / "masks" / f"{k}.png", mask[:50])
    with pytest.raises(InputError, match="160x48"):
        read_user_masks(tmp_path / "masks", frames, RunLog())


@pytest.mark.parametrize(
    "factor", [(0.5, 0.5, 0, 0), (0, 0, 0.4, 0.7), (-0.1, 0, 0, 0), (1.5, 0, 0, 0), (float("nan"), 0, 0, 0)]
)
def test_shares_that_leave_nothing_are_refused(factor):
    with pytest.raises(InputError, match="crop-factor"):
        FrameConfig(crop_factor=factor)


def test_views_of_the_clip_are_cut_as_the_clip_is(tmp_path):
    """Bars that one of both does not show, or shows in another place, do not give them two lenses."""
    clip = load(_write_video(tmp_path / "clip.mp4", list(framed(filmed(steady(6)), 24, 24))), tmp_path)
    assert clip.pixel_map.cut is not None
    views, size = tmp_path / "views", clip.pixel_map.full_wh[::-1]
    views.mkdir()
    for number, image in enumerate(filmed(steady(3))):
        write_png(views / f"{number}.png", cv2.resize(image, size[::-1]))
    options = {"select": FrameConfig(num_frames_target=0), "geometry": TINY, "log": RunLog()}
    assert load_frames(views, tmp_path / "own", **options).pixel_map.cut is None
    for _ in range(2):  # the second time from the store
        alike = load_frames(views, tmp_path / "alike", **options, like=clip.pixel_map)
        assert alike.pixel_map == clip.pixel_map


@pytest.mark.parametrize("sharpest", [False, True])
def test_a_first_frame_that_does_not_decode_changes_no_crop(tmp_path, monkeypatch, sharpest):
    clip = _write_video(tmp_path / "clip.mp4", list(filmed(steady(8))))
    whole = Video.read

    def damaged(self, indices, log, watch=None):
        seen = watch and (lambda index, thumb: watch(index, thumb) if index else None)
        return (found for found in whole(self, indices, log, seen) if found[0])

    monkeypatch.setattr(Video, "read", damaged)
    monkeypatch.setattr(Video, "recount", lambda self, log: self.times(FrameConfig(), log))
    frames = load(clip, tmp_path, num_frames_target=4, sharpest=sharpest, crop_factor=(0.25, 0.25, 0.0, 0.0))
    assert frames.pixel_map.source_wh == (SIZE[1], SIZE[0] // 2)
