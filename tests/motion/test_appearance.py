"""Whether the picture confirms that something moves."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from easi3r_ns.core.geometry import pixel_grid
from easi3r_ns.motion.two_view.appearance import (
    BRIGHTNESS_STEP,
    DEVIATION,
    GAIN_STEP,
    NOISE_VARIANCE,
    WINDOW_PX,
    looks_static,
)
from easi3r_ns.motion.two_view.background import distance, static_place

SIZE = (64, 96)


def textured(seed: int, sigma: float = 2.0, contrast: float = 60.0) -> np.ndarray:
    """(H, W, 3) uint8 of smoothed noise."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(0, 1, SIZE), (0, 0), sigma)
    return np.repeat((128 + contrast * noise / noise.std()).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def shifted(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """What is at p is at p + (x, y)."""
    return cv2.warpAffine(image, np.array([[1, 0, x], [0, 1, y]], float), SIZE[::-1], borderMode=cv2.BORDER_REFLECT)


def looks_static_naive(image: np.ndarray, other: np.ndarray, found: np.ndarray, static: np.ndarray) -> np.ndarray:
    """The same, window by window; pixels whose windows cross the picture's border stay False."""
    own, there = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(float) for picture in (image, other))
    half, result = WINDOW_PX // 2, np.zeros(SIZE, bool)

    def read(place: np.ndarray) -> np.ndarray:
        x, y = place.astype(np.float32)[..., 0], place.astype(np.float32)[..., 1]
        return cv2.remap(there, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    means = [cv2.blur(picture, (WINDOW_PX, WINDOW_PX))[::GAIN_STEP, ::GAIN_STEP] for picture in (read(static), own)]
    gain = np.median(means[0] / np.maximum(means[1], 1))
    for row in range(half, SIZE[0] - half):
        for column in range(half, SIZE[1] - half):
            window = np.s_[row - half : row + half + 1, column - half : column + half + 1]
            first, likeness, off = own[window] - own[window].mean(), [], []
            for place in (found, static):
                second = read(place[window])
                off.append(abs(second.mean() - gain * own[window].mean()))
                second = second - second.mean()
                norm = np.sqrt((first**2).mean() + NOISE_VARIANCE) * np.sqrt((second**2).mean() + NOISE_VARIANCE)
                likeness.append((first * second).mean() / norm)
            like = likeness[1] >= likeness[0] - DEVIATION * (1 - likeness[0] ** 2)
            result[row, column] = like and off[1] <= off[0] + BRIGHTNESS_STEP
    return result


def test_it_is_the_comparison_window_by_window() -> None:
    image = textured(0)
    other = shifted(image, 3, 1)
    right = pixel_grid(*SIZE) + [3.0, 1.0]
    found = right + [1.0, 0.5]
    static = right + pixel_grid(*SIZE)[..., :1] / SIZE[1] * [3.0, -2.0]
    half = WINDOW_PX // 2
    inner = np.s_[half:-half, half:-half]
    expected = looks_static_naive(image, other, found, static)[inner]
    assert 0.02 < expected.mean() < 0.98
    assert (looks_static(image, other, found, static)[inner] == expected).mean() > 0.999


@pytest.mark.parametrize("exposure", [1.0, 0.6])
def test_what_moves_does_not_look_static(exposure: float) -> None:
    image = textured(0, contrast=40)
    other = (shifted(image, 6, 2) * exposure).astype(np.uint8)
    grid = pixel_grid(*SIZE)
    inner = np.s_[12:-12, 12:-12]
    assert looks_static(image, other, grid + [6, 2], grid)[inner].mean() < 0.02
    assert looks_static(image, other, grid, grid + [6, 2])[inner].all()


def test_wrong_flow_where_there_is_no_texture_is_no_evidence() -> None:
    rng = np.random.default_rng(2)
    image, other = ((80 + rng.normal(0, 1.5, (*SIZE, 3))).astype(np.uint8) for _ in range(2))
    grid = pixel_grid(*SIZE)
    assert looks_static(image, other, grid + [6, 2], grid).mean() > 0.7


@pytest.mark.parametrize("exposure", [1.0, 0.7])
def test_a_plain_surface_moves_where_another_one_was(exposure: float) -> None:
    background = textured(4, contrast=12)
    there = cv2.circle(background.copy(), (50, 32), 18, (210, 210, 210), -1)
    other = (cv2.circle(background.copy(), (30, 32), 18, (210, 210, 210), -1) * exposure).astype(np.uint8)
    grid = pixel_grid(*SIZE)
    left = grid[..., 0] > 50 + 7  # of the disc, what the other image does not cover
    inner = np.hypot(grid[..., 0] - 50, grid[..., 1] - 32) < 12
    static = looks_static(there, other, grid + [-20, 0], grid)
    assert not static[inner & left].any()
    assert looks_static(there, other, grid, grid)[~inner].all()


def test_static_place_lies_on_the_model_at_the_distance_that_the_flow_misses() -> None:
    rng = np.random.default_rng(3)
    start, end = rng.uniform(0, 90, (2, 50, 2))
    turn = np.array([[1.01, 0.004, 6.0], [-0.003, 0.99, -2.0], [1e-5, -2e-5, 1.0]])
    place = static_place("homography", turn, start, end)
    np.testing.assert_allclose(distance("homography", turn, start, place), 0, atol=1e-4)
    # Rows are the epipolar lines of travel along x.
    rows = np.array([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    place = static_place("fundamental", rows, start, end)
    np.testing.assert_allclose(place[:, 1], start[:, 1], atol=1e-4)
    np.testing.assert_allclose(place[:, 0], end[:, 0], atol=1e-4)
