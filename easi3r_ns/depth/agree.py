"""Depth that several views measured, each for itself, and on which they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .arrays import Array, Operations
from .sweep import SweepView, seen_at

SAME = 0.015
"""Relative difference of two depths of one point up to which they agree."""
SURFACE = 0.03
"""Relative step of depth between neighbouring pixels that separates two surfaces."""
SPECKLE_PIXELS = 60
"""A surface of fewer pixels is a chance agreement."""


@dataclass(frozen=True)
class Measured:
    """A view and what was measured in it."""

    view: SweepView
    inverse_depth: Array
    """(H, W), 0 where nothing was measured."""


def agreement(ops: Operations, own: Measured, others: Sequence[Measured]) -> tuple[Array, Array]:
    """Which other views saw the points of a view where it saw them: (H, W) inverse depth, (H, W) how many agree.

    The inverse depth is that of the mean depth of all that agree, the view itself among them.
    """
    xp = ops.xp
    inverse = own.inverse_depth
    count = xp.zeros_like(inverse)
    ratios = xp.ones_like(inverse)
    for other in others:
        x, y, nearer = seen_at(ops, own.view, other.view)(inverse)
        there = _measured_at(ops, other.inverse_depth, x, y)
        # Over 1: the other view saw something behind the point.
        ratio = inverse * nearer / xp.clip(there, 1e-9, None)
        same = (there > 0) & (inverse > 0) & (xp.abs(ratio - 1) < SAME)
        count = count + ops.mark(same)
        ratios = ratios + ratio * ops.mark(same)
    return inverse * (1 + count) / ratios, count


def _measured_at(ops: Operations, inverse: Array, x: Array, y: Array) -> Array:
    """(H, W) inverse depth at the places (x, y): between the pixels of one surface, else of the nearest; 0 unknown."""
    nearest = ops.look_up_nearest(inverse, x, y)
    between = ops.look_up(inverse, x, y)
    return ops.xp.where(ops.xp.abs(between - nearest) < SURFACE * nearest, between, nearest)


def without_speckles(depth: np.ndarray) -> np.ndarray:
    """(H, W) float32 depth, 0 where unknown -> the same without surfaces of a few pixels."""
    known = depth > 0
    if not known.any():
        return depth
    level = np.full(depth.shape, -1, dtype=np.int16)
    # Steps of equal relative size; 4 a surface step, so that rounding hardly matters.
    scaled = np.log(depth[known] / depth[known].min()) * (4 / np.log1p(SURFACE))
    level[known] = np.minimum(np.rint(scaled), np.iinfo(np.int16).max).astype(np.int16)
    cv2.filterSpeckles(level, -1, SPECKLE_PIXELS, 4)
    return np.where(level >= 0, depth, 0).astype(np.float32)
