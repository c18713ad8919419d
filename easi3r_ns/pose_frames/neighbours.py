"""What a frame with a known camera tells about another frame: where its points are seen, and what moves there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from ..core.flow import flow_returns, squared_length
from ..core.geometry import pixel_grid, source_to_network, transform
from ..core.sampling import inside_image, sample_bilinear
from ..core.scene import Scene
from ..core.surface import grow_mask, solid_pixels, world_points
from ..frames.cuts import local_correlation
from ..motion.flow.provider import FlowProvider
from .camera import Intrinsics, Matches

_MAX_POINTS = 1500
"""Approximate number of points per neighbour."""
_MASK_GROWTH = 3
"""Pixels around what moves that give no point."""
_MIN_CORRELATION = 0.7
"""Least correlation of the pixels around a point in both frames."""
_SAME_COLOUR = 15.0
"""Levels (of 255), in any channel, by which a pixel may differ from its neighbour's and still be explained by it."""


@dataclass(frozen=True, eq=False)
class Neighbour:
    """A frame whose camera is known, from which the camera and the mask of another frame are found."""

    image: np.ndarray
    """(H, W, 3) uint8 at network size."""
    time: float
    T_world_cam: np.ndarray
    points: np.ndarray
    """(N, 3) static points in the world."""
    pixels: np.ndarray
    """(N, 2) where this frame sees them."""
    moving: np.ndarray
    """(H, W) bool."""
    surface: np.ndarray | None = None
    """(H, W, 3) world points of its pixels, NaN where they are unknown; None for a frame without depth."""


def neighbour_in_scene(scene: Scene, position: int) -> Neighbour:
    """A frame of the Scene, with static points of its depth map and of its tracks."""
    moving = scene.dynamic.masks[position]
    static = ~grow_mask(moving, _MASK_GROWTH)
    rows, columns = _well_textured(scene.images[position], solid_pixels(scene, position) & static)
    points = [world_points(scene, position, where=(rows, columns)).astype(float)]
    pixels = [np.stack([columns, rows], axis=-1).astype(float)]
    if scene.sparse is not None:
        seen = scene.sparse.frame_index == position
        at = source_to_network(scene.sparse.pixels[seen], scene.pixel_map)
        height, width = moving.shape
        nearest = np.rint(at).astype(int)
        inside = ((nearest >= 0) & (nearest < (width, height))).all(axis=1)
        inside[inside] = static[nearest[inside, 1], nearest[inside, 0]]
        points.append(scene.sparse.points[scene.sparse.point_index[seen]][inside])
        pixels.append(at[inside])
    return Neighbour(
        scene.images[position],
        float(scene.times[position]),
        scene.T_world_cam[position],
        np.concatenate(points),
        np.concatenate(pixels),
        moving,
        np.where(solid_pixels(scene, position)[..., None], world_points(scene, position), np.nan).astype(np.float32),
    )


def _well_textured(image: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the best corner in every cell of a grid: flow needs texture."""
    score = np.where(allowed, cv2.cornerMinEigenVal(_grey(image).astype(np.uint8), 5), 0)
    height, width = allowed.shape
    cell = max(2, int(np.sqrt(height * width / _MAX_POINTS)))
    rows, columns = height // cell, width // cell
    cells = score[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell).swapaxes(1, 2)
    best = cells.reshape(rows, columns, -1)
    inside = best.argmax(axis=-1)
    row = np.arange(rows)[:, None] * cell + inside // cell
    column = np.arange(columns)[None] * cell + inside % cell
    good = best.max(axis=-1) > 1e-6
    return row[good], column[good]


def _alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(H, W) bool of two (H, W, 3) images; False where one is NaN."""
    off = np.abs(one.astype(np.float32) - other)
    return np.maximum(np.maximum(off[..., 0], off[..., 1]), off[..., 2]) <= _SAME_COLOUR


def _grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY).astype(np.float32)


