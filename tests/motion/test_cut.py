"""``--mask-threshold``: the score that stages keep, cut elsewhere, gives the masks that this cut would have given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.types import DynamicMasks
from easi3r_ns.motion.attention.masks import LEAST_RESIDUAL, enlarge, segment_dynamic
from easi3r_ns.motion.cut import STEPS, cut_at, over_cut
from easi3r_ns.motion.packing import join_masks, pack_masks, unpack_masks
from easi3r_ns.motion.two_view import geometric_masks
from easi3r_ns.storage.cache import StageCache
from tests.motion.test_objects import film


def test_the_kept_score_is_the_one_that_was_cut() -> None:
    score = np.linspace(0, 1, 1000)
    kept = over_cut(score, 0.3)
    for factor in (0.1, 0.5, 1.0, 2.0, 3.0):
        share = ((kept >= STEPS * factor) != (score > 0.3 * factor)).mean()
        assert share <= 0.01, factor
    assert over_cut(np.array([0.0, 5.0]), 0.0).tolist() == [0, 255]


@pytest.fixture(scope="module")
def found() -> tuple[np.ndarray, np.ndarray, DynamicMasks]:
    images, truth = film([[(10 + 4 * f, 20, 28, 26) for f in range(8)]])
    return images, truth > 0, geometric_masks(images, 8, RunLog())


def test_lower_cuts_hold_higher_ones(found) -> None:
    images, truth, dynamic = found
    assert dynamic.over_cut is not None and truth[dynamic.masks].mean() > 0.8
    same = cut_at(dynamic, images, 1.0)
    assert same.over_cut is None and same.masks is dynamic.masks and same.threshold == dynamic.threshold
    much, little = (cut_at(dynamic, images, factor) for factor in (0.1, 3.5))
    assert little.masks.sum() < dynamic.masks.sum() < much.masks.sum()
    assert little.threshold == pytest.approx(3.5 * dynamic.threshold)
    # Next to the cut, the masks are next to those that were found.
    near = cut_at(dynamic, images, 1 + 1e-9)
    assert (near.masks != dynamic.masks).mean() < 0.01


def test_it_is_kept_with_the_masks(found, tmp_path) -> None:
    images, _, dynamic = found
    cache = StageCache(tmp_path)
    back = unpack_masks(cache.stage("masks", "key", lambda: pack_masks(dynamic)))
    np.testing.assert_array_equal(back.over_cut, dynamic.over_cut)
    np.testing.assert_array_equal(cut_at(back, images, 0.5).masks, cut_at(dynamic, images, 0.5).masks)
    two = join_masks([dynamic, dynamic])
    np.testing.assert_array_equal(two.over_cut[8:], dynamic.over_cut)
    assert join_masks([dynamic, replace(dynamic, over_cut=None)]).over_cut is None
    np.testing.assert_array_equal(dynamic.of_frames(np.array([3])).over_cut, dynamic.over_cut[3:4])
    with pytest.raises(ValueError, match="score of the pixels"):
        replace(dynamic, over_cut=dynamic.over_cut[:, 1:])


def test_attention_is_cut_with_its_flow() -> None:
    rng = np.random.default_rng(0)
    score, residual = (rng.random((3, 6, 8)).astype(np.float32) for _ in range(2))
    labels = np.arange(score.size).reshape(score.shape)
    dynamic = segment_dynamic(score, labels, 4, residual)
    enlarged, unexplained = enlarge(dynamic.score, 4), enlarge(residual, 4)
    for factor in (0.5, 1.0, 1.6):
        expected = (enlarged > factor * dynamic.threshold) & (unexplained > factor * LEAST_RESIDUAL)
        masks = cut_at(dynamic, np.zeros((*enlarged.shape, 3), dtype=np.uint8), factor).masks
        assert (masks != expected).mean() <= (0 if factor == 1 else 0.03)
