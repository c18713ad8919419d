"""Cameras of one world brought into another."""

from __future__ import annotations

import numpy as np

from ..similarity import align_cameras

NEIGHBOURS = 10
"""Registered frames nearest in time that carry a frame which COLMAP has not registered."""


def fill_missing(ours: np.ndarray, refined: np.ndarray, registered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cameras of all frames: the refined ones, and ours, carried along by the nearest refined ones, where they lack.

    Returns (F, 4, 4) camera-to-world in the refined world, and (F,) the scale that took each of ours there.
    """
    known = np.flatnonzero(registered)
    out, scales = refined.copy(), np.ones(len(ours))
    for frame in range(len(ours)):
        near = np.sort(known[np.argsort(np.abs(known - frame), kind="stable")[:NEIGHBOURS]])
        local = align_cameras(ours[near], refined[near])
        scales[frame] = local.scale
        if not registered[frame]:
            out[frame] = local.cameras(ours[frame])
    return out, scales
