"""One object, marked in one frame, through all others: for corrections by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from .edges import disc, snap_to_edges
from .flow.dis import DISFlow
from .flow.provider import FlowProvider
from .objects import returning
from .scope import GROWTH, FlowStep, FollowedObject, cells_of, likeness_of

LARGEST = 4.0
"""Times its area when it was marked: an object that comes nearer may grow so far."""
LEAST = 0.3
"""Share of the expected area that has to be left: else it is hidden, or lost."""
HOLES = 0.012
"""Width of gaps in what flow brings that are closed, as a share of the longer side: where flow is wrong."""
STEADY = 0.2
"""Share of the area in a new frame in the area that is expected in the next one."""


def follow_region(
    images: np.ndarray,
    region: np.ndarray,
    frame: int,
    *,
    rows: range | None = None,
    provider: FlowProvider | None = None,
    advance: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Where a region of one frame is in the others.

    It is followed forwards and backwards from frame to frame by optical flow, in both directions of which it has to
    agree, and drawn to the borders of superpixels that have its colours. Where flow does not follow it, at a cut or
    when it is hidden, it ends: nothing is guessed beyond.

    Args:
        images: (F, H, W, 3) uint8 RGB in the order of time.
        region: (H, W) bool, of frame number ``frame``.
        rows: frames that may hold it, such as one of several clips; None: all.
        provider: default: DIS.
        advance: called after each of ``len(rows) - 1`` frames, for a display; what it raises ends the work.

    Returns:
        (F, H, W) bool, in ``frame`` the region itself.

    Raises:
        ValueError: the region is empty, has another shape, or its frame is not one of ``rows``.
    """
    rows, flow = range(len(images)) if rows is None else rows, provider or DISFlow()
    if region.shape != images.shape[1:3] or frame not in rows or not region.any():
        raise ValueError(f"region {region.shape} with {int(region.sum())} pixels in frame {frame} of {images.shape}")
    out = np.zeros(images.shape[:3], dtype=bool)
    out[frame] = region
    start = FollowedObject(region, float(region.sum()), likeness_of(images[frame], region, region))
    for order in (range(frame + 1, rows.stop), range(frame - 1, rows.start - 1, -1)):
        before = frame
        one: FollowedObject | None = start
        for row in order:
            found = None if one is None else _next(images, before, row, one, flow)
            if found is not None:
                out[row] = found.region
            if found is not None and found.area > LARGEST * start.area:
                found = None
            before, one = row, found
            if advance is not None:
                advance(1)
    return out


def _next(images: np.ndarray, before: int, row: int, one: FollowedObject, flow: FlowProvider) -> FollowedObject | None:
    """The object in frame ``row``, one away from ``before``; None where it is lost."""
    step = FlowStep(images[row], *returning(images[row], images[before], flow))
    came = step.carried(one.region)
    if came is None:
        return None
    snapped = step.snapped(came, one)
    radius = max(1, round(HOLES * max(came.shape)))
    whole = came if snapped is None else came | snapped
    whole = cv2.morphologyEx(whole.astype(np.uint8), cv2.MORPH_CLOSE, disc(radius)) > 0
    region = snap_to_edges(images[row : row + 1], whole[None])[0]
    if not LEAST * one.area <= region.sum() <= GROWTH * one.area:
        return None
    if one.likeness[cells_of(images[row])][region].mean() < 0:  # flow into what was behind it
        return None
    area = (1 - STEADY) * one.area + STEADY * float(region.sum())
    return replace(one, region=region, area=area)
