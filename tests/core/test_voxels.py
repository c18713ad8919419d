"""The search for the size of voxels, against counting them one by one."""

from __future__ import annotations

import numpy as np
import pytest

from easi3r_ns.core.voxels import filled_voxels, fit_voxels


def filled(points: np.ndarray, size: float) -> set[tuple[int, ...]]:
    return {tuple(cell) for cell in np.floor(points / size).astype(int).tolist()}


@pytest.mark.parametrize("max_points", [1, 50, 400])
def test_a_surface_fills_the_budget(max_points):
    points = np.random.default_rng(0).uniform(0, 1, (3000, 3)) * [10, 5, 0]
    size, found = fit_voxels(points, max_points, lambda s: filled(points, s), len)
    assert found == filled(points, size)
    assert (0.9 * max_points if max_points > 1 else 1) <= len(found) <= max_points


def test_far_points_do_not_set_the_size():
    points = np.random.default_rng(0).uniform(0, 1, (3000, 3))
    points[:10] *= 1e6
    size, found = fit_voxels(points, 500, lambda s: filled(points, s), len)
    assert size < 1 and 400 < len(found) <= 500


def test_points_that_coincide_end_the_search():
    points, asked = np.full((100, 3), 7.0), []
    size, found = fit_voxels(points, 50, lambda s: asked.append(s) or filled(points, s), len)
    assert len(found) == 1 and size > 0 and len(asked) < 20


def test_a_number_that_jumps_past_the_budget_ends_within_it():
    """Clusters fall apart all at once: no size gives nine tenths of the budget."""
    points = np.zeros((9, 3))
    points[0] = 1
    for edge in np.linspace(0.3, 0.9, 13):
        size, found = fit_voxels(points, 50, lambda s: 100 if s < edge else 1, lambda found: found)
        assert found == 1 and size >= edge


@pytest.mark.parametrize("size", [1e-7, 0.05, 0.3, 2.7, 100.0])
def test_voxels_are_counted_as_open3d_fills_them(size):
    open3d = pytest.importorskip("open3d")
    points = np.random.default_rng(0).normal(size=(2000, 3)) * [1, 2, 3] + 5
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))
    expected = len(points) if size < 1e-6 else len(cloud.voxel_down_sample(size).points)
    assert filled_voxels(points, size) == expected
