"""What the page may ask for, and the answers: names and numbers only, none of which leads to a file."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..core.errors import Easi3RError, InputError
from ..core.objects import COLOUR_NAMES, PALETTE, object_facts
from ..core.scene import Scene
from . import fields
from .fields import Body
from .jobs import JobLog, Jobs
from .marks import AS_FOUND, no_marks
from .pictures import found_picture, frame_picture, marks_picture, small_picture
from .remake import Remake, Solved, as_json, top_views
from .session import Change, Follow, Session

KEPT_PICTURES = 24
_NUMBER = re.compile(r"0|[1-9][0-9]{0,6}")
_FRAME_FILES = ("picture", "thumb", "found", "marks")
_SIDES = ("before", "after")


class UnknownError(Easi3RError):
    """There is nothing of that name."""


@dataclass(frozen=True)
class Answer:
    """A file in memory."""

    kind: str
    """Content type."""
    content: bytes


@dataclass(frozen=True)
class Helpers:
    """What a desk is given from outside."""

    open_session: Callable[[Scene], Session]
    """Of a scene that has taken the place of another."""
    follow: Callable[[Scene], Follow]
    remake: Remake | None
    """None: this dataset cannot be solved again."""
    why_not: str = ""
    """Why, for the user."""
    verdict: Callable[[Scene], Any] = lambda scene: None
    """JSON about what speaks against a dataset; it may take a while."""


class Desk:
    """Answers the requests of the page."""

    def __init__(self, scene: Scene, helpers: Helpers) -> None:
        """Raises InputError where the corrections cannot be read."""
        self.helpers, self.jobs, self.round = helpers, Jobs(), 0
        self._judging = threading.Lock()
        self._open(scene)
        self.solved: Solved | None = helpers.remake.waiting() if helpers.remake else None

    def _open(self, scene: Scene) -> None:
        self.session = self.helpers.open_session(scene)
        self.round += 1
        self._picture = lru_cache(KEPT_PICTURES)(lambda frame: frame_picture(scene, frame))
        self._verdict = lru_cache(1)(lambda: self.helpers.verdict(scene))
        objects = scene.dynamic.objects
        self._objects = [] if objects is None else object_facts(objects)
        self._scores = frame_scores(scene)

    def file(self, name: str) -> Answer:
        """A picture: ``picture/N``, ``thumb/N``, ``found/N`` and ``marks/N`` of frame N from 0, ``before.svg`` and
        ``after.svg`` of two solutions.

        Raises UnknownError.
        """
        kind, _, rest = name.partition("/")
        if kind in _FRAME_FILES and _NUMBER.fullmatch(rest):
            if int(rest) >= len(self.session.scene):
                raise UnknownError(f"there is no frame {int(rest) + 1}")
            return self._frame_file(kind, int(rest))
        solved = self.solved
        if solved is not None and name in [f"{side}.svg" for side in _SIDES]:
            return Answer("image/svg+xml", top_views(solved)[name[: -len(".svg")]].encode())
        raise UnknownError("there is nothing of that name")

    def _frame_file(self, kind: str, frame: int) -> Answer:
        session = self.session
        if kind == "picture":
            return Answer("image/jpeg", self._picture(frame))
        if kind == "thumb":
            return Answer("image/jpeg", small_picture(session.scene, frame, session.mask(frame)))
        if kind == "found":
            objects = session.scene.dynamic.objects
            return Answer("image/png", found_picture(session.found[frame], None if objects is None else objects[frame]))
        marks = session.marks.get(frame)
        return Answer("image/png", marks_picture(no_marks(session.shape) if marks is None else marks))

    def facts(self, name: str) -> Any:
        """JSON: ``state``, ``job`` or ``verdict``. Raises UnknownError."""
        if name == "state":
            return self.state()
        if name == "job":
            return asdict(self.jobs.progress)
        if name == "verdict":
            with self._judging:
                return self._verdict()
        raise UnknownError("there is nothing of that name")

    def state(self) -> dict[str, Any]:
        """All that the page shows but pictures."""
        session = self.session
        with session.lock:
            height, width = session.shape
            return {
                "title": session.dataset.resolve().name,
                "dataset": str(session.dataset),
                "round": self.round,
                "size": [width, height],
                "frames": [self.frame_facts(k) for k in range(len(session.scene))],
                "left_out": list(session.left_out()),
                "objects": [self._object_facts(facts) for facts in self._objects],
                "solved": None if self.solved is None else as_json(self.solved),
                "why_not": "" if self.helpers.remake else self.helpers.why_not,
                "running": self.jobs.progress.running,
                **self._steps(),
            }

    def frame_facts(self, frame: int) -> dict[str, Any]:
        """What the strip says of a frame."""
        session = self.session
        marks = session.marks.get(frame)
        return {
            "share": round(float(session.mask(frame).mean()), 5),
            "found": round(float(session.found[frame].mean()), 5),
            "score": self._scores[frame],
            "corrected": marks is not None and bool((marks != AS_FOUND).any()),
            "excluded": frame in session.flags["excluded"],
            "keyframe": frame in session.flags["keyframes"],
            "version": session.versions[frame],
            "time": round(float(session.scene.clock[frame]), 3),
        }

    def change(self, name: str, body: Body) -> Any:
        """Do what the page asks; JSON of what has changed.

        Raises:
            UnknownError: there is no such change.
            Easi3RError: it cannot be done; the message is for the user.
        """
        if name not in _CHANGES:
            raise UnknownError("there is no such change")
        return _CHANGES[name](self, body)

    def _changed(self, change: Change) -> dict[str, Any]:
        with self.session.lock:
            return {
                "changed": {k: self.frame_facts(k) for k in change.frames},
                "show": change.show,
                "what": change.what,
                **self._steps(),
            }

    def _steps(self) -> dict[str, Any]:
        history = self.session.history
        return {"undo": history.last and history.last.what, "redo": history.next and history.next.what}

    def _object_facts(self, facts: dict[str, Any]) -> dict[str, Any]:
        place = (facts["id"] - 1) % len(PALETTE)
        return facts | {"colour": "#" + bytes(PALETTE[place]).hex(), "colour_name": COLOUR_NAMES[place]}

    def _frame(self, body: Body) -> int:
        return fields.whole(body, "frame", 0, len(self.session.scene))

    def _click(self, body: Body) -> Any:
        (place,) = fields.places_of(body, 1, 1)
        return self._changed(self.session.click(self._frame(body), place, fields.value_of(body)))

    def _brush(self, body: Body) -> Any:
        places, radius = fields.places_of(body, 1), fields.radius_of(body)
        return self._changed(self.session.brush(self._frame(body), places, radius, fields.value_of(body)))

    def _box(self, body: Body) -> Any:
        one, other = fields.places_of(body, 2, 2)
        return self._changed(self.session.box(self._frame(body), one, other, fields.value_of(body)))

    def _object(self, body: Body) -> Any:
        number = fields.whole(body, "object", 1, 2**16)
        return self._changed(self.session.object(number, fields.value_of(body), self._frame(body)))

    def _flag(self, body: Body) -> Any:
        name = body.get("name")
        if not isinstance(name, str) or name not in self.session.flags:
            raise InputError("name: excluded or keyframes")
        return self._changed(self.session.flag(name, self._frame(body), fields.switch(body, "on")))

    def _take_back(self, body: Body) -> Any:
        return self._changed(self.session.take_back())

    def _interpolate(self, body: Body) -> Any:
        return self._changed(self.session.interpolate(self._frame(body)))

    def _start_following(self, body: Body) -> Any:
        frame, session = self._frame(body), self.session
        session.region_to_follow(frame)  # refuses at once
        follow = self.helpers.follow(session.scene)

        def work(log: JobLog) -> Any:
            with log.stage("follow by hand", len(session.scene) - 1) as advance:
                change = session.follow(frame, follow, advance)
            return {"what": change.what, "frames": len(change.frames)}

        self.jobs.start("follow", "look for the object in the other frames", work)
        return {}

    def _start_solving(self, body: Body) -> Any:
        remake = self._able()
        if self.solved is not None:
            raise InputError("first accept the new cameras, or go back")

        def work(log: JobLog) -> Any:
            self.solved = remake.solve(log)

        self.jobs.start("solve", "solve again", work)
        return {}

    def _accept(self, body: Body) -> Any:
        remake = self._able()
        self.jobs.refuse_while_running()
        if self.solved is None:
            raise InputError("there are no new cameras to accept: solve again first")
        scene = remake.accept()
        self.solved = None
        self._open(scene)
        return {}

    def _go_back(self, body: Body) -> Any:
        remake = self._able()
        self.jobs.refuse_while_running()
        remake.go_back()
        self.solved = None
        return {}

    def _able(self) -> Remake:
        if self.helpers.remake is None:
            raise InputError(self.helpers.why_not)
        return self.helpers.remake

    def _stop(self, body: Body) -> Any:
        self.jobs.stop()
        return {}


_CHANGES: dict[str, Callable[[Desk, Body], Any]] = {
    "click": Desk._click,
    "brush": Desk._brush,
    "box": Desk._box,
    "object": Desk._object,
    "flag": Desk._flag,
    "take_back": Desk._take_back,
    "interpolate": Desk._interpolate,
    "follow": Desk._start_following,
    "undo": lambda desk, body: desk._changed(desk.session.undo()),
    "redo": lambda desk, body: desk._changed(desk.session.redo()),
    "solve": Desk._start_solving,
    "stop": Desk._stop,
    "accept": Desk._accept,
    "back": Desk._go_back,
}
"""Name of a change -> what does it, given the JSON of the request."""


def frame_scores(scene: Scene) -> list[float | None]:
    """Mean score of what moves in each frame, 0 to 1: how sure the automatic mask is; None where there is no score."""
    dynamic = scene.dynamic
    if not np.isfinite(dynamic.threshold) or not dynamic.score.any():
        return [None] * len(scene)
    height, width = dynamic.masks.shape[1:]
    rows = np.arange(height) * dynamic.score.shape[1] // height
    columns = np.arange(width) * dynamic.score.shape[2] // width
    scores = []
    for mask, score in zip(dynamic.masks, dynamic.score, strict=True):
        scores.append(round(float(score[rows][:, columns][mask].mean()), 3) if mask.any() else None)
    return scores
