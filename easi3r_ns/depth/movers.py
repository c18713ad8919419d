"""Depth of what moves where it was not measured, assumed from where it stands: :func:`assume_depth`, for viewing only.

Stereo compares pictures of different moments and cannot measure what moves between them. A thing that stands on the
floor is about as far away as the floor at its feet, and that depth is known. Each connected moving region becomes a
plane parallel to the picture at this depth: an upright plane would need the direction of gravity, which is not known,
and differs from it only by the height of the thing times the sine of the camera's tilt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy.ndimage import find_objects, median_filter, uniform_filter1d

from ..core.scene import Scene

FOOT = 0.1
"""Share of a region's height, from its lowest pixel upwards, in which the lower end of a column counts as foot."""
REACH = 0.05
"""Share of the picture's height within which a known depth is looked for below the foot: the last rows before a mask
are often unknown, because the windows of stereo would reach into the mask there."""
LEAST_COLUMNS = 3
LEAST_SHARE = 0.3
"""Columns of the foot, and share of them, that must have a known depth below."""
SAME = 0.25
"""Least intersection over union of the masks of one thing in consecutive frames."""
MEDIAN, MEAN = 5, 3
"""Frames over which the inverse depth of a region is smoothed: first against outliers, then against noise."""


@dataclass(frozen=True)
class _Region:
    """One connected moving region of one frame."""

    frame: int
    label: int
    inverse: float
    """Inverse depth of what it stands on; NaN where that is not seen."""


def assume_depth(scene: Scene) -> Scene:
    """The scene with :attr:`~easi3r_ns.core.scene.Scene.assumed_depth` of what moves and has no depth.

    A region's depth is the median of the static depths just below its foot, smoothed over the frames through which it
    can be followed by the overlap of its masks. A region whose foot is not seen (outside the picture, or nothing known
    below it) takes the depth of the frames before and after, and none where there are none. What flies, or stands
    behind something static that hides its foot, gets the depth of what is seen below it, which is wrong.

    ``depth`` and ``confidence`` stay as they are. Without any known depth nothing is assumed.
    """
    inverse: list[dict[int, float]] = [{} for _ in range(len(scene))]
    for track in _tracks(scene):
        smooth = smoothed(np.array([region.inverse for region in track]))
        for region, value in zip(track, smooth, strict=True):
            inverse[region.frame][region.label] = float(value)
    assumed = np.zeros_like(scene.depth)
    for frame, known in enumerate(inverse):
        # The labels are computed again: those of all frames together would take as much memory as the depth.
        labels = regions(scene.dynamic.masks[frame])
        values = np.array([np.nan, *(known[label] for label in range(1, len(known) + 1))])[labels]
        placed = np.isfinite(values) & (scene.depth[frame] == 0)
        assumed[frame][placed] = 1 / values[placed]
    return replace(scene, assumed_depth=assumed if assumed.any() else None)


def regions(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool -> (H, W) int32: 1, 2, ... on the connected regions (8 neighbours), 0 outside."""
    return cv2.connectedComponents(np.ascontiguousarray(mask, dtype=np.uint8), connectivity=8)[1]


def depth_below(region: np.ndarray, depth: np.ndarray, reach: int) -> float:
    """Inverse depth of what a region stands on: the median over its foot; NaN where it is not seen.

    Args:
        region: (H, W) bool with at least one True pixel; if the last row has one, the foot is outside.
        depth: (H, W) z-depth of what stands still, 0 where unknown or moving.
        reach: rows below the foot in which a known depth is looked for.
    """
    height = len(region)
    columns = np.flatnonzero(region.any(axis=0))
    lowest = height - 1 - region[::-1, columns].argmax(axis=0)
    bottom = lowest.max()
    if bottom == height - 1:
        return float("nan")
    top = int(region.any(axis=1).argmax())
    foot = lowest >= bottom - FOOT * (bottom - top + 1)
    columns, lowest = columns[foot], lowest[foot]
    rows = lowest[:, None] + np.arange(1, reach + 1)
    below = np.where(rows < height, depth[np.minimum(rows, height - 1), columns[:, None]], 0)
    nearest = below[np.arange(len(columns)), (below > 0).argmax(axis=1)]
    known = nearest > 0
    if known.sum() < max(LEAST_COLUMNS, LEAST_SHARE * len(columns)):
        return float("nan")
    return float(np.median(1 / nearest[known]))


def smoothed(inverse: np.ndarray) -> np.ndarray:
    """(N,) inverse depths of one thing in consecutive frames, NaN where unknown -> (N,) smooth ones.

    All are NaN if none is known. Unknown ones lie on a line between their neighbours, or are equal to the nearest known
    one at the ends.
    """
    known = np.flatnonzero(np.isfinite(inverse))
    if not len(known):
        return np.full(len(inverse), np.nan)
    filled = np.interp(np.arange(len(inverse)), known, inverse[known])
    return uniform_filter1d(median_filter(filled, MEDIAN, mode="nearest"), MEAN, mode="nearest")


def same_regions(before: np.ndarray, after: np.ndarray) -> dict[int, int]:
    """Labels of consecutive frames (H, W) -> label before: label after, for regions that are the same thing.

    Each of the two is the other's best match by intersection over union, which is at least :data:`SAME`.
    """
    size = int(after.max()) + 1
    shared = np.bincount((before * size + after).ravel(), minlength=(int(before.max()) + 1) * size).reshape(-1, size)
    union = shared.sum(axis=1, keepdims=True) + shared.sum(axis=0) - shared
    overlap = (shared / np.maximum(union, 1))[1:, 1:]
    if not overlap.size:
        return {}
    best = overlap.argmax(axis=1)
    mutual = overlap.argmax(axis=0)[best] == np.arange(len(best))
    enough = overlap[np.arange(len(best)), best] >= SAME
    return {int(k) + 1: int(best[k]) + 1 for k in np.flatnonzero(mutual & enough)}


def _tracks(scene: Scene) -> Iterator[list[_Region]]:
    """Regions of consecutive frames that are the same thing, in the order of the frames."""
    open_tracks: dict[int, list[_Region]] = {}
    before = np.zeros(scene.depth.shape[1:], dtype=np.int32)
    for frame in range(len(scene)):
        labels = regions(scene.dynamic.masks[frame])
        if scene.clip is not None and frame and scene.clip[frame] != scene.clip[frame - 1]:
            before = np.zeros_like(before)  # nothing is followed from clip to clip
        followed = {after: open_tracks.pop(label) for label, after in same_regions(before, labels).items()}
        yield from open_tracks.values()
        found = _stand_on(labels, scene.depth[frame])
        open_tracks = {label: followed.get(label, []) for label in range(1, len(found) + 1)}
        for (label, track), inverse in zip(open_tracks.items(), found, strict=True):
            track.append(_Region(frame, label, inverse))
        before = labels
    yield from open_tracks.values()


def _stand_on(labels: np.ndarray, depth: np.ndarray) -> list[float]:
    """Inverse depth of what each region of a frame stands on, in the order of the labels."""
    still, reach = np.where(labels == 0, depth, 0), max(1, round(REACH * len(labels)))
    windows = [(slice(rows.start, rows.stop + reach), columns) for rows, columns in find_objects(labels)]
    return [depth_below(labels[window] == k, still[window], reach) for k, window in enumerate(windows, start=1)]
