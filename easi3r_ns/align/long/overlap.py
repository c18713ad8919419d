"""The similarity between two reconstructions from what both say of the same pixels, robustly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...core.median import weighted_median
from ...core.similarity import Similarity, align_points

FEWEST_POINTS = 50
"""Fewer corresponding points fix no similarity that could be trusted."""
INLIER = 0.1
"""Distance, in units of the depth, up to which two points count as the same place."""
HYPOTHESES = 256
POINTS_OF_A_HYPOTHESIS = 5
SCORED_POINTS = 1000
ROUNDS = 30
CUTOFF = 2.5
"""Standard deviations at which a correspondence counts one quarter."""
LEAST_DEVIATION = 1e-4
"""Of the relative distances: keeps exact data from dividing by zero."""
FLATTEST = 1e-8
"""Second principal variance over the first below which the points lie on a line."""


@dataclass(frozen=True)
class Correspondences:
    """The same places in two worlds."""

    source: np.ndarray
    """(N, 3)."""
    target: np.ndarray
    """(N, 3)."""
    depth: np.ndarray
    """(N,) z-depth of each place in the target's units, > 0: distances count relative to it."""
    weight: np.ndarray
    """(N,) >= 0."""

    def __len__(self) -> int:
        return len(self.source)

    @staticmethod
    def joined(parts: list[Correspondences]) -> Correspondences:
        """All of them."""
        names = ("source", "target", "depth", "weight")
        return Correspondences(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True)
class Fit:
    """A similarity and how well it fits."""

    similarity: Similarity
    """Source to target."""
    residual: float
    """Median distance after it, in units of the depth."""
    inliers: float
    """Share of the weight within :data:`INLIER`."""


def robust_similarity(data: Correspondences, seed: int = 0) -> Fit | None:
    """The similarity that most of the correspondences agree on; None where they are too few or degenerate.

    A sample consensus over small subsets gives the start, Geman-McClure weights (scale from the median) the rest.
    """
    used = np.isfinite(data.source).all(axis=1) & np.isfinite(data.target).all(axis=1) & (data.weight > 0)
    used &= np.isfinite(data.depth) & (data.depth > 0)
    if used.sum() < FEWEST_POINTS:
        return None
    data = Correspondences(*(x[used] for x in (data.source, data.target, data.depth, data.weight)))
    similarity = _consensus(data, seed)
    for _ in range(ROUNDS):
        if not _usable(similarity):
            return None
        distance = relative_distance(data, similarity)
        deviation = max(1.4826 * weighted_median(distance, data.weight), LEAST_DEVIATION)
        trust = 1 / (1 + (distance / (CUTOFF * deviation)) ** 2) ** 2
        before, similarity = similarity, align_points(data.source, data.target, data.weight * trust / data.depth**2)
        if abs(similarity.scale / before.scale - 1) < 1e-9 and np.abs(similarity.R - before.R).max() < 1e-9:
            break
    if not _usable(similarity) or not _spans_a_plane(data.source, data.weight * trust):
        return None
    distance = relative_distance(data, similarity)
    inliers = float(data.weight[distance < INLIER].sum() / data.weight.sum())
    return Fit(similarity, weighted_median(distance, data.weight), inliers)


def relative_distance(data: Correspondences, similarity: Similarity) -> np.ndarray:
    """(N,) distance between target and moved source in units of the depth."""
    return np.linalg.norm(data.target - similarity.points(data.source), axis=1) / data.depth


def _consensus(data: Correspondences, seed: int) -> Similarity:
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(data), size=(HYPOTHESES, POINTS_OF_A_HYPOTHESIS))
    many = align_points(data.source[chosen], data.target[chosen], np.ones(chosen.shape))
    scored = rng.permutation(len(data))[:SCORED_POINTS]
    source, target, depth = data.source[scored], data.target[scored], data.depth[scored]
    best, least = Similarity.identity(), np.inf
    for scale, R, t in zip(many.scale, many.R, many.t):
        one = Similarity(float(scale), R, t)
        distance = np.linalg.norm(target - one.points(source), axis=1) / depth
        cost = float((data.weight[scored] * np.minimum(distance, INLIER)).sum())
        if _usable(one) and cost < least:
            best, least = one, cost
    return best


def _usable(similarity: Similarity) -> bool:
    numbers = np.concatenate([[similarity.scale], similarity.R.ravel(), similarity.t])
    return bool(np.isfinite(numbers).all()) and similarity.scale > 1e-9


def _spans_a_plane(points: np.ndarray, weight: np.ndarray) -> bool:
    """Points on a line leave a rotation about it open."""
    w = weight / weight.sum()
    centred = points - w @ points
    _, middle, largest = np.linalg.eigvalsh((w[:, None] * centred).T @ centred)
    return bool(middle > FLATTEST * largest)
