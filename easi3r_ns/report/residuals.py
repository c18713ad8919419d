"""Residuals of static points: one frame's points looked up in other frames. Parallax: the angles they are seen from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.geometry import distort, transform
from ..core.sampling import sample_bilinear
from ..core.scene import Scene, SparsePoints
from ..core.surface import trusted_depth, world_points
from .sampling import evenly_spaced, static_samples

_POINTS_PER_FRAME = 2000
_PARALLAX_POINTS = 1500
_PARALLAX_CAMERAS = 40
_SEEN_TOLERANCE = 0.1
"""A camera sees a point when its depth there differs from the point's by less than this, relative to the latter."""
_MIN_LOOKUPS = 20
"""Fewest points in the other frame for which a statistic is given."""
MIN_CHANGE = 1.5
"""Grey levels by which the picture must change at least for a colour residual."""


@dataclass(frozen=True)
class Residuals:
    """Static points of every frame looked up in the next frame (near) and ``gap`` frames later (far); N frames."""

    near: np.ndarray
    """(N,) median relative depth difference; NaN where too few points are seen."""
    far: np.ndarray
    gap: int
    near_median: float | None
    near_p90: float | None
    far_median: float | None
    far_p90: float | None
    colour_along: float | None
    """Median colour difference (0 to 255) between a point's pixel and its projection ``gap`` frames later."""
    colour_still: float | None
    """The same without camera motion: the same pixel, ``gap`` frames later."""

    @property
    def colour_gain(self) -> float | None:
        """:attr:`colour_along` over :attr:`colour_still`; None when the picture hardly changes."""
        if self.colour_along is None or self.colour_still is None or self.colour_still < MIN_CHANGE:
            return None
        return self.colour_along / self.colour_still


@dataclass(frozen=True)
class Lookup:
    """M static points of one frame, looked up in another frame."""

    depth_error: np.ndarray
    """(M,) relative: (depth map of the other frame - depth of the point in it) / depth of the point in it."""
    colour_along: np.ndarray
    """(M,) mean absolute difference of RGB between the point's pixels in the two frames."""
    colour_still: np.ndarray
    """(M,) the same for a camera that does not move: the same pixel in both frames."""


def static_residuals(scene: Scene, count: int) -> Residuals:
    """Look static points of each of the first ``count`` frames up in the next one and :func:`wide_gap` frames later."""
    gap = wide_gap(count)
    near = _all_lookups(scene, count, 1)
    far = _all_lookups(scene, count, gap)
    along, still = (
        np.concatenate([getattr(lookup, name) for lookup in far]) for name in ("colour_along", "colour_still")
    )
    enough = len(along) >= _MIN_LOOKUPS
    near_all, far_all = (np.concatenate([lookup.depth_error for lookup in part]) for part in (near, far))
    return Residuals(
        near=np.array([_quantile(lookup.depth_error, 0.5) for lookup in near]),
        far=np.array([_quantile(lookup.depth_error, 0.5) for lookup in far]),
        gap=gap,
        near_median=_or_none(_quantile(near_all, 0.5)),
        near_p90=_or_none(_quantile(near_all, 0.9)),
        far_median=_or_none(_quantile(far_all, 0.5)),
        far_p90=_or_none(_quantile(far_all, 0.9)),
        colour_along=float(np.median(along)) if enough else None,
        colour_still=float(np.median(still)) if enough else None,
    )


def look_up(scene: Scene, source: int, target: int) -> Lookup:
    """Static points of frame ``source`` in frame ``target``: those that fall on its static pixels.

    Depths are trusted in both. Occluded points are kept: they raise the upper quantiles, hardly the median.
    """
    rows, cols = static_samples(scene, source, _POINTS_PER_FRAME)
    world = world_points(scene, source, where=(rows, cols))
    xy, z = _seen_from(scene, target, world)
    depth = trusted_depth(scene, target)
    height, width = depth.shape
    inside = (z > 0) & (xy >= 0).all(axis=-1) & (xy[:, 0] <= width - 1) & (xy[:, 1] <= height - 1)
    there = np.rint(xy[inside]).astype(int)
    static = ~scene.dynamic.masks[target][there[:, 1], there[:, 0]] & (depth[there[:, 1], there[:, 0]] > 0)
    rows, cols, xy, z = rows[inside][static], cols[inside][static], xy[inside][static], z[inside][static]
    found = sample_bilinear(depth, xy)
    image = scene.images[target].astype(np.float32)
    own = scene.images[source][rows, cols].astype(np.float32)
    return Lookup(
        depth_error=(found - z) / z,
        colour_along=np.abs(sample_bilinear(image, xy) - own).mean(axis=-1),
        colour_still=np.abs(image[rows, cols] - own).mean(axis=-1),
    )


