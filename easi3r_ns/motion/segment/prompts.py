"""Prompts for models that take points and boxes: what lies well inside a mask, and the box around it."""

from __future__ import annotations

import cv2
import numpy as np

MOST_POINTS = 3


def inner_points(mask: np.ndarray, count: int = MOST_POINTS) -> np.ndarray:
    """(N, 2) x, y of pixels inside a mask (h, w) with at least one True pixel, the furthest from its border first.

    Each further point is the furthest from the border and from the points before it, so that an arm of the mask gets a
    point of its own; points that would touch the border are left out, except for the first. N is 1 to ``count``.
    """
    # The edge of the picture counts as a border: what lies there is cut off, and says less of the object.
    inside = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    points: list[tuple[int, int]] = []
    left = inside.copy()
    while len(points) < count:
        y, x = np.unravel_index(int(np.argmax(left)), left.shape)
        if points and inside[y, x] <= 1.5:
            break
        points.append((int(x), int(y)))
        rows, columns = np.indices(mask.shape)
        away = np.hypot(rows - y, columns - x) - inside[y, x]
        left = np.minimum(left, np.maximum(away, 0))
    return np.array(points, dtype=np.float32)


def bounding_box(mask: np.ndarray) -> np.ndarray:
    """(4,) float32 left, top, right, bottom edges of the pixels of a mask with at least one True pixel."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float32)
