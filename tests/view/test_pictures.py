"""Pictures without a browser: the splatter against a slow twin, viewpoints, the turntable and its video."""

from __future__ import annotations

from dataclasses import replace

import av
import cv2
import numpy as np
import pytest

from easi3r_ns.core.errors import OutputError
from easi3r_ns.core.geometry import is_rigid, project, transform
from easi3r_ns.view.cameras import Viewpoint, camera_track, orbit, thumbnails
from easi3r_ns.view.clouds import build_clouds
from easi3r_ns.view.config import TurntableConfig, ViewConfig
from easi3r_ns.view.look import ACCENT, Look, Painter, first_look, frames_shown, trail_level
from easi3r_ns.view.splat import MAX_RADIUS, Pinhole, splat
from easi3r_ns.view.turntable import num_turntable_frames, picture, turntable_frames, write_turntable
from tests.support.dataset_scene import make_scene

WHITE = (255, 255, 255)
SMALL = TurntableConfig(seconds=0.5, fps=12, width=96, height=64)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return make_scene(tmp_path_factory.mktemp("store"), (320, 213))[0]


@pytest.fixture(scope="module")
def painter(scene):
    return Painter.of(build_clouds(scene, ViewConfig()))


@pytest.fixture(scope="module")
def track(scene):
    return camera_track(scene)


def _splat_naive(points, colors, sizes, camera, background):
    picture = np.tile(np.array(background, np.uint8), (camera.height, camera.width, 1))
    depth = np.full((camera.height, camera.width), np.inf)
    local = transform(np.linalg.inv(camera.T_world_cam), points.astype(float))
    centre = (camera.width - 1) / 2, (camera.height - 1) / 2
    for point, color, size in zip(local, colors, sizes):
        if point[2] <= 0.01:
            continue
        u, v = project(point, camera.focal, camera.focal, *centre)
        radius = np.clip(camera.focal * size / (2 * point[2]), 0.5, MAX_RADIUS)
        for y in range(camera.height):
            for x in range(camera.width):
                covered = np.hypot(x - u, y - v) <= radius or (x == round(u) and y == round(v))
                if covered and point[2] < depth[y, x]:
                    picture[y, x], depth[y, x] = color, point[2]
    return picture


def test_splatter_is_its_slow_twin(rng):
    points = rng.uniform([-1.5, -1.5, -1], [1.5, 1.5, 6], (120, 3)).astype(np.float32)
    points[np.abs(points[:, 2]) < 0.1, 2] = 3.0
    colors = rng.integers(0, 256, (120, 3)).astype(np.uint8)
    sizes = rng.uniform(0, 0.6, 120).astype(np.float32)
    camera = Pinhole(Viewpoint(np.array([0.1, -2.0, 0.3]), np.array([0.0, 1.0, 0.0])).T_world_cam, 0.9, 48, 36)
    turned = transform(camera.T_world_cam, points).astype(np.float32)
    fast = splat(turned, colors, sizes, camera, WHITE)
    np.testing.assert_array_equal(fast, _splat_naive(turned, colors, sizes, camera, WHITE))
    assert 0.3 < (fast != 255).any(axis=2).mean() < 1


def test_nearer_points_hide_farther_ones_in_any_order():
    points, colors = np.array([[0, 0, 2.0], [0, 0, 4.0]], np.float32), np.array([[255, 0, 0], [0, 0, 255]], np.uint8)
    camera = Pinhole(np.eye(4), 1.0, 5, 5)
    for order in ([0, 1], [1, 0]):
        shown = splat(points[order], colors[order], np.full(2, 0.01, np.float32), camera, WHITE)
        assert shown[2, 2].tolist() == [255, 0, 0]


def test_nothing_to_splat():
    none = np.zeros((0, 3), np.float32)
    camera = Pinhole(np.eye(4), 1.0, 4, 3)
    assert (splat(none, none.astype(np.uint8), np.zeros(0), camera, (1, 2, 3)) == [1, 2, 3]).all()
    behind = np.array([[0, 0, -1.0]], np.float32)
    assert (splat(behind, np.zeros((1, 3), np.uint8), np.ones(1), camera, WHITE) == 255).all()


