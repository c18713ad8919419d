"""Source frames around the frames that are used: which ones, from one pass, in a small size, found again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from easi3r_ns.core.config import FrameConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.types import Frames
from easi3r_ns.frames import load_frames
from easi3r_ns.frames.near import NEAR_SIDE, near_indices, near_size, shot
from easi3r_ns.frames.video import Video
from easi3r_ns.storage.files import read_png
from tests.frames.test_frames import TINY, _code, _decode, _folder, _load, _write_video

THREE = FrameConfig(num_frames_target=3, on_cut="ignore", sharpest=False, crop_bars=False)


def decoded(frames: Frames) -> list[int]:
    assert frames.near is not None
    return [_decode(read_png(path)) for path in frames.near.paths]


def test_gaps_of_1_2_4_8_inside_the_part() -> None:
    assert near_indices(np.array([10, 30]), np.arange(10, 32)).tolist() == [11, 12, 14, 18, 22, 26, 28, 29, 31]
    assert near_indices(np.arange(5), np.arange(5)).tolist() == []


def test_near_frames_of_a_video_come_from_the_same_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, read = [], Video.read

    def counted(self, indices, *args):
        reads.append(list(indices))
        return read(self, indices, *args)

    monkeypatch.setattr(Video, "read", counted)
    frames = _load(_write_video(tmp_path / "clip.mp4", [_code(i) for i in range(41)]), tmp_path, THREE)
    expected = [1, 2, 4, 8, 12, 16, 18, 19, 21, 22, 24, 28, 32, 36, 38, 39]
    assert frames.near is not None and frames.near.places.tolist() == decoded(frames) == expected
    assert frames.indices.tolist() == [0, 20, 40] and len(reads) == 1
    assert [_decode(read_png(path)) for path in frames.source_paths] == [0, 20, 40]


def test_they_are_kept_and_found_again(tmp_path: Path) -> None:
    clip = _write_video(tmp_path / "clip.mp4", [_code(i) for i in range(41)])
    first, second = (_load(clip, tmp_path, THREE) for _ in range(2))
    assert first.near is not None and second.near is not None
    assert first.near.paths == second.near.paths and first.near.places.tolist() == second.near.places.tolist()
    first.near.paths[3].unlink()
    _load(clip, tmp_path, THREE)
    assert first.near.paths[3].exists()
    every = _load(clip, tmp_path, FrameConfig(num_frames_target=0))
    assert every.near is not None and not every.near and not list((tmp_path / "store").glob("near_*"))


def test_neighbours_of_a_folder_are_the_files_next_to_it(tmp_path: Path) -> None:
    images = {f"{i:02d}.png": Image.fromarray(_code(i)) for i in range(21)}
    images["02.png"] = Image.fromarray(_code(2, width=128))
    folder = _folder(tmp_path, images)
    (folder / "04.png").write_bytes(b"no image")
    frames = _load(folder, tmp_path, FrameConfig(num_frames_target=2, on_cut="ignore", sharpest=False))
    assert decoded(frames) == [1, 8, 12, 16, 18, 19], "an image that nobody asked for is no reason to stop"


def test_large_frames_are_kept_small() -> None:
    image = np.zeros((720, 1280, 3), np.uint8)
    assert near_size(image).shape == (288, NEAR_SIDE, 3)
    assert near_size(image[:100, :200]).shape == (100, 200, 3)


def test_small_copies_are_those_of_pillow_within_two_levels() -> None:
    random = np.random.default_rng(0)
    image = cv2.GaussianBlur(random.integers(0, 256, (360, 640, 3), dtype=np.uint8), (0, 0), 1.5)
    image[100:200, 200:300] = 255
    expected = np.asarray(Image.fromarray(image).resize((512, 288), Image.Resampling.LANCZOS)).astype(int)
    difference = np.abs(near_size(image).astype(int) - expected)
    assert difference.max() <= 2 and (difference > 0).mean() < 0.02


def test_small_copies_without_that_filter_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise NotImplementedError("mode='lanczos'")

    monkeypatch.setattr("torch.nn.functional.interpolate", unknown)
    image = np.random.default_rng(0).integers(0, 256, (360, 640, 3), dtype=np.uint8)
    expected = Image.fromarray(image).resize((512, 288), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(near_size(image), expected)


def test_a_shot_shows_them_as_the_frames(tmp_path: Path) -> None:
    clip = _write_video(tmp_path / "clip.mp4", [_code(i) for i in range(41)])
    frames, every = (
        _load(clip, tmp_path, THREE),
        load_frames(clip, tmp_path / "all", select=FrameConfig(num_frames_target=0), geometry=TINY, log=RunLog()),
    )
    seen = shot(frames, range(3), frames.images.__getitem__, frames.pixel_map)
    for place in (*seen.places.tolist(), *seen.near.tolist()):
        np.testing.assert_array_equal(seen.image(place), every.images[place])


def test_evaluation_views_have_neighbours_of_their_own(tmp_path: Path) -> None:
    clip = _write_video(tmp_path / "clip.mp4", [_code(i) for i in range(41)])
    other = _write_video(tmp_path / "other.mp4", [_code(100 + i) for i in range(21)])
    frames = _load(clip, tmp_path, THREE)
    held_out = load_frames(other, tmp_path / "eval", select=THREE, geometry=TINY, log=RunLog())
    joined = frames.followed_by(held_out)
    own, others = (shot(joined, rows, joined.images.__getitem__, joined.pixel_map) for rows in (range(3), range(3, 6)))
    assert own.places.tolist() == [0, 20, 40] and own.near.max() == 39
    assert others.places.tolist() == [41, 51, 61] and others.near.min() == 42 and others.near.max() == 60
    assert [_decode(read_png(p)) for p in joined.near.paths][-1] == 119
    alone = shot(replace(joined, near=None), range(3), joined.images.__getitem__, joined.pixel_map)
    assert len(alone.near) == 0
