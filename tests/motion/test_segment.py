"""Refinement of masks by a model that follows objects: what it is told, what it predicts, and what is made of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from easi3r_ns.motion.segment.prompts import bounding_box, inner_points
from easi3r_ns.motion.segment.propagate import MOST_OBJECTS, follow_objects

SIZE = (24, 40)


def square(column: int, width: int = 8, row: int = 8) -> np.ndarray:
    """(H, W) bool."""
    mask = np.zeros(SIZE, dtype=bool)
    mask[row : row + 8, column : column + width] = True
    return mask


@dataclass
class Memory:
    tracker: Tracker
    told: list[int] = field(default_factory=list)
    area: dict[int, np.ndarray] = field(default_factory=dict)

    def prompt(self, frame: int, seen: int, mask: np.ndarray) -> None:
        assert seen == frame and mask.any()
        self.told.append(frame)
        self.area[frame] = mask
        self.tracker.calls.append(("told", frame))

    def predict(self, frame: int, seen: int, size: tuple[int, int]) -> np.ndarray:
        assert seen == frame and self.told, "predicted from nothing"
        self.tracker.calls.append(("predicted", frame))
        self.tracker.from_frames[frame] = list(self.told)
        return self.tracker.answer(frame, self.area[self.told[-1]])


class Tracker:
    """A model that sees the number of the frame, and answers with what it was told last, one pixel wider."""

    side = 24

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.from_frames: dict[int, list[int]] = {}
        self.looked: list[int] = []
        self.memories = 0

    @property
    def facts(self) -> dict[str, str]:
        return {"model": "stand-in", "licence": "Apache-2.0"}

    def look(self, image: np.ndarray) -> int:
        self.looked.append(int(image[0, 0, 0]))
        return self.looked[-1]

    def memory(self) -> Memory:
        self.memories += 1
        return Memory(self)

    def answer(self, frame: int, told: np.ndarray) -> np.ndarray:
        wider = told | np.roll(told, 1, axis=1)
        return np.where(wider, 1.0, -1.0).astype(np.float32)

    def release(self) -> None: ...


def picture(row: int) -> np.ndarray:
    return np.full((*SIZE, 3), row, dtype=np.uint8)


def ids(*frames: np.ndarray | dict[int, np.ndarray]) -> np.ndarray:
    out = np.zeros((len(frames), *SIZE), dtype=np.uint16)
    for row, frame in enumerate(frames):
        for number, mask in (frame if isinstance(frame, dict) else {1: frame}).items():
            out[row][mask] = number
    return out


def test_every_frame_is_predicted_by_those_of_the_other_half() -> None:
    tracker, steps = Tracker(), []
    found = follow_objects(picture, ids(*[square(4)] * 7), tracker, steps.append)
    assert tracker.looked == list(range(7)) and sum(steps) == 7, "every picture is looked at once"
    for frame, told in tracker.from_frames.items():
        assert all((frame - other) % 2 for other in told), f"frame {frame} is judged by its own half: {told}"
        assert {frame - 1, frame + 1} & set(range(7)) <= set(told), "its neighbours are told"
    assert set(tracker.from_frames) == set(range(7))
    wider = square(4) | np.roll(square(4), 1, axis=1)
    assert (found.objects == np.where(wider, 1, 0)).all(), "the result is the prediction alone"
    (one,) = found.followed
    assert (one.number, one.first, one.last, one.frames, one.lost) == (1, 0, 6, 7, [])


def test_objects_have_memories_and_ids_of_their_own() -> None:
    left, right = square(2), square(28)
    found = follow_objects(picture, ids(*[{3: left, 7: right}] * 4), tracker := Tracker(), lambda _: None)
    assert tracker.memories == 4 and len(tracker.looked) == 4
    assert set(np.unique(found.objects)) == {0, 3, 7}
    assert (found.objects[2][right] == 7).all() and (found.objects[1][left] == 3).all()


def test_a_gap_is_filled_and_nothing_is_added_before_or_after() -> None:
    none = np.zeros(SIZE, dtype=bool)
    shown = [none, square(4), square(4), none, square(4), square(4), none]
    found = follow_objects(picture, ids(*shown), Tracker(), lambda _: None)
    assert found.objects[3].any() and not found.objects[0].any() and not found.objects[6].any()


@pytest.mark.parametrize("answer", [np.full(SIZE, -9.0), np.where(square(30), 1.0, -1.0)])
def test_a_lost_object_is_named_and_keeps_its_own_mask(answer: np.ndarray) -> None:
    class Loses(Tracker):
        def answer(self, frame: int, told: np.ndarray) -> np.ndarray:
            return answer.astype(np.float32) if frame == 2 else super().answer(frame, told)

    found = follow_objects(picture, ids(*[square(4)] * 5), Loses(), lambda _: None)
    assert found.followed[0].lost == [2]
    assert ((found.objects[2] > 0) == square(4)).all() and found.objects[3].sum() > square(4).sum()


def test_where_two_claim_a_pixel_the_surer_one_has_it() -> None:
    class Sure(Tracker):
        def answer(self, frame: int, told: np.ndarray) -> np.ndarray:
            strength = 5.0 if told[8, 4] else 1.0
            return np.where(square(2, 20), strength, -1.0).astype(np.float32)

    found = follow_objects(picture, ids(*[{1: square(4), 2: square(14)}] * 3), Sure(), lambda _: None)
    assert (found.objects[1][square(2, 20)] == 1).all()


def test_too_many_and_too_short_objects_keep_their_masks() -> None:
    many = {n: square(3 * (n - 1), 2 + (n <= MOST_OBJECTS)) for n in range(1, MOST_OBJECTS + 2)}
    brief = {99: square(4, row=0)}
    found = follow_objects(picture, ids(many | brief, many, many), tracker := Tracker(), lambda _: None)
    assert len(found.followed) == MOST_OBJECTS and found.left == 2
    assert tracker.memories == 2 * MOST_OBJECTS
    assert (found.objects[0][square(4, row=0)] == 99).any()


def test_nothing_moves() -> None:
    found = follow_objects(picture, np.zeros((3, *SIZE), np.uint16), tracker := Tracker(), lambda _: None)
    assert not found.objects.any() and not tracker.looked and not found.followed


def test_points_lie_inside_and_the_box_around() -> None:
    mask = square(4, 20) | square(30, 6, row=2)
    points = inner_points(mask)
    assert len(points) == 3 and all(mask[int(y), int(x)] for x, y in points)
    assert any(x >= 30 for x, _ in points), "the second part has a point of its own"
    np.testing.assert_array_equal(bounding_box(mask), [4, 2, 36, 16])
    one = np.zeros(SIZE, dtype=bool)
    one[0, 5] = True
    np.testing.assert_array_equal(inner_points(one), [[5, 0]])
