"""Up by vanishing lines: edges of walls, windows and furniture that stand upright meet in one vanishing point.

An edge in a picture and the centre of its camera span a plane, in which the edge lies in space. All vertical edges of
all frames are parallel, so that up is the direction which lies in all of their planes: the cameras' rotations are
known, and every frame adds to one estimate. Horizontal edges agree in the same way on other directions; the cameras'
own mean up says which of them is vertical. The residual is that of Tardif, Non-iterative Approach for Fast and Accurate
Vanishing Point Detection (ICCV 2009), as an angle between planes.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .geometry import undistort
from .scene import Scene

LEAST_LENGTH = 0.06
"""Length of a line that counts, as a share of the picture's diagonal."""
TOLERANCE = 1.0
"""Degrees between a line and the direction to the vanishing point, up to which it belongs to it."""
LEAST_LINES = 24
LEAST_SHARE = 0.5
"""Least number of lines that agree; and the share of all lines within :data:`STEEP` of the vertical, by length."""
STEEP = 12.0
"""Degrees: lines that lie closer to the vertical direction which is tried, and do not agree, speak against it."""
MOST_SPREAD = 2.5
"""Degrees by which parts of the clip may disagree."""
MOST_APART = 45.0
"""Degrees between this up and that of the cameras, at most: horizontal edges that lead away agree too."""
_DRAWS, _PARTS, _MOST_LINES, _MOST_FRAMES = 800, 4, 6000, 60


@dataclass(frozen=True)
class Lines:
    """Straight edges of static things in several pictures: N lines."""

    normals: np.ndarray
    """(N, 3) unit normals, in the world, of the planes through camera and line."""
    middles: np.ndarray
    """(N, 3) unit rays, in the world, to the lines' middles."""
    lengths: np.ndarray
    """(N,) radians."""
    frames: np.ndarray
    """(N,) positions in the scene."""


def lines_of(scene: Scene) -> Lines:
    """The straight edges of the scene's pictures, without those that touch what moves; of evenly spread frames."""
    finder = cv2.createLineSegmentDetector()
    height, width = scene.images.shape[1:3]
    normals, middles, lengths, frames = [], [], [], []
    for frame in np.unique(np.linspace(0, len(scene) - 1, min(len(scene), _MOST_FRAMES)).round().astype(int)):
        found = finder.detect(cv2.cvtColor(scene.images[frame], cv2.COLOR_RGB2GRAY))[0]
        if found is None:
            continue
        ends = found.reshape(-1, 2, 2).astype(float)
        ends = ends[np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1) >= LEAST_LENGTH * np.hypot(width, height)]
        ends = ends[~_touches(ends, scene.dynamic.masks[frame])]
        ideal = undistort((ends - scene.principal_point) / scene.focals_xy[frame], scene.distortion)
        rays = np.concatenate([ideal, np.ones_like(ideal[..., :1])], axis=-1) @ scene.T_world_cam[frame, :3, :3].T
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        normals.append(np.cross(rays[:, 0], rays[:, 1]))
        middles.append(rays.sum(axis=1))
        frames.append(np.full(len(rays), frame))
    if not normals:
        return Lines(np.empty((0, 3)), np.empty((0, 3)), np.empty(0), np.empty(0, dtype=int))
    crossed, middle = np.concatenate(normals), np.concatenate(middles)
    lengths = np.linalg.norm(crossed, axis=1)
    longest = np.argsort(-lengths)[:_MOST_LINES]
    across, towards = (v[longest] / np.linalg.norm(v[longest], axis=1, keepdims=True) for v in (crossed, middle))
    return Lines(across, towards, lengths[longest], np.concatenate(frames)[longest])


