"""Look-up between pixels, and the forward-backward check, against loops over single points."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from easi3r_ns.core import sampling
from easi3r_ns.core.flow import flow_returns, squared_length
from easi3r_ns.core.sampling import inside_image, sample_bilinear


def bilinear_naive(values: np.ndarray, x: float, y: float) -> np.ndarray:
    height, width = values.shape[:2]
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    column, row = min(int(x), width - 2), min(int(y), height - 2)
    a, b = x - column, y - row
    upper = (1 - a) * values[row, column] + a * values[row, column + 1]
    lower = (1 - a) * values[row + 1, column] + a * values[row + 1, column + 1]
    return (1 - b) * upper + b * lower


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 2), (20, 30, 3)])
def test_bilinear_equals_its_naive_twin_inside_and_outside(shape):
    rng = np.random.default_rng(0)
    values = rng.random(shape).astype(np.float32)
    xy = np.round(32 * (rng.random((400, 2)) * [40, 30] - 5)) / 32
    expected = np.stack([bilinear_naive(values, x, y) for x, y in xy])
    np.testing.assert_allclose(sample_bilinear(values, xy), expected, atol=1e-5)
    grid = sample_bilinear(values, xy.reshape(20, 20, 2))
    np.testing.assert_array_equal(grid.reshape(400, *shape[2:]), sample_bilinear(values, xy))


def test_no_points_and_more_points_than_opencv_takes(monkeypatch):
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert sample_bilinear(values, np.empty((0, 2))).shape == (0,)
    assert sample_bilinear(np.zeros((3, 4, 5), np.float32), np.empty((0, 2))).shape == (0, 5)
    xy = np.tile([[1.5, 1.0], [0.0, 2.0]], (20_000, 1))
    np.testing.assert_array_equal(sample_bilinear(values, xy), np.tile([5.5, 8.0], 20_000))
    monkeypatch.setattr(sampling, "MOST_POINTS", 7)
    np.testing.assert_array_equal(sample_bilinear(values, xy[:20]), np.tile([5.5, 8.0], 10))


def test_the_borders_belong_to_the_image():
    xy = np.array([[0, 0], [3, 2], [-0.01, 1], [3.01, 1], [1, -0.01], [1, 2.01]])
    expected = [True, True, False, False, False, False]
    np.testing.assert_array_equal(inside_image(xy, 3, 4), expected)
    assert inside_image(torch.from_numpy(xy), 3, 4).tolist() == expected


def test_flow_returns_on_arrays_and_tensors_alike():
    rng = np.random.default_rng(0)
    forward = (8 * rng.normal(size=(50, 40, 2))).astype(np.float32)
    backward = -forward + rng.normal(size=forward.shape).astype(np.float32)
    landing = forward + np.stack(np.meshgrid(np.arange(40), np.arange(50)), axis=-1).astype(np.float32)
    for slack in (0.5, 1.0):
        limit = 0.01 * ((forward**2).sum(-1) + (backward**2).sum(-1)) + slack
        inside = ((landing >= 0) & (landing <= (39, 49))).all(axis=-1)
        expected = inside & (((forward + backward) ** 2).sum(-1) < limit)
        found = flow_returns(forward, backward, landing, 50, 40, slack)
        np.testing.assert_array_equal(found, expected)
        tensors = (torch.from_numpy(part) for part in (forward, backward, landing))
        np.testing.assert_array_equal(flow_returns(*tensors, 50, 40, slack).numpy(), expected)
        assert 0.05 < expected.mean() < 0.95
    np.testing.assert_allclose(squared_length(forward), (forward**2).sum(-1), rtol=1e-6)
