"""Tracks of static points that were not triangulated: in which images each of them is seen, and where.

A point is projected into every camera. An image shows it where its pixel has a trusted depth that agrees with that of
the point (nothing in between, nor is it behind the surface) and does not lie on what moves. Trainers of the COLMAP
format want such tracks: losses on depth take the points of an image from them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.geometry import distort, intrinsics_to_source, is_distorted, source_to_network, transform, undistort
from ..core.scene import Scene
from ..core.surface import MAX_RELATIVE_STEP, grow_mask, trusted_depth

MOST_VIEWS = 8
"""Images, spread evenly over those that see a point, that its track names: more would make the files large and slow to
read without telling a trainer more."""
FEWEST_POINTS = 500
"""An image gets about as many where it shows them, whatever :data:`MOST_VIEWS` leaves to it."""

_INVERTIBLE = 1e-3
"""Largest error of undistorting again, in normalised coordinates: far outside the image, a lens model folds back."""


@dataclass(frozen=True)
class PointTracks:
    """Per image what it observes; the images count from 0, in the order of the Scene."""

    observations: tuple[np.ndarray, ...]
    """Per image (K, 2) float64 source pixels, the first centre at 0.5, distorted as the image is."""
    observed: tuple[np.ndarray, ...]
    """Per image (K,) int64: which point each observation shows."""


def projected_tracks(scene: Scene, points: np.ndarray, mask_growth: float) -> PointTracks:
    """Tracks of (N, 3) points in the scene's world; points that no image shows are in none.

    Moving regions are grown by ``mask_growth`` network pixels before.
    """
    frames = range(len(scene))
    shown = [np.packbits(visible(scene, frame, points, mask_growth)) for frame in frames]
    counts = np.zeros(len(points), dtype=np.int64)
    for bits in shown:
        counts += np.unpackbits(bits, count=len(points))
    done = np.zeros(len(points), dtype=np.int64)
    observations, observed = [], []
    for frame in frames:
        rows = np.flatnonzero(np.unpackbits(shown[frame], count=len(points)))
        kept = rows[_evenly(rows, done[rows], counts[rows])]
        if len(kept) < FEWEST_POINTS and len(rows):
            kept = np.union1d(kept, rows[np.linspace(0, len(rows) - 1, FEWEST_POINTS).astype(int)])
        done[rows] += 1
        observations.append(_project(scene, frame, points[kept])[0])
        observed.append(kept)
    return PointTracks(tuple(observations), tuple(observed))


def visible(scene: Scene, frame: int, points: np.ndarray, mask_growth: float) -> np.ndarray:
    """(N,) bool: which of (N, 3) points in the scene's world a frame shows."""
    xy, depth = _project(scene, frame, points)
    inside = (depth > 0) & (xy > 0).all(axis=1) & (xy < np.array(scene.pixel_map.source_wh)).all(axis=1)
    rows = np.flatnonzero(inside)
    column, row = np.rint(source_to_network(xy[rows], scene.pixel_map)).astype(int).T
    height, width = scene.depth.shape[1:]
    on_grid = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    rows, column, row = rows[on_grid], column[on_grid], row[on_grid]
    surface = np.where(grow_mask(scene.dynamic.masks[frame], mask_growth), 0, trusted_depth(scene, frame))[row, column]
    agrees = (surface > 0) & (np.abs(depth[rows] - surface) <= MAX_RELATIVE_STEP * surface)
    seen = np.zeros(len(points), dtype=bool)
    seen[rows[agrees]] = True
    return seen


def _project(scene: Scene, frame: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) source pixels, NaN where no lens shows the point, and (N,) z-depths."""
    local = transform(np.linalg.inv(scene.T_world_cam[frame]), np.asarray(points, dtype=float))
    depth = local[:, 2]
    ideal = np.full((len(points), 2), np.nan)
    np.divide(local[:, :2], depth[:, None], out=ideal, where=depth[:, None] > 0)
    shown = distort(ideal, scene.distortion)
    if is_distorted(scene.distortion):
        with np.errstate(over="ignore", invalid="ignore"):
            again = undistort(shown, scene.distortion)
        shown[~(np.abs(again - ideal).max(axis=1) < _INVERTIBLE)] = np.nan
    focal, _, cx, cy = intrinsics_to_source(scene.focals[frame], scene.principal_point, scene.pixel_map)
    return shown * focal + np.array([cx, cy]), depth


def _evenly(rows: np.ndarray, rank: np.ndarray, count: np.ndarray) -> np.ndarray:
    """(K,) bool: whether a point keeps this view, the ``rank``-th of the ``count`` that show it.

    Of every point :data:`MOST_VIEWS` are kept, or all; which is the first differs from point to point, so that the
    images get equal shares.
    """
    start = rows % np.maximum(count, 1)
    return (MOST_VIEWS * rank + start) // count > (MOST_VIEWS * (rank - 1) + start) // count
