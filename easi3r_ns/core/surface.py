"""Which pixels of a scene show a surface that can be trusted, and where it lies: shared by exporters and viewers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.ndimage import distance_transform_edt

from .geometry import Where, transform, unproject
from .scene import FROM_PRIOR, Scene

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
    """(H, W) bool: pixels with a trusted depth on a surface that no more confident view contradicts.

    What stands still and was filled by a prior is not among them: frames need not agree about it.
    """
    depth, filled = trusted_depth(scene, frame), filled_pixels(scene, frame)
    measured = measured_depth(scene, frame)
    solid = on_surface(measured) & (measured > 0)
    if filled.any():
        solid |= on_surface(depth) & filled & scene.dynamic.masks[frame]
    return solid if scene.contradicted is None else solid & ~scene.contradicted[frame]


def filled_pixels(scene: Scene, frame: int) -> np.ndarray:
    """(H, W) bool: pixels whose depth a network predicted from this picture alone."""
    if scene.depth_source is None:
        return np.zeros(scene.depth.shape[1:], dtype=bool)
    return scene.depth_source[frame] == FROM_PRIOR


def measured_depth(scene: Scene, frame: int) -> np.ndarray:
    """:func:`trusted_depth` without what was filled by a prior."""
    return np.where(filled_pixels(scene, frame), np.float32(0), trusted_depth(scene, frame))


def measured_only(scene: Scene) -> Scene:
    """The scene without depth that was filled by a prior."""
    if scene.depth_source is None:
        return scene
    kept = scene.depth_source != FROM_PRIOR
    return replace(scene, depth=scene.depth * kept, confidence=scene.confidence * kept, depth_source=None)


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


def world_points(scene: Scene, frame: int, depth: np.ndarray | None = None, where: Where | None = None) -> np.ndarray:
    """(H, W, 3) float32 points of one frame in the scene's world (OpenCV axes); meaningless where depth is 0.

    Args:
        depth: (H, W) z-depth in scene units, by default the scene's.
        where: the pixels that are wanted, by default all: (N, 3).
    """
    depth = scene.depth[frame] if depth is None else depth
    local = unproject(depth, scene.focals_xy[frame], scene.principal_point, scene.distortion, where)
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
    import cv2

    known = depth > 0
    around = np.ones((3, 3), dtype=np.uint8)
    inverse = np.zeros(depth.shape)
    np.divide(1.0, depth, out=inverse, where=known)
    nearest = cv2.dilate(inverse, around, borderType=cv2.BORDER_REPLICATE)
    farthest = cv2.erode(np.where(known, inverse, np.inf), around, borderType=cv2.BORDER_REPLICATE)
    step = known & (nearest > (1 + MAX_RELATIVE_STEP) * farthest)
    if not step.any():
        return known
    bend = np.zeros(depth.shape)
    for values, largest in ((inverse, bend), (inverse.T, bend.T)):
        before, middle, after = values[:-2], values[1:-1], values[2:]
        flat = np.abs(before + after - 2 * middle)
        flat[(before == 0) | (after == 0)] = 0
        np.maximum(largest[1:-1], flat, out=largest[1:-1])
    relative = bend[known] / inverse[known]
    roughness = float(np.median(relative))
    edge = step.copy()
    edge[known] &= relative > max(_MAX_BEND, _NOISE_BENDS * roughness)
    return known & (cv2.dilate(edge.astype(np.uint8), around) == 0)
