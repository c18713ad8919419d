"""Ids of moving objects, as arrays: 0 where nothing moves. Their colours, and what is said of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt

PALETTE = np.array(
    [[213, 94, 0], [0, 114, 178], [240, 228, 66], [204, 121, 167], [0, 158, 115], [86, 180, 233], [230, 159, 0]],
    dtype=np.uint8,
)
"""RGB of objects 1 to 7, and again from 8 on: colours that people of every kind of colour vision tell apart (Okabe and
Ito, 2008), in an order in which neighbours differ most."""
COLOUR_NAMES = ("vermilion", "blue", "yellow", "purple", "green", "sky blue", "orange")


def object_colours(ids: np.ndarray) -> np.ndarray:
    """(...) ids from 1 -> (..., 3) uint8 RGB; that of 0 means nothing."""
    return PALETTE[(ids.astype(np.int64) - 1) % len(PALETTE)]


def nearest_numbers(numbers: np.ndarray) -> np.ndarray:
    """(H, W) -> the same with every 0 replaced by the nearest number; all 0 stays all 0."""
    if not numbers.any():
        return numbers
    rows, columns = distance_transform_edt(numbers == 0, return_distances=False, return_indices=True)
    return numbers[rows, columns]


def object_facts(objects: np.ndarray) -> list[dict[str, Any]]:
    """Of each object of (F, H, W) ids its id, first and last row, number of frames, and largest share of a picture."""
    facts: dict[int, dict[str, Any]] = {}
    for row, frame in enumerate(objects):
        found, areas = np.unique(frame, return_counts=True)
        for number, area in zip(found.tolist(), areas.tolist(), strict=True):
            if number:
                own = facts.setdefault(number, {"id": number, "first": row, "last": row, "frames": 0, "share": 0.0})
                own |= {"last": row, "frames": own["frames"] + 1, "share": max(own["share"], area / frame.size)}
    return [facts[number] for number in sorted(facts)]
