"""Borders of masks at the edges of colour."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from easi3r_ns.motion.edges import BAND, snap_to_edges

SIZE = (96, 160)
BAND_PX = max(2, round(BAND * SIZE[1]))


def scene(seed: int = 0, thing: tuple[int, int, int] = (200, 60, 40)) -> tuple[np.ndarray, np.ndarray]:
    """A noisy picture of a disc of one colour before another, and the true mask of the disc."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    true = (rows - 45) ** 2 + (columns - 80) ** 2 < 24**2
    picture = np.where(true[..., None], np.array(thing), np.array([60, 110, 160]))
    noise = np.random.RandomState(seed).normal(0, 8, (*SIZE, 3))
    return np.clip(picture + noise, 0, 255).astype(np.uint8), true


def grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * abs(pixels) + 1,) * 2)
    change = cv2.dilate if pixels > 0 else cv2.erode
    return change(mask.astype(np.uint8), kernel) > 0


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("off", (-BAND_PX, BAND_PX))
def test_borders_go_where_colours_change(off: int) -> None:
    image, true = scene()
    wrong = grown(true, off)
    assert overlap(wrong, true) < 0.9
    found = snap_to_edges(image[None], wrong[None])[0]
    assert overlap(found, true) > 0.98


def test_a_border_moves_by_the_band_at_most() -> None:
    image, true = scene()
    start = np.roll(grown(true, 6), 9, axis=1)
    found = snap_to_edges(image[None], start[None])[0]
    assert not (found & ~grown(start, BAND_PX)).any()
    assert not (grown(start, -BAND_PX) & ~found).any()
    assert (found != start).any()


def test_what_looks_like_its_surroundings_stays() -> None:
    """A stripe that is hardly wider than its bands, with colours that the background has too, is not lost."""
    image, _ = scene(thing=(60, 110, 160))
    image[:, 40:120:2] = image[:, 40:120:2] // 2
    stripe = np.zeros(SIZE, dtype=bool)
    stripe[20:80, 78 : 78 + 2 * BAND_PX + 2] = True
    image[:, 78 + BAND_PX : 80 + BAND_PX] = (220, 20, 20)
    found = snap_to_edges(image[None], stripe[None])[0]
    assert np.array_equal(found, stripe)


def test_nothing_moves_or_everything_does() -> None:
    image, _ = scene()
    images = np.stack([image] * 2)
    for fill in (False, True):
        masks = np.full((2, *SIZE), fill)
        assert np.array_equal(snap_to_edges(images, masks), masks)


def test_small_regions_stay() -> None:
    image, _ = scene()
    mask = np.zeros(SIZE, dtype=bool)
    mask[10:17, 10:17] = True
    image[9:17, 8:18] = (250, 250, 250)
    assert np.array_equal(snap_to_edges(image[None], mask[None])[0], mask)


def test_a_region_at_the_border_of_the_picture_reaches_it() -> None:
    image, true = scene()
    image, true = image[:, 80:], true[:, 80:]
    found = snap_to_edges(image[None], grown(true, BAND_PX)[None])[0]
    assert overlap(found, true) > 0.97
    assert found[30:60, 0].all()


def test_the_same_twice_whatever_ran_before() -> None:
    """GrabCut begins at random; in pure noise that shows."""
    images = np.random.RandomState(3).randint(0, 256, (1, *SIZE, 3)).astype(np.uint8)
    mask = scene()[1][None]
    found = []
    for seed in (1, 12345, 777):
        cv2.setRNGSeed(seed)
        found.append(snap_to_edges(images, mask))
    assert all(np.array_equal(other, found[0]) for other in found[1:])


def test_two_things_near_each_other_are_told_from_the_background() -> None:
    image, true = scene()
    second = np.roll(true, 62, axis=1)
    picture = image.copy()
    picture[second & ~true] = np.roll(image, 62, axis=1)[second & ~true]
    both = true | second
    found = snap_to_edges(picture[None], grown(both, BAND_PX)[None])[0]
    assert overlap(found, both) > 0.95
