"""Pictures of frames for models that see them one by one."""

from __future__ import annotations

import numpy as np

from ..core.types import Frames, upright_again
from ..frames.preprocess import enlarged, resize_and_crop
from ..storage.files import read_png

_MOST_TIMES = 4
"""Pictures are read at so many times the frames' grid at most."""


def upright_picture(frames: Frames, row: int, side: int) -> tuple[np.ndarray, bool]:
    """(h, w, 3) uint8 RGB of what a frame shows on its grid, upright, and whether the frame lies on its side.

    ``side``: pixels of the shorter side that are wanted; the picture has about as many where its source has them.
    """
    shorter = min(frames.images.shape[1:3])
    most = max(1, min(_MOST_TIMES, int(1 / min(frames.pixel_map.scale_xy))))
    times = int(np.clip(round(side / shorter), 1, most))
    image = frames.images[row]
    if times > 1:
        image = resize_and_crop(read_png(frames.source_paths[row]), enlarged(frames.pixel_map, times))
    turned = frames.turned is not None and bool(frames.turned[row])
    return (upright_again(image) if turned else image), turned
