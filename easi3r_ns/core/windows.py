"""Cuts a long clip into overlapping windows of frames, by its pair graph alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .errors import InputError
from .types import PairGraph

OVERLAP_SHARE = 0.25
"""Least share of a window's frames that it has in common with the next window."""
MOST_OVERLAP = 2 / 3
"""Largest span of a pair, as a share of a window's frames, for which the overlap is enlarged; pairs with a larger span
may be left out."""


@dataclass(frozen=True)
class Window:
    """Frames of a clip that are reconstructed together."""

    frames: np.ndarray
    """(n,) int64 frames of the clip, increasing."""
    rows: np.ndarray
    """(e,) int64 rows of the clip's pair graph: both frames are in the window."""
    own: np.ndarray
    """(o,) int64 those of ``rows`` that no earlier window has: every pair is decoded once, for its first window."""
    attached: bool = False
    """Whether the window connects evaluation views to the clip, instead of being an interval of the clip."""

    def __str__(self) -> str:
        """For example 'frames 30 to 79'; numbers of evaluation views continue those of the clip."""
        if self.attached:
            return f"evaluation views with frames {', '.join(map(str, self.frames[:8]))} ..."
        return f"frames {self.frames[0]} to {self.frames[-1]}"


@dataclass(frozen=True)
class WindowPlan:
    """All windows of a clip in temporal order; those of evaluation views come last."""

    windows: tuple[Window, ...]
    left_out: int
    """Ordered pairs whose frames share no window."""
    size: int
    """Frames of a window."""

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def of_clip(self) -> tuple[Window, ...]:
        """The windows that are intervals of the clip, without those of evaluation views."""
        return tuple(window for window in self.windows if not window.attached)

    @property
    def clip_frames(self) -> range:
        """The frames of the clip itself."""
        return range(int(self.of_clip[-1].frames[-1]) + 1)


def subgraph(graph: PairGraph, rows: np.ndarray) -> tuple[np.ndarray, PairGraph]:
    """Restrict a graph to some of its rows, which must hold both orders of every pair; the order of rows is kept.

    Returns:
        (n,) the frames in these rows, increasing, and the graph of the rows with frames renumbered 0 .. n - 1.
    """
    frames, local = np.unique(graph.edges[rows], return_inverse=True)
    return frames, PairGraph(local.reshape(-1, 2).astype(np.int64), len(frames), graph.strategy)


def cut_windows(graph: PairGraph, size: int, num_attached: int = 0) -> WindowPlan:
    """Cut a clip into evenly spaced windows of ``size`` frames.

    Consecutive windows share at least :data:`OVERLAP_SHARE` of their frames, and as many as the pair with the largest
    span needs, up to :data:`MOST_OVERLAP`. The last ``num_attached`` frames of the graph are evaluation views: they get
    windows of their own, together with the frames of the clip that they are paired with. A clip of at most ``size``
    frames is one window.

    Raises:
        InputError: the pairs inside a window do not connect all of its frames (``oneref``).
    """
    num_clip = graph.num_frames - num_attached
    i, j = graph.edges.T
    in_clip = (i < num_clip) & (j < num_clip)
    stretches = _stretches(num_clip, size, np.abs(i - j)[in_clip])
    members = stretches + _attached_members(graph, num_clip, size)
    windows, taken = [], np.zeros(len(graph), dtype=bool)
    for k, frames in enumerate(members):
        attached = k >= len(stretches)
        rows = np.flatnonzero(np.isin(i, frames) & np.isin(j, frames) & (attached ^ in_clip))
        windows.append(Window(frames, rows, rows[~taken[rows]], attached))
        taken[rows] = True
        if not _joined(graph.edges[rows], frames):
            raise InputError(
                f"--graph {graph.strategy}: its pairs do not join the {len(frames)} frames of a window; use "
                "swinstride-5-noncyclic, a larger --window, or fewer frames (--num-frames-target)"
            )
    return WindowPlan(tuple(windows), int((~taken).sum()), size)


def centrality(window: Window) -> np.ndarray:
    """(n,) distance of each frame from the nearer end of its window, in frames; 1 for the first and the last frame."""
    from_start = np.arange(1, len(window.frames) + 1)
    return np.minimum(from_start, from_start[::-1]).astype(float)


def _stretches(num_frames: int, size: int, spans: np.ndarray) -> list[np.ndarray]:
    """Frames of the windows of the clip itself."""
    if num_frames <= size:
        return [np.arange(num_frames)]
    most = int(MOST_OVERLAP * size)
    reach = int(spans[spans <= most].max(initial=0))
    overlap = max(2, reach, int(np.ceil(OVERLAP_SHARE * size)))
    count = int(np.ceil((num_frames - overlap) / (size - overlap)))
    starts = np.round(np.linspace(0, num_frames - size, count)).astype(int)
    return [np.arange(start, start + size) for start in starts]


def _attached_members(graph: PairGraph, num_clip: int, size: int) -> list[np.ndarray]:
    """Frames of each window of evaluation views: the clip frames that these are paired with, and some of the views."""
    views = np.arange(num_clip, graph.num_frames)
    if len(views) == 0:
        return []
    linked = graph.edges[(graph.edges[:, 0] >= num_clip) & (graph.edges[:, 1] < num_clip), 1]
    anchors = np.unique(linked)
    # Consecutive windows share a view, because each view is paired with the one before.
    step = max(1, size - len(anchors) - 1)
    return [
        np.concatenate([anchors, views[start : start + step + 1]]) for start in range(0, max(1, len(views) - 1), step)
    ]


def _joined(edges: np.ndarray, frames: np.ndarray) -> bool:
    local = np.searchsorted(frames, edges)
    matrix = coo_array((np.ones(len(local)), (local[:, 0], local[:, 1])), shape=(len(frames), len(frames)))
    return connected_components(matrix, directed=False)[0] == 1
