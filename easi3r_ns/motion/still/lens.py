"""The lens through which a camera that stays in its place sees directions; pixels have integer centres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_TINY = 1e-12


@dataclass(frozen=True)
class PinholeLens:
    """Pinhole with known principal point."""

    focal: float
    """Horizontal focal length in pixels."""
    principal_point: tuple[float, float]
    """Pixels."""
    aspect: float = 1.0
    """Vertical over horizontal focal length in pixels."""

    @property
    def scale(self) -> np.ndarray:
        """(2,) focal lengths in x and y."""
        return self.focal * np.array([1.0, self.aspect])

    def plane(self, xy: np.ndarray) -> np.ndarray:
        """(M, 2) pixels as distances from the principal point over the focal length."""
        return (xy - self.principal_point) / self.scale

    def rays(self, xy: np.ndarray) -> np.ndarray:
        """(M, 2) pixels -> (M, 3) directions, of any length."""
        return np.concatenate([self.plane(xy), np.ones((len(xy), 1))], axis=1)

    def rays_by_focal(self, xy: np.ndarray) -> np.ndarray:
        """(M, 3) change of :meth:`rays` with the logarithm of the focal length."""
        return np.concatenate([-self.plane(xy), np.zeros((len(xy), 1))], axis=1)

    def pixels(self, directions: np.ndarray) -> np.ndarray:
        """(M, 3) directions in front of the camera -> (M, 2) pixels.

        Their distances from the principal point grow in proportion to the focal length.
        """
        return self.scale * directions[:, :2] / directions[:, 2:] + self.principal_point

    def slopes(self, directions: np.ndarray) -> np.ndarray:
        """(M, 2, 3) change of :meth:`pixels` with the directions."""
        z = directions[:, 2:]
        out = np.zeros((len(directions), 2, 3))
        out[:, 0, 0], out[:, 1, 1] = (self.scale / z).T
        out[:, :, 2] = -self.scale * directions[:, :2] / z**2
        return out


@dataclass(frozen=True)
class EquidistantLens(PinholeLens):
    """A fisheye lens: distances from the principal point are proportional to the angle from the axis."""

    def rays(self, xy: np.ndarray) -> np.ndarray:
        """See :meth:`PinholeLens.rays`; the directions have length 1."""
        plane = self.plane(xy)
        angle = np.linalg.norm(plane, axis=1, keepdims=True)
        return np.concatenate([np.sinc(angle / np.pi) * plane, np.cos(angle)], axis=1)

    def rays_by_focal(self, xy: np.ndarray) -> np.ndarray:
        """See :meth:`PinholeLens.rays_by_focal`."""
        plane = self.plane(xy)
        angle = np.linalg.norm(plane, axis=1, keepdims=True)
        return np.concatenate([-np.cos(angle) * plane, angle * np.sin(angle)], axis=1)

    def pixels(self, directions: np.ndarray) -> np.ndarray:
        """See :meth:`PinholeLens.pixels`."""
        across, z = np.linalg.norm(directions[:, :2], axis=1, keepdims=True), directions[:, 2:]
        per_unit = np.where(across > _TINY, np.arctan2(across, z) / np.maximum(across, _TINY), 1 / z)
        return self.scale * per_unit * directions[:, :2] + self.principal_point

    def slopes(self, directions: np.ndarray) -> np.ndarray:
        """See :meth:`PinholeLens.slopes`."""
        across, z = np.linalg.norm(directions[:, :2], axis=1), directions[:, 2]
        square, axis = across**2 + z**2, across > _TINY
        toward = directions[:, :2] / np.maximum(across, _TINY)[:, None]
        around = np.where(axis, np.arctan2(across, z) / np.maximum(across, _TINY), 1 / z)
        outer = toward[:, :, None] * toward[:, None, :]
        out = np.empty((len(directions), 2, 3))
        out[:, :, :2] = around[:, None, None] * (np.eye(2) - outer) + (z / square)[:, None, None] * outer
        out[~axis, :, :2] = np.eye(2) / z[~axis, None, None]
        out[:, :, 2] = -toward * (across / square)[:, None]
        return self.scale[:, None] * out
