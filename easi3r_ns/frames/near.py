"""Source frames around the frames of a clip: optical flow is followed from frame to frame as the clip was filmed.

The frames that are used may lie far apart; flow cannot follow what changes between them. Their neighbours in the source
are kept in a small size beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..core.types import Frames, PixelMap
from ..storage.files import read_png
from .preprocess import resize_and_crop, shrink

NEAR_GAPS = (1, 2, 4, 8)
"""Source frames between a frame and those that are kept for it, before and after it."""
NEAR_SIDE = 512
"""Pixels of the longer side of what is kept of them, at most: the size of the networks in which flow is followed."""


@dataclass(frozen=True)
class Shot:
    """Frames of one uninterrupted shot, and source frames around them; all of one size."""

    places: np.ndarray
    """(F,) int64 place of each frame in the source, increasing."""
    near: np.ndarray
    """(N,) int64 places of the source frames around them; none of them is in ``places``."""
    image: Callable[[int], np.ndarray]
    """Place of any of these -> (H, W, 3) uint8 RGB."""

    def with_frames(self, rows: np.ndarray) -> Shot:
        """Only some of the frames, by their rows; the others become source frames around them."""
        places = self.places[rows]
        return replace(self, places=places, near=np.setdiff1d(np.union1d(self.places, self.near), places))

    @classmethod
    def of(cls, images: np.ndarray) -> Shot:
        """(F, H, W, 3) consecutive frames, of whose source nothing else is known."""
        return cls(np.arange(len(images)), np.empty(0, dtype=np.int64), lambda place: images[place])


def near_indices(used: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Increasing (N,) int64 indices of the source frames to keep around the ``used`` ones, out of those ``inside``."""
    around = np.concatenate([used + side * gap for gap in NEAR_GAPS for side in (-1, 1)])
    return np.setdiff1d(np.intersect1d(around, inside), used)


def near_size(image: np.ndarray, side: int = NEAR_SIDE) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> the same picture with at most ``side`` pixels along the longer side."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return image
    return shrink(image, (round(width * scale), round(height * scale)))


def near_places(frames: Frames) -> tuple[list[int], list[int]]:
    """Places of the frames and of the source frames around them: with the images, what decides a :class:`Shot`."""
    return frames.places.tolist(), [] if frames.near is None else frames.near.places.tolist()


def shot(frames: Frames, rows: range, image: Callable[[int], np.ndarray], pixel_map: PixelMap) -> Shot:
    """The frames ``rows`` of one source, with the source frames around them.

    Args:
        image: row of ``frames`` -> its image under ``pixel_map``, which becomes that of the near frames too.
    """
    places = frames.places[rows.start : rows.stop]
    row_of = dict(zip(places.tolist(), rows, strict=True))
    if frames.near is None:
        near, paths = np.empty(0, dtype=np.int64), {}
    else:
        first = 0 if frames.offsets is None else int(frames.offsets[rows.start])
        # Near frames of other sources lie before this one's first frame, or among those of the next one.
        later = [] if frames.offsets is None else frames.offsets[frames.offsets > first].tolist()
        own = (frames.near.places >= first) & (frames.near.places < min(later, default=np.inf))
        near = frames.near.places[own]
        paths = {int(frames.near.places[k]): frames.near.paths[k] for k in np.flatnonzero(own)}

    def read(place: int) -> np.ndarray:
        if place in row_of:
            return image(row_of[place])
        near_image = read_png(paths[place])
        height, width = near_image.shape[:2]
        return resize_and_crop(near_image, replace(pixel_map, source_wh=(width, height)))

    return Shot(places, near, read)
