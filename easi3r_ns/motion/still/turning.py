"""Rotations about one centre, and a focal length, that explain where corners are seen in other frames.

``R`` are camera-to-world rotations with OpenCV axes; pixels have integer centres.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from ...core.similarity import nearest_rotation
from .lens import PinholeLens
from .tracks import CornerMatches

NOISE_PX = 0.3
"""Deviation of a followed corner, for the weights of the fit: one that is off by more than this counts less."""
FOCAL_SPREAD = 0.35
"""Standard deviation of the logarithm of an unknown focal length about its guess: what cameras and phones have."""
CORRELATED = 10.0
"""CornerMatches that count as one: a corner is followed in many pairs, and its neighbours share its errors."""
ITERATIONS = 30
_CONVERGED = 1e-6
_START_PX = 8.0
_COOLING = 0.6
_CHAIN_ROUNDS = 10
_FOCAL_STEP = 0.2
_AHEAD = 0.05
_LEAST_ANGLE = 1e-6


@dataclass(frozen=True)
class Turning:
    """Cameras that only turn."""

    R: np.ndarray
    """(F, 3, 3), the first the identity."""
    lens: PinholeLens
    focal_sigma: float
    """Standard deviation of the logarithm of the focal length; 0 where it was given."""


def turn_errors(matches: CornerMatches, turning: Turning) -> np.ndarray:
    """(M,) pixels between where a corner was seen and where the rotations put it; infinite behind the camera."""
    p = _turned(matches, turning)
    error = np.full(len(p), np.inf)
    ahead = p[:, 2] > _AHEAD
    error[ahead] = np.linalg.norm(turning.lens.pixels(p[ahead]) - matches.end[ahead], axis=1)
    return error


def fit_turning(matches: CornerMatches, num_frames: int, lens: PinholeLens, *, fixed_focal: bool) -> Turning | None:
    """Rotations, and a focal length unless ``fixed_focal``, by iteratively re-weighted Gauss-Newton on all matches.

    The focal length has a prior about that of ``lens``, so that it stays where nothing turns. None: too few matches
    join a frame to those before it.
    """
    start = _chain(matches, num_frames, lens)
    if start is None:
        return None
    fit = _Fit(matches, lens.focal, fixed_focal)
    turning = Turning(start, lens, 0.0 if fixed_focal else FOCAL_SPREAD)
    scale = _START_PX
    for _ in range(ITERATIONS):
        turning, step = fit.improve(turning, scale)
        if scale == NOISE_PX and step < _CONVERGED:
            break
        scale = max(NOISE_PX, scale * _COOLING)
    return turning


def _turned(matches: CornerMatches, turning: Turning) -> np.ndarray:
    """(M, 3) the corners' directions in the cameras of their second frames."""
    relative = turning.R[matches.second].transpose(0, 2, 1) @ turning.R[matches.first]
    return (relative @ turning.lens.rays(matches.start)[..., None])[..., 0]


def _chain(matches: CornerMatches, num_frames: int, lens: PinholeLens) -> np.ndarray | None:
    """(F, 3, 3) rotations, each by way of the earlier frame that shares most corners with it."""
    links = matches.chain(num_frames)
    if links is None:
        return None
    R = np.tile(np.eye(3), (num_frames, 1, 1))
    for k, (i, pair) in enumerate(links, start=1):
        R[k] = R[i] @ turn_between(lens.rays(pair.start), lens.rays(pair.end)).T
    return R


