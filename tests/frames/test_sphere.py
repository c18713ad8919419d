"""Equirectangular frames become views that look where they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from easi3r_ns.core.config import FrameConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.frames import ImageGeometry, is_sphere, load_frames, preview_source
from easi3r_ns.frames.sphere import ViewSampler, plan_views
from tests.frames.test_panorama import VERSION_2, clip
from tests.support.sphere_clip import directions, write_clip

ANY = Path("clip.mp4")
SPHERE = FrameConfig(projection="equirect", num_frames_target=0)


def coloured(looks: np.ndarray) -> np.ndarray:
    """A colour for every direction, smooth all around."""
    return (127.5 + 120 * looks).round().astype(np.uint8)


@pytest.mark.parametrize("height", [200, 270])
@pytest.mark.parametrize("fov, poles", [(90.0, "both"), (60.0, "none")])
def test_every_pixel_of_a_view_shows_what_lies_in_its_direction(height: int, fov: float, poles: str) -> None:
    select = FrameConfig(projection="equirect", equirect_views=5, equirect_fov=fov, equirect_poles=poles)  # type: ignore[arg-type]
    views = plan_views((2 * height, height), select, ANY)
    shown = ViewSampler(views)(coloured(directions(height)))
    assert len(shown) == len(views.T_rig_view) == (7 if poles == "both" else 5)
    ahead = [T[:3, 2] for T in views.T_rig_view]
    np.testing.assert_allclose(ahead[0], (0, 0, 1), atol=1e-12)
    np.testing.assert_allclose(ahead[1], (np.sin(2 * np.pi / 5), 0, np.cos(2 * np.pi / 5)), atol=1e-12)
    if poles == "both":
        np.testing.assert_allclose(ahead[-2:], [(0, -1, 0), (0, 1, 0)], atol=1e-12)
    for image, T in zip(shown, views.T_rig_view):
        for row in range(0, views.side, 7):
            for column in range(0, views.side, 7):
                offset = np.array([column, row]) - (views.side - 1) / 2
                ray = T[:3, :3] @ np.array([*(offset / views.focal), 1.0])
                expected = coloured(ray / np.linalg.norm(ray))
                assert np.abs(image[row, column].astype(int) - expected).max() <= 2
    edge = np.degrees(np.arctan(views.side / 2 / views.focal))
    assert edge == pytest.approx(fov / 2)


def test_the_middle_of_a_view_is_as_fine_as_the_frame() -> None:
    views = plan_views((3840, 1920), FrameConfig(), ANY)
    assert np.degrees(1 / views.focal) == pytest.approx(360 / 3840, rel=1e-3)


@pytest.mark.parametrize("wh, told", [((1920, 1080), "no whole sphere.*scale=1920:960"), ((512, 512), "two eyes")])
def test_frames_that_are_no_whole_sphere_are_refused(wh: tuple[int, int], told: str) -> None:
    with pytest.raises(InputError, match=told):
        plan_views(wh, FrameConfig(), ANY)


def test_tiny_frames_are_refused() -> None:
    with pytest.raises(InputError, match="20x20"):
        plan_views((64, 32), FrameConfig(), ANY)


def drifting(count: int = 6, height: int = 128) -> np.ndarray:
    """Frames whose content moves to the left by two pixels each."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (height // 4, height // 2, 3)).astype(np.uint8)
    first = np.asarray(Image.fromarray(noise).resize((2 * height, height), Image.Resampling.BICUBIC))
    return np.stack([np.roll(first, -2 * k, axis=1) for k in range(count)])


