"""Which region a click points at."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from ..core.scene import Scene
from ..motion.two_view.superpixels import segment
from .marks import piece_at

_KEPT = 16
"""Frames whose superpixels are kept: they take 0.1 to 0.5 s to find."""


class Pointer:
    """Regions of the frames of a scene."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._labels: OrderedDict[int, np.ndarray] = OrderedDict()

    def region(self, frame: int, at: tuple[int, int], mask: np.ndarray) -> np.ndarray:
        """(H, W) bool region around a pixel (row, column): what of its object hangs together, or of the mask, or,
        where nothing moves, its superpixel.

        Args:
            mask: (H, W) bool, the corrected mask of the frame.
        """
        objects = self._scene.dynamic.objects
        if mask[at]:
            own = objects is not None and objects[frame][at]
            return piece_at(mask & (objects[frame] == own) if objects is not None and own else mask, at)
        labels = self.superpixels(frame)
        return (labels == labels[at]) & ~mask

    def superpixels(self, frame: int) -> np.ndarray:
        """(H, W) regions of one surface each, as numbers."""
        if frame not in self._labels:
            self._labels[frame] = segment(self._scene.images[frame])[0]
            while len(self._labels) > _KEPT:
                self._labels.popitem(last=False)
        self._labels.move_to_end(frame)
        return self._labels[frame]


def rows_beside(scene: Scene, frame: int) -> np.ndarray:
    """Increasing rows of the frames in which an object of a frame can be followed, with the frame itself: those of its
    clip, and of its view of a sphere."""
    same = np.ones(len(scene), dtype=bool)
    if scene.clip is not None:
        same &= scene.clip == scene.clip[frame]
    if scene.rig is not None:
        same &= scene.rig.view == scene.rig.view[frame]
    return np.flatnonzero(same)
