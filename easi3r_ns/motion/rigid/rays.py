"""Ideal image coordinates of a scene's pixels: what its lens does is taken out."""

from __future__ import annotations

import cv2
import numpy as np

from ...core.geometry import distort, pixel_grid, undistort
from ...core.scene import Scene


class Rays:
    """Pixels of the scene's grid as ideal normalised image coordinates, for any focal length."""

    def __init__(self, scene: Scene) -> None:
        self._centre, self._aspect = np.asarray(scene.principal_point, dtype=float), scene.pixel_map.pixel_aspect
        self._distortion = scene.distortion
        self._offsets = pixel_grid(*scene.depth.shape[1:]) - self._centre
        self._kept: dict[float, np.ndarray] = {}

    def focal_xy(self, focal: float) -> np.ndarray:
        """(2,) pixels, of a horizontal focal length."""
        return focal * np.array([1.0, self._aspect])

    def of(self, focal: float) -> np.ndarray:
        """(H, W, 2) float32 of all pixels under a horizontal focal length."""
        if focal not in self._kept:
            if len(self._kept) > 8:
                self._kept.pop(next(iter(self._kept)))
            distorted = self._offsets / self.focal_xy(focal)
            self._kept[focal] = undistort(distorted, self._distortion).astype(np.float32)
        return self._kept[focal]

    def at(self, pixels: np.ndarray, focal: float) -> np.ndarray:
        """(H, W, 2) float32 of any (H, W, 2) pixels; outside the picture those of its border."""
        x, y = pixels[..., 0].astype(np.float32), pixels[..., 1].astype(np.float32)
        return cv2.remap(self.of(focal), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def pixels(self, ideal: np.ndarray, focal: float) -> np.ndarray:
        """(..., 2) pixels at which the lens shows ideal normalised coordinates."""
        return distort(ideal, self._distortion) * self.focal_xy(focal) + self._centre
