"""Masks of a clip by a model that follows objects: :func:`follow_objects`.

As Easi3R does it (arXiv:2503.24391), the model is told the masks of every second frame and predicts the others, then
the halves are swapped: no frame is judged by its own mask. Here each object has a memory of its own for either half,
and both halves are made in one pass over the clip. A frame is predicted when the frame after it was told, from this
one and those before, and then forgotten: what is held does not grow with the clip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .tracker import ObjectMemory, ObjectTracker

METHOD = 1
"""Number of this method; a new one makes masks anew that were kept."""
AGREES = 0.2
"""Least intersection over union of the prediction and the object's own mask; below, the model has lost the object there
(it sees nothing, or something else), and the own mask stays. Motion masks with half as much overlap as is usual are
still believed: a model corrects masks, it does not choose what moves."""
MOST_OBJECTS = 12
"""Objects of a clip that are followed: those with the largest area over all frames. The others keep their masks."""
SHORTEST = 2
"""Frames in which an object has to be seen: one that is seen once is told to one half only, and predicts nothing."""


@dataclass
class TrackedObject:
    """What became of one object."""

    number: int
    """Its id."""
    first: int
    last: int
    """Rows of the frames between which it is seen."""
    frames: int
    """Frames in which it is seen."""
    lost: list[int] = field(default_factory=list)
    """Rows in which the model does not find it, though it is seen; there it keeps its own mask."""


@dataclass(frozen=True)
class FollowedMasks:
    """Result of :func:`follow_objects`."""

    objects: np.ndarray
    """(F, H, W) uint16 ids by the model; 0: nothing moves."""
    followed: list[TrackedObject]
    """In the order of their ids."""
    left: int
    """Number of objects that were too many, or too short, to be followed; they keep their own masks."""


def follow_objects(
    picture: Callable[[int], np.ndarray], objects: np.ndarray, tracker: ObjectTracker, advance: Callable[[int], None]
) -> FollowedMasks:
    """The objects of one clip as a model sees them, told by their masks.

    Between its first and its last frame an object is predicted in every frame, also in those in which its own mask is
    missing. Where two objects claim a pixel, the one that the model is surer of has it.

    Args:
        picture: row -> (h, w, 3) uint8 RGB; the same picture that the masks of the row belong to, in any size.
        objects: (F, H, W) uint16 ids in the order of time, 0 where nothing moves.
        advance: called after every frame.
    """
    chosen, others = _choose(objects)
    out = np.zeros_like(objects)
    memories: dict[tuple[int, int], ObjectMemory] = {}
    before: Any = None  # what is seen in the row before
    for row in range(len(objects) + 1):
        seen = None
        if any(one.first <= row <= one.last for one in chosen.values()):
            seen = tracker.look(picture(row))
            for number in chosen:
                if (mask := objects[row] == number).any():
                    if (number, row % 2) not in memories:
                        memories[number, row % 2] = tracker.memory()
                    memories[number, row % 2].prompt(row, seen, mask)
        if row > 0:
            _predict(row - 1, before, objects, memories, chosen, out)
            advance(1)
        before = seen
        memories = {key: memory for key, memory in memories.items() if chosen[key[0]].last >= row}
    rest = np.isin(objects, others) & (out == 0)
    out[rest] = objects[rest]
    return FollowedMasks(out, list(chosen.values()), len(others))


def _choose(objects: np.ndarray) -> tuple[dict[int, TrackedObject], list[int]]:
    """The objects that are followed, by their ids, and the ids of the others."""
    area: dict[int, int] = {}
    shown: dict[int, list[int]] = {}
    for row, frame in enumerate(objects):
        for number, pixels in zip(*(x.tolist() for x in np.unique(frame[frame > 0], return_counts=True)), strict=True):
            area[number] = area.get(number, 0) + pixels
            shown.setdefault(number, []).append(row)
    able = sorted((n for n in shown if len(shown[n]) >= SHORTEST), key=lambda n: -area[n])[:MOST_OBJECTS]
    chosen = {n: TrackedObject(n, shown[n][0], shown[n][-1], len(shown[n])) for n in sorted(able)}
    return chosen, sorted(set(shown) - set(able))


def _predict(
    row: int,
    seen: Any,
    objects: np.ndarray,
    memories: dict[tuple[int, int], ObjectMemory],
    chosen: dict[int, TrackedObject],
    out: np.ndarray,
) -> None:
    """Write the ids of one row, whose objects are told to the half that the row is not in."""
    surest = np.zeros(out.shape[1:], dtype=np.float32)
    for number, one in chosen.items():
        memory = memories.get((number, (row + 1) % 2))
        if not one.first <= row <= one.last:
            continue
        own = objects[row] == number
        found = None if memory is None else memory.predict(row, seen, (out.shape[1], out.shape[2]))
        if own.any() and (found is None or _overlap(found > 0, own) < AGREES):
            if found is not None:
                one.lost.append(row)
            found = np.where(own, np.finfo(np.float32).tiny, 0).astype(np.float32)
        if found is not None:
            better = found > surest
            out[row][better], surest[better] = number, found[better]


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union."""
    return float((a & b).sum() / max((a | b).sum(), 1))
