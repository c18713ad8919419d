"""Which pixels lie on a surface, and points of some pixels: against slow twins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, maximum_filter, minimum_filter

from easi3r_ns.core.surface import _MAX_BEND, _NOISE_BENDS, MAX_RELATIVE_STEP, on_surface, world_points
from tests.support.clip_scene import perfect_scene, sharp_clip


def twin(depth: np.ndarray) -> np.ndarray:
    """:func:`on_surface` with the filters of SciPy, over all pixels."""
    known = depth > 0
    inverse = np.zeros(depth.shape)
    np.divide(1.0, depth, out=inverse, where=known)
    nearest = maximum_filter(inverse, 3, mode="nearest")
    farthest = minimum_filter(np.where(known, inverse, np.inf), 3, mode="nearest")
    bend = np.zeros(depth.shape)
    for row, column in np.ndindex(depth.shape):
        for dy, dx in ((0, 1), (1, 0)):
            one, other = (row - dy, column - dx), (row + dy, column + dx)
            if min(one) < 0 or other[0] >= depth.shape[0] or other[1] >= depth.shape[1]:
                continue
            if inverse[one] > 0 and inverse[other] > 0:
                flat = abs(inverse[one] + inverse[other] - 2 * inverse[row, column])
                bend[row, column] = max(bend[row, column], flat)
    relative = np.divide(bend, inverse, out=np.zeros_like(bend), where=known)
    roughness = float(np.median(relative[known])) if known.any() else 0.0
    edge = known & (nearest > (1 + MAX_RELATIVE_STEP) * farthest)
    edge &= relative > max(_MAX_BEND, _NOISE_BENDS * roughness)
    return known & ~binary_dilation(edge, np.ones((3, 3), dtype=bool))


@pytest.mark.parametrize("noise", [0.0, 0.003, 0.1])
def test_surface_is_that_of_the_twin(noise: float) -> None:
    random = np.random.default_rng(3)
    depth = np.tile(np.linspace(2, 5, 48, dtype=np.float32), (36, 1))
    depth[10:20, 15:30] *= 0.6
    depth *= 1 + noise * random.standard_normal(depth.shape, dtype=np.float32)
    depth[random.random(depth.shape) < 0.05] = 0
    depth[:4], depth[-1, -3:] = 0, 1
    expected = twin(depth)
    assert 0 < expected.sum() < (depth > 0).sum() or noise == 0.1
    assert np.array_equal(on_surface(depth), expected)


@pytest.mark.parametrize("depth", [np.zeros((5, 7)), np.full((5, 7), 2.0), np.full((1, 1), 3.0)])
def test_depth_without_an_edge(depth: np.ndarray) -> None:
    assert np.array_equal(on_surface(depth), depth > 0)


def test_points_of_some_pixels(tmp_path: Path) -> None:
    scene = perfect_scene(sharp_clip(0, 2, 32, 48), tmp_path)
    keep = np.zeros(scene.depth.shape[1:], dtype=bool)
    keep[3:7, ::3] = True
    whole = world_points(scene, 1)
    for where in (keep, np.nonzero(keep)):
        np.testing.assert_allclose(world_points(scene, 1, where=where), whole[keep], rtol=1e-6, atol=1e-6)
    deeper = 2 * scene.depth[1]
    np.testing.assert_allclose(world_points(scene, 1, deeper, keep), world_points(scene, 1, deeper)[keep], rtol=1e-6)
