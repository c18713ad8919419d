"""Where a static point may be seen in another frame, given both cameras and what is known of its depth.

A pixel whose depth is known within bounds lands on a segment of its epipolar line in the other frame: the whole line
where nothing is known, nearly a point where the depth was measured. What does not land there moves.

Letters: ``w`` is inverse depth. Rays and ends are (..., 2) ideal (undistorted) normalised image coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

GAUSS_NEWTON_STEPS = 2
NEAREST_SHARE = 0.05
"""Least depth in the other camera, as a share of the depth in the own one: nearer, a point would pass the camera."""


@dataclass(frozen=True)
class DepthRange:
    """Bounds of the depth of static pixels."""

    low: np.ndarray
    """(...) float32 least inverse depth; 0 is infinity."""
    high: np.ndarray
    """(...) float32 largest inverse depth, at least ``low``."""

    def at(self, rows: np.ndarray, columns: np.ndarray) -> DepthRange:
        """The bounds of some pixels."""
        return DepthRange(self.low[rows, columns], self.high[rows, columns])


def nearest_prediction(
    rays: np.ndarray, ends: np.ndarray, bounds: DepthRange, T_other_own: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of all places where a static pixel may be seen in the other frame the one nearest to where flow found it.

    Args:
        rays: (..., 2) of the pixels.
        ends: (..., 2) where flow ends in the other frame.
        T_other_own: (4, 4) from the own camera to the other one.

    Returns:
        (..., 3) point in the other camera per unit of depth: the ray turned, plus the translation times ``w``; and
        (...) the inverse depth ``w``.
    """
    *point, w = _nearest(rays, ends, bounds, T_other_own)
    return np.stack(point, axis=-1), w


def static_place(rays: np.ndarray, ends: np.ndarray, bounds: DepthRange, T_other_own: np.ndarray) -> np.ndarray:
    """(..., 2) ideal coordinates of :func:`nearest_prediction`; infinite where it lies behind the other camera."""
    x, y, z, _ = _nearest(rays, ends, bounds, T_other_own)
    behind = z <= 0
    depth = np.where(behind, 1, z)
    return np.stack([np.where(behind, np.inf, c / depth) for c in (x, y)], axis=-1)


def misses_of(place: np.ndarray, ends: np.ndarray, focal: np.ndarray) -> np.ndarray:
    """(...) pixels per axis between (..., 2) ``place``, as :func:`static_place` has it, and where flow ends.

    Per axis, as the transfer error of a homography and the Sampson distance of the first look.

    ``focal``: (2,) pixels, of the other frame.
    """
    across, down = ((place[..., k] - ends[..., k]) * np.float32(focal[k]) for k in (0, 1))
    return np.sqrt((across * across + down * down) / 2)


def misses(
    rays: np.ndarray, ends: np.ndarray, bounds: DepthRange, T_other_own: np.ndarray, focal: np.ndarray
) -> np.ndarray:
    """:func:`misses_of` the nearest place where a static pixel may be seen; arguments as in :func:`static_place`."""
    return misses_of(static_place(rays, ends, bounds, T_other_own), ends, focal)


def _nearest(
    rays: np.ndarray, ends: np.ndarray, bounds: DepthRange, T_other_own: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """:func:`nearest_prediction`, coordinate by coordinate: sums over an axis of two are slow in NumPy."""
    R, t = T_other_own[:3, :3].astype(np.float32), T_other_own[:3, 3].astype(np.float32)
    own_x, own_y, end_x, end_y = rays[..., 0], rays[..., 1], ends[..., 0], ends[..., 1]
    x, y, z = (own_x * row[0] + own_y * row[1] + row[2] for row in R)
    # A camera that moves forward would pass what is too near.
    passed = (z - NEAREST_SHARE) / np.float32(max(-float(t[2]), 1e-12))
    high = np.maximum(np.minimum(bounds.high, passed), bounds.low)
    # On the line through the end of the flow both coordinates of (turned + w t)_xy - end * (turned + w t)_z vanish.
    slope_x, slope_y = t[0] - end_x * t[2], t[1] - end_y * t[2]
    against = (x - end_x * z) * slope_x + (y - end_y * z) * slope_y
    w = np.clip(-against / np.maximum(slope_x * slope_x + slope_y * slope_y, 1e-20), bounds.low, high)
    for _ in range(GAUSS_NEWTON_STEPS):
        # That weighs by depth; these steps on the distance in the image end at the nearest point.
        depth = np.maximum(z + w * t[2], 1e-6)
        seen_x, seen_y = (x + w * t[0]) / depth, (y + w * t[1]) / depth
        along_x, along_y = (t[0] - seen_x * t[2]) / depth, (t[1] - seen_y * t[2]) / depth
        against = (seen_x - end_x) * along_x + (seen_y - end_y) * along_y
        w = np.clip(w - against / np.maximum(along_x * along_x + along_y * along_y, 1e-20), bounds.low, high)
    return x + w * t[0], y + w * t[1], z + w * t[2], w
