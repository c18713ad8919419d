"""Which frames several scenes of one clip have in common, and their pixels on one grid."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .scene import Scene
from .types import PixelMap


def rows_by_frame(scene: Scene) -> dict[tuple[object, ...], int]:
    """What tells a frame apart (source, index, view, clip): its row in the scene."""
    views = [None] * len(scene) if scene.rig is None else scene.rig.view.tolist()
    clips = [None] * len(scene) if scene.clip is None else scene.clip.tolist()
    return {key: row for row, key in enumerate(zip(scene.names, scene.indices.tolist(), views, clips, strict=True))}


def shared_rows(scenes: Sequence[Scene]) -> list[np.ndarray]:
    """For each scene the (N,) rows of the frames that all have, in the order of the first one."""
    rows = [rows_by_frame(scene) for scene in scenes]
    shared = [key for key in rows[0] if all(key in own for own in rows)]
    return [np.array([own[key] for key in shared], dtype=int) for own in rows]


def on_grid(values: np.ndarray, own: PixelMap, other: PixelMap) -> np.ndarray:
    """(N, h, w) values on the network's grid of one scene -> (N, H, W) on that of another scene of the same clip.

    The nearest pixel counts; 0 or False where the first scene's crop does not reach. The source images may have
    different sizes.
    """
    width, height = other.network_wh
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    for axis, at in enumerate((x, y)):
        share = (at + other.crop_box[axis]) / other.resized_wh[axis]
        at[...] = share * own.resized_wh[axis] - own.crop_box[axis] - 0.5
    maps = x.astype(np.float32), y.astype(np.float32)
    plain = values.astype(np.uint8) if values.dtype == bool else values
    moved = [cv2.remap(image, *maps, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT) for image in plain]
    return np.stack(moved).astype(values.dtype)
