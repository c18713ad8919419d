"""A network's depth of single pictures brought to a scene: two numbers per frame, found robustly and smooth over time.

What networks for single pictures predict is right up to an affine function of the inverse depth, 1 / depth = a q + b
(Ranftl et al., Towards Robust Monocular Depth Estimation, TPAMI 2022), which may differ from frame to frame. It is
fitted to inverse depths that are known from elsewhere. Frames that know little take part in what their neighbours know:
how much the function changes from frame to frame is measured in the clip itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solveh_banded

FEWEST = 30
"""Known pixels below which a frame has no fit of its own."""
INDEPENDENT = 100
"""A frame's known pixels count as so many independent ones at most: neighbours err alike."""
LEAST_CHANGE = 0.01
"""Least relative change from frame to frame that is allowed for."""
UNKNOWN_CHANGE = 0.1
"""The same where too few frames have a fit of their own to measure it."""
_DRAWS, _TUKEY, _STEPS, _BANDS = 200, 4.685, 12, 4
_TINY = 1e-12


@dataclass(frozen=True)
class Known:
    """What is known of one frame: N pixels."""

    predicted: np.ndarray
    """(N,) q, what the network says of them; larger is nearer."""
    inverse: np.ndarray
    """(N,) inverse depth, > 0."""


@dataclass(frozen=True)
class AffineFit:
    """1 / depth = scale q + shift, for F frames."""

    scale: np.ndarray
    """(F,) NaN where there is no usable fit: too little is known near the frame, or it contradicts the prediction."""
    shift: np.ndarray
    """(F,)."""
    error: np.ndarray
    """(F,) median relative error of the depth of known pixels; NaN where none is known."""

    def inverse(self, frame: int, predicted: np.ndarray) -> np.ndarray:
        """Inverse depth of predicted values; NaN for a frame without a fit."""
        return self.scale[frame] * predicted + self.shift[frame]


def fit_affine(known: Sequence[Known], starts: Sequence[int] = (), *, seed: int = 0) -> AffineFit:
    """Fit all frames of a clip together.

    Args:
        known: of each frame; may be empty.
        starts: frames that begin another clip: nothing is shared with the frame before.
    """
    count = len(known)
    empty = np.full(count, np.nan)
    if not any(len(k.inverse) >= FEWEST for k in known):
        return AffineFit(empty, empty, empty)
    low, high = _ends(known)
    # The unknowns are the inverse depths at two values of the prediction: both are as large as what is measured.
    shares = [(k.predicted - low) / (high - low) for k in known]
    rng = np.random.default_rng(seed)
    own = np.array([_own_fit(share, k.inverse, rng) for share, k in zip(shares, known, strict=True)])
    typical = float(np.median(np.concatenate([k.inverse for k in known])))
    coupling = _coupling(own, starts, typical)
    ends = _start(own)
    for _ in range(_STEPS):
        before, ends = ends, _solved([_normal(s, k.inverse, e) for s, k, e in zip(shares, known, ends)], coupling)
        if np.abs(ends - before).max() < 1e-9 * typical:
            break
    scale = (ends[:, 1] - ends[:, 0]) / (high - low)
    shift = ends[:, 0] - scale * low
    reached = _reached(known, starts) & (scale > 0)
    error = np.array([_error(k, a, b) for k, a, b in zip(known, scale, shift, strict=True)])
    return AffineFit(np.where(reached, scale, np.nan), np.where(reached, shift, np.nan), error)


def _ends(known: Sequence[Known]) -> tuple[float, float]:
    values = np.concatenate([k.predicted for k in known])
    low, high = np.quantile(values, [0.1, 0.9])
    return float(low), float(high) if high - low > _TINY else float(low) + 1.0


