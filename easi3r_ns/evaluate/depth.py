"""Depth maps against the truth: AbsRel and delta < 1.25 after ONE alignment for the whole sequence.

There are two alignments: by a scale, and by a scale with a shift. Both minimise the sum of absolute differences, which
is robust against a few outliers. Pixels of all frames are pooled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.median import weighted_median

NEAR = 1.25
_MAX_SAMPLES = 200_000
_ITERATIONS = 100


@dataclass(frozen=True)
class DepthScore:
    """Errors after one alignment."""

    abs_rel: float
    """Mean of |depth - truth| / truth."""
    delta: float
    """Share of pixels with max(depth / truth, truth / depth) < 1.25."""
    scale: float
    shift: float
    """In units of the truth; 0 for the alignment by scale alone."""


@dataclass(frozen=True)
class DepthErrors:
    """Errors after each of the two alignments, over the pixels with an estimated and a true depth."""

    by_scale: DepthScore
    by_scale_and_shift: DepthScore
    coverage: float
    """Share of the pixels with a true depth that have an estimated one."""
    num_pixels: int


def compare_depths(estimate: np.ndarray, truth: np.ndarray) -> DepthErrors | None:
    """Errors of (F, H, W) z-depths, 0 where unknown, against the true ones on the same grid, in any unit.

    Returns None where no pixel has both. A depth that is not positive after the alignment counts as wrong in delta and
    with its full error in AbsRel.
    """
    if estimate.shape != truth.shape:
        raise ValueError(f"depths of shape {estimate.shape} and {truth.shape}")
    known = truth > 0
    both = known & (estimate > 0)
    if not both.any():
        return None
    depth, true = estimate[both].astype(float), truth[both].astype(float)
    scale = fit_scale(depth, true)
    return DepthErrors(
        by_scale=_score(depth, true, scale, 0.0),
        by_scale_and_shift=_score(depth, true, *fit_scale_and_shift(depth, true)),
        coverage=float(both.sum() / known.sum()),
        num_pixels=int(both.sum()),
    )


def fit_scale(depth: np.ndarray, truth: np.ndarray) -> float:
    """The s > 0 that minimises sum |s depth - truth| over (N,) positive values: a weighted median of the ratios."""
    return weighted_median(truth / depth, depth)


def fit_scale_and_shift(depth: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """(s, t) that minimise sum |s depth + t - truth| over (N,) values, by re-weighted least squares.

    More than 200,000 values are thinned evenly. Where the depth is constant, t is 0 and s comes from the scale alone.
    """
    step = -(-len(depth) // _MAX_SAMPLES)
    depth, truth = depth[::step], truth[::step]
    if np.ptp(depth) <= 1e-9 * np.abs(depth).max():
        return fit_scale(depth, truth), 0.0
    design = np.stack([depth, np.ones_like(depth)], axis=1)
    weight, solution = np.ones_like(depth), np.zeros(2)
    # Weights are inverse residuals, bounded for residuals near zero.
    floor = 1e-6 * float(np.median(truth))
    for _ in range(_ITERATIONS):
        weighted = design * weight[:, None]
        previous, solution = solution, np.linalg.solve(weighted.T @ design, weighted.T @ truth)
        if np.abs(solution - previous).max() <= 1e-9 * np.abs(solution).max():
            break
        weight = 1.0 / np.maximum(np.abs(design @ solution - truth), floor)
    return float(solution[0]), float(solution[1])


def _score(depth: np.ndarray, truth: np.ndarray, scale: float, shift: float) -> DepthScore:
    aligned = scale * depth + shift
    positive = np.maximum(aligned, 1e-12)
    near = np.maximum(positive / truth, truth / positive) < NEAR
    return DepthScore(float((np.abs(aligned - truth) / truth).mean()), float(near.mean()), scale, shift)
