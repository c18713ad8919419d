"""Which frames of a source are used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.config import FrameConfig
from ..core.errors import InputError
from ..core.runlog import RunLog
from .scan import Scan, relative

NOTABLE = 0.2
"""Difference of the logarithms of two energies from which a frame is notably sharper: 22 % more energy. A blur of one
pixel at working size takes 0.3 to 0.6; sharp frames of clips differ by less than 0.1 from one to the next, see
examples/results/sharpness.md."""

FROZEN = "the clip is frozen: all frames are the same; what can be reconstructed from it is a guess"
_MOST_COMPARED = 100
"""Frames around one that decide how much its neighbourhood changes, at most."""
_MOST_SHOWN, _SHOWN_REACH = 400, 8
"""Frames in the report's chart, about, and frames on both sides that each of them is compared with there."""


@dataclass(frozen=True)
class ChosenFrames:
    """The frames to use, and why."""

    used: np.ndarray
    """(F,) increasing int64 indices."""
    sharper: int = 0
    """How many of them are not the frame nearest to the evenly spaced time, because another one is sharper."""
    repeats: int = 0
    """How many evenly spaced times fell on a picture that had been taken already."""
    one_picture: bool = False
    """Whether all frames show the same; then they are evenly spaced."""


def choose_frames(times: np.ndarray, select: FrameConfig, unit: str = "s") -> np.ndarray:
    """(n,) increasing time stamps -> (F,) increasing int64 indices of the frames to use, F >= 2.

    The first and the last frame inside [start, end] are always among them (``fps``: the first). Frames are spread
    evenly in TIME, so that a variable frame rate does not shift them. ``unit`` names the unit of ``times`` in messages.
    Raises InputError when fewer than two frames are left.
    """
    candidates = _candidates(times, select, unit)
    chosen, _, _ = _evenly(times[candidates], select)
    return candidates[chosen].astype(np.int64)


def choose_scanned(times: np.ndarray, select: FrameConfig, seen: Scan, unit: str = "s") -> ChosenFrames:
    """As :func:`choose_frames`, with what a look at the frames found.

    * A picture that stands still is used once. Where even spacing meets it again, frames are spread evenly over the
      time in which the picture changes; with ``fps`` they are left out.
    * Instead of the frame nearest to an evenly spaced time, a notably sharper one is taken (:data:`NOTABLE`, against
      the frames around it), at most half a step from that time, at least half a step after the frame before, and on
      the same side of every cut. Of equally sharp ones it is the nearest: a clip without blur keeps its frames.

    Raises InputError when fewer than two frames, or with ``fps`` fewer than two pictures, are left.
    """
    seen_at = np.searchsorted(seen.indices, _candidates(times, select, unit))
    inside = seen_at[np.isin(_candidates(times, select, unit), seen.indices)]
    indices, run, part = seen.indices[inside], seen.run[inside], seen.part()[inside]
    if len(indices) < 2:
        return ChosenFrames(indices)
    stamps, repeats = times[indices], 0
    chosen, targets, step = _evenly(stamps, select)
    kept = np.concatenate([[True], np.diff(run[chosen]) > 0])
    if not kept.all() and len(np.unique(run)) > 1:
        repeats = int((~kept).sum())
        if select.fps is None:
            stamps = _moving_clock(stamps, run)
            firsts = np.flatnonzero(np.concatenate([[True], np.diff(run) > 0]))
            chosen, targets, step = _evenly(stamps[firsts], select)
            chosen = firsts[chosen]
        elif kept.sum() < 2:
            raise InputError(
                f"--fps {select.fps:g} meets one picture only, because the clip stands still for most of its time: "
                "give a higher rate or --num-frames-target"
            )
        else:
            chosen, targets = chosen[kept], targets[kept]
    picked = _sharpest(_Clock(stamps, targets, step), chosen, seen.sharpness[inside], part, run)
    return ChosenFrames(indices[picked].astype(np.int64), int((picked != chosen).sum()), repeats, run[0] == run[-1])


def say(choice: ChosenFrames, log: RunLog) -> None:
    """Tell the user what is not as even spacing would have it."""
    if choice.repeats:
        log.warn(
            f"the clip repeats pictures (a camera that lies still, or a converted frame rate): {choice.repeats} of the "
            f"evenly spaced frames would show what another one shows; {len(choice.used)} frames that differ are used "
            "(--no-sharpest: evenly spaced ones)"
        )
    if choice.one_picture:
        log.warn(FROZEN)
    if choice.sharper:
        log.info(
            f"{choice.sharper} of {len(choice.used)} frames are not the evenly spaced ones but sharper ones beside them"
        )


