"""A robust fit of the similarity between two reconstructions that contain the same pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...core.median import weighted_median
from ...core.similarity import Similarity, align_points

FEWEST_POINTS = 50
"""Fewer matches do not determine a trustworthy similarity."""
INLIER = 0.1
"""Distance, in units of the depth, up to which two points count as the same place."""
HYPOTHESES = 256
"""Similarities tried by the sample consensus."""
POINTS_OF_A_HYPOTHESIS = 5
SCORED_POINTS = 1000
"""Points on which the hypotheses are compared."""
ROUNDS = 30
"""Most rounds of iterative re-weighting."""
CUTOFF = 2.5
"""Standard deviations at which a match has a quarter of its weight."""
LEAST_DEVIATION = 1e-4
"""Least standard deviation of the relative distances: keeps exact data from dividing by zero."""
FLATTEST = 1e-8
"""Second principal variance over the first below which the points lie on a line."""


@dataclass(frozen=True)
class PointMatches:
    """N points that exist in two reconstructions."""

    source: np.ndarray
    """(N, 3) in the world and units of the first."""
    target: np.ndarray
    """(N, 3) in the world and units of the second."""
    depth: np.ndarray
    """(N,) z-depth of each point in the target's units, > 0: distances are measured in units of it."""
    weight: np.ndarray
    """(N,) >= 0."""

    def __len__(self) -> int:
        return len(self.source)

    @staticmethod
    def joined(parts: list[PointMatches]) -> PointMatches:
        """The matches of all parts."""
        names = ("source", "target", "depth", "weight")
        return PointMatches(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True)
class Fit:
    """A similarity, and how well it fits."""

    similarity: Similarity
    """From the source to the target."""
    residual: float
    """Weighted median distance between target and moved source, in units of the depth."""
    inliers: float
    """Share of the weight within :data:`INLIER`."""


def robust_similarity(data: PointMatches, seed: int = 0) -> Fit | None:
    """The similarity that most of the matches agree on; None where they are too few or degenerate.

    A sample consensus over small subsets gives the start, re-weighting by Geman-McClure with its scale from the median
    the result. Matches that are not finite are ignored.
    """
    used = np.isfinite(data.source).all(axis=1) & np.isfinite(data.target).all(axis=1) & (data.weight > 0)
    used &= np.isfinite(data.depth) & (data.depth > 0)
    if used.sum() < FEWEST_POINTS:
        return None
    data = PointMatches(*(x[used] for x in (data.source, data.target, data.depth, data.weight)))
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


def relative_distance(data: PointMatches, similarity: Similarity) -> np.ndarray:
    """(N,) distance between target and moved source in units of the depth."""
    distance: np.ndarray = np.linalg.norm(data.target - similarity.points(data.source), axis=1) / data.depth
    return distance


def _consensus(data: PointMatches, seed: int) -> Similarity:
    """The hypothesis with the least truncated sum of distances."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(data), size=(HYPOTHESES, POINTS_OF_A_HYPOTHESIS))
    many = align_points(data.source[chosen], data.target[chosen], np.ones(chosen.shape))
    scored = rng.permutation(len(data))[:SCORED_POINTS]
    source, target, depth = data.source[scored], data.target[scored], data.depth[scored]
    best, least = Similarity.identity(), np.inf
    for scale, R, t in zip(np.asarray(many.scale), many.R, many.t):
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
    """Whether weighted points (N, 3) are not all on a line, which would leave a rotation about it undetermined."""
    w = weight / weight.sum()
    centred = points - w @ points
    _, middle, largest = np.linalg.eigvalsh((w[:, None] * centred).T @ centred)
    return bool(middle > FLATTEST * largest)
