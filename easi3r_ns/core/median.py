"""The weighted median."""

from __future__ import annotations

import numpy as np


def weighted_median(values: np.ndarray, weight: np.ndarray) -> float:
    """The smallest of the values (N,) that holds half of the weight (N,), >= 0, together with those below it.

    It minimises sum weight |value - x| over x. N is at least 1 and the sum of the weights positive.
    """
    order = np.argsort(values)
    total = np.cumsum(weight[order])
    return float(values[order[np.searchsorted(total, 0.5 * total[-1])]])
