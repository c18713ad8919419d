"""Ids of what moves are kept through crossings, gaps and torn masks, and never across a cut."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from easi3r_ns.core.objects import PALETTE, nearest_numbers, object_colours, object_facts
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.motion.flow.dis import DISFlow
from easi3r_ns.motion.objects import link_objects

SIZE = (72, 128)
Box = tuple[int, int, int, int]
"""x, y, width, height."""


def texture(seed: int, shape: tuple[int, int], colour: tuple[int, int, int]) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 60, (*shape, 1))
    return np.clip(cv2.GaussianBlur(noise, (0, 0), 1.5)[..., None] * 2 + np.array(colour), 0, 255).astype(np.uint8)


def film(paths: list[list[Box | None]], pan: int = 1, world: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (F, H, W, 3) and the number (F, H, W) of the square on top; the later ones hide the earlier ones."""
    count, (height, width) = len(paths[0]), SIZE
    background = texture(world, (height, width + pan * count), (120, 120, 120))
    skins = [texture(10 + k, SIZE, colour) for k, colour in enumerate([(200, 60, 50), (40, 70, 210), (60, 190, 60)])]
    images = np.stack([background[:, pan * f : pan * f + width] for f in range(count)])
    truth = np.zeros(images.shape[:3], dtype=int)
    for number, path in enumerate(paths, 1):
        for f, box in enumerate(path):
            if box is not None:
                x, y, w, h = box
                part = np.s_[f, y : y + h, max(0, x) : max(0, x + w)]
                images[part] = skins[number - 1][:h, : images[part].shape[1]]
                truth[part] = number
    return images, truth


def linked(images: np.ndarray, masks: np.ndarray, clips: list[range] | None = None) -> np.ndarray:
    ids = link_objects(images, masks, clips or [range(len(masks))], DISFlow(), RunLog())
    assert ids.dtype == np.uint16 and ((ids > 0) == masks).all()
    return ids


def agreement(ids: np.ndarray, truth: np.ndarray) -> float:
    """Share of the moving pixels whose id is that of the truth."""
    moving = truth > 0
    return float((ids[moving] == truth[moving]).mean())


def crossing() -> tuple[np.ndarray, np.ndarray]:
    """The first square passes behind the second and is wholly hidden in the middle."""
    there = [(8 + 4 * f, 26, 18, 16) for f in range(24)]
    back = [(96 - 4 * f, 22, 24, 26) for f in range(24)]
    return film([there, back])


def test_two_that_cross_keep_their_ids() -> None:
    images, truth = crossing()
    ids = linked(images, truth > 0)
    order = [int(np.bincount(ids[0][truth[0] == k]).argmax()) for k in (1, 2)]
    assert sorted(order) == [1, 2] and ids.max() == 2
    named = np.array([0, *order])[truth]
    apart = [f for f in range(24) if abs((8 + 4 * f) - (96 - 4 * f)) > 36]
    assert agreement(ids[apart], named[apart]) == 1.0
    assert agreement(ids, named) > 0.95
    np.testing.assert_array_equal(ids, linked(images, truth > 0))


def test_an_object_is_known_again_after_a_gap() -> None:
    images, truth = film([[(10 + 3 * f, 20, 16, 16) for f in range(20)]])
    masks = truth > 0
    masks[7:13] = False
    ids = linked(images, masks)
    assert set(np.unique(ids)) == {0, 1}


def test_another_object_is_not_taken_for_the_one_that_left() -> None:
    first = [(10 + 3 * f, 20, 16, 16) if f < 8 else None for f in range(20)]
    second = [None if f < 10 else (10 + 3 * f, 20, 16, 16) for f in range(20)]
    images, truth = film([first, second])
    assert agreement(linked(images, truth > 0), truth) == 1.0


def test_nothing_is_linked_across_a_cut_or_between_clips() -> None:
    path = [(10 + 3 * f, 20, 16, 16) for f in range(8)]
    here, mask = film([path])
    there, _ = film([path], world=5)
    images, masks = np.concatenate([here, there]), np.concatenate([mask, mask]) > 0
    ids = linked(images, masks, [range(8), range(8, 16)])
    assert set(np.unique(ids[:8])) == {0, 1} and set(np.unique(ids[8:])) == {0, 2}


def test_a_torn_mask_is_one_object_and_two_that_part_are_two() -> None:
    images, truth = film([[(20 + 2 * f, 20, 30, 24) for f in range(12)]])
    torn = truth > 0
    torn[4:6, 31:34] = False
    assert linked(images, torn).max() == 1
    left, right = [(50 - 3 * f, 20, 14, 20) for f in range(14)], [(64 + 3 * f, 20, 14, 20) for f in range(14)]
    images, truth = film([left, right])
    ids = linked(images, truth > 0)
    assert ids.max() == 2 and len(np.unique(ids[-1][truth[-1] == 1])) == 1
    assert set(np.unique(ids[-1][truth[-1] == 1])) != set(np.unique(ids[-1][truth[-1] == 2]))


def test_flicker_belongs_to_the_nearest_object() -> None:
    images, truth = film([[(20 + 2 * f, 20, 20, 20) for f in range(8)]])
    masks = truth > 0
    masks[3, 60:64, 100:104] = True
    ids = linked(images, masks)
    assert ids.max() == 1
    assert linked(images, np.zeros_like(masks)).max() == 0


@pytest.mark.parametrize("count", [1, 2])
def test_very_short_clips(count: int) -> None:
    images, truth = film([[(20, 20, 20, 20)] * count])
    assert linked(images, truth > 0).max() == 1


def test_numbers_colours_and_facts() -> None:
    ids = np.zeros((3, 4, 5), dtype=np.uint16)
    ids[0, 0, 0] = ids[2, 0, :2] = 1
    ids[1, 3, 4] = 9
    assert object_facts(ids) == [
        {"id": 1, "first": 0, "last": 2, "frames": 2, "share": 0.1},
        {"id": 9, "first": 1, "last": 1, "frames": 1, "share": 0.05},
    ]
    np.testing.assert_array_equal(object_colours(np.array([1, 9])), PALETTE[[0, 1]])
    slow = nearest_numbers(ids[2] * 2 + ids[1])
    assert slow[0, 1] == 2 and slow[3, 3] == 9 and (slow > 0).all()
