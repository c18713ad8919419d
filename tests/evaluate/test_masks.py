"""Mask scores: edge cases of the protocol, slow twins, and the two resolutions."""

from __future__ import annotations

import numpy as np
import pytest

from easi3r_ns.core.geometry import network_to_source
from easi3r_ns.core.types import PixelMap
from easi3r_ns.evaluate.masks import (
    MaskScore,
    jaccard,
    mean_of_sequences,
    pooled,
    prediction_at_source,
    truth_on_network,
)

CROPPED = PixelMap(source_wh=(90, 61), resized_wh=(40, 27), crop_box=(4, 1, 36, 25))
ENLARGED = PixelMap(source_wh=(20, 12), resized_wh=(48, 29), crop_box=(0, 0, 48, 28))


def jaccard_naive(ours: np.ndarray, true: np.ndarray) -> float:
    both = either = 0
    for a, b in zip(ours.ravel().tolist(), true.ravel().tolist(), strict=True):
        both += a and b
        either += a or b
    return both / either if either else 1.0


def test_equal_to_the_slow_twin() -> None:
    rs = np.random.RandomState(0)
    ours, true = rs.uniform(size=(2, 6, 7, 9)) < np.array([0.3, 0.5])[:, None, None, None]
    expected = [jaccard_naive(a, b) for a, b in zip(ours, true, strict=True)]
    np.testing.assert_allclose(jaccard(ours, true), expected)


def test_edge_cases() -> None:
    empty, full, half = np.zeros((2, 4), bool), np.ones((2, 4), bool), np.zeros((2, 4), bool)
    half[:, :2] = True
    assert jaccard([empty], [empty])[0] == 1.0  # an empty union counts 1
    assert jaccard([None], [half])[0] == 0.0  # a missing prediction counts as empty
    assert jaccard([None], [empty])[0] == 1.0
    assert jaccard([full], [half])[0] == 0.5 and jaccard([half], [full])[0] == 0.5
    assert pooled([jaccard([full], [half])]).jr == 0.0  # recall wants strictly more than a half
    with pytest.raises(ValueError, match="2 masks for 1"):
        jaccard([empty, empty], [empty])
    with pytest.raises(ValueError, match="frame 0"):
        jaccard([empty.astype(np.uint8)], [empty])
    with pytest.raises(ValueError, match="frame 0"):
        jaccard([empty[:1]], [empty])


def test_paper_pools_frames_and_standard_averages_sequences() -> None:
    long, short = np.array([0.9, 0.8, 0.7, 0.6, 0.2]), np.array([0.1])
    assert pooled([long, short]) == MaskScore(pytest.approx(3.3 / 6), pytest.approx(4 / 6), 6)
    assert mean_of_sequences([long, short]) == MaskScore(pytest.approx((0.64 + 0.1) / 2), pytest.approx(0.4), 6)
    for function in (pooled, mean_of_sequences):
        with pytest.raises(ValueError, match="no"):
            function([])


@pytest.mark.parametrize("pixel_map", [CROPPED, ENLARGED])
def test_truth_goes_to_the_network_grid(pixel_map: PixelMap) -> None:
    """Every network pixel takes the source pixel that its centre falls on (away from ties of the rounding)."""
    mask = np.random.RandomState(1).uniform(size=pixel_map.source_wh[::-1]) < 0.4
    found = truth_on_network(mask, pixel_map)
    width, height = pixel_map.network_wh
    assert found.shape == (height, width) and found.dtype == bool
    for y in range(height):
        for x in range(width):
            u, v = network_to_source(np.array([x, y]), pixel_map)
            assert found[y, x] == mask[int(v), int(u)]
    with pytest.raises(ValueError, match="mask of"):
        truth_on_network(mask[1:], pixel_map)


@pytest.mark.parametrize("pixel_map", [CROPPED, ENLARGED])
def test_prediction_goes_to_the_source(pixel_map: PixelMap) -> None:
    width, height = pixel_map.network_wh
    mask = np.random.RandomState(2).uniform(size=(height, width)) < 0.4
    found = prediction_at_source(mask, pixel_map)
    assert found.shape == pixel_map.source_wh[::-1]
    scale, (left, top) = np.array(pixel_map.scale_xy), pixel_map.crop_box[:2]
    for v in range(found.shape[0]):
        for u in range(found.shape[1]):
            x, y = (u + 0.5) * scale[0] - left, (v + 0.5) * scale[1] - top
            inside = 0 <= x < width and 0 <= y < height
            assert found[v, u] == (inside and mask[int(y), int(x)])


def test_what_is_cut_off_is_not_marked() -> None:
    found = prediction_at_source(np.ones(CROPPED.network_wh[::-1], bool), CROPPED)
    assert not found[0].any() and not found[:, 0].any() and not found[:, -1].any() and found[30, 45]
    # The crop keeps 32 of 40 columns and 24 of 27 rows.
    assert found.mean() == pytest.approx(32 / 40 * 24 / 27, abs=0.02)
