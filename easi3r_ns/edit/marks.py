"""What a hand has said about pixels, and regions that it points at: brush strokes, boxes, shapes in between.

Marks of a frame are (H, W) uint8 on the network grid: :data:`MOVES`, :data:`STILL` or, everywhere else,
:data:`AS_FOUND`. Places (x, y) are in network pixels from the picture's upper left corner: the first pixel covers 0 to
1.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from scipy import ndimage

MOVES, AS_FOUND, STILL = 0, 128, 255
VALUES = {"moves": MOVES, "still": STILL, "as found": AS_FOUND}
"""Name of a value in requests of the page and in the history -> its grey level."""
_SHIFT = 4
"""Binary digits after the point in OpenCV's drawing."""
_ONE = (1,)
_NEIGHBOURS = np.ones((3, 3), dtype=bool)

Place = tuple[float, float]


def no_marks(shape: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8 of a frame that nobody has touched."""
    return np.full(shape, AS_FOUND, dtype=np.uint8)


def corrected(found: np.ndarray, marks: np.ndarray | None) -> np.ndarray:
    """(H, W) bool automatic mask and marks -> the corrected mask."""
    return found if marks is None else (found & (marks != STILL)) | (marks == MOVES)


def stroke(shape: tuple[int, int], places: Sequence[Place], radius: float) -> np.ndarray:
    """(H, W) bool: what a round brush covers on its way through the places, at least one pixel where it is inside."""
    canvas = np.zeros(shape, dtype=np.uint8)
    # OpenCV's integers are pixel centres.
    fixed = np.rint((np.array(places, dtype=float).reshape(-1, 2) - 0.5) * 2**_SHIFT).astype(int)
    for start, stop in zip(fixed[:-1].tolist(), fixed[1:].tolist(), strict=True):
        cv2.line(canvas, start, stop, _ONE, max(1, round(2 * radius)), cv2.LINE_8, _SHIFT)
    size = round(max(radius - 0.5, 0) * 2**_SHIFT)
    for centre in (fixed[0], fixed[-1]):
        cv2.circle(canvas, centre.tolist(), size, _ONE, cv2.FILLED, cv2.LINE_8, _SHIFT)
    return canvas.astype(bool)


def box(shape: tuple[int, int], one: Place, other: Place) -> np.ndarray:
    """(H, W) bool: the pixels with their centres between two opposite corners."""
    height, width = shape
    (left, right), (top, bottom) = (sorted((one[axis], other[axis])) for axis in (0, 1))
    columns, rows = np.arange(width) + 0.5, np.arange(height) + 0.5
    return ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))[None]


def pixel_at(shape: tuple[int, int], place: Place) -> tuple[int, int]:
    """(row, column) of the pixel at a place, of the nearest one where that is outside."""
    return int(np.clip(place[1], 0, shape[0] - 1)), int(np.clip(place[0], 0, shape[1] - 1))


def piece_at(mask: np.ndarray, at: tuple[int, int]) -> np.ndarray:
    """The connected piece of a mask (H, W) bool around a pixel (row, column); empty where the mask is False there."""
    pieces, _ = ndimage.label(mask, _NEIGHBOURS)
    return (pieces == pieces[at]) & mask


def pieces_touching(mask: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The connected pieces of a mask (H, W) bool that have a pixel in a region (H, W) bool."""
    pieces, _ = ndimage.label(mask, _NEIGHBOURS)
    return mask & np.isin(pieces, np.unique(pieces[region & mask]))


def shape_between(one: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """(H, W) bool: the shape that lies between two, at ``share`` of the way from the one to the other.

    Both are moved to the place between their centres, and the mean of their signed distances decides ("Shape-based
    interpolation", Raya and Udupa, IEEE TMI 1990), so that a shape that has moved by more than its size does not
    vanish on the way. Empty where one of them is empty: nobody knows when it came.
    """
    if not one.any() or not other.any():
        return np.zeros(one.shape, dtype=bool)
    centres = [np.array(ndimage.center_of_mass(shape)) for shape in (one, other)]
    middle = (1 - share) * centres[0] + share * centres[1]
    distances = [
        _moved(_signed_distance(shape), middle - centre) for shape, centre in zip((one, other), centres, strict=True)
    ]
    return (1 - share) * distances[0] + share * distances[1] > 0


def _signed_distance(shape: np.ndarray) -> np.ndarray:
    """(H, W) pixels to the rim: positive inside, 0.5 where the neighbour is outside. The rim of the picture is none."""
    inside, outside = ndimage.distance_transform_edt(shape), ndimage.distance_transform_edt(~shape)
    return np.where(shape, inside - 0.5, 0.5 - outside)


def _moved(values: np.ndarray, by: np.ndarray) -> np.ndarray:
    return ndimage.shift(values, by, order=1, mode="nearest")
