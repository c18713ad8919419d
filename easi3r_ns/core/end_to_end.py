"""One clock for the frames of several clips, where a reader knows one only."""

from __future__ import annotations

import numpy as np


def end_to_end(times: np.ndarray, clip: np.ndarray | None) -> np.ndarray:
    """(F,) times of clips that each begin anew -> increasing ones: a clip begins a median step after the one before.

    Args:
        times: those of each frame in its clip.
        clip: (F,) clip of each frame, the frames of a clip in a row; None: there is one, and its times stay.
    """
    if clip is None:
        return times
    starts = clip_starts(clip)
    steps = np.diff(times)
    own = np.delete(steps, starts[1:] - 1)
    step = float(np.median(own)) if len(own) else 1.0
    out = np.asarray(times, dtype=float).copy()
    for start, stop in zip(starts[1:], [*starts[2:], len(times)]):
        out[start:stop] += out[start - 1] + step - times[start]
    return out


def clip_starts(clip: np.ndarray) -> np.ndarray:
    """Positions of the first frames of the clips."""
    return np.concatenate([[0], np.flatnonzero(np.diff(clip)) + 1])
