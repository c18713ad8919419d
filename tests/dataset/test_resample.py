"""Masks and depth maps at source resolution, against formulas that are easy to read."""

from __future__ import annotations

import numpy as np
import pytest

from easi3r_ns.core.surface import MAX_RELATIVE_STEP
from easi3r_ns.dataset import resample
from easi3r_ns.dataset.resample import depth_at_source, shrink_static
from easi3r_ns.frames import ImageGeometry, plan_preprocessing


def depth_naive(depth: np.ndarray, pixel_map, factor: int) -> np.ndarray:
    """All of it at source resolution: four neighbours of every pixel, then the choice."""
    x, y = resample._network_coordinates(pixel_map, factor)
    height, width = depth.shape
    inverse = np.where(depth > 0, 1 / np.maximum(depth, 1e-9), 0).astype(np.float32)
    row, column = resample._cell(y, height), resample._cell(x, width)
    corners = [inverse[np.ix_(row + dy, column + dx)] for dy in (0, 1) for dx in (0, 1)]
    low, high = np.minimum.reduce(corners), np.maximum.reduce(corners)
    wy, wx = (np.clip(a, 0, 1).astype(np.float32) for a in ((y - row)[:, None], (x - column)[None]))
    left, right = (corners[k] * (1 - wy) + corners[k + 2] * wy for k in (0, 1))
    nearest_rows, nearest_columns = (resample._clamped_round(a, n) for a, n in ((y, height), (x, width)))
    value = np.where(
        (low > 0) & (high <= (1 + MAX_RELATIVE_STEP) * low),
        left * (1 - wx) + right * wx,
        inverse[np.ix_(nearest_rows, nearest_columns)],
    )
    inside = ((y >= -0.5) & (y <= height - 0.5))[:, None] & ((x >= -0.5) & (x <= width - 0.5))[None]
    return np.where(inside & (value > 0), 1 / np.maximum(value, 1e-9), 0).astype(np.float32)


@pytest.mark.parametrize("wh", [(641, 359), (150, 90), (240, 320), (200, 200)])
@pytest.mark.parametrize("factor", [1, 2, 3, 8])
def test_depth_is_that_of_the_plain_formula(wh: tuple[int, int], factor: int) -> None:
    pixel_map = plan_preprocessing(wh, ImageGeometry(128, 8))
    width, height = pixel_map.network_wh
    rng = np.random.default_rng(0)
    depth = (3 + np.sin(np.arange(width) / 9)[None] + np.arange(height)[:, None] / height).astype(np.float32)
    depth[rng.random(depth.shape) < 0.1] = 0
    depth[:, :9] *= 3
    found = depth_at_source(depth, pixel_map, factor)
    np.testing.assert_allclose(found, depth_naive(depth, pixel_map, factor), rtol=1e-6)
    assert found.dtype == np.float32 and 0 < (found > 0).mean() < 1


@pytest.mark.parametrize("factor", [1, 2, 3, 8])
def test_a_pixel_is_static_where_all_that_it_covers_is(factor: int) -> None:
    static = np.random.default_rng(1).random((61, 83)) > 0.03
    height, width = 61 // factor, 83 // factor
    blocks = static[: height * factor, : width * factor].reshape(height, factor, width, factor)
    np.testing.assert_array_equal(shrink_static(static, factor), blocks.all(axis=(1, 3)))
