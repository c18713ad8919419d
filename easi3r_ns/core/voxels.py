"""Thinning of point clouds: the size of voxels that leave no more points than wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

Grouped = TypeVar("Grouped")

_FEWEST, _WANTED = 0.9, 0.97
"""Shares of the points allowed: with fewer the search goes on, and at this many it aims."""
_TRIALS = 12


def fit_voxels(
    points: np.ndarray, max_points: int, group: Callable[[float], Grouped], count: Callable[[Grouped], int]
) -> tuple[float, Grouped]:
    """The edge of cubic voxels of which (N, 3) points fill at most ``max_points``, and not many fewer where possible.

    ``group(size)`` sorts the points into voxels of that edge and ``count`` tells how many are filled; what ``group``
    gave for the size that is returned comes back with it.
    """
    # Points lie on surfaces, so the number of voxels falls with the square of their size: a few corrections are enough.
    extent = float(np.ptp(np.quantile(points, [0.01, 0.99], axis=0), axis=0).max())
    extent = max(extent, 1e-6)
    size = extent / max_points**0.5
    found = group(size)
    for _ in range(_TRIALS):
        filled = count(found)
        if _FEWEST * max_points <= filled <= max_points:
            break
        if filled < _FEWEST * max_points and size < 1e-9 * extent:
            break
        size *= float(np.clip((filled / (_WANTED * max_points)) ** 0.5, 0.25, 4.0))
        found = group(size)
    while count(found) > max_points:
        size *= 1.1
        found = group(size)
    return size, found


def filled_voxels(points: np.ndarray, size: float) -> int:
    """How many cubic voxels of an edge of ``size`` hold any of (N, 3) finite points, in Open3D's lattice.

    That begins half a voxel before the least coordinates.
    """
    cell = np.floor((points - (points.min(axis=0) - 0.5 * size)) / size).astype(np.int64)
    spans = cell.max(axis=0) + 1
    if float(np.prod(spans.astype(float))) > np.iinfo(np.int64).max:
        return len(np.unique(cell, axis=0))
    return len(np.unique((cell[:, 0] * spans[1] + cell[:, 1]) * spans[2] + cell[:, 2]))
