"""Statistics with their uncertainty: medians and means with bootstrap intervals over scenes, areas under curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DRAWS = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A statistic of a sample and its 95 % bootstrap interval; NaN where the sample is empty."""

    value: float
    low: float
    high: float

    def to_json(self, digits: int = 4) -> dict[str, Any]:
        """{"value", "interval"}; None where there is no number."""
        value, low, high = (round(float(x), digits) if np.isfinite(x) else None for x in vars(self).values())
        return {"value": value, "interval": [low, high]}


def estimate(
    groups: Sequence[np.ndarray], statistic: Callable[[np.ndarray], Any] = np.median, draws: int = DRAWS
) -> Estimate:
    """A statistic over all values, with an interval that resamples the GROUPS (scenes), not the values.

    Values of one scene are correlated: resampling them one by one would make the interval too small. NaN values are
    left out. The draws are seeded: the same sample gives the same interval.
    """
    groups = [np.asarray(g, dtype=float)[np.isfinite(g)] for g in groups]
    groups = [g for g in groups if len(g)]
    if not groups:
        return Estimate(*[float("nan")] * 3)
    rs = np.random.RandomState(0)
    drawn = [
        statistic(np.concatenate([groups[k] for k in rs.randint(len(groups), size=len(groups))])) for _ in range(draws)
    ]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(statistic(np.concatenate(groups))), float(low), float(high))


def mean_over_clips(values: Sequence[float]) -> Estimate:
    """Mean of one value per clip; the interval resamples clips."""
    return estimate([np.array([value]) for value in values], np.mean)


def area_under_curve(score: np.ndarray, truth: np.ndarray) -> float:
    """Chance that a random positive scores above a random negative (ties count half); NaN without both."""
    from scipy.stats import rankdata

    score, truth = np.ravel(score), np.ravel(truth)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return float("nan")
    return float((rankdata(score)[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(score: np.ndarray, truth: np.ndarray) -> float:
    """Area under the precision-recall curve as a step function; tied scores enter together. NaN without positives."""
    score, truth = np.ravel(score), np.ravel(truth)
    if not truth.any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    hits, last_of_tie = np.cumsum(truth[order]), np.append(np.diff(score[order]) != 0, True)
    hits, seen = hits[last_of_tie], np.flatnonzero(last_of_tie) + 1
    return float((np.diff(hits, prepend=0) / hits[-1] * hits / seen).sum())