def turn_between(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(3, 3) rotation of (M, 3) directions of one pair of frames: least absolute distances, by re-weighting."""
    source, target = (ray / np.linalg.norm(ray, axis=1)[:, None] for ray in (start, end))
    weight, turn = np.ones(len(start)), np.eye(3)
    for _ in range(_CHAIN_ROUNDS):
        turn = nearest_rotation((target * weight[:, None]).T @ source)
        off = np.linalg.norm(source @ turn.T - target, axis=1)
        weight = 1 / (off + max(float(np.median(off)), _LEAST_ANGLE))
    return turn


class _Fit:
    """Steps of Gauss-Newton. Unknowns: a small turn of every camera about its own axes, logarithm of the focal length.

    The first camera does not move.
    """

    def __init__(self, matches: CornerMatches, focal: float, fixed_focal: bool) -> None:
        self._matches, self._focal, self._fixed = matches, focal, fixed_focal

    def improve(self, turning: Turning, scale: float) -> tuple[Turning, float]:
        """One step with the weights of Cauchy's loss at ``scale`` pixels; also its largest component (radians)."""
        size = 3 * len(turning.R) + 1
        normal, right = self._normal_equations(turning, scale)
        normal[-1, -1] += FOCAL_SPREAD**-2
        right[-1] += FOCAL_SPREAD**-2 * np.log(turning.lens.focal / self._focal)
        free = np.arange(3, size - 1 if self._fixed else size)
        inverse = np.linalg.inv(normal[np.ix_(free, free)] + 1e-6 * np.eye(len(free)))
        step = np.zeros(size)
        step[free] = -inverse @ right[free]
        step[-1] = np.clip(step[-1], -_FOCAL_STEP, _FOCAL_STEP)
        R = nearest_rotation(turning.R @ Rotation.from_rotvec(step[:-1].reshape(-1, 3)).as_matrix())
        lens = replace(turning.lens, focal=turning.lens.focal * float(np.exp(step[-1])))
        return Turning(R, lens, 0.0 if self._fixed else float(inverse[-1, -1] ** 0.5)), float(np.abs(step).max())

    def _normal_equations(self, turning: Turning, scale: float) -> tuple[np.ndarray, np.ndarray]:
        count, lens = len(turning.R), turning.lens
        seen = _turned(self._matches, turning)
        ahead = seen[:, 2] > _AHEAD
        matches, seen = self._matches.chosen(ahead), seen[ahead]
        residual = lens.pixels(seen) - matches.end
        J = _jacobian(turning, matches, seen)
        weight = 1 / ((residual**2).sum(axis=1) + scale**2) / CORRELATED
        pairs = np.flatnonzero(np.diff(matches.first * count + matches.second, prepend=-1))
        weighted = J * weight[:, None, None]
        blocks = np.add.reduceat(weighted.transpose(0, 2, 1) @ J, pairs)
        sides = np.add.reduceat((weighted * residual[..., None]).sum(axis=1), pairs)
        normal, right = np.zeros((3 * count + 1, 3 * count + 1)), np.zeros(3 * count + 1)
        for block, side, i, j in zip(blocks, sides, matches.first[pairs], matches.second[pairs], strict=True):
            index = np.r_[3 * i : 3 * i + 3, 3 * j : 3 * j + 3, 3 * count]
            normal[np.ix_(index, index)] += block
            right[index] += side
        return normal, right


def _jacobian(turning: Turning, matches: CornerMatches, seen: np.ndarray) -> np.ndarray:
    """(M, 2, 7) change of the pixels in the second frame: with the turns of both cameras and the focal length.

    ``seen``: directions of :func:`_turned`.
    """
    lens = turning.lens
    relative = turning.R[matches.second].transpose(0, 2, 1) @ turning.R[matches.first]
    first, second = -relative @ _cross(lens.rays(matches.start)), _cross(seen)
    focal = relative @ lens.rays_by_focal(matches.start)[..., None]
    columns = lens.slopes(seen) @ np.concatenate([first, second, focal], axis=2)
    columns[:, :, 6] += lens.pixels(seen) - lens.principal_point
    return columns


def _cross(v: np.ndarray) -> np.ndarray:
    """(M, 3) -> (M, 3, 3) matrices of v x."""
    out = np.zeros((len(v), 3, 3))
    out[:, 0, 1], out[:, 0, 2], out[:, 1, 2] = -v[:, 2], v[:, 1], -v[:, 0]
    return out - out.transpose(0, 2, 1)
