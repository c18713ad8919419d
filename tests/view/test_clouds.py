"""Buffers of the viewer: on the surfaces of a known scene, thinned evenly, coloured as the mode says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from easi3r_ns.core.errors import InputError
from easi3r_ns.core.geometry import Z_UP_FROM_OPENCV_WORLD, transform
from easi3r_ns.core.objects import PALETTE
from easi3r_ns.core.scene import ASSUMED, SparsePoints
from easi3r_ns.core.types import DynamicMasks
from easi3r_ns.view import clouds as module
from easi3r_ns.view.cameras import camera_track
from easi3r_ns.view.clouds import Cloud, build_clouds, thin, voxel_labels
from easi3r_ns.view.colors import MOVING, cloud_colors, overlay, ramp, several_objects, tint
from easi3r_ns.view.config import TurntableConfig, ViewConfig
from easi3r_ns.view.look import Painter
from easi3r_ns.view.panel import panel_title
from tests.support.dataset_scene import BALL_RADIUS, ROOM, ball_centre, make_scene, room_color

TO_OPENCV = np.linalg.inv(Z_UP_FROM_OPENCV_WORLD)[:3, :3]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return make_scene(tmp_path_factory.mktemp("store"), (320, 213))[0]


@pytest.fixture(scope="module")
def clouds(scene):
    return build_clouds(scene, ViewConfig())


def cloud_of(points: np.ndarray, rng: np.random.Generator) -> Cloud:
    n = len(points)
    colors = rng.integers(0, 256, (n, 3)).astype(np.uint8)
    return Cloud(points.astype(np.float32), colors, *rng.uniform(0, 1, (2, n)).astype(np.float32), spacing=0.0)


def _thin_naive(cloud: Cloud, size: float) -> list[list[float]]:
    """Mean x, y, z, r, g, b, confidence, score of every voxel, sorted."""
    centre = np.median(cloud.points, axis=0)
    voxels: dict[tuple, list] = {}
    for row in zip(cloud.points, cloud.colors, cloud.confidence, cloud.score):
        cell = tuple(np.rint((row[0] - centre) / size).astype(int))
        voxels.setdefault(cell, []).append([*row[0], *row[1].astype(float), row[2], row[3]])
    return sorted(np.mean(members, axis=0).tolist() for members in voxels.values())


def test_static_points_lie_on_the_walls_in_their_colours_with_z_up(clouds):
    walls = clouds.static.points @ TO_OPENCV.T
    assert np.abs((ROOM - np.abs(walls)).min(axis=1)).max() < 1e-4
    difference = clouds.static.colors.astype(int) - room_color(walls)
    assert np.abs(difference).mean() < 4
    # The floor of the room (y down: +2) is below the cameras.
    assert clouds.static.points[:, 2].min() == pytest.approx(-ROOM[1], abs=1e-3)


def test_moving_points_lie_on_the_ball_of_their_moment(scene, clouds):
    assert len(clouds.moving) == len(scene)
    for frame, cloud in enumerate(clouds.moving):
        assert len(cloud) > 50
        distance = np.linalg.norm(cloud.points @ TO_OPENCV.T - ball_centre(frame), axis=1)
        assert np.abs(distance - BALL_RADIUS).max() < 1e-4
        assert (cloud.colors[:, 0] > 150).all()


def test_budgets_are_kept_and_used(scene):
    few = build_clouds(scene, ViewConfig(max_static_points=2000, max_moving_points=40))
    assert 1500 < len(few.static) <= 2000
    assert all(20 < len(cloud) <= 40 for cloud in few.moving)
    assert few.num_points == len(few.static) + sum(map(len, few.moving))


def test_long_clips_get_fewer_moving_points_a_frame(scene, monkeypatch):
    monkeypatch.setattr(module, "MAX_ALL_MOVING", 30 * len(scene))
    assert max(map(len, build_clouds(scene, ViewConfig()).moving)) <= 30


def test_every_frame_is_announced(scene):
    steps = []
    build_clouds(scene, ViewConfig(), steps.append)
    assert sum(steps) == len(scene)


def test_untrusted_and_contradicted_pixels_are_not_shown(scene):
    confidence = scene.confidence.copy()
    confidence[:, :, :64] = 1.0
    contradicted = np.zeros(scene.depth.shape, dtype=bool)
    contradicted[:, :40] = True
    left = build_clouds(replace(scene, confidence=confidence, contradicted=contradicted), ViewConfig())
    full = build_clouds(scene, ViewConfig())
    assert 0.2 * len(full.static) < len(left.static) < 0.4 * len(full.static)


def test_what_moves_is_shown_where_its_depth_is_assumed(scene):
    still = ~scene.dynamic.masks
    bare = replace(scene, depth=scene.depth * still, confidence=scene.confidence * still)
    assumed = replace(bare, assumed_depth=np.where(still, 0, np.float32(1.5)))
    without, shown = build_clouds(bare, ViewConfig()), build_clouds(assumed, ViewConfig())
    assert shown.assumed and not without.assumed and not any(map(len, without.moving))
    np.testing.assert_array_equal(shown.static.points, without.static.points)
    for frame, cloud in enumerate(shown.moving):
        local = transform(np.linalg.inv(Z_UP_FROM_OPENCV_WORLD @ scene.T_world_cam[frame]), cloud.points)
        np.testing.assert_allclose(local[:, 2], 1.5, rtol=1e-5)
        assert len(cloud) == scene.dynamic.masks[frame].sum() and (cloud.confidence == 0).all() and cloud.spacing > 0
    track = camera_track(assumed)
    assert ASSUMED in panel_title(track, Painter.of(shown)) and ASSUMED not in panel_title(track, Painter.of(without))


def test_score_is_that_of_the_pixel(scene):
    score = np.zeros((len(scene), 4, 4), np.float32)
    score[:, :, 2:] = 1.0
    scored = build_clouds(replace(scene, dynamic=replace(scene.dynamic, score=score)), ViewConfig())
    assert scored.static.score.min() == 0 and scored.static.score.max() == 1
    assert 0.4 < scored.static.score.mean() < 0.6


def test_spacing_is_the_distance_to_the_neighbours(clouds):
    from scipy.spatial import cKDTree

    for cloud in (thin(clouds.static, 3000), clouds.moving[0]):
        nearest = cKDTree(cloud.points).query(cloud.points, k=2)[0][:, 1]
        assert 0.5 * np.median(nearest) < cloud.spacing < 4 * np.median(nearest)


def test_thinning_averages_voxels(rng):
    cloud = cloud_of(rng.uniform(-1, 1, (400, 3)), rng)
    thinned = thin(cloud, 60)
    size = thinned.spacing
    expected = _thin_naive(cloud, size)
    found = sorted(
        [*p, *c, conf, s]
        for p, c, conf, s in zip(thinned.points, thinned.colors, thinned.confidence, thinned.score, strict=True)
    )
    assert len(found) == len(expected) <= 60
    np.testing.assert_allclose(found, expected, atol=0.51)  # colours are rounded
    np.testing.assert_allclose(np.array(found)[:, :3], np.array(expected)[:, :3], atol=1e-5)


@pytest.mark.parametrize("max_points", [1, 7, 500])
def test_thinning_keeps_within_any_budget(rng, max_points):
    surface = rng.uniform(0, 1, (3000, 3)) * [10, 5, 0]
    far = np.array([[1e6, 0, 0], [-1e6, 3, 9]])
    for points in (surface, np.concatenate([surface, far]), np.zeros((3000, 3))):
        thinned = thin(cloud_of(points, rng), max_points)
        assert 1 <= len(thinned) <= max_points
    if max_points == 500:
        assert len(thin(cloud_of(surface, rng), 500)) > 400


def test_voxel_labels_tell_voxels_apart():
    points = np.array([[0, 0, 0], [0.2, 0, 0], [1.2, 0, 0], [0, 1.2, 0], [0, 0, 1.2], [1.3, 0, 0]])
    labels, count = voxel_labels(points, 1.0)
    assert count == 4 and labels[0] == labels[1] and labels[2] == labels[5]
    assert len({labels[0], labels[2], labels[3], labels[4]}) == 4


def test_confidence_slider(rng):
    cloud = cloud_of(rng.uniform(-1, 1, (100, 3)), rng)
    kept = cloud.above(0.6)
    assert len(kept) == (cloud.confidence >= 0.6).sum() and kept.confidence.min() >= 0.6
    assert {tuple(p) for p in kept.points} <= {tuple(p) for p in cloud.points}
    assert cloud.above(float(cloud.confidence.min())) is cloud


def test_without_depth_the_triangulated_points_are_shown(scene):
    sparse = SparsePoints(
        points=np.array([[0.0, 1, 2], [3, 4, 5]]),
        colors=np.array([[1, 2, 3], [4, 5, 6]], np.uint8),
        errors=np.zeros(2),
        point_index=np.array([0, 0, 0, 1, 1]),
        frame_index=np.array([0, 1, 2, 0, 1]),
        pixels=np.zeros((5, 2)),
    )
    bare = replace(scene, depth=np.zeros_like(scene.depth), confidence=np.zeros_like(scene.confidence), sparse=sparse)
    clouds = build_clouds(bare, ViewConfig())
    np.testing.assert_allclose(clouds.static.points, [[0, 2, -1], [3, 5, -4]])
    np.testing.assert_array_equal(clouds.static.confidence, [3, 2])
    assert [len(cloud) for cloud in clouds.moving] == [0] * len(scene)
    nothing = build_clouds(replace(bare, sparse=None), ViewConfig())
    assert nothing.num_points == 0 and nothing.confidence_range() == (0.0, 0.0)


def test_empty_masks(scene):
    still = replace(scene, dynamic=DynamicMasks(np.zeros_like(scene.dynamic.masks), scene.dynamic.score, 0.5))
    assert not any(map(len, build_clouds(still, ViewConfig()).moving))


def test_ramp_runs_from_dark_to_bright():
    colors = ramp(np.linspace(-0.5, 1.5, 50))
    brightness = colors.sum(axis=1).astype(int)
    assert (np.diff(brightness) >= 0).all() and brightness[0] < 20 and brightness[-1] > 600
    assert colors.dtype == np.uint8 and ramp(np.zeros((4, 5))).shape == (4, 5, 3)


def test_colour_modes(rng):
    cloud = cloud_of(rng.uniform(-1, 1, (50, 3)), rng)
    bounds = (0.1, 1.0)
    assert cloud_colors(cloud, "photo", bounds, 0.5) is cloud.colors
    np.testing.assert_array_equal(cloud_colors(cloud, "score", bounds, None), ramp(cloud.score))
    order = np.argsort(cloud.confidence)
    by_confidence = cloud_colors(cloud, "confidence", bounds, None).astype(int).sum(axis=1)[order]
    assert (np.diff(by_confidence) >= 0).all()
    # What stands still keeps its colours in the modes that are about movers.
    for mode in ("mask", "time"):
        assert cloud_colors(cloud, mode, bounds, None) is cloud.colors
    np.testing.assert_array_equal(cloud_colors(cloud, "mask", bounds, 0.0), tint(cloud.colors))
    early, late = (cloud_colors(cloud, "time", bounds, time).astype(int).mean(axis=0) for time in (0.0, 1.0))
    assert early[2] > early[0] + 50 and late[0] > late[2] + 50


def test_overlay_reddens_what_moves_only(rng):
    image, mask = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8), rng.uniform(size=(6, 8)) < 0.5
    shown = overlay(image, mask)
    np.testing.assert_array_equal(shown[~mask], image[~mask])
    assert (np.abs(shown[mask] - MOVING.astype(float)) <= np.abs(image[mask] - MOVING.astype(float)) * 0.45 + 1).all()


@pytest.mark.parametrize(
    ("config", "value"),
    [
        (ViewConfig, {"max_static_points": 0}),
        (ViewConfig, {"max_moving_points": -1}),
        (ViewConfig, {"trail": -1}),
        (ViewConfig, {"trail_step": 0}),
        (ViewConfig, {"point_size": 0.0}),
        (ViewConfig, {"point_size": float("nan")}),
        (TurntableConfig, {"seconds": 0.0}),
        (TurntableConfig, {"seconds": float("inf")}),
        (TurntableConfig, {"fps": 0}),
        (TurntableConfig, {"arc": 361.0}),
        (TurntableConfig, {"width": 641}),
        (TurntableConfig, {"height": 10_000}),
    ],
)
def test_impossible_options_are_refused_with_their_value(config, value):
    with pytest.raises(InputError) as caught:
        config(**value)
    assert f"{next(iter(value.values())):g}" in str(caught.value)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_several_objects_are_told_apart_by_colour(scene):
    masks = scene.dynamic.masks
    ids = masks.astype(np.uint16)
    red = build_clouds(replace(scene, dynamic=replace(scene.dynamic, objects=ids)), ViewConfig())
    assert all(cloud.marks is None for cloud in red.moving)
    assert several_objects(scene, 0) is None
    half = masks.shape[2] // 2
    ids[:, :, half:] *= 2
    told = replace(scene, dynamic=replace(scene.dynamic, objects=ids))
    clouds = build_clouds(told, ViewConfig())
    marks = np.concatenate([cloud.marks for cloud in clouds.moving if len(cloud)])
    assert {tuple(mark) for mark in marks.tolist()} == {tuple(colour) for colour in PALETTE[:2].tolist()}
    cloud = next(cloud for cloud in clouds.moving if len(cloud))
    np.testing.assert_array_equal(cloud_colors(cloud, "mask", (1, 2), 0.0), tint(cloud.colors, cloud.marks))
    frame = int(np.argmax((ids == 2).sum(axis=(1, 2))))
    shown = overlay(scene.images[frame], masks[frame], several_objects(told, frame))
    np.testing.assert_array_equal(shown[ids[frame] == 2], tint(scene.images[frame][ids[frame] == 2], PALETTE[1]))
