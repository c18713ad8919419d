"""Corrections that can be undone: what each changed, where, and what was there before.

As JSON, version 1, it is a list: a head, and the actions in their order::

    [{"version": 1, "position": 2, "frames": "9f3a..."},
     {"what": "brush: moves", "frame": 3, "patches": [...], "flag": null}, ...]

The first ``position`` actions are done, those after it undone; ``frames`` stands for the frames that the numbers count:
a history of other frames counts for nothing. A patch is the box of a frame that has changed: ``frame``, ``top``,
``left``, ``height``, ``width``, and ``before`` and ``after``, its rows of grey levels, compressed (zlib) and in
base64. A ``flag`` is a frame that was excluded or marked: ``name``, ``frame``, ``before`` and ``after``.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .marks import AS_FOUND, MOVES, STILL, no_marks

VERSION = 1
MOST_ACTIONS = 500
"""Actions that can be undone; older ones stay done."""
MOST_BYTES = 4 * 2**20
"""Length of all compressed patches above which the oldest actions are forgotten: the file is written with every one."""


@dataclass(frozen=True)
class Patch:
    """The part of a frame's marks that an action changed."""

    top: int
    left: int
    height: int
    width: int
    before: bytes
    after: bytes
    """Compressed rows of (height, width) uint8."""

    @classmethod
    def between(cls, before: np.ndarray, after: np.ndarray) -> Patch | None:
        """What differs in two marks (H, W); None: nothing."""
        rows, columns = (np.flatnonzero((before != after).any(axis=axis)) for axis in (1, 0))
        if not len(rows):
            return None
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        parts = (zlib.compress(marks[top:bottom, left:right].tobytes(), 6) for marks in (before, after))
        return cls(top, left, bottom - top, right - left, *parts)

    def put(self, marks: np.ndarray, *, forward: bool) -> np.ndarray:
        """Marks (H, W) with the values of after (``forward``) or before the action."""
        result = marks.copy()
        place = slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)
        changed = self.values(forward=True) != self.values(forward=False)
        result[place] = np.where(changed, self.values(forward=forward), result[place])
        return result

    def values(self, *, forward: bool) -> np.ndarray:
        """(height, width) uint8."""
        content = zlib.decompressobj().decompress(self.after if forward else self.before, self.height * self.width)
        return np.frombuffer(content, np.uint8).reshape(self.height, self.width)

    def region(self, shape: tuple[int, int]) -> np.ndarray:
        """(H, W) bool: the pixels that changed."""
        changed = np.zeros(shape, dtype=bool)
        changed[self.top : self.top + self.height, self.left : self.left + self.width] = self.values(
            forward=True
        ) != self.values(forward=False)
        return changed


@dataclass(frozen=True)
class Flag:
    """A frame that was excluded or marked, or no longer is."""

    name: str
    """'excluded' or 'keyframes'."""
    frame: int
    before: bool
    after: bool


@dataclass(frozen=True)
class Action:
    """Something that was done, and can be undone."""

    what: str
    """In words, for the page."""
    frame: int
    """Where it was done: the frame that is shown when it is undone."""
    patches: Mapping[int, Patch]
    """Frame -> what changed in it."""
    flag: Flag | None = None

    @property
    def size(self) -> int:
        """Bytes of its patches."""
        return sum(len(patch.before) + len(patch.after) for patch in self.patches.values())


@dataclass(frozen=True)
class History:
    """What was done, and what was undone again."""

    actions: tuple[Action, ...] = ()
    position: int = 0
    """How many of the actions are done."""

    def done(self, action: Action) -> History:
        """With one more; what was undone is forgotten."""
        actions = [*self.actions[: self.position], action][-MOST_ACTIONS:]
        while len(actions) > 1 and sum(own.size for own in actions) > MOST_BYTES:
            del actions[0]
        return History(tuple(actions), len(actions))

    @property
    def last(self) -> Action | None:
        """What undo takes back."""
        return self.actions[self.position - 1] if self.position else None

    @property
    def next(self) -> Action | None:
        """What redo does again."""
        return self.actions[self.position] if self.position < len(self.actions) else None

    def stepped(self, by: int) -> History:
        """With one more (1) or one less (-1) of the actions done."""
        return History(self.actions, min(max(self.position + by, 0), len(self.actions)))


