"""Point clouds of a perfectly known scene: on its surfaces, in its colours, nothing that moves, nothing that flies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import open3d
import pytest

from easi3r_ns.core.errors import OutputError
from easi3r_ns.core.scene import SparsePoints
from easi3r_ns.core.surface import on_surface, trusted_depth
from easi3r_ns.core.types import DynamicMasks
from easi3r_ns.dataset.pointcloud import dynamic_points, static_points, thin, write_ply
from tests.support.dataset_scene import BALL_RADIUS, ROOM, ball_centre, make_scene, room_color


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return make_scene(tmp_path_factory.mktemp("store"), (320, 213))[0]


def _off_the_walls(points: np.ndarray) -> np.ndarray:
    return np.abs((ROOM - np.abs(points)).min(axis=1))


def test_static_points_lie_on_the_walls_in_their_colours(scene):
    points, colors = static_points(scene, 5000)
    assert points.dtype == np.float32 and colors.dtype == np.uint8 and points.shape == colors.shape
    assert 4000 <= len(points) <= 5000
    assert np.median(_off_the_walls(points)) < 1e-3
    # Averages over a voxel across an edge of the room lie off both walls, by less than the voxel.
    assert _off_the_walls(points).max() < 0.1
    assert np.median(np.abs(colors.astype(int) - room_color(points))) <= 3
    assert np.linalg.norm(points[:, None] - [ball_centre(f) for f in range(5)], axis=2).min() > 1.2 * BALL_RADIUS


def test_dynamic_points_lie_on_the_ball_of_their_frame(scene):
    for frame in range(len(scene)):
        points, colors = dynamic_points(scene, frame)
        assert len(points) > 50
        np.testing.assert_allclose(np.linalg.norm(points - ball_centre(frame), axis=1), BALL_RADIUS, atol=1e-4)
        assert np.median(colors, axis=0)[0] > 200


def test_growth_leaves_out_the_border_of_what_moves(scene):
    # Masks that miss the ball's rim by three pixels let it into the static cloud, unless they are grown.
    from scipy.ndimage import binary_erosion

    small = np.stack([binary_erosion(mask, iterations=3) for mask in scene.dynamic.masks])
    careless = replace(scene, dynamic=DynamicMasks(small, scene.dynamic.score, 0.5))

    def on_ball(growth: float) -> int:
        points, _ = static_points(careless, 100_000, growth)
        distance = [np.abs(np.linalg.norm(points - ball_centre(f), axis=1) - BALL_RADIUS) < 1e-3 for f in range(5)]
        return int(np.any(distance, axis=0).sum())

    assert on_ball(0) > 100 and on_ball(4) == 0


def test_what_is_not_trusted_stays_out(scene):
    confidence = scene.confidence.copy()
    confidence[:, :, :40], confidence[:, :10] = 1.05, 0.0
    depth = scene.depth.copy()
    depth[:, :, 100:] = 0
    points, _ = static_points(replace(scene, confidence=confidence, depth=depth), 10**6)
    kept = (confidence >= scene.min_confidence) & (depth > 0)
    assert 0 < len(points) <= kept.sum()
    nothing = replace(scene, confidence=np.zeros_like(scene.confidence), min_confidence=0.0)
    assert static_points(nothing, 1000)[0].shape == (0, 3) and dynamic_points(nothing, 0)[0].shape == (0, 3)


def test_flying_pixels_are_dropped_and_slopes_kept():
    y, x = np.mgrid[:60, :80].astype(float)
    step = np.where(x < 40, 2.0, 4.0)
    step[:, 40] = 3.0  # a pixel in between, as a network smears edges
    keep = on_surface(step)
    assert not keep[:, 39:42].any() and keep[:, :37].all() and keep[:, 44:].all()
    floor = 1.0 / (0.02 + 0.01 * y)  # a floor seen at a grazing angle: 30 % a pixel at the top
    assert on_surface(floor).all()
    unknown = np.where(x < 40, 2.0, 0.0)
    assert (on_surface(unknown) == (unknown > 0)).all()
    for noise in (0.01, 0.05):
        rough = 3 * (1 + noise * np.random.default_rng(0).standard_normal((60, 80)))
        assert on_surface(rough).mean() > 0.9
        rough[:, 40:] *= 3
        assert not on_surface(rough)[:, 39:41].any()


@pytest.mark.parametrize("max_points", [100, 1000, 20_000])
def test_thinning_keeps_within_its_budget_and_uses_it(max_points):
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (40_000, 3)) * [5, 5, 0.01]
    points[:20] *= 1e5  # far outliers must not set the voxel
    colors = rng.integers(0, 256, (40_000, 3), dtype=np.uint8)
    thinned, thinned_colors = thin(points, colors, max_points)
    assert 0.6 * max_points <= len(thinned) <= max_points and len(thinned_colors) == len(thinned)


def test_thinning_survives_points_that_coincide():
    points, colors = np.ones((5000, 3)), np.full((5000, 3), 77, np.uint8)
    thinned, thinned_colors = thin(points, colors, 100)
    assert len(thinned) == 1 and (thinned_colors == 77).all()


def test_few_points_are_left_alone():
    points, colors = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32), np.zeros((50, 3), np.uint8)
    assert np.array_equal(thin(points, colors, 100)[0], points)


def test_ply_comes_back(tmp_path):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(256, 3)).astype(np.float32)
    colors = np.stack([np.arange(256)] * 3, axis=1).astype(np.uint8)
    cloud = open3d.io.read_point_cloud(str(write_ply(tmp_path / "a.ply", points, colors)))
    np.testing.assert_array_equal(np.asarray(cloud.points, dtype=np.float32), points)
    np.testing.assert_array_equal(np.rint(np.asarray(cloud.colors) * 255).astype(np.uint8), colors)
    write_ply(tmp_path / "none.ply", np.zeros((0, 3)), np.zeros((0, 3)))
    assert len(open3d.io.read_point_cloud(str(tmp_path / "none.ply")).points) == 0


def test_ply_into_a_missing_folder(tmp_path):
    with pytest.raises(OutputError, match="missing"):
        write_ply(tmp_path / "missing" / "a.ply", np.zeros((1, 3)), np.zeros((1, 3)))


def test_contradicted_points_stay_out_of_the_clouds_and_keep_their_depth(tmp_path):
    scene, _ = make_scene(tmp_path / "store", (320, 240))
    contradicted = np.zeros(scene.depth.shape, dtype=bool)
    contradicted[:, :, : scene.depth.shape[2] // 2] = True
    all_points, _ = static_points(scene, 10**6)
    some_points, _ = static_points(replace(scene, contradicted=contradicted), 10**6)
    assert 0.3 * len(all_points) < len(some_points) < 0.7 * len(all_points)
    np.testing.assert_array_equal(trusted_depth(replace(scene, contradicted=contradicted), 0), trusted_depth(scene, 0))


def test_triangulated_points_lead_the_cloud(scene):
    rng = np.random.default_rng(0)
    points, n = rng.normal(size=(3000, 3)), 3000
    colors = rng.integers(0, 256, (n, 3), dtype=np.uint8)
    index = np.arange(n)
    sparse = SparsePoints(points, colors, np.ones(n), index, index % 2, np.ones((n, 2)))
    merged, merged_colors = static_points(replace(scene, sparse=sparse), 10_000)
    np.testing.assert_allclose(merged[:n], points, atol=1e-6)
    assert np.array_equal(merged_colors[:n], colors) and 9000 < len(merged) <= 10_000
    assert np.median(_off_the_walls(merged[n:])) < 1e-3
    # Points that only other frames have seen stay out; many points are thinned so that surfaces keep their share.
    assert np.abs(static_points(replace(scene, sparse=sparse), 10_000, frames=[1])[0][0] - points[1]).max() < 1e-6
    crowded = static_points(replace(scene, sparse=sparse), 2000)[0]
    assert len(crowded) <= 2000
    assert (_off_the_walls(crowded[-900:]) < 0.1).mean() > 0.95
