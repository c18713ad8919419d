"""``--mask-scope ever``: what moves at some time is masked at all times.

An object that rests before or after it moves, or of which only a part moves, is followed forwards and backwards from
the frames in which it moves as a whole, by optical flow and superpixels. Four things keep it from spreading into the
background: only flow that returns carries pixels, a superpixel joins by the majority of its pixels, it has to have the
colours of the object rather than those around it, and an object that grows beyond its size is given up, as is one that
flow does not follow, at a cut for example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np

from ..core.runlog import RunLog
from .edges import disc
from .flow.provider import FlowProvider
from .objects import link_objects, returning
from .two_view.superpixels import segment

LEAST_SEEN = 5
"""Frames in which an object has to move: errors of masks are shorter as a rule, and would be copied into all frames."""
WHOLE = 0.6
"""Share of what flow brings of an object, or of its usual area, from which on it moves as a whole and needs no help."""
USUAL = 90
"""Percentile of its areas over the clip that is the usual one."""
STEP = 0.004
"""How far the border of an object may move outwards from one frame to the next, as a share of the longer side."""
FOLLOWED = 0.5
"""Least share of an object that flow has to carry from one frame to the next."""
MAJORITY = 0.5
"""Share of a superpixel's followed pixels that have to come from the object."""
GROWTH = 1.25
"""An object that becomes larger than this times its area when it moved has run out into the background."""
SURROUNDINGS = 0.08
"""How far around an object colours are those of the background, as a share of the longer side."""
_BINS = 8
_RARE = 1e-3
"""Added to the histograms of colours, so that a colour that was not seen tells little."""


@dataclass(frozen=True)
class FollowedObject:
    """An object on its way through the frames in which it does not move as a whole."""

    region: np.ndarray
    """(H, W) bool."""
    area: float
    """When it moved as a whole."""
    likeness: np.ndarray
    """(_BINS^3,) logarithm of how much likelier a colour is on the object than around it."""


def at_all_times(
    images: np.ndarray, masks: np.ndarray, clips: Sequence[range], provider: FlowProvider, log: RunLog
) -> np.ndarray:
    """Masks in which what moves at some time of a clip is marked at all times at which it can be followed.

    Args:
        images: (F, H, W, 3) uint8 RGB.
        masks: (F, H, W) bool, True where something moves.
        clips: rows of each clip, in the order of time.

    Returns:
        (F, H, W) bool, which hold ``masks``.
    """
    objects = link_objects(images, masks, clips, provider, log)
    out = masks.copy()
    with log.stage("masks at all times", total=2 * len(masks)) as advance:
        for clip in clips:
            usual = _usual_areas(objects[clip.start : clip.stop])
            for order in (list(clip), list(clip)[::-1]):
                _follow(images, objects, usual, order, out, provider)
                advance(len(clip))
    return out


def _usual_areas(objects: np.ndarray) -> dict[int, float]:
    """Number of each object that moves long enough: its usual area in pixels."""
    found: dict[int, float] = {}
    for number in np.unique(objects[objects > 0]).tolist():
        areas = (objects == number).sum(axis=(1, 2))
        if (areas > 0).sum() >= LEAST_SEEN:
            found[number] = float(np.percentile(areas[areas > 0], USUAL))
    return found


def _follow(
    images: np.ndarray,
    objects: np.ndarray,
    usual: dict[int, float],
    order: list[int],
    out: np.ndarray,
    provider: FlowProvider,
) -> None:
    """Mark in ``out`` what is followed through the rows in ``order``."""
    followed: dict[int, FollowedObject] = {}
    for before, row in zip([None, *order], order):
        step = None
        if followed and before is not None:
            step = FlowStep(images[row], *returning(images[row], images[before], provider))
        for number, area in usual.items():
            own, one = objects[row] == number, followed.pop(number, None)
            came = None if one is None or step is None else step.carried(one.region)
            whole = own.sum() >= WHOLE * (area if came is None else came.sum())
            if whole:
                followed[number] = FollowedObject(
                    own, float(own.sum()), likeness_of(images[row], own, objects[row] > 0)
                )
            elif one is not None and step is not None and came is not None:
                region = step.snapped(came, one)
                if region is not None:
                    out[row] |= region
                    followed[number] = replace(one, region=region | own)


class FlowStep:
    """From one frame to the next.

    Args:
        image: (H, W, 3) uint8 RGB of the next frame.
        back: (H, W, 2) flow from it to the frame before.
        returns: (H, W) bool: where the flow of the frame before leads back.
    """

    def __init__(self, image: np.ndarray, back: np.ndarray, returns: np.ndarray) -> None:
        self._image, self._returns = image, returns
        height, width = returns.shape
        y, x = np.indices(returns.shape)
        self._x = np.clip(np.rint(x + back[..., 0]).astype(int), 0, width - 1)
        self._y = np.clip(np.rint(y + back[..., 1]).astype(int), 0, height - 1)

    @cached_property
    def _labels(self) -> np.ndarray:
        return segment(self._image)[0]

    def carried(self, region: np.ndarray) -> np.ndarray | None:
        """(H, W) pixels that flow brings from a region; None where it follows too few."""
        came = region[self._y, self._x] & self._returns
        return came if came.sum() >= FOLLOWED * region.sum() else None

    def snapped(self, came: np.ndarray, one: FollowedObject) -> np.ndarray | None:
        """(H, W) superpixels of an object, near to what flow brought; None where it has run out or vanished."""
        flat, count = self._labels.ravel(), int(self._labels.max()) + 1
        total = np.bincount(flat, weights=self._returns.ravel(), minlength=count)
        share = np.bincount(flat, weights=came.ravel(), minlength=count) / np.maximum(total, 1)
        alike = np.bincount(flat, weights=one.likeness[cells_of(self._image)].ravel(), minlength=count)
        near = cv2.dilate(came.astype(np.uint8), disc(max(1, round(STEP * max(came.shape))))) > 0
        region = ((share >= MAJORITY) & (alike >= 0))[self._labels] & near
        return region if 0 < region.sum() <= GROWTH * one.area else None


def likeness_of(image: np.ndarray, region: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """(bins,) log ratio of how common each colour, as in :func:`cells_of`, is in a region and in what stands around it.

    Args:
        image: (H, W, 3) uint8.
        region, moving: (H, W) bool; what moves is not what stands around.
    """
    radius = max(2, round(SURROUNDINGS * max(region.shape)))
    around = (cv2.dilate(region.astype(np.uint8), disc(radius)) > 0) & ~moving
    cells = cells_of(image)
    own, other = (np.bincount(cells[part], minlength=_BINS**3) / max(part.sum(), 1) for part in (region, around))
    return np.log((own + _RARE) / (other + _RARE))


def cells_of(image: np.ndarray) -> np.ndarray:
    """(H, W) cell of each pixel's colour."""
    cells = (image.astype(np.int64) * _BINS) >> 8
    return (cells[..., 0] * _BINS + cells[..., 1]) * _BINS + cells[..., 2]
