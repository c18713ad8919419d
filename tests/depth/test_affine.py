"""The affine fit of predicted to known inverse depth: known answers, outliers, and a slow twin."""

from __future__ import annotations

import numpy as np
import pytest

from easi3r_ns.depth.affine import FEWEST, INDEPENDENT, Known, _normal, _solved, fit_affine

COUNT = 12


def clip_of(
    rng: np.random.Generator, scale: np.ndarray, shift: np.ndarray, *, pixels: int = 400, noise=0.02, outliers=0.3
) -> list[Known]:
    """Frames whose inverse depth is scale q + shift; of some pixels something else is known."""
    known = []
    for a, b in zip(scale, shift, strict=True):
        inverse = rng.uniform(0.05, 1.0, pixels)
        predicted = (inverse - b) / a
        seen = inverse * (1 + noise * rng.standard_normal(pixels))
        wrong = rng.random(pixels) < outliers
        known.append(Known(predicted, np.where(wrong, rng.uniform(0.05, 3.0, pixels), seen)))
    return known


def test_a_network_that_flickers_is_followed() -> None:
    """Scale and shift of every frame are others, as those of networks that normalise each picture."""
    rng = np.random.default_rng(0)
    scale, shift = rng.uniform(0.5, 2.0, COUNT), rng.uniform(-0.1, 0.1, COUNT)
    found = fit_affine(clip_of(rng, scale, shift))
    np.testing.assert_allclose(found.scale, scale, rtol=0.02)
    np.testing.assert_allclose(found.shift, shift, atol=0.01)
    assert (found.error < 0.1).all()


def test_a_frame_that_knows_little_leans_on_its_neighbours() -> None:
    rng = np.random.default_rng(1)
    scale, shift = np.full(COUNT, 1.3), np.full(COUNT, 0.05)
    known = clip_of(rng, scale, shift)
    known[5] = Known(known[5].predicted[:40], rng.uniform(0.05, 3.0, 40))  # nothing that it knows is true
    known[8] = Known(np.empty(0), np.empty(0))
    found = fit_affine(known)
    np.testing.assert_allclose(found.scale[[5, 8]], 1.3, rtol=0.03)
    assert np.isnan(found.error[8]) and found.error[5] > 0.3
    alone = fit_affine([known[5]])
    assert np.isnan(alone.scale[0]) or abs(alone.scale[0] - 1.3) > 0.2


def test_nothing_is_shared_between_clips() -> None:
    rng = np.random.default_rng(2)
    known = clip_of(rng, np.full(COUNT, 1.0), np.zeros(COUNT))
    known[6:] = [Known(np.empty(0), np.empty(0))] * 6
    assert np.isfinite(fit_affine(known).scale).all()
    found = fit_affine(known, starts=[6])
    assert np.isfinite(found.scale[:6]).all() and np.isnan(found.scale[6:]).all()


def test_a_frame_learns_from_its_own_clip() -> None:
    rng = np.random.default_rng(5)
    known = clip_of(rng, np.repeat([1.0, 3.0], 6), np.zeros(COUNT))
    known[6] = Known(np.empty(0), np.empty(0))
    assert fit_affine(known, starts=[6]).scale[6] == pytest.approx(3, rel=0.03)


@pytest.mark.parametrize("case", ["nothing", "few", "constant", "backwards"])
def test_no_fit_is_none(case: str) -> None:
    rng = np.random.default_rng(3)
    known = clip_of(rng, np.ones(4), np.zeros(4), outliers=0)
    if case == "nothing":
        known = [Known(np.empty(0), np.empty(0))] * 4
    elif case == "few":
        known = [Known(k.predicted[: FEWEST - 1], k.inverse[: FEWEST - 1]) for k in known]
    elif case == "constant":
        known = [Known(np.ones(400), k.inverse) for k in known]
    elif case == "backwards":
        known = [Known(-k.predicted, k.inverse) for k in known]
    assert np.isnan(fit_affine(known).scale).all()


def test_bands_solve_what_the_whole_matrix_does() -> None:
    """The slow twin: all equations of all frames in one dense least-squares problem."""
    rng = np.random.default_rng(4)
    known = clip_of(rng, rng.uniform(0.8, 1.2, COUNT), np.zeros(COUNT), outliers=0)
    shares = [k.predicted / 2 for k in known]
    coupling = rng.uniform(1, 50, (COUNT - 1, 2))
    ends = np.tile([0.1, 2.0], (COUNT, 1))
    normals = [_normal(s, k.inverse, e) for s, k, e in zip(shares, known, ends, strict=True)]
    matrix, right = np.zeros((2 * COUNT, 2 * COUNT)), np.zeros(2 * COUNT)
    for f, (own, vector) in enumerate(normals):
        matrix[2 * f : 2 * f + 2, 2 * f : 2 * f + 2] += own
        right[2 * f : 2 * f + 2] += vector
    for f in range(COUNT - 1):
        for end in range(2):
            step = np.zeros(2 * COUNT)
            step[2 * f + end], step[2 * f + 2 + end] = -1, 1
            matrix += coupling[f, end] * np.outer(step, step)
    np.testing.assert_allclose(_solved(normals, coupling).ravel(), np.linalg.solve(matrix, right), rtol=1e-6, atol=1e-6)
    assert INDEPENDENT < len(known[0].inverse)
