"""Interpolated poses; lens distortion: OpenCV's own numbers, its inverse, depth maps on a distorted grid."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from easi3r_ns.core.geometry import distort, interpolate_poses, pixel_grid, project, undistort, unproject

LENSES = [(0.0, 0.0, 0.0, 0.0), (-0.12, 0.03, 0.0, 0.0), (0.08, -0.01, 0.004, -0.003)]


@pytest.mark.parametrize("lens", LENSES)
def test_distortion_is_that_of_opencv(lens):
    rays = np.random.default_rng(0).uniform(-0.7, 0.7, (50, 2))
    points = np.concatenate([rays, np.ones((50, 1))], axis=1)
    theirs, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), np.eye(3), np.array(lens))
    np.testing.assert_allclose(distort(rays, lens), theirs[:, 0], atol=1e-12)


@pytest.mark.parametrize("lens", LENSES)
def test_undistort_is_the_inverse(lens):
    rays = np.random.default_rng(1).uniform(-0.7, 0.7, (4, 30, 2))
    np.testing.assert_allclose(undistort(distort(rays, lens), lens), rays, atol=1e-7)


@pytest.mark.parametrize("lens", LENSES)
def test_unprojected_pixels_are_seen_where_they_were(lens):
    depth, focal, centre = np.full((24, 32), 2.5), np.array([30.0, 31.0]), np.array([15.2, 11.7])
    points = unproject(depth, focal, centre, lens)
    assert (points[..., 2] == 2.5).all()
    seen = distort(project(points, 1, 1, 0, 0), lens) * focal + centre
    np.testing.assert_allclose(seen, pixel_grid(24, 32), atol=1e-5)


def test_interpolated_poses_keep_to_the_known_ones_and_end_like_them():
    turns = Rotation.from_rotvec([[0, 0, 0], [0, 0.4, 0], [0, 0.4, 0.2]])
    T = np.tile(np.eye(4), (3, 1, 1))
    T[:, :3, :3], T[:, :3, 3] = turns.as_matrix(), [[0, 0, 0], [2, 0, 0], [2, 4, 0]]
    found = interpolate_poses(np.array([0, 2, 6]), T, np.array([-1, 0, 1, 2, 5, 6, 9]))
    np.testing.assert_allclose(found[[0, 1, 3, 5, 6]], T[[0, 0, 1, 2, 2]], atol=1e-12)
    np.testing.assert_allclose(found[[2, 4], :3, 3], [[1, 0, 0], [2, 3, 0]])
    np.testing.assert_allclose(Rotation.from_matrix(found[2, :3, :3]).as_rotvec(), [0, 0.2, 0], atol=1e-12)
    alone = interpolate_poses(np.array([3]), T[2:], np.array([0, 9]))
    np.testing.assert_allclose(alone, T[[2, 2]], atol=1e-12)
