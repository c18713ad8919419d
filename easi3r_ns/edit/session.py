"""What is corrected in a dataset: every change is kept at once and can be undone."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.errors import InputError
from ..core.scene import Scene
from .history import Action, Flag, History, Patch, from_json, settled, to_json
from .marks import (
    AS_FOUND,
    MOVES,
    STILL,
    Place,
    box,
    corrected,
    no_marks,
    pieces_touching,
    pixel_at,
    shape_between,
    stroke,
)
from .pointing import Pointer, rows_beside
from .store import Store

WORDS = {MOVES: "moves", STILL: "stands still", AS_FOUND: "as found"}

Follow = Callable[[int, np.ndarray, Callable[[int], None]], Mapping[int, np.ndarray]]
"""Follows a region (H, W) bool of a frame: frame, region and ``advance(frames)`` -> region of every other frame in
which it is found."""


@dataclass(frozen=True)
class Change:
    """What an action leads to."""

    frames: tuple[int, ...]
    """Whose marks or flags have changed."""
    show: int
    """The frame to look at."""
    what: str
    """In words; empty: nothing has changed."""


class Session:
    """The corrections of one dataset. Threads may call it at the same time; they take turns."""

    def __init__(
        self, scene: Scene, store: Store, dataset: Path, found: Mapping[int, np.ndarray] | None = None
    ) -> None:
        """Raises InputError where what was kept cannot be read, OutputError where its repair cannot be written.

        Args:
            found: frame -> (H, W) bool mask as it was found, for a scene that was made with corrections: it tells what
                lies under these.
        """
        self.scene, self.dataset, self._store = scene, dataset, store
        self.lock = threading.RLock()
        self._pointer = Pointer(scene)
        height, width = scene.images.shape[1:3]
        self.shape = (height, width)
        self._frames = digest_of_frames(scene)
        kept = store.load()
        try:
            self.history = from_json(kept.strokes, self._frames, self.shape, len(scene))
        except ValueError as error:
            raise InputError(
                f"the corrections of {dataset} are damaged ({error}): empty the list of strokes in corrections.json"
            ) from error
        self.marks = settled(self.history, kept.marks, self.shape)
        before = {k: kept.marks.get(k, no_marks(self.shape)) for k in self.marks}
        # Later steps write their own frames only.
        store.write_marks({k: marks for k, marks in self.marks.items() if not np.array_equal(marks, before[k])})
        self.found = self._as_found(found or {})
        self.flags = {"excluded": set(kept.excluded), "keyframes": set(kept.keyframes)}
        self.versions = [0] * len(scene)

    def _as_found(self, found: Mapping[int, np.ndarray]) -> np.ndarray:
        """(F, H, W) bool: the masks of the scene, under corrections those before them."""
        masks = self.scene.dynamic.masks
        known = [k for k in self.marks if k in found]
        if known:
            masks = masks.copy()
            for k in known:
                masks[k] = np.where(self.marks[k] != AS_FOUND, found[k], masks[k])
        return masks

    def mask(self, frame: int) -> np.ndarray:
        """(H, W) bool: the corrected mask."""
        return corrected(self.found[frame], self.marks.get(frame))

    def click(self, frame: int, place: Place, value: int) -> Change:
        """Give a value to the region at a place, see :class:`.pointing.Pointer`."""
        with self.lock:
            region = self._pointer.region(frame, pixel_at(self.shape, place), self.mask(frame))
            return self.put(f"region {WORDS[value]}", frame, {frame: self._painted(frame, region, value)})

    def brush(self, frame: int, places: Sequence[Place], radius: float, value: int) -> Change:
        """Give a value to what a round brush covers."""
        region = stroke(self.shape, places, radius)
        with self.lock:
            return self.put(f"brush: {WORDS[value]}", frame, {frame: self._painted(frame, region, value)})

    def box(self, frame: int, one: Place, other: Place, value: int) -> Change:
        """Give a value to a rectangle."""
        with self.lock:
            region = box(self.shape, one, other)
            return self.put(f"box: {WORDS[value]}", frame, {frame: self._painted(frame, region, value)})

    def object(self, number: int, value: int, frame: int) -> Change:
        """Give a value to an object in all frames. Raises InputError where there is no such object."""
        objects = self.scene.dynamic.objects
        if objects is None or number < 1 or not (objects == number).any():
            raise InputError(f"there is no object {number} in this dataset")
        with self.lock:
            frames = np.flatnonzero((objects == number).any(axis=(1, 2))).tolist()
            painted = {k: self._painted(k, objects[k] == number, value) for k in frames}
            return self.put(f"object {number} {WORDS[value]}", frame, painted)

    def region_to_follow(self, frame: int) -> tuple[np.ndarray, int]:
        """The corrected piece of a frame that the last change belongs to (H, W) bool, and its value.

        Raises InputError where the last change is not in this frame.
        """
        with self.lock:
            last = self.history.last
            patch = last.patches.get(frame) if last else None
            marks = self.marks.get(frame)
            if patch is None or marks is None:
                raise InputError("first click or paint the object in this frame; then it is looked for in the others")
            region = patch.region(self.shape)
            value = STILL if ((marks == STILL) & region).sum() >= ((marks == MOVES) & region).sum() else MOVES
            piece = pieces_touching(marks == value, region)
            if not piece.any():
                raise InputError("the last change took a correction away: there is no region to look for")
            return piece, value

    def follow(self, frame: int, follow: Follow, advance: Callable[[int], None]) -> Change:
        """Give the piece that the last change of a frame belongs to the same value in all other frames."""
        region, value = self.region_to_follow(frame)
        found = follow(frame, region, advance)
        with self.lock:
            painted = {k: self._painted(k, area, value) for k, area in found.items() if k != frame and area.any()}
            return self.put(f"all frames: {WORDS[value]}", frame, painted)

    def neighbours(self, frame: int) -> tuple[int, int] | None:
        """The nearest corrected frames of its clip before and after a frame, without itself; None where one is
        missing."""
        beside = set(rows_beside(self.scene, frame).tolist()) - {frame}
        with self.lock:
            marked = [k for k, marks in self.marks.items() if k in beside and (marks != AS_FOUND).any()]
        before, after = [k for k in marked if k < frame], [k for k in marked if k > frame]
        return (max(before), min(after)) if before and after else None

    def interpolate(self, frame: int) -> Change:
        """Shapes between those of the nearest corrected frames, in all frames between them.

        Raises InputError where there are none, or nothing in them belongs together.
        """
        with self.lock:
            ends = self.neighbours(frame)
            if ends is None:
                raise InputError("correct a frame before this one and a frame after it first")
            painted = {}
            beside = rows_beside(self.scene, frame)
            between = beside[(beside > ends[0]) & (beside < ends[1])].tolist()
            for number, k in enumerate(between, 1):
                share = number / (len(between) + 1)
                marks = self._marks(k)
                for value in (STILL, MOVES):
                    marks = np.where(self._between(ends, share, value), np.uint8(value), marks)
                painted[k] = marks
            change = self.put(f"frames {ends[0] + 2} to {ends[1]}: shapes in between", frame, painted)
            if not change.what:
                raise InputError(f"frames {ends[0] + 1} and {ends[1] + 1} have no correction of the same kind")
            return change

    def flag(self, name: str, frame: int, value: bool) -> Change:
        """Exclude a frame ('excluded'), or mark it ('keyframes'), or no longer.

        Raises InputError for the last frames that are left.
        """
        with self.lock:
            before = frame in self.flags[name]
            if before == value:
                return Change((), frame, "")
            if name == "excluded" and value and len(self.scene) - len(self.flags[name]) <= 2:
                raise InputError("two frames have to stay")
            said = {"excluded": "excluded", "keyframes": "a keyframe"}[name]
            words = f"frame {frame + 1} {'is' if value else 'is no longer'} {said}"
            return self._do(Action(words, frame, {}, Flag(name, frame, before, value)))

    def left_out(self) -> tuple[str, ...]:
        """See :class:`.store.Store`."""
        return self._store.left_out()

    def take_back(self) -> Change:
        """Exclude frames no longer that the dataset lacks; this is no step of the history."""
        with self.lock:
            count = len(self.left_out())
            if count:
                self._store.take_back()
            words = "1 frame is" if count == 1 else f"{count} frames are"
            return Change((), -1, f"{words} no longer left out; solve again" if count else "")

    def undo(self) -> Change:
        """Take the last action back; nothing where there is none."""
        return self._step(-1)

    def redo(self) -> Change:
        """Do once more what was undone last; nothing where there is none."""
        return self._step(1)

    def put(self, what: str, frame: int, marks: Mapping[int, np.ndarray]) -> Change:
        """Give frames new marks, (H, W) uint8 each, as one action."""
        with self.lock:
            patches = {k: Patch.between(self._marks(k), new) for k, new in sorted(marks.items())}
            changed = {k: patch for k, patch in patches.items() if patch is not None}
            return self._do(Action(what, frame, changed)) if changed else Change((), frame, "")

    def _do(self, action: Action) -> Change:
        self._write(self.history.done(action))
        return self._put(action, forward=True)

    def _step(self, by: int) -> Change:
        with self.lock:
            action = self.history.last if by < 0 else self.history.next
            if action is None:
                return Change((), -1, "")
            self._write(self.history.stepped(by), action, by > 0)
            return self._put(action, forward=by > 0)

    def _write(self, history: History, step: Action | None = None, forward: bool = True) -> None:
        """Keep the history and what is excluded and marked, before the marks: see :func:`.history.settled`."""
        action = step or history.last
        if action and action.flag:
            self._put_flag(action.flag, forward)
        excluded, keyframes = (frozenset(self.flags[name]) for name in ("excluded", "keyframes"))
        try:
            self._store.write_record(to_json(history, self._frames), excluded, keyframes)
        except Exception:
            if action and action.flag:
                self._put_flag(action.flag, not forward)
            raise
        self.history = history

    def _put(self, action: Action, *, forward: bool) -> Change:
        for k, patch in action.patches.items():
            self.marks[k] = patch.put(self._marks(k), forward=forward)
            self.versions[k] += 1
        self._store.write_marks({k: self.marks[k] for k in action.patches})
        if action.flag:
            self.versions[action.flag.frame] += 1
        frames = (*action.patches, *([action.flag.frame] if action.flag else []))
        return Change(frames, action.frame, action.what)

    def _put_flag(self, flag: Flag, forward: bool) -> None:
        if flag.after if forward else flag.before:
            self.flags[flag.name].add(flag.frame)
        else:
            self.flags[flag.name].discard(flag.frame)

    def _marks(self, frame: int) -> np.ndarray:
        return self.marks.get(frame, no_marks(self.shape))

    def _painted(self, frame: int, region: np.ndarray, value: int) -> np.ndarray:
        return np.where(region, np.uint8(value), self._marks(frame))

    def _between(self, ends: tuple[int, int], share: float, value: int) -> np.ndarray:
        one, other = (self.marks[k] == value for k in ends)
        return shape_between(one, other, share)


def digest_of_frames(scene: Scene) -> str:
    """16 hexadecimal digits that stand for the frames of a scene, in their order, and the size of its grid."""
    facts = [list(scene.images.shape[:3]), list(scene.names), [int(index) for index in scene.indices]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
