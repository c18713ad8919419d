"""The picture that a lens without distortion would have taken, on a grid that holds all of the distorted one."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ..core.geometry import distort, is_distorted, pixel_grid, undistort
from ..core.scene import Scene

MOST_MARGIN = 0.25
"""Margin around the picture, as a share of its size, beyond which a barrel lens loses its corners."""
SAME_SURFACE = 0.01
"""Relative step of the inverse depth between neighbouring pixels up to which depths are interpolated."""


@dataclass(frozen=True)
class PinholeGrid:
    """A frame's pinhole grid and the way between it and the frame's own pixels."""

    K: np.ndarray
    """(3, 3), integer pixel centres."""
    size: tuple[int, int]
    """(H, W)."""
    from_frame: tuple[np.ndarray, np.ndarray] | None
    """Where in the frame (x, y) each pixel of the grid lies, (H, W) float32 each; None: the grids are the same."""
    to_frame: tuple[np.ndarray, np.ndarray] | None
    """Where in the grid each pixel of the frame lies."""

    def picture(self, image: np.ndarray) -> np.ndarray:
        """(h, w) float32 of the frame -> (H, W) on the grid; its border goes on outside."""
        if self.from_frame is None:
            return image
        return cv2.remap(image, *self.from_frame, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)

    def still(self, still: np.ndarray) -> np.ndarray:
        """(h, w) bool of the frame -> (H, W) float32, 1 only where all pixels that are looked at are True."""
        values = still.astype(np.float32)
        if self.from_frame is None:
            return values
        moved = cv2.remap(values, *self.from_frame, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        return (moved > 0.999).astype(np.float32)

    def back(self, inverse_depth: np.ndarray, support: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inverse depth and support (H, W) of the grid -> the same on the frame's pixels.

        Between pixels of one surface the inverse depth is interpolated (it is linear on a plane); at its border the
        nearest pixel is taken.
        """
        if self.to_frame is None:
            return inverse_depth, support
        x, y = self.to_frame
        nearest = cv2.remap(inverse_depth, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
        between = cv2.remap(inverse_depth, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        same = np.abs(between - nearest) <= SAME_SURFACE * nearest
        moved = cv2.remap(support, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
        return np.where(same, between, nearest), moved


def pinhole_grid(scene: Scene, frame: int) -> PinholeGrid:
    """The grid of one frame: its focal lengths, and its own pixels where the lens has no distortion."""
    focal, centre = scene.focals_xy[frame], np.asarray(scene.principal_point, dtype=float)
    height, width = scene.images.shape[1:3]
    K = np.array([[focal[0], 0, centre[0]], [0, focal[1], centre[1]], [0, 0, 1.0]])
    if not is_distorted(scene.distortion):
        return PinholeGrid(K, (height, width), None, None)
    ideal = undistort((pixel_grid(height, width) - centre) / focal, scene.distortion) * focal + centre
    ideal = np.where(np.isfinite(ideal), ideal, -1e6)
    most = MOST_MARGIN * np.array([width, height])
    low = np.clip(np.floor(ideal.min(axis=(0, 1))), -most, 0).astype(int)
    high = np.clip(np.ceil(ideal.max(axis=(0, 1))), [width - 1, height - 1], [width - 1, height - 1] + most).astype(int)
    size = tuple((high - low + 1)[::-1].tolist())
    K[:2, 2] -= low
    rays = (pixel_grid(*size) - K[:2, 2]) / focal
    from_frame = distort(rays, scene.distortion) * focal + centre
    return PinholeGrid(K, size, _maps(from_frame), _maps(ideal - low))


def _maps(xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.moveaxis(xy, -1, 0).astype(np.float32)
    return np.ascontiguousarray(x), np.ascontiguousarray(y)
