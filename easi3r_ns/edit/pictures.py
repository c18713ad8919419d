"""Pictures that the page shows: frames, small frames with what moves, and masks, as files in memory."""

from __future__ import annotations

import cv2
import numpy as np

from ..core.objects import PALETTE, object_colours
from ..core.scene import Scene
from ..report.pictures import panel_size, photo
from ..storage.png import encode_png
from ..view.colors import several_objects, tint

LONGEST = 1600
"""Most pixels of a picture's longer side."""
THUMB_HEIGHT = 90
_NO_LIMIT = 2**20
_QUALITY, _THUMB_QUALITY = 85, 70
MOVING = PALETTE[0]
"""Vermilion: told apart from most footage by people of every kind of colour vision."""


def frame_picture(scene: Scene, frame: int) -> bytes:
    """JPEG of what the network saw of a frame, at the resolution of its source, up to :data:`LONGEST`."""
    full = panel_size(scene, _NO_LIMIT)
    size = panel_size(scene, round(full[0] * min(1.0, LONGEST / max(full))))
    return _jpeg(photo(scene, frame, size), _QUALITY)


def small_picture(scene: Scene, frame: int, mask: np.ndarray) -> bytes:
    """JPEG of a frame in the strip, with what moves tinted; ``mask`` (H, W) bool."""
    image, objects = scene.images[frame], several_objects(scene, frame)
    marks = MOVING if objects is None else np.where(objects[..., None] > 0, object_colours(objects), MOVING)
    width = max(1, round(THUMB_HEIGHT * image.shape[1] / image.shape[0]))
    shown = np.where(mask[..., None], tint(image, marks), image)
    return _jpeg(cv2.resize(shown, (width, THUMB_HEIGHT), interpolation=cv2.INTER_AREA), _THUMB_QUALITY)


def found_picture(found: np.ndarray, objects: np.ndarray | None) -> bytes:
    """PNG (H, W) of grey levels: 0 where nothing moves, else the id of the object, at most 255; 255 without ids."""
    if objects is None:
        return encode_png(found.astype(np.uint8) * 255)
    ids = np.minimum(objects, 254).astype(np.uint8)
    return encode_png(np.where(found & (ids == 0), np.uint8(255), np.where(found, ids, 0).astype(np.uint8)))


def marks_picture(marks: np.ndarray) -> bytes:
    """PNG (H, W) of the marks of a frame, see :mod:`.marks`."""
    return encode_png(marks)


def _jpeg(image: np.ndarray, quality: int) -> bytes:
    ok, encoded = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert ok, f"JPEG of {image.shape}"
    return encoded.tobytes()
