"""preview.mp4: what a decoder finds in it, and what happens without encoders or room on the disk."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from easi3r_ns.core.errors import OutputError
from easi3r_ns.core.scene import Scene
from easi3r_ns.report.pictures import (
    DEPTH_MAP,
    UNKNOWN,
    colored,
    depth_picture,
    depth_range,
    outlined,
    panel_size,
    photo,
)
from easi3r_ns.report.preview import playback_rate, write_preview
from easi3r_ns.storage import video
from easi3r_ns.storage.video import write_video
from easi3r_ns.view.colors import MOVING
from tests.support.dataset_scene import make_scene


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """5 frames whose network view is a crop of the source."""
    return make_scene(tmp_path_factory.mktemp("room"), (200, 120), 5)[0]


def decode(path: Path) -> tuple[np.ndarray, av.VideoStream]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]), stream


def test_frame_masks_and_depth_side_by_side(room: Scene, tmp_path: Path) -> None:
    steps = []
    path = write_preview(room, tmp_path / "preview.mp4", steps.append)
    frames, stream = decode(path)
    width, height = panel_size(room, 480)
    assert frames.shape == (5, height, 3 * width, 3) and sum(steps) == 5
    assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
    assert stream.average_rate == 10 and height % 2 == 0 == width % 2
    head = path.read_bytes()[:4096]
    assert b"ftyp" in head and head.index(b"moov") > 0, "a browser finds the index at the beginning"
    for f in (0, 4):
        panels = np.split(frames[f].astype(int), 3, axis=1)
        original = photo(room, f, (width, height)).astype(int)
        assert np.abs(panels[0] - original).mean() < 6
        expected = outlined(original.astype(np.uint8), room.dynamic.masks[f]).astype(int)
        assert np.abs(panels[1] - expected).mean() < 6 and np.abs(panels[1] - panels[0]).mean() > 0.5
        assert np.abs(panels[2] - original).mean() > 20
    assert sorted(p.name for p in tmp_path.iterdir()) == ["preview.mp4"]


def test_same_scene_same_bytes(room: Scene, tmp_path: Path) -> None:
    contents = {write_preview(room, tmp_path / f"{k}.mp4").read_bytes() for k in range(3)}
    assert len(contents) == 1


def test_without_depth_there_are_two_pictures(room: Scene, tmp_path: Path) -> None:
    nothing = np.zeros_like(room.depth)
    frames, _ = decode(write_preview(replace(room, depth=nothing, confidence=nothing), tmp_path / "p.mp4"))
    assert frames.shape[2] == 2 * panel_size(room, 480)[0]


def test_without_source_images_the_small_ones_serve(room: Scene, tmp_path: Path) -> None:
    frames, _ = decode(write_preview(replace(room, source_paths=(Path("gone.png"),) * 5), tmp_path / "p.mp4"))
    sharp, _ = decode(write_preview(room, tmp_path / "q.mp4"))
    assert frames.shape == sharp.shape and 0 < np.abs(frames.astype(int) - sharp).mean() < 12


@pytest.mark.parametrize(
    ("times", "rate"),
    [([0, 0.1, 0.2], 10), ([0, 5, 10], 6), ([0, 0.001], 30), ([0.0], 6), ([0, 1 / 24, 2 / 24, 0], 24)],
)
def test_playback_keeps_the_pace_of_the_clip(times: list[float], rate: int) -> None:
    assert playback_rate(np.array(times, dtype=float)) == pytest.approx(Fraction(rate), rel=1e-3)


def test_sizes_are_even_and_keep_the_shape(room: Scene) -> None:
    for width in (480, 333, 7):
        size = panel_size(room, width)
        assert size[0] % 2 == 0 == size[1] % 2 and size[0] <= max(width + 1, 2)
    left, top, right, bottom = room.pixel_map.crop_box
    assert panel_size(room, 100)[0] / panel_size(room, 100)[1] == pytest.approx(
        (right - left) / (bottom - top), rel=0.05
    )


def test_photo_is_the_crop_that_the_network_saw(room: Scene) -> None:
    width, height = room.pixel_map.network_wh
    assert np.abs(photo(room, 2, (width, height)).astype(int) - room.images[2]).mean() < 4


def test_outlined_tints_what_moves_and_nothing_else() -> None:
    grey = np.full((40, 60, 3), 100, np.uint8)
    moving = np.zeros((20, 30), dtype=bool)
    moving[8:14, 10:20] = True
    tinted = outlined(grey, moving)
    assert (tinted[:14] == 100).all() and (tinted[:, :18] == 100).all()
    inside = tinted[22, 30].astype(int)
    assert inside[0] > 150 and inside[1] < 100
    assert np.abs(tinted.astype(int) - MOVING).max(axis=-1).min() < 40 < np.abs(inside - MOVING).max(), "an outline"
    assert (outlined(grey, np.zeros_like(moving)) == grey).all()


def test_depth_colours(room: Scene) -> None:
    near, far = depth_range(room)
    assert room.depth.min() <= near < far <= room.depth.max()
    confidence = room.confidence.copy()
    confidence[:, :10] = 0
    picture = depth_picture(replace(room, confidence=confidence), 0, (near, far))
    assert (picture[:10] == UNKNOWN).all() and not (picture[10:] == UNKNOWN).all(axis=-1).any()
    closest = np.unravel_index(np.argmin(room.depth[0, 10:]), room.depth[0, 10:].shape)
    farthest = np.unravel_index(np.argmax(room.depth[0, 10:]), room.depth[0, 10:].shape)
    assert picture[10:][closest].sum() > picture[10:][farthest].sum() + 100, "near is bright"
    ramp = colored(np.array([[0.0, 0.5, 1.0, np.nan]]), 0, 1, DEPTH_MAP)[0]
    assert ramp[0].sum() < ramp[1].sum() < ramp[2].sum() and (ramp[3] == UNKNOWN).all()


def test_fallback_encoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    frames = [np.full((32, 48, 3), level, np.uint8) for level in (20, 120, 220)]
    monkeypatch.setattr(video, "ENCODERS", (("no such encoder", {}), ("mpeg4", {"qscale": "4"})))
    decoded, stream = decode(write_video(tmp_path / "a.mp4", frames, Fraction(5)))
    assert stream.codec_context.name == "mpeg4" and len(decoded) == 3
    assert decoded.mean(axis=(1, 2, 3)) == pytest.approx([20, 120, 220], abs=4)
    monkeypatch.setattr(video, "ENCODERS", (("no such encoder", {}),))
    with pytest.raises(OutputError, match="none of the encoders no such encoder"):
        write_video(tmp_path / "b.mp4", frames, Fraction(5))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4"]


def test_refused_frames_and_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even sizes"):
        write_video(tmp_path / "a.mp4", [np.zeros((31, 48, 3), np.uint8)], Fraction(5))
    with pytest.raises(OutputError, match="missing"):
        write_video(tmp_path / "missing" / "a.mp4", [np.zeros((32, 48, 3), np.uint8)], Fraction(5))
    assert not list(tmp_path.iterdir())