def _own_fit(share: np.ndarray, inverse: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(2,) the inverse depths at shares 0 and 1, by the pair of pixels that most others agree with; NaN: no fit."""
    if len(inverse) < FEWEST or np.ptp(share) < 1e-6:
        return np.full(2, np.nan)
    pairs = rng.integers(len(inverse), size=(_DRAWS, 2))
    run = share[pairs[:, 1]] - share[pairs[:, 0]]
    pairs, run = pairs[np.abs(run) > 0.05 * np.ptp(share)], run[np.abs(run) > 0.05 * np.ptp(share)]
    slope = (inverse[pairs[:, 1]] - inverse[pairs[:, 0]]) / run
    first = inverse[pairs[:, 0]] - slope * share[pairs[:, 0]]
    rising = slope > 0
    if not rising.any():
        return np.full(2, np.nan)
    candidates = np.column_stack([first, first + slope])[rising]
    off = np.abs(_of(candidates, share) - inverse) / _allowance(inverse)
    return candidates[int(np.argmin(np.median(off, axis=1)))]


def _of(ends: np.ndarray, share: np.ndarray) -> np.ndarray:
    """(..., 2) ends, (N,) shares -> (..., N) inverse depths."""
    return ends[..., :1] * (1 - share) + ends[..., 1:] * share


def _allowance(inverse: np.ndarray) -> np.ndarray:
    """(N,) what an error is compared with: between the pixel's own inverse depth and the frame's median.

    Measured against its own alone, the farthest pixels would decide; against the median, they would count for nothing.
    """
    return 0.5 * (inverse + np.median(inverse))


def _coupling(own: np.ndarray, starts: Sequence[int], typical: float) -> np.ndarray:
    """(F - 1, 2) information that consecutive frames have about each other's ends."""
    together = np.ones((len(own) - 1, 1))
    together[[k - 1 for k in starts if 0 < k < len(own)]] = 0
    steps = np.abs(np.diff(own, axis=0))
    steps = steps[np.isfinite(steps).all(axis=1) & (together[:, 0] > 0)]
    change = np.full(2, UNKNOWN_CHANGE * typical)
    if len(steps) >= 3:
        change = np.maximum(1.4826 * np.median(steps, axis=0), LEAST_CHANGE * typical)
    return together / change**2


def _start(own: np.ndarray) -> np.ndarray:
    """(F, 2) the own fits, and those of the nearest frame that has one for others."""
    fitted = np.flatnonzero(np.isfinite(own).all(axis=1))
    if not len(fitted):
        return np.tile([0.5, 1.0], (len(own), 1))
    nearest = np.abs(np.arange(len(own))[:, None] - fitted).argmin(axis=1)
    return own[fitted[nearest]]


def _normal(share: np.ndarray, inverse: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normal equations (2, 2), (2,) of a frame with Tukey's weights about the present ends."""
    if len(inverse) < 2:
        return np.zeros((2, 2)), np.zeros(2)
    allowance = _allowance(inverse)
    off = (_of(ends, share) - inverse) / allowance
    sigma = max(1.4826 * float(np.median(np.abs(off))), 1e-3)
    weight = np.maximum(1 - (off / (_TUKEY * sigma)) ** 2, 0) ** 2 / (sigma * allowance) ** 2
    weight *= min(1.0, INDEPENDENT / len(inverse))
    design = np.column_stack([1 - share, share])
    return design.T @ (weight[:, None] * design), design.T @ (weight * inverse)


def _solved(normals: Sequence[tuple[np.ndarray, np.ndarray]], coupling: np.ndarray) -> np.ndarray:
    """(F, 2) the ends that minimise the sum of all frames' squares and of the steps between consecutive ones."""
    count = len(normals)
    band, right = np.zeros((_BANDS, 2 * count)), np.zeros(2 * count)  # the upper bands of a symmetric matrix
    for frame, (matrix, vector) in enumerate(normals):
        k = 2 * frame
        band[3, k : k + 2] += np.diag(matrix)
        band[2, k + 1] += matrix[0, 1]
        right[k : k + 2] = vector
    for frame, information in enumerate(coupling):
        k = 2 * frame
        band[3, k : k + 4] += np.tile(information, 2)
        band[1, k + 2 : k + 4] -= information
    # Frames of which nothing is known, and that no frame tells anything, have no equation: any value will do.
    band[3] += 1e-10 * band[3].max() + _TINY
    return solveh_banded(band, right).reshape(count, 2)


def _reached(known: Sequence[Known], starts: Sequence[int]) -> np.ndarray:
    """(F,) bool: the frame, or another of its clip, knows enough for a fit."""
    clip = np.zeros(len(known), dtype=int)
    clip[[k for k in starts if 0 < k < len(known)]] = 1
    clip = np.cumsum(clip)
    enough = np.array([len(k.inverse) >= FEWEST for k in known])
    return np.isin(clip, clip[enough])


def _error(known: Known, scale: float, shift: float) -> float:
    if not len(known.inverse):
        return float("nan")
    inverse = np.maximum(scale * known.predicted + shift, _TINY)
    return float(np.median(np.abs(known.inverse / inverse - 1)))
