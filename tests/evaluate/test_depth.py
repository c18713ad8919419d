"""Depth scores: exact alignments, optimality against a grid search and a linear programme, and edge cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog

from easi3r_ns.evaluate.depth import compare_depths, fit_scale, fit_scale_and_shift


def noisy(seed: int, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Depths and truths with a tenth of outliers."""
    rs = np.random.RandomState(seed)
    truth = rs.uniform(1, 6, count)
    depth = (truth - 0.4) / 2.5 * np.exp(rs.normal(0, 0.05, count))
    depth[::10] *= 4
    return depth, truth


@pytest.mark.parametrize("seed", range(5))
def test_scale_is_the_best_of_all_ratios(seed: int) -> None:
    """The minimum of sum |s d - g| lies at one of the ratios g / d: try them all."""
    depth, truth = noisy(seed)
    costs = [np.abs(ratio * depth - truth).sum() for ratio in truth / depth]
    assert np.abs(fit_scale(depth, truth) * depth - truth).sum() == pytest.approx(min(costs), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_scale_and_shift_reach_the_optimum_of_the_linear_programme(seed: int) -> None:
    depth, truth = noisy(seed)
    count = len(depth)
    design = np.stack([depth, np.ones(count)], axis=1)
    slack = np.eye(count)
    best = linprog(
        c=[0, 0, *np.ones(count)],
        A_ub=np.block([[design, -slack], [-design, -slack]]),
        b_ub=np.concatenate([truth, -truth]),
        bounds=[(None, None)] * 2 + [(0, None)] * count,
    )
    scale, shift = fit_scale_and_shift(depth, truth)
    assert np.abs(scale * depth + shift - truth).sum() == pytest.approx(best.fun, rel=2e-3)


def test_an_affine_copy_is_exact_by_scale_and_shift_only() -> None:
    truth = np.random.RandomState(3).uniform(1, 5, (2, 8, 9))
    errors = compare_depths((truth - 0.5) / 3, truth)
    assert errors.by_scale_and_shift.abs_rel == pytest.approx(0, abs=1e-9)
    assert errors.by_scale_and_shift.scale == pytest.approx(3) and errors.by_scale_and_shift.shift == pytest.approx(0.5)
    assert errors.by_scale.abs_rel > 0.02 and errors.by_scale.shift == 0
    assert compare_depths(truth / 7, truth).by_scale.abs_rel == pytest.approx(0, abs=1e-12)


def test_known_answer() -> None:
    """Three of five pixels agree after the scale 2; one is 20 % too deep, one is twice too deep."""
    truth = np.array([[[2.0, 4.0, 6.0, 5.0, 1.0]]])
    depth = np.array([[[1.0, 2.0, 3.0, 3.0, 1.0]]])
    errors = compare_depths(depth, truth)
    assert errors.by_scale.scale == 2
    assert errors.by_scale.abs_rel == pytest.approx((0.2 + 1.0) / 5)
    assert errors.by_scale.delta == pytest.approx(4 / 5)
    assert errors.num_pixels == 5 and errors.coverage == 1


def test_unknown_pixels_do_not_count_but_show_in_the_coverage() -> None:
    truth = np.array([[[2.0, 4.0, 0.0, 8.0]]])
    depth = np.array([[[1.0, 0.0, 9.0, 4.0]]])
    errors = compare_depths(depth, truth)
    assert errors.by_scale.abs_rel == 0 and errors.by_scale.delta == 1
    assert errors.num_pixels == 2 and errors.coverage == pytest.approx(2 / 3)
    assert compare_depths(np.zeros_like(truth), truth) is None
    assert compare_depths(depth, np.zeros_like(truth)) is None


def test_a_flat_estimate_gets_a_scale_and_no_shift() -> None:
    truth = np.random.RandomState(4).uniform(1, 5, (1, 5, 6))
    errors = compare_depths(np.ones_like(truth), truth)
    assert errors.by_scale_and_shift.shift == 0
    assert errors.by_scale.scale == pytest.approx(np.median(truth), rel=0.1)


def test_negative_depths_after_the_shift_are_wrong() -> None:
    truth = np.concatenate([np.linspace(2, 6, 50), [5.0]])[None, None]
    depth = np.concatenate([np.linspace(2, 6, 50) + 10, [0.01]])[None, None]
    errors = compare_depths(depth, truth)
    assert errors.by_scale_and_shift.shift == pytest.approx(-10, rel=0.01)
    assert errors.by_scale_and_shift.delta == pytest.approx(50 / 51)


def test_many_pixels_are_thinned_evenly() -> None:
    truth = np.random.RandomState(5).uniform(1, 5, 450_000)
    assert fit_scale_and_shift((truth + 1) / 2, truth) == (pytest.approx(2), pytest.approx(-1))


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shape"):
        compare_depths(np.ones((1, 2, 3)), np.ones((1, 3, 2)))
