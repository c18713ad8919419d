"""Which frames of a source are used."""

from __future__ import annotations

import numpy as np

from ..core.config import FrameConfig
from ..core.errors import InputError


def choose_frames(times: np.ndarray, select: FrameConfig, unit: str = "s") -> np.ndarray:
    """(n,) increasing time stamps -> (F,) increasing int64 indices of the frames to use, F >= 2.

    The first and the last frame inside [start, end] are always among them (``fps``: the first). Frames are spread
    evenly in TIME, so that a variable frame rate does not shift them. ``unit`` names the unit of ``times`` in messages.
    Raises InputError when fewer than two frames are left.
    """
    candidates = inside_range(times, select)
    if len(candidates) < 2:
        raise InputError(
            f"--start {select.start:g} --end {'' if select.end is None else format(select.end, 'g')} leaves "
            f"{len(candidates)} of {len(times)} frames (the source runs from 0 to {times[-1]:.4g} {unit}): "
            "at least 2 are needed, widen the range"
        )
    stamps = times[candidates]
    if select.fps is not None:
        chosen = _at_rate(stamps, select.fps)
        if len(chosen) < 2:
            raise InputError(
                f"--fps {select.fps:g} leaves one frame of a clip of {stamps[-1] - stamps[0]:.4g} s: "
                "give a higher rate or --num-frames-target"
            )
    elif 0 < select.num_frames_target < len(candidates):
        chosen = _nearest(stamps, np.linspace(stamps[0], stamps[-1], select.num_frames_target))
        chosen = _separate(chosen, len(stamps))
    else:
        chosen = np.arange(len(candidates))
    return candidates[chosen].astype(np.int64)


def inside_range(times: np.ndarray, select: FrameConfig) -> np.ndarray:
    """(n,) increasing time stamps -> int64 indices of the frames inside [start, end]."""
    tolerance = 1e-6
    inside = times >= select.start - tolerance
    if select.end is not None:
        inside &= times <= select.end + tolerance
    return np.flatnonzero(inside)


def _at_rate(stamps: np.ndarray, fps: float) -> np.ndarray:
    if not np.isfinite(fps):
        raise InputError(f"--fps {fps}: must be a positive number")
    if 1.0 / fps <= np.diff(stamps).min():
        return np.arange(len(stamps))
    num_targets = int((stamps[-1] - stamps[0]) * fps + 1e-6) + 1
    return np.unique(_nearest(stamps, stamps[0] + np.arange(num_targets) / fps))


def _nearest(stamps: np.ndarray, targets: np.ndarray) -> np.ndarray:
    right = np.clip(np.searchsorted(stamps, targets), 1, len(stamps) - 1)
    return np.where(targets - stamps[right - 1] <= stamps[right] - targets, right - 1, right)


def _separate(indices: np.ndarray, count: int) -> np.ndarray:
    """Make non-decreasing indices below ``count`` strictly increasing by small moves."""
    steps = np.arange(len(indices))
    indices = np.maximum.accumulate(indices - steps) + steps
    ceiling = count - len(indices) + steps
    return np.minimum(indices, ceiling)