def vertical(lines: Lines, cameras_up: np.ndarray, sigma_deg: float, seed: int = 0) -> tuple[np.ndarray, float] | None:
    """Up (3,), a unit vector, and degrees by which parts of the clip disagree about it; None where lines show none.

    Args:
        cameras_up: (3,) unit, the mean up of the cameras, and ``sigma_deg``, how far it may be off (1 sigma).
    """
    if len(lines.lengths) < LEAST_LINES:
        return None
    rng = np.random.default_rng(seed)
    pairs = rng.integers(len(lines.lengths), size=(_DRAWS, 2))
    drawn = np.cross(lines.normals[pairs[:, 0]], lines.normals[pairs[:, 1]])
    size = np.linalg.norm(drawn, axis=1)
    drawn = drawn[size > 1e-3] / size[size > 1e-3, None]
    drawn *= np.where(drawn @ cameras_up < 0, -1, 1)[:, None]
    apart = np.degrees(np.arccos(np.clip(drawn @ cameras_up, -1, 1)))
    drawn, apart = drawn[apart <= MOST_APART], apart[apart <= MOST_APART]
    if not len(drawn):
        return None
    likely = np.exp(-0.5 * (apart / max(sigma_deg, 10.0)) ** 2)
    up = drawn[int(np.argmax([share * _score(lines, v) for share, v in zip(likely, drawn, strict=True)]))]
    for _ in range(10):
        up = _fitted(lines, residual_deg(lines, up) <= TOLERANCE, up)
    off = residual_deg(lines, up)
    on, steep = off <= TOLERANCE, off <= STEEP
    if on.sum() < LEAST_LINES or lines.lengths[on].sum() < LEAST_SHARE * lines.lengths[steep].sum():
        return None
    spread = _spread(lines, on, up)
    return (up, spread) if spread <= MOST_SPREAD else None


def residual_deg(lines: Lines, direction: np.ndarray) -> np.ndarray:
    """(N,) degrees between each line and the line from its middle to the vanishing point of ``direction``."""
    towards = np.cross(lines.middles, direction)
    size = np.linalg.norm(towards, axis=1)
    cosine = np.abs((towards * lines.normals).sum(axis=1)) / np.maximum(size, 1e-9)
    # Where a line is seen end on, in the vanishing point itself, it agrees with everything and says nothing.
    return np.where(size > 0.1, np.degrees(np.arccos(np.clip(cosine, 0, 1))), 90.0)


def _score(lines: Lines, direction: np.ndarray) -> float:
    off = residual_deg(lines, direction) / TOLERANCE
    return float((lines.lengths * np.maximum(1 - off**2, 0)).sum())


def _fitted(lines: Lines, on: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The direction that lies in the planes of the lines ``on``, by least squares, with ends that err by as much."""
    if on.sum() < 2:
        return like
    # A plane's normal errs by the error of the ends over the length.
    weighted = lines.normals[on] * lines.lengths[on, None]
    up = np.linalg.eigh(weighted.T @ weighted)[1][:, 0]
    return up if up @ like > 0 else -up


def _spread(lines: Lines, on: np.ndarray, up: np.ndarray) -> float:
    """Degrees, root mean square: how far up by parts of the clip lies from that by all of it."""
    angles = []
    for part in np.array_split(np.unique(lines.frames), _PARTS):
        rows = on & np.isin(lines.frames, part)
        if rows.sum() >= LEAST_LINES // _PARTS:
            own = _fitted(lines, rows, up)
            angles.append(np.degrees(np.arctan2(np.linalg.norm(np.cross(own, up)), own @ up)))
    # Lines of one part alone are compared with themselves, which says nothing.
    return float(np.sqrt(np.mean(np.square(angles)))) if len(angles) > 1 else np.inf


def _touches(ends: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """(N, 2, 2) ends of lines -> (N,) bool: an end or the middle lies on what moves."""
    height, width = moving.shape
    at = np.rint(np.concatenate([ends, ends.mean(axis=1, keepdims=True)], axis=1)).astype(int)
    return moving[np.clip(at[..., 1], 0, height - 1), np.clip(at[..., 0], 0, width - 1)].any(axis=1)
