"""The motion of the camera between two frames, adjusted to the flow of what stands still.

Source frames between those of the scene have no camera, and flow is more exact than a few pixels of error that a
camera may have: the camera between its neighbours is where the adjustment starts.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from ..two_view.background import DEVIATIONS_PER_MEDIAN
from .prediction import DepthRange, nearest_prediction

ITERATIONS = 12
ROBUST = 1.0
"""Deviations of flow from which on a sample counts less (Cauchy), at the end; more before, while most are off."""
FEWEST_SAMPLES = 40
"""Fewer say nothing about a camera."""
TURN_SIGMA = np.radians(3.0)
MOVE_SIGMA = 0.02
"""How far the start may be off: rotation in radians, translation as a share of the median depth. They hold what the
samples do not determine."""


def adjust_pose(
    T_other_own: np.ndarray,
    rays: np.ndarray,
    ends: np.ndarray,
    bounds: DepthRange,
    focal: np.ndarray,
    deviation: np.ndarray,
    typical: float,
) -> np.ndarray:
    """(4, 4) camera motion under which the flow of N static samples misses least: robust, iterated least squares.

    Args:
        T_other_own: (4, 4) where to start.
        rays, ends, bounds: of the samples, see :mod:`.prediction`.
        focal: (2,) pixels, of the other frame.
        deviation: (N,) pixels of noise of their flow.
        typical: inverse depth that translations are measured against.
    """
    T = T_other_own.astype(float)
    scale = (focal / deviation[:, None]).astype(float)
    prior = np.repeat([1 / TURN_SIGMA**2, (typical / MOVE_SIGMA) ** 2], 3)
    start = T
    for _ in range(ITERATIONS):
        point, w = nearest_prediction(rays, ends, bounds, T)
        point = point.astype(float)
        depth = np.maximum(point[:, 2], 1e-6)
        seen = point[:, :2] / depth[:, None]
        off = (seen - ends) * scale
        size = np.linalg.norm(off, axis=1)
        loose = max(ROBUST, DEVIATIONS_PER_MEDIAN * float(np.median(size)))
        weight = (point[:, 2] > 0) / (1 + (size / loose) ** 2)
        J = _jacobian(point, seen, depth, w) * scale[:, :, None]
        H = np.einsum("nki,n,nkj->ij", J, weight, J) + np.diag(prior)
        g = np.einsum("nki,n,nk->i", J, weight, off) + prior * _distance(start, T)
        step = np.linalg.solve(H, -g)
        T = _moved(T, step)
        if np.abs(step * np.sqrt(np.diag(H))).max() < 1e-2:
            break
    return T


def _jacobian(point: np.ndarray, seen: np.ndarray, depth: np.ndarray, w: np.ndarray) -> np.ndarray:
    """(N, 2, 6) of the normalised image point by a rotation vector and a translation in the other camera."""
    zero, one = np.zeros(len(point)), np.ones(len(point))
    projection = (
        np.stack([one, zero, -seen[:, 0], zero, one, -seen[:, 1]], axis=1).reshape(-1, 2, 3) / depth[:, None, None]
    )
    X, Y, Z = point.T
    turn = np.stack([zero, Z, -Y, -Z, zero, X, Y, -X, zero], axis=1).reshape(-1, 3, 3)
    return np.concatenate([projection @ turn, projection * w[:, None, None]], axis=2)


def _moved(T: np.ndarray, step: np.ndarray) -> np.ndarray:
    """T followed by a small motion: rotation vector (3), translation (3)."""
    moved, R = T.copy(), Rotation.from_rotvec(step[:3]).as_matrix()
    moved[:3, :3] = R @ T[:3, :3]
    moved[:3, 3] = R @ T[:3, 3] + step[3:]
    return moved


def _distance(start: np.ndarray, T: np.ndarray) -> np.ndarray:
    """(6,) the motion from ``start`` to T, as in :func:`_moved`."""
    R = T[:3, :3] @ start[:3, :3].T
    return np.concatenate([Rotation.from_matrix(R).as_rotvec(), T[:3, 3] - R @ start[:3, 3]])
