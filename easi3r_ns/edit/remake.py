"""Solving again with the corrections: what the page needs of it, and the cameras before and after, compared."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..core.scene import Scene
from ..core.similarity import align_cameras
from .jobs import JobLog

SIZE = 360.0
"""Side of the drawings, in their own units."""
_MARGIN = 22.0
_MOST_WEDGES = 24
INK, FAINT = {"before": "#0072b2", "after": "#d55e00"}, "#8a9099"
"""Blue and vermilion of Okabe and Ito, which people of every kind of colour vision tell apart; and grey."""


@dataclass(frozen=True)
class Figure:
    """A number before and after."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Solved:
    """Two solutions of one clip, of which the user takes one."""

    before: np.ndarray
    """(N, 4, 4) camera-to-world, OpenCV axes, of the frames that both solutions have."""
    after: np.ndarray
    """(N, 4, 4), in a world of its own."""
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()
    """Sentences for the user."""


class Remake(Protocol):
    """Makes a dataset again with its corrections. The old one stays until the new one is accepted."""

    def waiting(self) -> Solved | None:
        """A solution that was neither accepted nor refused yet; None: there is none."""
        ...

    def solve(self, log: JobLog) -> Solved:
        """Make it. Raises Easi3RError."""
        ...

    def accept(self) -> Scene:
        """The new one takes the place of the old one; returns its scene. Raises Easi3RError."""
        ...

    def go_back(self) -> None:
        """Delete the new one. Raises Easi3RError."""
        ...


def moved(solved: Solved) -> tuple[np.ndarray, np.ndarray, tuple[Figure, ...]]:
    """The new cameras in the world of the old ones (N, 4, 4), how far each has moved (N,) as a share of the old path's
    extent, and that in numbers.
    """
    before, after = solved.before, solved.after
    extent = float(np.linalg.norm(np.ptp(before[:, :3, 3], axis=0))) if len(before) else 0.0
    if len(before) < 2:
        return after, np.zeros(len(before)), ()
    after = align_cameras(after, before).cameras(after)
    distance = np.linalg.norm(after[:, :3, 3] - before[:, :3, 3], axis=1) / max(extent, 1e-12)
    turn = np.trace(np.swapaxes(before[:, :3, :3], 1, 2) @ after[:, :3, :3], axis1=1, axis2=2)
    degrees = np.degrees(np.arccos(np.clip((turn - 1) / 2, -1, 1)))
    figures = (
        Figure("Cameras that both have", str(len(before)), str(len(after))),
        Figure("Moved, median", "", f"{100 * np.median(distance):.2g} % of the path"),
        Figure("Moved, most", "", f"{100 * distance.max():.2g} % (frame {int(distance.argmax()) + 1})"),
        Figure("Turned, median", "", f"{np.median(degrees):.2g}\u00b0"),
    )
    return after, distance, figures


def top_views(solved: Solved) -> dict[str, str]:
    """'before' and 'after' -> SVG of the path from above; the other path is drawn in grey behind it.

    The new cameras are brought into the world of the old ones by a similarity, so both have one scale.
    """
    after, _, _ = moved(solved)
    right, forward = _ground(solved.before)
    ground = np.stack([right, forward])
    paths = {"before": solved.before[:, :3, 3] @ ground.T, "after": after[:, :3, 3] @ ground.T}
    headings = {"before": solved.before[:, :3, 2] @ ground.T, "after": after[:, :3, 2] @ ground.T}
    every = np.concatenate(list(paths.values())) if len(after) else np.zeros((1, 2))
    low, span = every.min(axis=0), float(np.ptp(every, axis=0).max())
    span = span if span > 0 else 1.0
    offset = (span - np.ptp(every, axis=0)) / 2

    def place(xy: np.ndarray) -> np.ndarray:
        share = (xy - low + offset) / span
        return np.stack([share[:, 0], 1 - share[:, 1]], axis=1) * (SIZE - 2 * _MARGIN) + _MARGIN

    views = {}
    for name, other in (("before", "after"), ("after", "before")):
        title = f"Camera path from above, {name} solving again"
        views[name] = _drawing(place(paths[name]), headings[name], place(paths[other]), INK[name], title)
    return views


def _ground(T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right and forward of the first camera on the plane that is level for the mean of all cameras."""
    if not len(T):
        return np.array([1.0, 0, 0]), np.array([0, 0, 1.0])
    up = -T[:, :3, 1].mean(axis=0)
    up = up / max(float(np.linalg.norm(up)), 1e-12)
    right = T[0, :3, 0] - (T[0, :3, 0] @ up) * up
    right = right / max(float(np.linalg.norm(right)), 1e-12)
    return right, np.cross(right, -up)


def _drawing(path: np.ndarray, heading: np.ndarray, other: np.ndarray, ink: str, title: str) -> str:
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE:g} {SIZE:g}" role="img">',
        f"<title>{html.escape(title)}</title>",
        f'<polyline points="{_points(other)}" fill="none" stroke="{FAINT}" stroke-width="2" stroke-dasharray="4 4"/>',
    ]
    for k in np.unique(np.linspace(0, len(path) - 1, min(len(path), _MOST_WEDGES)).astype(int)).tolist():
        parts.append(f'<polygon points="{_points(_wedge(path[k], heading[k]))}" fill="{ink}" fill-opacity="0.25"/>')
    parts.append(f'<polyline points="{_points(path)}" fill="none" stroke="{ink}" stroke-width="3"/>')
    for end, fill in ((0, "none"), (-1, ink)):
        if len(path):
            x, y = path[end]
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill}" stroke="{ink}" stroke-width="2"/>')
    return "".join([*parts, "</svg>"])


def _wedge(at: np.ndarray, heading: np.ndarray) -> np.ndarray:
    forward = np.array([heading[0], -heading[1]])
    side = np.array([-forward[1], forward[0]])
    return np.stack([at, at + 18 * forward + 9 * side, at + 18 * forward - 9 * side])


def _points(xy: np.ndarray) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in xy)


def as_json(solved: Solved) -> dict[str, object]:
    """What the page shows beside the two drawings."""
    _, distance, own = moved(solved)
    figures: Sequence[Figure] = (*own, *solved.figures)
    return {
        "figures": [[figure.name, figure.before, figure.after] for figure in figures],
        "notes": list(solved.notes),
        "moved": [round(float(share), 5) for share in distance],
    }
