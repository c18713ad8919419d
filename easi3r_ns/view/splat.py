"""Renders points on the CPU: each is a disc that faces the camera, and the nearest disc is visible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_RADIUS = 8.0
"""Pixels; larger discs are drawn with this radius, so that points close to the camera do not hide everything."""
_NEAR = 1e-3
"""Points nearer than this share of the median distance are not drawn."""


@dataclass(frozen=True)
class Pinhole:
    """A camera with square pixels and the principal point at the image centre; pixel centres are at integers."""

    T_world_cam: np.ndarray
    """(4, 4) camera-to-world, OpenCV axes."""
    fov_y: float
    """Vertical field of view in radians."""
    width: int
    height: int

    @property
    def focal(self) -> float:
        """Pixels."""
        return self.height / (2 * np.tan(self.fov_y / 2))


def splat(
    points: np.ndarray, colors: np.ndarray, sizes: np.ndarray, camera: Pinhole, background: tuple[int, int, int]
) -> np.ndarray:
    """(H, W, 3) uint8 picture of (N, 3) world points.

    Every point is a disc that faces the camera, with the diameter ``sizes`` (N,) in world units, but at least one
    pixel. In every pixel the point nearest to the camera (z-depth) is seen; of equally near ones, the first.
    """
    picture = np.empty((camera.height * camera.width, 3), np.uint8)
    picture[:] = background
    nearest = _nearest(points, sizes, camera)
    seen = nearest >= 0
    picture[seen] = colors[nearest[seen]]
    return picture.reshape(camera.height, camera.width, 3)


def _nearest(points: np.ndarray, sizes: np.ndarray, camera: Pinhole) -> np.ndarray:
    """(H * W,) int64 index of the point seen in each pixel, -1 for none."""
    T = np.linalg.inv(camera.T_world_cam).astype(np.float32)
    x, y, z = T[:3, :3] @ points.T.astype(np.float32) + T[:3, 3:]
    in_front = z > 0
    near = _NEAR * float(np.median(z[in_front])) if in_front.any() else 0.0
    index = np.flatnonzero(z > near)
    x, y, z = x[index], y[index], z[index]
    radius = np.clip(camera.focal * np.asarray(sizes, np.float32)[index] / (2 * z), 0.5, MAX_RADIUS)
    u = camera.focal * x / z + (camera.width - 1) / 2
    v = camera.focal * y / z + (camera.height - 1) / 2
    inside = (u > -MAX_RADIUS) & (u < camera.width + MAX_RADIUS) & (v > -MAX_RADIUS) & (v < camera.height + MAX_RADIUS)
    index, u, v, z, radius = (values[inside] for values in (index, u, v, z, radius))
    # Large discs first, so that a large offset from the centre concerns the first discs only.
    order = np.argsort(-radius, kind="stable")
    index, u, v, z, radius = (values[order] for values in (index, u, v, z, radius))
    # Positive floats sort like their bits. With depth and index in one integer, one minimum finds the nearest point
    # and, of equally near ones, the first.
    keys = (z.view(np.uint32).astype(np.uint64) << np.uint64(32)) | index.astype(np.uint64)
    column, row = np.rint(u).astype(np.int64), np.rint(v).astype(np.int64)
    buffer = np.full(camera.height * camera.width, np.iinfo(np.uint64).max, np.uint64)
    reach = int(np.ceil(radius[0])) if len(radius) else 0
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            # A pixel's centre is at most half a pixel in x and y away from where it was rounded to.
            first = slice(0, int(np.searchsorted(-radius, 0.75 - np.hypot(dx, dy), side="right")))
            covered = (column[first] + dx - u[first]) ** 2 + (row[first] + dy - v[first]) ** 2 <= radius[first] ** 2
            if dx == dy == 0:
                covered[:] = True
            _put(buffer, camera, column[first][covered] + dx, row[first][covered] + dy, keys[first][covered])
    empty = buffer == np.iinfo(np.uint64).max
    return np.where(empty, -1, (buffer & np.uint64(0xFFFFFFFF)).astype(np.int64))


def _put(buffer: np.ndarray, camera: Pinhole, column: np.ndarray, row: np.ndarray, keys: np.ndarray) -> None:
    inside = (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
    np.minimum.at(buffer, row[inside] * camera.width + column[inside], keys[inside])