def to_json(history: History, frames: str) -> list[Any]:
    """See the module; ``frames`` stands for the frames that are counted."""
    head = {"version": VERSION, "position": history.position, "frames": frames}
    return [head, *(_action_to_json(action) for action in history.actions)]


def from_json(value: Sequence[Any], frames: str, shape: tuple[int, int], num_frames: int) -> History:
    """What :func:`to_json` gave, for marks of a shape (H, W); an empty one where it counts other frames.

    Raises ValueError where it is something else, or does not fit.
    """
    if not value:
        return History()
    try:
        head, *actions = value
        if head["version"] != VERSION:
            raise ValueError(f"version {head['version']!r} of the history, not {VERSION}")
        if head["frames"] != frames:
            return History()
        found = tuple(_action_from_json(action, shape, num_frames) for action in actions)
        position = head["position"]
        if not (isinstance(position, int) and 0 <= position <= len(found)):
            raise ValueError(f"position {position!r} of {len(found)} actions")
        return History(found, position)
    except (KeyError, TypeError, AttributeError, OverflowError, zlib.error) as error:
        raise ValueError(f"no history of corrections ({type(error).__name__}: {error})") from error


def settled(history: History, marks: Mapping[int, np.ndarray], shape: tuple[int, int]) -> dict[int, np.ndarray]:
    """The marks as the history says they are.

    The history is written before the marks, so a process that was killed in between has left marks of one step before
    or after. Both neighbouring actions are put to where they belong. Marks of neither state are another program's, and
    stay.
    """
    result = dict(marks)
    for action, forward in ((history.next, False), (history.last, True)):
        for frame, patch in (action.patches if action else {}).items():
            own = result.get(frame, no_marks(shape))
            if np.array_equal(patch.put(own, forward=not forward), own):
                result[frame] = patch.put(own, forward=forward)
    return result


def _action_to_json(action: Action) -> dict[str, Any]:
    patches = [
        {
            "frame": frame,
            **{name: getattr(patch, name) for name in ("top", "left", "height", "width")},
            **{name: base64.b64encode(getattr(patch, name)).decode() for name in ("before", "after")},
        }
        for frame, patch in action.patches.items()
    ]
    flag = action.flag and {name: getattr(action.flag, name) for name in ("name", "frame", "before", "after")}
    return {"what": action.what, "frame": action.frame, "patches": patches, "flag": flag}


def _action_from_json(value: Any, shape: tuple[int, int], num_frames: int) -> Action:
    patches = {}
    for part in value["patches"]:
        place = [part[name] for name in ("top", "left", "height", "width")]
        if not all(isinstance(number, int) and number >= 0 for number in place):
            raise ValueError(f"a patch at {place}")
        patch = Patch(*place, *(base64.b64decode(part[name], validate=True) for name in ("before", "after")))
        if patch.top + patch.height > shape[0] or patch.left + patch.width > shape[1]:
            raise ValueError(f"a patch at {place} in a picture of {shape[1]} x {shape[0]}")
        for forward in (False, True):
            if not set(np.unique(patch.values(forward=forward)).tolist()) <= {MOVES, AS_FOUND, STILL}:
                raise ValueError("a patch with other values")
        patches[_frame(part["frame"], num_frames)] = patch
    flag = None
    if value["flag"] is not None:
        flag = Flag(**value["flag"])
        known = flag.name in ("excluded", "keyframes")
        if not known or not all(isinstance(v, bool) for v in (flag.before, flag.after)):
            raise ValueError(f"a flag {flag.name!r}")
        _frame(flag.frame, num_frames)
    return Action(str(value["what"]), _frame(value["frame"], num_frames), patches, flag)


def _frame(number: Any, num_frames: int) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < num_frames:
        raise ValueError(f"frame {number!r} of {num_frames}")
    return number