def test_the_picture_of_a_camera_is_its_photo(scene, painter, track):
    """Splatting the buffers through a camera of the clip gives back that frame of the clip."""
    for frame in (0, 3):
        width, height = scene.pixel_map.network_wh
        camera = Pinhole(track.T_world_cam[frame], float(track.fov_y[frame]), width, height)
        parts = [painter.static(Look()), painter.moving(frame, Look())]
        points, colors = (np.concatenate(x) for x in zip(*((cloud.points, colors) for cloud, colors, _ in parts)))
        sizes = np.concatenate([np.full(len(cloud), size, np.float32) for cloud, _, size in parts])
        shown = splat(points, colors, sizes, camera, WHITE)
        difference = np.abs(shown.astype(int) - scene.images[frame]).mean(axis=2)
        assert np.median(difference) < 10 and (difference < 40).mean() > 0.9


def test_viewpoints_look_where_they_should(rng):
    for position, look_at in rng.uniform(-3, 3, (20, 2, 3)):
        T = Viewpoint(position, look_at).T_world_cam
        assert is_rigid(T)
        local = transform(np.linalg.inv(T), look_at)
        np.testing.assert_allclose(local, [0, 0, np.linalg.norm(look_at - position)], atol=1e-9)
        assert T[2, 0] == pytest.approx(0) and T[2, 1] < 1e-9  # level, and y points down
    assert is_rigid(Viewpoint(np.array([0, 0, 5.0]), np.zeros(3)).T_world_cam)


def test_first_view_sees_scene_and_cameras_from_above(scene, painter, track):
    home = track.home
    assert home.position[2] > track.T_world_cam[:, 2, 3].max()
    camera = Pinhole(home.T_world_cam, np.radians(50.0), 160, 90)
    local = transform(np.linalg.inv(camera.T_world_cam), track.T_world_cam[:, :3, 3])
    assert (local[:, 2] > 0).all()
    uv = project(local, camera.focal, camera.focal, 79.5, 44.5)
    assert ((uv > 0) & (uv < [160, 90])).all()
    assert (local[:, 2] < np.linalg.norm(home.look_at - home.position)).all()


@pytest.mark.parametrize("arc", [0.0, 60.0, 360.0])
def test_orbit_is_a_seamless_loop_at_one_distance(arc):
    home = Viewpoint(np.array([3.0, 1.0, 2.0]), np.array([0.5, 0.0, 0.2]))
    views = orbit(home, arc, 48)
    positions = np.array([view.position for view in views])
    np.testing.assert_allclose(views[0].position, home.position)
    np.testing.assert_allclose(positions[:, 2], 2.0)
    np.testing.assert_allclose(np.linalg.norm(positions - home.look_at, axis=1), np.linalg.norm([2.5, 1, 1.8]))
    flat = positions[:, :2] - home.look_at[:2]
    angles = np.degrees(np.unwrap(np.arctan2(flat[:, 1], flat[:, 0])))
    assert np.ptp(angles) == pytest.approx(arc if arc < 360 else 360 * 47 / 48, abs=0.5)
    steps = np.linalg.norm(np.diff(positions[[*range(48), 0]], axis=0), axis=1)
    assert steps[-1] <= steps.max() + 1e-9


def test_cameras_are_drawn_where_they_see(scene, track):
    for frame in range(len(scene)):
        corners = transform(np.linalg.inv(track.T_world_cam[frame]), track.corners(frame))
        np.testing.assert_allclose(corners[:, 2], track.size)
        fx, fy = scene.focals_xy[frame]
        width, height = scene.pixel_map.network_wh
        pixels = project(corners, fx, fy, (width - 1) / 2, (height - 1) / 2)
        expected = np.array([[-0.5, -0.5], [width - 0.5, -0.5], [width - 0.5, height - 0.5], [-0.5, height - 0.5]])
        np.testing.assert_allclose(pixels, expected, atol=1e-6)


def test_thumbnails(scene):
    plain, masked = thumbnails(scene, False), thumbnails(scene, True)
    assert len(plain) == len(scene) and plain[0].shape[1] <= 240
    redder = masked[2][..., 0].astype(int) - masked[2][..., 2] - (plain[2][..., 0].astype(int) - plain[2][..., 2])
    np.testing.assert_array_equal(plain[2], scene.images[2])
    still = ~scene.dynamic.masks[2]
    assert (redder[still] == 0).all() and (masked[2] != plain[2]).any(axis=2)[~still].all()


