"""Where a static point may be seen in another frame, given both cameras and what is known of its depth.

A pixel whose depth is known within bounds lands on a segment of its epipolar line in the other frame: the whole line
where nothing is known, nearly a point where the depth was measured. What does not land there moves.

Letters: ``w`` is inverse depth. Rays and ends are (..., 2) ideal (undistorted) normalised image coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
    R, t = T_other_own[:3, :3].astype(np.float32), T_other_own[:3, 3].astype(np.float32)
    turned = rays[..., :1] * R[:, 0] + rays[..., 1:] * R[:, 1] + R[:, 2]
    # A camera that moves forward would pass what is too near.
    passed = (turned[..., 2] - NEAREST_SHARE) / max(-float(t[2]), 1e-12)
    high = np.maximum(np.minimum(bounds.high, passed), bounds.low)
    # On the line through the end of the flow both coordinates of (turned + w t)_xy - end * (turned + w t)_z vanish.
    constant = turned[..., :2] - ends * turned[..., 2:]
    slope = t[:2] - ends * t[2]
    steepness = (slope**2).sum(axis=-1)
    w = np.clip(-(constant * slope).sum(axis=-1) / np.maximum(steepness, 1e-20), bounds.low, high)
    for _ in range(2):
        # That weighs by depth; two steps of Gauss and Newton on the distance in the image end at the nearest point.
        point = turned + w[..., None] * t
        depth = np.maximum(point[..., 2:], 1e-6)
        seen = point[..., :2] / depth
        along = (t[:2] - seen * t[2]) / depth
        step = ((seen - ends) * along).sum(axis=-1) / np.maximum((along**2).sum(axis=-1), 1e-20)
        w = np.clip(w - step, bounds.low, high)
    return turned + w[..., None] * t, w


def misses(
    rays: np.ndarray, ends: np.ndarray, bounds: DepthRange, T_other_own: np.ndarray, focal: np.ndarray
) -> np.ndarray:
    """(...) pixels per axis by which flow misses the nearest place where a static pixel may be seen.

    Per axis, as the transfer error of a homography and the Sampson distance of the first look.

    ``focal``: (2,) pixels. Other arguments as in :func:`nearest_prediction`.
    """
    point, _ = nearest_prediction(rays, ends, bounds, T_other_own)
    behind = point[..., 2] <= 0
    seen = point[..., :2] / np.where(behind, 1.0, point[..., 2])[..., None]
    off = (seen - ends) * focal.astype(np.float32)
    return np.where(behind, np.inf, np.sqrt((off**2).sum(axis=-1) / 2))
