"""Rotations about one centre, and a focal length for every frame, that explain where corners are seen in other frames.

The homography between two frames of such a camera holds the ratio of their focal lengths. A camera that travels
straight towards something flat shows the same pictures: nothing in them tells the two apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from ...core.similarity import nearest_rotation
from .lens import PinholeLens
from .tracks import CornerMatches
from .turning import CORRELATED, FOCAL_SPREAD, NOISE_PX, turn_between

SMOOTH = 0.05
"""Deviation of the change between two neighbouring changes of the logarithm of the focal length, per frame."""
ITERATIONS = 40
_CONVERGED = 1e-6
_START_PX = 8.0
_COOLING = 0.6
_LARGEST_STEP = 0.2
_AHEAD = 0.05


@dataclass(frozen=True)
class ZoomingTurn:
    """Cameras that only turn while their lens zooms."""

    R: np.ndarray
    """(F, 3, 3) camera-to-world, the first the identity."""
    focals: np.ndarray
    """(F,) horizontal, in pixels; where nothing turns, only their ratios mean something."""
    lens: PinholeLens
    """Principal point and aspect."""
    focal_sigma: float
    """Standard deviation of the logarithm of the focal lengths' geometric mean."""

    def seen(self, matches: CornerMatches) -> np.ndarray:
        """(M, 3) directions of the corners in the cameras of their second frames."""
        relative = self.R[matches.second].transpose(0, 2, 1) @ self.R[matches.first]
        return (relative @ self.rays(matches.first, matches.start)[..., None])[..., 0]

    def errors(self, matches: CornerMatches) -> np.ndarray:
        """(M,) pixels between where a corner was seen and where it should be; infinite behind the camera."""
        p = self.seen(matches)
        error = np.full(len(p), np.inf)
        ahead = p[:, 2] > _AHEAD
        shown = self.pixels(matches.second[ahead], p[ahead])
        error[ahead] = np.linalg.norm(shown - matches.end[ahead], axis=1)
        return error

    def rays(self, frame: np.ndarray, xy: np.ndarray) -> np.ndarray:
        """(M, 2) pixels of the frames ``frame`` -> (M, 3) directions with z = 1."""
        plane = (xy - self.lens.principal_point) / self.scale(frame)
        return np.concatenate([plane, np.ones((len(xy), 1))], axis=1)

    def pixels(self, frame: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """(M, 3) directions in front of the cameras ``frame`` -> (M, 2) pixels."""
        return self.scale(frame) * directions[:, :2] / directions[:, 2:] + self.lens.principal_point

    def scale(self, frame: np.ndarray) -> np.ndarray:
        """(M, 2) focal lengths in x and y."""
        return self.focals[frame, None] * np.array([1.0, self.lens.aspect])


def fit_zooming(matches: CornerMatches, num_frames: int, lens: PinholeLens) -> ZoomingTurn | None:
    """Rotations and focal lengths by iteratively re-weighted Gauss-Newton on all matches.

    The geometric mean of the focal lengths has a prior about that of ``lens``, and their course one that it is smooth.
    None: too few matches join a frame to those before it.
    """
    turning = _chain(matches, num_frames, lens)
    scale = _START_PX
    for _ in range(ITERATIONS):
        if turning is None:
            return None
        turning, step = _improved(turning, matches, lens.focal, scale)
        if scale == NOISE_PX and step < _CONVERGED:
            break
        scale = max(NOISE_PX, scale * _COOLING)
    return turning


def _chain(matches: CornerMatches, num_frames: int, lens: PinholeLens) -> ZoomingTurn | None:
    """Each frame by way of the earlier one that shares most corners with it."""
    links = matches.chain(num_frames)
    if links is None:
        return None
    R, focals = np.tile(np.eye(3), (num_frames, 1, 1)), np.full(num_frames, float(lens.focal))
    for k, (i, pair) in enumerate(links, start=1):
        # The distances between corners grow with the focal length.
        start, end = (np.linalg.norm(xy - np.roll(xy, len(xy) // 2, axis=0), axis=1) for xy in (pair.start, pair.end))
        far = start > np.median(start) / 2
        focals[k] = focals[i] * np.median(end[far] / start[far])
        own, other = (replace(lens, focal=focals[frame]) for frame in (i, k))
        R[k] = R[i] @ turn_between(own.rays(pair.start), other.rays(pair.end)).T
    focals *= lens.focal / np.exp(np.log(focals).mean())
    return ZoomingTurn(R, focals, lens, FOCAL_SPREAD)


def _improved(turning: ZoomingTurn, matches: CornerMatches, prior: float, scale: float) -> tuple[ZoomingTurn, float]:
    """One step with the weights of Cauchy's loss at ``scale`` pixels; also its largest component."""
    count = len(turning.R)
    normal, right = _normal_equations(turning, matches, scale)
    logs, of_focal = np.log(turning.focals), np.arange(count) * 4 + 3
    bend = np.diff(np.eye(count), 2, axis=0) / SMOOTH if count > 2 else np.zeros((0, count))
    mean = np.full((1, count), 1 / count / FOCAL_SPREAD)
    D = np.concatenate([bend, mean])
    off = D @ logs
    off[-1] -= np.log(prior) / FOCAL_SPREAD
    normal[np.ix_(of_focal, of_focal)] += D.T @ D
    right[of_focal] += D.T @ off
    free = np.arange(3, 4 * count)
    inverse = np.linalg.inv(normal[np.ix_(free, free)] + 1e-6 * np.eye(len(free)))
    step = np.zeros(4 * count)
    step[free] = -inverse @ right[free]
    by_frame = step.reshape(count, 4)
    by_frame[:, 3] = np.clip(by_frame[:, 3], -_LARGEST_STEP, _LARGEST_STEP)
    at = np.searchsorted(free, of_focal)
    sigma = float(inverse[np.ix_(at, at)].mean() ** 0.5)
    R = nearest_rotation(turning.R @ Rotation.from_rotvec(by_frame[:, :3]).as_matrix())
    moved = ZoomingTurn(R, turning.focals * np.exp(by_frame[:, 3]), turning.lens, sigma)
    return moved, float(np.abs(by_frame).max())


def _normal_equations(turning: ZoomingTurn, matches: CornerMatches, scale: float) -> tuple[np.ndarray, np.ndarray]:
    count = len(turning.R)
    seen = turning.seen(matches)
    ahead = seen[:, 2] > _AHEAD
    matches, seen = matches.chosen(ahead), seen[ahead]
    residual = turning.pixels(matches.second, seen) - matches.end
    J = jacobian(turning, matches, seen)
    weight = 1 / ((residual**2).sum(axis=1) + scale**2) / CORRELATED
    weighted = J * weight[:, None, None]
    blocks = weighted.transpose(0, 2, 1) @ J
    sides = (weighted * residual[..., None]).sum(axis=1)
    index = np.concatenate([4 * matches.first[:, None] + np.arange(4), 4 * matches.second[:, None] + np.arange(4)], 1)
    normal, right = np.zeros((4 * count, 4 * count)), np.zeros(4 * count)
    np.add.at(normal, (index[:, :, None], index[:, None, :]), blocks)
    np.add.at(right, index, sides)
    return normal, right


def jacobian(turning: ZoomingTurn, matches: CornerMatches, seen: np.ndarray) -> np.ndarray:
    """(M, 2, 8) change of the pixels in the second frame: with a small turn and the logarithm of the focal length of
    the first camera, then of the second.

    ``seen``: directions of :meth:`ZoomingTurn.seen`.
    """
    relative = turning.R[matches.second].transpose(0, 2, 1) @ turning.R[matches.first]
    rays = turning.rays(matches.first, matches.start)
    scale = turning.scale(matches.second)
    z = seen[:, 2:]
    project = np.zeros((len(seen), 2, 3))
    project[:, 0, 0], project[:, 1, 1] = (scale / z).T
    project[:, :, 2] = -scale * seen[:, :2] / z**2
    # d(ray) / d(log focal) is -(x, y, 0); the projection itself grows in proportion to the focal length.
    first = np.concatenate([-relative @ _cross(rays), relative @ (rays * [-1.0, -1.0, 0.0])[..., None]], axis=2)
    second = np.concatenate([project @ _cross(seen), (scale * seen[:, :2] / z)[..., None]], axis=2)
    return np.concatenate([project @ first, second], axis=2)


def _cross(v: np.ndarray) -> np.ndarray:
    """(M, 3) -> (M, 3, 3) matrices of v x."""
    out = np.zeros((len(v), 3, 3))
    out[:, 0, 1], out[:, 0, 2], out[:, 1, 2] = -v[:, 2], v[:, 1], -v[:, 0]
    return out - out.transpose(0, 2, 1)