def test_trails_reach_back_in_steps():
    assert frames_shown(Look(frame=7)) == [7]
    assert frames_shown(Look(frame=7, trail=3)) == [7, 6, 5, 4]
    assert frames_shown(Look(frame=7, trail=6, trail_step=3)) == [7, 4, 1]
    assert frames_shown(Look(frame=2, trail=9)) == [2, 1, 0]
    assert frames_shown(Look(frame=2, trail=9, moving=False)) == []


def test_how_far_a_trail_has_faded():
    look = Look(frame=20, trail=8)
    assert [trail_level(look, frame) for frame in (21, 20, 19, 18, 17, 16, 12, 3)] == [0, 0, 1, 1, 2, 2, 4, 4]
    assert [trail_level(Look(frame=5, trail=1), frame) for frame in (5, 4)] == [0, 4]
    assert trail_level(Look(frame=5), 4) == 4


def test_first_look(painter):
    low, high = painter.confidence_range
    assert low == high == 3.0
    assert first_look(painter.clouds, ViewConfig(trail=99, trail_step=2)) == Look(
        frame=4, trail=4, trail_step=2, min_confidence=low
    )


def test_pictures_change_with_the_moment_and_the_settings(scene, painter, track):
    images = thumbnails(scene, False)

    def shown(look, view=track.home):
        return picture(painter, track, images, look, view, (160, 90)).astype(int)

    first, base = shown(Look(frame=0)), shown(Look(frame=4))
    assert first.shape == (90, 160, 3) and (first != 255).any(axis=2).mean() > 0.2
    for look in (
        Look(frame=4, trail=4),
        Look(frame=4, static=False),
        Look(frame=4, moving=False),
        Look(frame=4, cameras="none"),
        Look(frame=4, cameras="all"),
        Look(frame=4, trajectory=False),
        Look(frame=4, color="score"),
        Look(frame=4, point_size=3.0),
        Look(frame=4, min_confidence=99.0),
    ):
        assert (shown(look) != base).any(), look
    assert (first != base).any()
    empty = shown(Look(frame=4, static=False, moving=False, cameras="none", trajectory=False))
    assert (empty == 255).all()
    lines = shown(Look(frame=4, static=False, moving=False, cameras="none"))
    drawn = lines[(lines != 255).any(axis=2)]
    assert len(drawn) and np.abs(drawn - np.array(ACCENT)).sum(axis=1).min() < 60


def test_turntable_plays_the_clip_once_while_it_swings(scene, painter, track):
    images = thumbnails(scene, False)
    frames = list(turntable_frames(painter, track, images, Look(), SMALL))
    assert len(frames) == num_turntable_frames(SMALL) == 6
    assert all(frame.shape == (64, 96, 3) and frame.dtype == np.uint8 for frame in frames)
    assert all((one != other).any() for one, other in zip(frames, frames[1:]))
    still = list(turntable_frames(painter, track, images, Look(moving=False, cameras="none"), replace(SMALL, arc=0.0)))
    assert all((frame == still[0]).all() for frame in still)


def test_video_holds_the_frames(tmp_path, rng):
    noise = rng.integers(0, 256, (6, 4, 6, 3)).astype(np.uint8)
    frames = [cv2.resize(frame, (96, 64), interpolation=cv2.INTER_CUBIC) for frame in noise]
    steps = []
    path = write_turntable(tmp_path / "clip.mp4", iter(frames), SMALL, steps.append)
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate, stream.pix_fmt) == ("h264", 12, "yuv420p")
        decoded = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
    assert len(decoded) == sum(steps) == 6
    for one, other in zip(frames, decoded):
        assert np.abs(one.astype(int) - other).mean() < 12
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


def test_video_that_cannot_be_written(tmp_path):
    with pytest.raises(OutputError):
        write_turntable(tmp_path / "missing" / "clip.mp4", iter([]), SMALL)

    def broken():
        yield np.zeros((64, 96, 3), np.uint8)
        raise RuntimeError("a bug")

    (tmp_path / "old.mp4").write_bytes(b"kept")
    with pytest.raises(RuntimeError):
        write_turntable(tmp_path / "old.mp4", broken(), SMALL)
    assert [file.name for file in tmp_path.iterdir()] == ["old.mp4"]
    assert (tmp_path / "old.mp4").read_bytes() == b"kept"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
