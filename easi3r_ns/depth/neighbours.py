"""Which frames are compared with which, and how deep each may be: both from the triangulated points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.geometry import transform
from ..core.scene import Scene

BEST_ANGLE = 5.0
"""Degrees between the rays of a point at which two views tell its depth best: with less the depth is uncertain, with
more the two pictures differ."""
NARROW, WIDE = 2.5, 10.0
"""Deviation, in degrees, of the weight of smaller and of larger angles."""
FEWEST_POINTS = 20
"""Tracks of a frame with fewer tell no range of depths."""
QUANTILES = (0.01, 0.99)
"""Of the depths of a frame's points; the range is widened from there."""
NEARER, FARTHER = 1.6, 2.5
"""Factors by which the range is widened: points are few on what is very near, and on what is far away."""


@dataclass(frozen=True)
class Surroundings:
    """Of one frame."""

    neighbours: tuple[int, ...]
    """Frames to compare with, the best first."""
    nearest: float
    """Smallest depth that is searched, scene units."""
    farthest: float


def surroundings(scene: Scene, most: int) -> tuple[Surroundings | None, ...]:
    """Per frame its best ``most`` neighbours and its range of depths; None for a frame that shares too few points.

    A neighbour counts by the points that both see, each weighted by the angle between its two rays (as in MVSNet).
    """
    sparse = scene.sparse
    if sparse is None or not len(sparse):
        return (None,) * len(scene)
    seen = np.zeros((len(scene), len(sparse)), dtype=np.bool_)
    seen[sparse.frame_index, sparse.point_index] = True
    centres = scene.T_world_cam[:, :3, 3]
    rays = sparse.points[None] - centres[:, None]
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    found: list[Surroundings | None] = []
    for frame in range(len(scene)):
        own = np.flatnonzero(seen[frame])
        depth = transform(np.linalg.inv(scene.T_world_cam[frame]), sparse.points[own])[:, 2]
        own, depth = own[depth > 0], depth[depth > 0]
        order = spread(_worth(rays[:, own], seen[:, own], frame), most)
        if len(own) < FEWEST_POINTS or not order:
            found.append(None)
            continue
        near, far = np.quantile(depth, QUANTILES)
        found.append(Surroundings(tuple(order), float(near) / NEARER, float(far) * FARTHER))
    return tuple(found)


def _worth(rays: np.ndarray, seen: np.ndarray, frame: int) -> np.ndarray:
    """(F, P) worth of each frame for each point of ``frame``, by the (F, P, 3) unit rays to the points."""
    cosine = np.clip((rays * rays[frame]).sum(axis=-1), -1, 1)
    angle = np.degrees(np.arccos(cosine))
    width = np.where(angle < BEST_ANGLE, NARROW, WIDE)
    worth = np.exp(-0.5 * ((angle - BEST_ANGLE) / width) ** 2) * seen
    worth[frame] = 0
    return worth


def spread(worth: np.ndarray, most: int) -> list[int]:
    """Frames chosen one by one, each for what it adds: a point counts by the root of the worth that it has already.

    So the second view of a corner of the picture counts more than the seventh of its middle.
    """
    held, chosen = np.zeros(worth.shape[1]), list[int]()
    for _ in range(min(most, len(worth))):
        gain = (np.sqrt(held + worth) - np.sqrt(held)).sum(axis=1)
        gain[chosen] = 0
        best = int(np.argmax(gain))
        if gain[best] <= 0:
            break
        chosen.append(best)
        held += worth[best]
    return chosen
