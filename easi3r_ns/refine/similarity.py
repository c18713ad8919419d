"""Cameras of one world brought into another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEIGHBOURS = 10
"""Registered frames nearest in time that carry a frame which COLMAP has not registered."""


@dataclass(frozen=True)
class Similarity:
    """x' = scale * R x + t."""

    scale: float
    R: np.ndarray
    t: np.ndarray

    def cameras(self, T_world_cam: np.ndarray) -> np.ndarray:
        """(..., 4, 4) camera-to-world -> the same cameras in the other world."""
        moved = T_world_cam.copy()
        moved[..., :3, :3] = self.R @ T_world_cam[..., :3, :3]
        moved[..., :3, 3] = self.scale * T_world_cam[..., :3, 3] @ self.R.T + self.t
        return moved


def align_cameras(source: np.ndarray, target: np.ndarray) -> Similarity:
    """The similarity that takes (N, 4, 4) camera-to-world poses to those of the same cameras in another world.

    The rotation is the chordal mean over the cameras' orientations, so that a straight path is no special case; scale
    and translation are medians, so that a few lost cameras do no harm. Cameras at one place have no scale: 1.
    """
    U, _, Vt = np.linalg.svd((target[:, :3, :3] @ source[:, :3, :3].transpose(0, 2, 1)).sum(axis=0))
    R = U @ np.diag([1.0, 1.0, np.linalg.det(U @ Vt)]) @ Vt
    from_, to = source[:, :3, 3] @ R.T, target[:, :3, 3]
    rows, columns = np.triu_indices(len(from_), 1)
    spread = [np.linalg.norm(c[rows] - c[columns], axis=1) for c in (from_, to)]
    apart = spread[0] > 0.1 * spread[0].max(initial=0)
    scale = float(np.median(spread[1][apart] / spread[0][apart])) if apart.any() else 1.0
    scale = scale if scale > 0 else 1.0
    return Similarity(scale, R, np.median(to - scale * from_, axis=0))


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