def record(times: np.ndarray, seen: Scan, choice: ChosenFrames) -> tuple[tuple[float, float], ...]:
    """(time, energy over that of the frames around) of the frames that were looked at, for display.

    Of a long clip these are the frames in use, and the sharpest and the least sharp one of each stretch.
    """
    values = np.exp(relative(seen.sharpness, seen.part(), _SHOWN_REACH))
    rows = np.flatnonzero(np.isfinite(values))
    if len(rows) > _MOST_SHOWN:
        stretches = np.array_split(rows, _MOST_SHOWN // 2)
        rows = np.array([side(stretch, key=lambda row: values[row]) for stretch in stretches for side in (min, max)])
    used = np.flatnonzero(np.isin(seen.indices, choice.used) & np.isfinite(values))
    return tuple((float(times[seen.indices[row]]), float(values[row])) for row in np.union1d(rows, used))


def decided_by_pixels(select: FrameConfig) -> bool:
    """Whether the choice needs a look at the frames."""
    return select.sharpest and (select.num_frames_target > 0 or select.fps is not None)


def inside_range(times: np.ndarray, select: FrameConfig) -> np.ndarray:
    """(n,) increasing time stamps -> int64 indices of the frames inside [start, end]."""
    tolerance = 1e-6
    inside = times >= select.start - tolerance
    if select.end is not None:
        inside &= times <= select.end + tolerance
    return np.flatnonzero(inside)


def _candidates(times: np.ndarray, select: FrameConfig, unit: str) -> np.ndarray:
    candidates = inside_range(times, select)
    if len(candidates) < 2:
        raise InputError(
            f"--start {select.start:g} --end {'' if select.end is None else format(select.end, 'g')} leaves "
            f"{len(candidates)} of {len(times)} frames (the source runs from 0 to {times[-1]:.4g} {unit}): "
            "at least 2 are needed, widen the range"
        )
    return candidates


def _evenly(stamps: np.ndarray, select: FrameConfig) -> tuple[np.ndarray, np.ndarray, float]:
    """(n,) time stamps -> positions of the evenly spaced frames, the (F,) times that they stand for, and their step."""
    if select.fps is not None:
        chosen, targets = _at_rate(stamps, select.fps)
        if len(chosen) < 2:
            raise InputError(
                f"--fps {select.fps:g} leaves one frame of a clip of {stamps[-1] - stamps[0]:.4g} s: "
                "give a higher rate or --num-frames-target"
            )
        return chosen, targets, 1.0 / select.fps
    if 0 < select.num_frames_target < len(stamps):
        targets = np.linspace(stamps[0], stamps[-1], select.num_frames_target)
        return _separate(_nearest(stamps, targets), len(stamps)), targets, float(targets[1] - targets[0])
    return np.arange(len(stamps)), stamps, 0.0


def _at_rate(stamps: np.ndarray, fps: float) -> tuple[np.ndarray, np.ndarray]:
    if not np.isfinite(fps):
        raise InputError(f"--fps {fps}: must be a positive number")
    if 1.0 / fps <= np.diff(stamps).min():
        return np.arange(len(stamps)), stamps
    targets = stamps[0] + np.arange(int((stamps[-1] - stamps[0]) * fps + 1e-6) + 1) / fps
    chosen, first = np.unique(_nearest(stamps, targets), return_index=True)
    return chosen, targets[first]


def _nearest(stamps: np.ndarray, targets: np.ndarray) -> np.ndarray:
    right = np.clip(np.searchsorted(stamps, targets), 1, len(stamps) - 1)
    return np.where(targets - stamps[right - 1] <= stamps[right] - targets, right - 1, right)


def _separate(indices: np.ndarray, count: int) -> np.ndarray:
    """Make non-decreasing indices below ``count`` strictly increasing by small moves."""
    steps = np.arange(len(indices))
    indices = np.maximum.accumulate(indices - steps) + steps
    ceiling = count - len(indices) + steps
    return np.minimum(indices, ceiling)


def _moving_clock(stamps: np.ndarray, run: np.ndarray) -> np.ndarray:
    """Time stamps of a clock that stands while the picture does."""
    moves = np.concatenate([[False], np.diff(run) > 0])
    return np.cumsum(np.where(moves, np.diff(stamps, prepend=stamps[0]), 0.0))


@dataclass(frozen=True)
class _Clock:
    """The time that frames are spaced in."""

    stamps: np.ndarray
    targets: np.ndarray
    step: float


def _sharpest(clock: _Clock, even: np.ndarray, energy: np.ndarray, part: np.ndarray, run: np.ndarray) -> np.ndarray:
    """Positions of the frames to take in place of the ``even`` ones; strictly increasing like these."""
    half = clock.step / 2 * (1 + 1e-9)
    picked = even.copy()
    for k, (nearest, target) in enumerate(zip(even, clock.targets)):
        if not np.isfinite(energy[nearest]):
            continue  # an image that cannot be used: reading it says why
        before = int(picked[k - 1]) if k else -1
        after = int(even[k + 1]) if k + 1 < len(even) else len(energy)
        around = np.arange(before + 1, after)
        allowed = np.isfinite(energy[around]) & (part[around] == part[nearest])
        allowed &= np.abs(clock.stamps[around] - target) <= half
        if k:
            allowed &= (clock.stamps[around] >= clock.stamps[before] + clock.step / 2 * (1 - 1e-9)) & (
                run[around] > run[before]
            )
        if k + 1 < len(even):
            allowed &= run[around] < run[after]
        around = around[allowed | (around == nearest)]
        level = energy[around] - (around - nearest) * _drift(clock, energy, part, int(nearest))
        good = around[level >= level.max() - NOTABLE]
        picked[k] = good[np.argmin(np.abs(good - nearest))]
    return picked


def _drift(clock: _Clock, energy: np.ndarray, part: np.ndarray, at: int) -> float:
    """By how much the energy changes from frame to frame up to a step away, because what is in the picture changes.

    The median of the slopes between all pairs (Theil-Sen), which blurred frames hardly change.
    """
    near = np.abs(clock.stamps - clock.stamps[at]) <= clock.step
    rows = np.flatnonzero(near & (part == part[at]) & np.isfinite(energy))
    rows = rows[:: -(-len(rows) // _MOST_COMPARED)]
    one, other = np.triu_indices(len(rows), 1)
    if not len(one):
        return 0.0
    return float(np.median((energy[rows[other]] - energy[rows[one]]) / (rows[other] - rows[one])))