def _returns(at: np.ndarray, there: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Whether ``there``, the flow at the pixels ``at``, stays inside and ``back`` leads to the start again."""
    landing = at + there
    return flow_returns(there, sample_bilinear(back, landing), landing, *back.shape[:2])


def match(neighbour: Neighbour, image: np.ndarray, provider: FlowProvider) -> Matches:
    """Follow the neighbour's points into ``image`` by optical flow, and warp its mask there."""
    there, back = provider.flow(np.stack([neighbour.image, image]), np.stack([image, neighbour.image]))
    old, new = _grey(neighbour.image), _grey(image)
    height, width = new.shape
    grid = pixel_grid(height, width).astype(np.float32)
    alike, _ = local_correlation(old, sample_bilinear(new, grid + there))
    if len(neighbour.pixels):
        flow = sample_bilinear(there, neighbour.pixels)
        good = _returns(neighbour.pixels, flow, back) & (sample_bilinear(alike, neighbour.pixels) > _MIN_CORRELATION)
    else:
        flow, good = np.empty((0, 2)), np.empty(0, dtype=bool)
    carried = sample_bilinear(old, grid + back)
    alike, textured = local_correlation(new, carried)
    landing = grid + back
    inside = inside_image(landing, height, width)
    same = _alike(image, sample_bilinear(neighbour.image, landing))
    explained = inside & (same | (_returns(grid, back, there) & textured & (alike > _MIN_CORRELATION)))
    # Wrong flow takes moving pixels to places that show something else: only explained pixels count.
    moving = explained & (sample_bilinear(neighbour.moving.astype(np.float32), landing) > 0.25)
    surface = None
    if neighbour.surface is not None:
        nearest = landing.astype(np.float32)
        surface = cv2.remap(neighbour.surface, nearest[..., 0], nearest[..., 1], cv2.INTER_NEAREST)
    return Matches(neighbour.points[good], (neighbour.pixels + flow)[good], moving, explained, surface)


def moving_seen_from(
    pose: np.ndarray,
    image: np.ndarray,
    neighbours: Sequence[Neighbour],
    matches: Sequence[Matches],
    intrinsics: Intrinsics,
    tolerance: float,
) -> np.ndarray:
    """:func:`moving_or_unexplained` for a frame whose camera is known.

    The known camera excludes some explanations: a neighbour explains a pixel only where the camera projects its surface
    there. And it adds others, for pixels without texture: those that look like the neighbours' static surfaces rendered
    from that camera.
    """
    held = [replace(m, explained=m.explained & ~_elsewhere(m, pose, intrinsics, tolerance)) for m in matches]
    for neighbour in neighbours:
        alike = _alike(image, _rendered(neighbour, pose, intrinsics))
        held.append(replace(held[0], moving=np.zeros_like(alike), explained=alike))
    return moving_or_unexplained(held)


def _elsewhere(match: Matches, pose: np.ndarray, intrinsics: Intrinsics, tolerance: float) -> np.ndarray:
    """(H, W) bool: the neighbour shows a surface here that projects to another pixel of the camera."""
    height, width = match.explained.shape
    if match.surface is None:
        return np.zeros((height, width), dtype=bool)
    seen = intrinsics.project(pose, match.surface.reshape(-1, 3).astype(float)).reshape(height, width, 2)
    return squared_length(seen - pixel_grid(height, width)) > (1.5 * tolerance) ** 2


def _rendered(neighbour: Neighbour, pose: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """(H, W, 3) colours of the neighbour's static surfaces as another camera sees them, NaN where it sees none."""
    height, width = neighbour.moving.shape
    out = np.full(((height + 3) * (width + 3), 3), np.nan, dtype=np.float32)
    if neighbour.surface is None:
        return np.full((height, width, 3), np.nan, dtype=np.float32)
    static = ~neighbour.moving & np.isfinite(neighbour.surface[..., 2])
    points = neighbour.surface[static].astype(float)
    # One pixel more on the left and above, two on the right and below, take what falls beside the image.
    pixels = intrinsics.project(pose, points) + 1
    depth = transform(np.linalg.inv(pose), points)[:, 2]
    order = np.argsort(-depth)  # what is nearer is written later
    order = order[inside_image(pixels[order], height + 2, width + 2) & (depth[order] > 0)]
    colours = neighbour.image[static][order]
    column, row = np.floor(pixels[order]).astype(int).T
    at = (row * (width + 3) + column)[:, None] + [0, 1, width + 3, width + 4]
    out[at.ravel()] = np.repeat(colours, 4, axis=0)
    column, row = np.rint(pixels[order]).astype(int).T  # the nearest pixel; the others only fill holes
    out[row * (width + 3) + column] = colours
    return out.reshape(height + 3, width + 3, 3)[1 : height + 1, 1 : width + 1]


def moving_or_unexplained(matches: Sequence[Matches]) -> np.ndarray:
    """(H, W) bool: what moves in any neighbour, and what none of them explains (single pixels apart)."""
    unexplained = ~np.logical_or.reduce([m.explained for m in matches])
    unexplained = cv2.medianBlur(unexplained.astype(np.uint8), 5) > 0
    return np.logical_or.reduce([m.moving for m in matches]) | unexplained
