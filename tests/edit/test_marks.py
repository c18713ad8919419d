"""Regions that a hand draws."""

from __future__ import annotations

import numpy as np
import pytest

from easi3r_ns.edit.marks import (
    MOVES,
    STILL,
    box,
    corrected,
    no_marks,
    piece_at,
    pieces_touching,
    pixel_at,
    shape_between,
    stroke,
)

SHAPE = 40, 60


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def test_marks_win_over_what_was_found():
    found = np.array([[True, True, True], [False, False, False]])
    marks = np.array([[MOVES, STILL, 128], [MOVES, STILL, 128]], np.uint8)
    assert corrected(found, marks).tolist() == [[True, False, True], [True, False, False]]
    assert corrected(found, None) is found


@pytest.mark.parametrize("radius", [1.0, 3.0, 7.5])
def test_a_stroke_is_what_is_near_its_way(radius):
    covered = stroke(SHAPE, [(15, 20), (40, 20)], radius)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    distance = np.hypot(columns - np.clip(columns, 15, 40), rows - 20)
    assert covered[distance < radius - 1].all() and not covered[distance > radius + 1.5].any()


def test_one_click_of_the_smallest_brush_is_the_pixel_under_it():
    covered = stroke(SHAPE, [(30.4, 10.6)], 0.3)
    assert np.argwhere(covered).tolist() == [[10, 30]]


def test_a_stroke_may_leave_the_picture():
    covered = stroke(SHAPE, [(-500, 20), (20, 20)], 2)
    assert covered[20, :20].all() and not covered[:, 30:].any()
    assert not stroke(SHAPE, [(-500, -500)], 2).any()


def test_a_box_takes_the_pixels_between_its_corners():
    assert np.argwhere(box(SHAPE, (12.2, 5.9), (10.0, 4.1))).tolist() == [[4, 10], [4, 11], [5, 10], [5, 11]]


def test_the_pixel_outside_is_the_nearest_one():
    assert pixel_at(SHAPE, (3.9, 7.2)) == (7, 3)
    assert pixel_at(SHAPE, (-1, 900)) == (39, 0)


def test_pieces():
    mask = disc(10, 10, 4) | disc(40, 20, 5)
    assert (piece_at(mask, (20, 40)) == disc(40, 20, 5)).all()
    assert not piece_at(mask, (39, 0)).any()
    assert (pieces_touching(mask, disc(10, 10, 1)) == disc(10, 10, 4)).all()
    assert not pieces_touching(mask, disc(25, 35, 2)).any()


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_a_disc_that_moves_and_grows_lies_in_between(share):
    """It has moved by more than its size."""
    one, other = disc(10, 12, 5), disc(48, 26, 8)
    expected = disc(10 + 38 * share, 12 + 14 * share, 5 + 3 * share)
    between = shape_between(one, other, share)
    assert (between & expected).sum() / (between | expected).sum() > 0.85


def test_nothing_lies_between_a_shape_and_nothing():
    assert not shape_between(disc(10, 10, 4), np.zeros(SHAPE, bool), 0.5).any()


def test_no_marks():
    assert no_marks(SHAPE).shape == SHAPE and set(no_marks(SHAPE).ravel().tolist()) == {128}
