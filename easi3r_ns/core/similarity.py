"""Similarities of space, Sim(3): the rotation, scale and translation between the worlds of two reconstructions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation


@dataclass(frozen=True)
class Similarity:
    """x' = scale * R x + t."""

    scale: float
    R: np.ndarray
    """(3, 3)."""
    t: np.ndarray
    """(3,)."""

    @staticmethod
    def identity() -> Similarity:
        """Leaves everything where it is."""
        return Similarity(1.0, np.eye(3), np.zeros(3))

    def points(self, points: np.ndarray) -> np.ndarray:
        """(..., 3) points -> the same points in the other world."""
        return self.scale * points @ self.R.T + self.t

    def cameras(self, T_world_cam: np.ndarray) -> np.ndarray:
        """(..., 4, 4) camera-to-world -> the same cameras in the other world."""
        moved = T_world_cam.copy()
        moved[..., :3, :3] = self.R @ T_world_cam[..., :3, :3]
        moved[..., :3, 3] = self.points(T_world_cam[..., :3, 3])
        return moved

    def after(self, first: Similarity) -> Similarity:
        """``first``, then this one."""
        return Similarity(self.scale * first.scale, self.R @ first.R, self.points(first.t))

    def inverse(self) -> Similarity:
        """The similarity that undoes this one."""
        return Similarity(1 / self.scale, self.R.T, -(self.R.T @ self.t) / self.scale)


def align_cameras(source: np.ndarray, target: np.ndarray) -> Similarity:
    """The similarity that takes (N, 4, 4) camera-to-world poses to those of the same cameras in another world.

    The rotation is the chordal mean over the cameras' orientations, so that a straight path is no special case; scale
    and translation are medians, so that a few lost cameras do no harm. Cameras at one place have no scale: 1.
    """
    R = nearest_rotation((target[:, :3, :3] @ source[:, :3, :3].transpose(0, 2, 1)).sum(axis=0))
    from_, to = source[:, :3, 3] @ R.T, target[:, :3, 3]
    rows, columns = np.triu_indices(len(from_), 1)
    spread = [np.linalg.norm(c[rows] - c[columns], axis=1) for c in (from_, to)]
    apart = spread[0] > 0.1 * spread[0].max(initial=0)
    scale = float(np.median(spread[1][apart] / spread[0][apart])) if apart.any() else 1.0
    scale = scale if scale > 0 else 1.0
    return Similarity(scale, R, np.median(to - scale * from_, axis=0))


def align_points(source: np.ndarray, target: np.ndarray, weight: np.ndarray) -> Similarity:
    """The similarity that minimises sum weight |target - S source|^2 over (N, 3) points (Umeyama 1991).

    Batches (B, N, 3) with weights (B, N) give a Similarity of arrays: scale (B,), R (B, 3, 3), t (B, 3).
    """
    w = (weight / weight.sum(axis=-1, keepdims=True))[..., None]
    mean_s, mean_t = (w * source).sum(axis=-2), (w * target).sum(axis=-2)
    from_, to = source - mean_s[..., None, :], target - mean_t[..., None, :]
    covariance = np.swapaxes(w * to, -1, -2) @ from_
    R = nearest_rotation(covariance)
    spread = (w * from_**2).sum(axis=(-1, -2))
    scale = (R * covariance).sum(axis=(-1, -2)) / np.maximum(spread, np.finfo(float).tiny)
    t = mean_t - scale[..., None] * (R @ mean_s[..., None])[..., 0]
    return Similarity(scale if np.ndim(scale) else float(scale), R, t)


def nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    """(..., 3, 3) -> the rotations R with the largest trace(R^T matrix)."""
    U, _, Vt = np.linalg.svd(matrix)
    flip = np.ones((*matrix.shape[:-2], 3))
    flip[..., 2] = np.sign(np.linalg.det(U @ Vt))
    return (U * flip[..., None, :]) @ Vt


def between(first: Similarity, second: Similarity, share: float, place: np.ndarray) -> Similarity:
    """Interpolate between two similarities; ``share`` in [0, 1], 0 is the first.

    The rotation turns about one axis, the scale grows geometrically, and the image of the point ``place`` (3,) moves
    along a line.
    """
    turn = Rotation.from_matrix(first.R.T @ second.R).as_rotvec()
    R = first.R @ Rotation.from_rotvec(share * turn).as_matrix()
    scale = first.scale ** (1 - share) * second.scale**share
    image = (1 - share) * first.points(place) + share * second.points(place)
    return Similarity(scale, R, image - scale * R @ place)


NEIGHBOURS = 10
"""Number of registered frames, nearest in time, from which the pose of an unregistered frame is derived."""


def fill_missing(ours: np.ndarray, refined: np.ndarray, registered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Complete the refined cameras of a clip with transformed cameras of the network.

    A frame that was not registered keeps its camera ``ours``, moved into the refined world by the similarity between
    both sets of cameras over its :data:`NEIGHBOURS` nearest registered frames.

    Args:
        ours: (F, 4, 4) camera-to-world of all frames, in the network's world.
        refined: (F, 4, 4) camera-to-world in the refined world; rows of unregistered frames are ignored.
        registered: (F,) bool.

    Returns:
        (F, 4, 4) camera-to-world in the refined world, and (F,) the scale of each frame's similarity.
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
