"""The camera of one frame from points whose place in the world is known (PnP)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ..core.geometry import FisheyeDistortion, distort, project, transform, undistort

MIN_MATCHES = 40
_MIN_SHARE = 0.3
_MIN_SHARE_ALONE = 0.6
"""Share of a neighbour's points that must agree on the camera; the second where only one neighbour has enough."""


@dataclass(frozen=True)
class Matches:
    """What a neighbour tells about another frame."""

    points: np.ndarray
    """(M, 3) points of the neighbour that the frame sees too."""
    pixels: np.ndarray
    """(M, 2) where it sees them."""
    moving: np.ndarray
    """(H, W) bool on the frame's grid: the neighbour's moving pixels."""
    explained: np.ndarray
    """(H, W) bool on the frame's grid: the neighbour shows the same thing."""
    surface: np.ndarray | None = None
    """(H, W, 3) world points that the neighbour shows there, NaN where they are unknown."""


@dataclass(frozen=True)
class Intrinsics:
    """Intrinsics of one frame in network pixels (pixel centres at integers)."""

    K: np.ndarray
    """(3, 3)."""
    distortion: tuple[float, float, float, float]
    """As in :class:`~easi3r_ns.core.scene.Scene`."""

    def project(self, T_world_cam: np.ndarray, points: np.ndarray) -> np.ndarray:
        """(N, 3) world -> (N, 2) distorted network pixels; NaN behind the camera."""
        local = transform(np.linalg.inv(T_world_cam), points)
        local[local[:, 2] <= 0] = np.nan
        ideal = project(local, 1.0, 1.0, 0.0, 0.0)
        return distort(ideal, self.distortion) * self.K[[0, 1], [0, 1]] + self.K[:2, 2]


def find_camera(
    matches: Sequence[Matches], intrinsics: Intrinsics, expected: np.ndarray, tolerance: float, reach: float
) -> np.ndarray | None:
    """(4, 4) camera-to-world on which the matches of every neighbour agree, or None.

    Args:
        expected: (4, 4) interpolated camera-to-world.
        tolerance: pixels of reprojection error up to which a point agrees.
        reach: most distance from the expected camera, in scene units.
    """
    enough = [m for m in matches if len(m.points) >= MIN_MATCHES]
    if not enough:
        return None
    points = np.concatenate([m.points for m in enough])
    pixels = np.concatenate([m.pixels for m in enough])
    pose = _pnp(points, pixels, intrinsics, tolerance)
    if pose is None or np.linalg.norm(pose[:3, 3] - expected[:3, 3]) > reach:
        return None
    needed = _MIN_SHARE if len(enough) > 1 else _MIN_SHARE_ALONE
    for m in enough:
        error = np.linalg.norm(intrinsics.project(pose, m.points) - m.pixels, axis=1)
        if (error < tolerance).mean() < needed:
            return None
    return pose


def _pnp(points: np.ndarray, pixels: np.ndarray, intrinsics: Intrinsics, tolerance: float) -> np.ndarray | None:
    """RANSAC over minimal samples, then Levenberg-Marquardt on the inliers, twice."""
    lens_model, seen = np.array(intrinsics.distortion), pixels
    if isinstance(intrinsics.distortion, FisheyeDistortion):
        # OpenCV's solvers know no fisheye: they get the picture of a pinhole.
        focal, centre = intrinsics.K[[0, 1], [0, 1]], intrinsics.K[:2, 2]
        seen = undistort((pixels - centre) / focal, intrinsics.distortion) * focal + centre
        lens_model = np.zeros(4)
    ok, turn, shift, inliers = cv2.solvePnPRansac(
        points,
        seen,
        intrinsics.K,
        lens_model,
        iterationsCount=500,
        reprojectionError=tolerance,
        confidence=0.999,
        flags=cv2.SOLVEPNP_SQPNP,
    )
    if not ok or inliers is None:
        return None
    chosen = inliers.ravel()
    for _ in range(2):
        if len(chosen) < MIN_MATCHES // 2:
            return None
        turn, shift = cv2.solvePnPRefineLM(points[chosen], seen[chosen], intrinsics.K, lens_model, turn, shift)
        pose = _pose(turn, shift)
        error = np.linalg.norm(intrinsics.project(pose, points) - pixels, axis=1)
        chosen = np.flatnonzero(error < tolerance)
    return pose if np.isfinite(pose).all() else None


def _pose(turn: np.ndarray, shift: np.ndarray) -> np.ndarray:
    T_cam_world = np.eye(4)
    T_cam_world[:3, :3] = cv2.Rodrigues(turn)[0]
    T_cam_world[:3, 3] = shift.ravel()
    return np.linalg.inv(T_cam_world)
