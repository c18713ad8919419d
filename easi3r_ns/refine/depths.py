"""Depth maps brought to the cameras that bundle adjustment has moved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.geometry import source_to_network
from ..core.types import PixelMap

MIN_POINTS = 20
"""Points in a frame below which it takes the clip's scale."""
SHIFT_GAIN = 0.8
"""A shift is taken when the median relative error on points that were left out of its fit falls below this share."""

_ITERATIONS = 10
_FOLDS = 2


@dataclass(frozen=True)
class DepthFit:
    """refined depth = scale * depth + shift."""

    scale: float
    shift: float
    num_points: int
    error: float
    """Median relative error of the fitted depth at the points; NaN without points."""


def sample_depth(depth: np.ndarray, xy_source: np.ndarray, pixel_map: PixelMap) -> np.ndarray:
    """(N,) depth of the network pixel nearest to (N, 2) source pixels; 0 outside of the network's crop.

    Args:
        depth: (H, W), 0 where unknown; on the distorted grid, as the images are.
    """
    xy = np.rint(source_to_network(xy_source, pixel_map)).astype(int)
    height, width = depth.shape
    inside = (xy >= 0).all(axis=1) & (xy[:, 0] < width) & (xy[:, 1] < height)
    out = np.zeros(len(xy))
    out[inside] = depth[xy[inside, 1], xy[inside, 0]]
    return out


def fit_depth(ours: np.ndarray, wanted: np.ndarray) -> DepthFit:
    """Robust scale, or scale and shift where that predicts points better that it has not seen.

    Residuals are relative to the wanted depth, so near and far points count the same.

    Args:
        ours, wanted: (N,) positive depths of the same points.
    """
    scale = float(np.median(wanted / ours))
    best = DepthFit(scale, 0.0, len(ours), _error(ours, wanted, scale, 0.0))
    if len(ours) < 2 * MIN_POINTS:
        return best
    fold = np.arange(len(ours)) % _FOLDS
    plain, shifted = [], []
    for k in range(_FOLDS):
        fitted, test = fold != k, fold == k
        plain.append(_error(ours[test], wanted[test], float(np.median(wanted[fitted] / ours[fitted])), 0.0))
        shifted.append(_error(ours[test], wanted[test], *_scale_and_shift(ours[fitted], wanted[fitted])))
    a, b = _scale_and_shift(ours, wanted)
    if a > 0 and np.mean(shifted) < SHIFT_GAIN * np.mean(plain):
        return DepthFit(a, b, len(ours), _error(ours, wanted, a, b))
    return best


def _scale_and_shift(ours: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """Least absolute relative residuals by reweighting."""
    weight = 1 / wanted**2
    design = np.stack([ours, np.ones_like(ours)], axis=1)
    for _ in range(_ITERATIONS):
        normal = design.T @ (weight[:, None] * design)
        a, b = np.linalg.lstsq(normal, design.T @ (weight * wanted), rcond=None)[0]
        relative = np.abs(design @ (a, b) - wanted) / wanted
        weight = 1 / (wanted**2 * np.maximum(relative, 1e-4))
    return float(a), float(b)


def _error(ours: np.ndarray, wanted: np.ndarray, scale: float, shift: float) -> float:
    return float(np.median(np.abs(scale * ours + shift - wanted) / wanted))


def apply_fit(depth: np.ndarray, fit: DepthFit) -> np.ndarray:
    """(H, W) float32 refined depth; 0 where it was unknown or a shift would bring it behind the camera."""
    fitted = fit.scale * depth + fit.shift
    return np.where((depth > 0) & (fitted > 1e-3 * fit.scale * depth), fitted, 0).astype(np.float32)
