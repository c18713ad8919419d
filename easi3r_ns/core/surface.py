"""Which pixels of a scene show a surface that can be trusted, and where it lies: shared by exporters and viewers."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_dilation, distance_transform_edt, maximum_filter, minimum_filter

from .geometry import transform, unproject
from .scene import Scene

MAX_RELATIVE_STEP = 0.05
"""Relative depth step between neighbouring network pixels above which they belong to different surfaces."""

_FAR = 1e9
"""Distance to a region that does not exist, in pixels."""
_MAX_BEND = 0.03
"""Relative second difference of the inverse depth above which neighbours do not lie on one plane."""
_NOISE_BENDS = 4.0
"""Multiple of a frame's median relative second difference that replaces ``_MAX_BEND`` where it is larger: in a rough
depth map, differences of that size are noise."""


def trusted_depth(scene: Scene, frame: int) -> np.ndarray:
    """(H, W) float32 z-depth of one frame, 0 where it is unknown or not confident enough."""
    trusted = scene.confidence[frame] >= max(scene.min_confidence, np.finfo(np.float32).tiny)
    return np.where(trusted & (scene.depth[frame] > 0), scene.depth[frame], 0).astype(np.float32)


def solid_pixels(scene: Scene, frame: int) -> np.ndarray:
    """(H, W) bool: pixels with a trusted depth on a surface that no more confident view contradicts."""
    depth = trusted_depth(scene, frame)
    solid = on_surface(depth) & (depth > 0)
    return solid if scene.contradicted is None else solid & ~scene.contradicted[frame]


def assumed_pixels(scene: Scene, frame: int) -> np.ndarray:
    """(H, W) bool: moving pixels whose depth was not measured but is assumed, for viewing only."""
    if scene.assumed_depth is None:
        return np.zeros(scene.depth.shape[1:], dtype=bool)
    return scene.assumed_depth[frame] > 0


def shown_depth(scene: Scene, frame: int) -> np.ndarray:
    """(H, W) float32 z-depth of one frame for viewing: the depth, and what is assumed where it is unknown."""
    depth = scene.depth[frame]
    return depth if scene.assumed_depth is None else np.where(depth > 0, depth, scene.assumed_depth[frame])


def shown_moving(scene: Scene, frame: int) -> np.ndarray:
    """(H, W) bool: pixels whose points are shown as what moves: on a solid surface, or of an assumed depth."""
    return (scene.dynamic.masks[frame] & solid_pixels(scene, frame)) | assumed_pixels(scene, frame)


def world_points(scene: Scene, frame: int, depth: np.ndarray | None = None) -> np.ndarray:
    """(H, W, 3) float32 points of one frame in the scene's world (OpenCV axes); meaningless where depth is 0.

    ``depth``: (H, W) z-depth in scene units, by default the scene's.
    """
    depth = scene.depth[frame] if depth is None else depth
    local = unproject(depth, scene.focals_xy[frame], scene.principal_point, scene.distortion)
    return transform(scene.T_world_cam[frame], local).astype(np.float32)


def grow_mask(mask: np.ndarray, growth: float) -> np.ndarray:
    """(H, W) bool -> the same with every True region grown by ``growth`` pixels (a disc)."""
    return distance_to(mask) <= growth


def distance_to(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool -> (H, W) float32 distance in pixels to the nearest True pixel; huge where there is none."""
    if not mask.any():
        return np.full(mask.shape, _FAR, dtype=np.float32)
    return distance_transform_edt(~mask).astype(np.float32)


def on_surface(depth: np.ndarray) -> np.ndarray:
    """(H, W) bool: False at and next to depth edges, where pixels mix two surfaces and their points fly in between.

    An edge is a large step that is no slope either: along a slanted plane the inverse depth runs straight.
    """
    known = depth > 0
    inverse = np.zeros(depth.shape)
    np.divide(1.0, depth, out=inverse, where=known)
    nearest = maximum_filter(inverse, 3, mode="nearest")
    farthest = minimum_filter(np.where(known, inverse, np.inf), 3, mode="nearest")
    step = nearest > (1 + MAX_RELATIVE_STEP) * farthest
    bend = np.zeros(depth.shape)
    for axis in (0, 1):
        before, after = (_neighbour(inverse, shift, axis) for shift in (1, -1))
        flat = np.where((before > 0) & (after > 0), np.abs(before + after - 2 * inverse), 0)
        bend = np.maximum(bend, flat)
    relative = np.divide(bend, inverse, out=np.zeros_like(bend), where=known)
    roughness = float(np.median(relative[known])) if known.any() else 0.0
    edge = known & step & (relative > max(_MAX_BEND, _NOISE_BENDS * roughness))
    return known & ~binary_dilation(edge, np.ones((3, 3), dtype=bool))


def _neighbour(values: np.ndarray, shift: int, axis: int) -> np.ndarray:
    moved = np.roll(values, shift, axis)
    border = [slice(None), slice(None)]
    border[axis] = slice(0, 1) if shift > 0 else slice(-1, None)
    moved[tuple(border)] = 0
    return moved