def test_a_clip_becomes_one_clip_per_view(tmp_path: Path) -> None:
    data = write_clip(tmp_path / "round.mp4", drifting())
    select = FrameConfig(projection="equirect", num_frames_target=3, equirect_views=4, sharpest=False)
    geometry = ImageGeometry(size=64)
    frames = load_frames(data, tmp_path / "store", select=select, geometry=geometry, log=RunLog())
    assert frames.rig is not None
    assert len(frames) == 12
    assert frames.rig.view.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert frames.rig.moment.tolist() == [0, 1, 2] * 4
    assert [frames.rig.stem(k) for k in (0, 4)] == ["frame_00001_view1", "frame_00002_view2"]
    assert frames.clips == [range(3), range(3, 6), range(6, 9), range(9, 12)]
    assert frames.times.reshape(4, 3).tolist() == [frames.times[:3].tolist()] * 4
    assert frames.num_source_frames == 4 * frames.num_first_source == 24
    assert frames.near is not None and len(np.unique(frames.near.places)) == len(frames.near) == 4 * 3
    assert np.isin(frames.near.places % 6, [1, 2, 3, 4]).all()
    # A network image is its view; a near one that of its own frame: the content moves to the left.
    for path, place in zip(frames.near.paths, frames.near.places.tolist()):
        view, index = divmod(place, 6)
        near = np.asarray(Image.open(path)).astype(int)
        errors = [
            np.abs(near - np.asarray(Image.open(frames.source_paths[row])).astype(int)).mean()
            for row in range(len(frames))
        ]
        assert frames.rig.view[int(np.argmin(errors))] == view
        assert abs(frames.indices[int(np.argmin(errors))] - index) <= 1
    count, pixel_map = preview_source(data, select, geometry, RunLog())
    assert (count, pixel_map) == (len(frames), frames.pixel_map)
    # An interrupted run cuts no view twice; a view that was damaged since, or other views, are cut.
    written = {path: path.stat().st_mtime_ns for path in frames.source_paths + frames.near.paths}
    again = load_frames(data, tmp_path / "store", select=select, geometry=geometry, log=RunLog())
    assert (again.images == frames.images).all() and again.near.paths == frames.near.paths
    assert written == {path: path.stat().st_mtime_ns for path in written}
    frames.source_paths[5].write_bytes(b"damaged")
    again = load_frames(data, tmp_path / "store", select=select, geometry=geometry, log=RunLog())
    assert (again.images == frames.images).all()
    wider = replace(select, equirect_fov=100.0)
    other = load_frames(data, tmp_path / "store", select=wider, geometry=geometry, log=RunLog())
    assert other.rig.focal != frames.rig.focal and (other.images != frames.images).any()


def remuxed(source: Path, target: Path) -> Path:
    """The same streams in another container, with their side data."""
    with av.open(str(source)) as inside, av.open(str(target), "w") as outside:
        stream = outside.add_stream_from_template(inside.streams.video[0])
        for packet in inside.demux(inside.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                outside.mux(packet)
    return target


def test_spherical_matroska_is_recognised(tmp_path: Path) -> None:
    round_ = remuxed(clip(tmp_path / "round.mp4", VERSION_2), tmp_path / "round.mkv")
    flat = remuxed(clip(tmp_path / "flat.mp4"), tmp_path / "flat.mkv")
    assert is_sphere(round_, FrameConfig())
    assert not is_sphere(round_, FrameConfig(projection="perspective"))
    assert not is_sphere(flat, FrameConfig())
    assert is_sphere(flat, FrameConfig(projection="equirect"))


@pytest.mark.parametrize(
    "options, told", [({"crop_factor": (0.1, 0, 0, 0)}, "--crop-factor"), ({"pose_all_frames": True}, "--pose-all")]
)
def test_options_of_one_lens_are_refused(options: dict, told: str, tmp_path: Path) -> None:
    data = write_clip(tmp_path / "round.mp4", drifting())
    select = FrameConfig(projection="equirect", **options)
    for call in (
        lambda: preview_source(data, select, ImageGeometry(64), RunLog()),
        lambda: load_frames(data, tmp_path / "s", select=select, geometry=ImageGeometry(64), log=RunLog()),
    ):
        with pytest.raises(InputError, match=told):
            call()