def wide_gap(count: int) -> int:
    """How many frames later the far look-up is: a fifth of the clip."""
    return max(2, round(count / 5)) if count > 2 else 1


def picture_change(scene: Scene, count: int) -> float | None:
    """Median colour difference (0 to 255) of the same pixel :func:`wide_gap` frames later, where it is static in both.

    Needs neither cameras nor depth: on a tripod it is the noise of the sensor. None with too few such pixels.
    """
    gap, parts = wide_gap(count), []
    for f in range(count - gap):
        static = ~(scene.dynamic.masks[f] | scene.dynamic.masks[f + gap])[::3, ::3]
        before, after = (scene.images[k, ::3, ::3].astype(np.float32) for k in (f, f + gap))
        parts.append(np.abs(after - before).mean(axis=-1)[static])
    differences = np.concatenate(parts) if parts else np.empty(0)
    return float(np.median(differences)) if len(differences) >= _MIN_LOOKUPS else None


def parallax_degrees(scene: Scene, count: int) -> np.ndarray:
    """(M,) largest angle in degrees between two cameras that see a static point; empty without points.

    A sample of the triangulated points where the scene has them, else of the points of the depth maps.
    """
    if scene.sparse is not None and len(scene.sparse):
        return _track_angles(scene.sparse, scene.T_world_cam[:, :3, 3])
    return _depth_angles(scene, count) if scene.has_depth else np.empty(0)


def widest_angle(directions: np.ndarray) -> float:
    """Largest angle in degrees between any two of (K, 3) unit vectors; 0 for fewer than two."""
    if len(directions) < 2:
        return 0.0
    return float(np.degrees(np.arccos(np.clip((directions @ directions.T).min(), -1, 1))))


def _all_lookups(scene: Scene, count: int, gap: int) -> list[Lookup]:
    empty = Lookup(*(np.empty(0) for _ in range(3)))
    return [look_up(scene, f, f + gap) if f + gap < count else empty for f in range(count)]


def _seen_from(scene: Scene, frame: int, world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(M, 2) network pixels and (M,) z-depth of (M, 3) world points in one frame."""
    local = transform(np.linalg.inv(scene.T_world_cam[frame]), world)
    z = local[:, 2]
    ideal = local[:, :2] / np.where(np.abs(z) > 1e-9, z, 1e-9)[:, None]
    return scene.focals_xy[frame] * distort(ideal, scene.distortion) + scene.principal_point, z


def _depth_angles(scene: Scene, count: int) -> np.ndarray:
    cameras = evenly_spaced(count, _PARALLAX_CAMERAS)
    world = [_some_points(scene, f, _PARALLAX_POINTS // len(cameras) + 1) for f in cameras]
    points = np.concatenate(world).astype(float)
    seen = np.stack([_sees(scene, f, points) for f in cameras], axis=1)
    rays = points[:, None] - scene.T_world_cam[cameras, :3, 3][None]
    rays /= np.maximum(np.linalg.norm(rays, axis=-1, keepdims=True), 1e-12)
    return np.array([widest_angle(ray[by]) for ray, by in zip(rays, seen)])


def _some_points(scene: Scene, frame: int, most: int) -> np.ndarray:
    rows, cols = static_samples(scene, frame, most)
    return world_points(scene, frame, where=(rows, cols))


def _sees(scene: Scene, frame: int, points: np.ndarray) -> np.ndarray:
    """(M,) bool: which world points fall into the frame at about the depth that it has there."""
    xy, z = _seen_from(scene, frame, points)
    depth = trusted_depth(scene, frame)
    height, width = depth.shape
    inside = (z > 0) & (xy >= 0).all(axis=-1) & (xy[:, 0] <= width - 1) & (xy[:, 1] <= height - 1)
    there = np.rint(np.where(inside[:, None], xy, 0)).astype(int)
    return inside & (np.abs(depth[there[:, 1], there[:, 0]] - z) < _SEEN_TOLERANCE * z)


def _track_angles(sparse: SparsePoints, centres: np.ndarray) -> np.ndarray:
    order = np.argsort(sparse.point_index, kind="stable")
    points, frames = sparse.point_index[order], sparse.frame_index[order]
    starts = np.searchsorted(points, np.arange(len(sparse) + 1))
    chosen = range(0, len(sparse), max(1, len(sparse) // _PARALLAX_POINTS))
    return np.array([_track_angle(sparse.points[n], centres[frames[starts[n] : starts[n + 1]]]) for n in chosen])


def _track_angle(point: np.ndarray, centres: np.ndarray) -> float:
    rays = point - centres
    return widest_angle(rays / np.maximum(np.linalg.norm(rays, axis=-1, keepdims=True), 1e-12))


def _quantile(signed: np.ndarray, share: float) -> float:
    return float(np.quantile(np.abs(signed), share)) if len(signed) >= _MIN_LOOKUPS else float("nan")


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None
