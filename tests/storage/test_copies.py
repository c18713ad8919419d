"""Downscaled copies that lie beside the frames of a store."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.core.config import DatasetConfig, FrameConfig
from easi3r_ns.core.downscale import shrink_image
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.types import Frames
from easi3r_ns.dataset import nerfstudio
from easi3r_ns.dataset.nerfstudio import write_dataset
from easi3r_ns.frames import ImageGeometry, Kept, load_frames
from easi3r_ns.storage.copies import MANIFEST, kept_copies, write_copies
from easi3r_ns.storage.files import read_png, write_png
from tests.frames.test_frames import _code, _write_video
from tests.support.dataset_scene import make_scene

WH = (43, 30)


@pytest.fixture
def frame(tmp_path: Path) -> Path:
    image = np.random.default_rng(1).integers(0, 256, (WH[1], WH[0], 3), dtype=np.uint8)
    write_png(tmp_path / "frame_00001.png", image)
    write_copies(tmp_path / "frame_00001.png", image, 2)
    (tmp_path / MANIFEST).write_text("{}", encoding="utf-8")
    return tmp_path / "frame_00001.png"


def test_copies_are_block_means(frame: Path) -> None:
    copies = kept_copies(frame, WH, (2, 4))
    assert copies is not None and set(copies) == {2, 4}
    for factor, copy in copies.items():
        np.testing.assert_array_equal(read_png(copy), shrink_image(read_png(frame), factor))


def test_copies_of_others_and_of_another_frame_are_not_taken(frame: Path) -> None:
    assert kept_copies(frame, WH, (2, 4, 8)) is None, "one is missing"
    assert kept_copies(frame, (WH[0] + 2, WH[1]), (2,)) is None, "the frame has another size"
    copy = frame.parent / "copies_2" / frame.name
    later = frame.stat().st_mtime_ns + 10**9
    os.utime(frame, ns=(later, later))
    assert kept_copies(frame, WH, (2,)) is None, "the frame was written anew"
    os.utime(copy, ns=(later, later))
    assert kept_copies(frame, WH, (2,)) == {2: copy}
    copy.write_bytes(copy.read_bytes()[:10])
    assert kept_copies(frame, WH, (2,)) is None, "damaged"
    copy.unlink()
    assert kept_copies(frame, WH, (2,)) is None


def test_a_folder_of_the_user_holds_no_copies(frame: Path) -> None:
    (frame.parent / MANIFEST).unlink()
    assert kept_copies(frame, WH, (2,)) is None


def test_a_dataset_takes_them_and_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, _ = make_scene(tmp_path / "store", (320, 213), 3)
    config = DatasetConfig(num_downscales=2)
    write_dataset(scene, tmp_path / "without", config, RunLog())
    for path in scene.source_paths:
        write_copies(path, read_png(path), 2)
    (tmp_path / "store" / MANIFEST).write_text("{}", encoding="utf-8")
    monkeypatch.setattr(nerfstudio, "read_png", None)  # no frame is read
    write_dataset(scene, tmp_path / "with", config, RunLog())
    assert _images(tmp_path / "with") == _images(tmp_path / "without")


def test_a_dataset_of_frames_on_their_side_makes_its_own(tmp_path: Path) -> None:
    scene, _ = make_scene(tmp_path / "store", (320, 213), 3)
    scene = replace(scene, turned=np.array([False, True, False]))
    for path in scene.source_paths:
        write_copies(path, read_png(path), 1)
    (tmp_path / "store" / MANIFEST).write_text("{}", encoding="utf-8")
    write_dataset(scene, tmp_path / "out", DatasetConfig(num_downscales=1), RunLog())
    whole, half = (read_png(tmp_path / "out" / folder / "frame_00002.png") for folder in ("images", "images_2"))
    np.testing.assert_array_equal(half, shrink_image(whole, 2))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_frames_come_with_copies_and_go_with_them(tmp_path: Path, suffix: str) -> None:
    clip = _write_video(tmp_path / "clip.mp4", [_code(i) for i in range(8)])

    def load(count: int) -> Frames:
        select, geometry = FrameConfig(num_frames_target=count), ImageGeometry(size=64, patch=8)
        return load_frames(
            clip,
            tmp_path / "store",
            select=select,
            geometry=geometry,
            log=RunLog(),
            kept=Kept(suffix, num_downscales=1),
        )

    frames = load(5)
    for path in frames.source_paths:
        copies = kept_copies(path, frames.pixel_map.source_wh, (2,))
        assert copies is not None
        if suffix == ".png":
            np.testing.assert_array_equal(read_png(copies[2]), shrink_image(read_png(path), 2))
    load(3)
    assert len(list((tmp_path / "store" / "copies_2").iterdir())) == 3, "those of an earlier choice are gone"


def _images(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): read_png(path).tobytes() for path in folder.glob("images*/*")}
