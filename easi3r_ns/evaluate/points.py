"""Points against the truth: accuracy, completeness and distance (arXiv:2503.24391, Table 5).

Both depth maps are unprojected with their own lenses and cameras; the estimate is moved to the truth by the Sim(3)
between the camera centres (Umeyama 1991), not by one between the points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from ..core.geometry import transform, unproject
from ..core.similarity import align_points

_MOST_QUERIES = 200_000
"""Points for which the nearest one is looked up, among all of the other side; more are thinned evenly."""


@dataclass(frozen=True)
class PointMaps:
    """Depth maps with their cameras, of F frames on one grid."""

    depth: np.ndarray
    """(F, H, W) z-depth, 0 where unknown."""
    T_world_cam: np.ndarray
    """(F, 4, 4) camera-to-world, OpenCV axes."""
    focals_xy: np.ndarray
    """(F, 2) pixels of the grid."""
    principal_point: np.ndarray
    """(2,) pixels of the grid, integer centres."""
    distortion: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)

    def points(self) -> np.ndarray:
        """(F, H, W, 3) float64 in the world of the cameras; meaningless where the depth is unknown."""
        return np.stack(
            [
                transform(T, unproject(depth.astype(float), focal, self.principal_point, self.distortion))
                for T, depth, focal in zip(self.T_world_cam, self.depth, self.focals_xy, strict=True)
            ]
        )


@dataclass(frozen=True)
class PointErrors:
    """Mean distances in the unit of the truth."""

    accuracy: float
    """From an estimated point to the nearest true one."""
    completeness: float
    """From a true point to the nearest estimated one."""
    distance: float
    """Between the two points of a pixel that has both."""
    num_points: int
    """Estimated points."""


def compare_points(estimate: PointMaps, truth: PointMaps) -> PointErrors | None:
    """Errors of the estimated points on the grid of the true ones; None where no pixel has both depths.

    The worlds may differ by any similarity; it is found from the camera centres, which must not lie on a line (see
    :func:`~.trajectory.compare_paths`, which refuses such paths).
    """
    if estimate.depth.shape != truth.depth.shape:
        raise ValueError(f"depths of shape {estimate.depth.shape} and {truth.depth.shape}")
    ours, true = estimate.depth > 0, truth.depth > 0
    if not (ours & true).any():
        return None
    count = len(estimate.T_world_cam)
    into_truth = align_points(estimate.T_world_cam[:, :3, 3], truth.T_world_cam[:, :3, 3], np.ones(count))
    moved, there = into_truth.points(estimate.points()), truth.points()
    return PointErrors(
        accuracy=_mean_nearest(moved[ours], there[true]),
        completeness=_mean_nearest(there[true], moved[ours]),
        distance=float(np.linalg.norm(moved[ours & true] - there[ours & true], axis=-1).mean()),
        num_points=int(ours.sum()),
    )


def _mean_nearest(points: np.ndarray, others: np.ndarray) -> float:
    """Mean distance from (N, 3) points to the nearest of (M, 3) others."""
    distances, _ = cKDTree(others).query(points[:: -(-len(points) // _MOST_QUERIES)])
    return float(distances.mean())
