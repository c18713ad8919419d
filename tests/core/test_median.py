"""The weighted median against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from easi3r_ns.core.median import weighted_median


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_it_minimises_the_weighted_distances(count):
    rng = np.random.default_rng(count)
    values, weight = rng.normal(size=count), rng.uniform(0.1, 3, count)
    found = weighted_median(values, weight)
    cost = [float((weight * np.abs(values - x)).sum()) for x in values]
    assert found in values and (weight * np.abs(values - found)).sum() == pytest.approx(min(cost))


def test_weights_stand_for_repetitions():
    values, times = np.array([4.0, 1.0, 2.0, 9.0]), np.array([1, 3, 2, 5])
    repeated = np.repeat(values, times)
    assert weighted_median(values, times.astype(float)) == np.sort(repeated)[(len(repeated) - 1) // 2] == 4.0
    assert weighted_median(values, np.array([0, 1.0, 0, 0])) == 1.0
