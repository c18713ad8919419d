"""The pictures of a scene as a sweep reads them: grey, without distortion, in two sizes, movers marked."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

import cv2
import numpy as np

from ..core.scene import Scene
from .arrays import Operations
from .pinhole import PinholeGrid, pinhole_grid
from .sweep import SweepView

COARSE = 0.5
"""Size of the small picture."""


@dataclass(frozen=True)
class TwoSizes:
    """One frame, coarse and fine."""

    coarse: SweepView
    fine: SweepView


class SceneViews:
    """Pictures by frame, made when they are asked for, by one thread at a time; only the last ``most`` are held."""

    def __init__(self, scene: Scene, ops: Operations, most: int) -> None:
        self.ops = ops
        self._scene, self._most = scene, most
        self._grids: dict[float, PinholeGrid] = {}
        self._held: OrderedDict[int, TwoSizes] = OrderedDict()
        self._lock = Lock()

    def grid(self, frame: int) -> PinholeGrid:
        """The pinhole grid of a frame; frames of one focal length share theirs."""
        focal = float(self._scene.focals[frame])
        if focal not in self._grids:
            self._grids[focal] = pinhole_grid(self._scene, frame)
        return self._grids[focal]

    def __getitem__(self, frame: int) -> TwoSizes:
        with self._lock:
            return self._get(frame)

    def _get(self, frame: int) -> TwoSizes:
        if frame in self._held:
            self._held.move_to_end(frame)
            return self._held[frame]
        while len(self._held) >= self._most:
            self._held.popitem(last=False)
        self._held[frame] = self._make(frame)
        return self._held[frame]

    def _make(self, frame: int) -> TwoSizes:
        grid, pose = self.grid(frame), self._scene.T_world_cam[frame]
        grey = cv2.cvtColor(self._scene.images[frame], cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
        image, still = grid.picture(grey), grid.still(~self._scene.dynamic.masks[frame])
        small, small_still, small_K = _smaller(image, still, grid.K)
        coarse = sweep_view(self.ops, small, small_still, small_K, pose)
        return TwoSizes(coarse, sweep_view(self.ops, image, still, grid.K, pose))


def sweep_view(
    ops: Operations, image: np.ndarray, still: np.ndarray, K: np.ndarray, T_world_cam: np.ndarray
) -> SweepView:
    """A view from (H, W) grey values and 1 where the picture is known and stands still."""
    sure = cv2.boxFilter(still, -1, (3, 3), borderType=cv2.BORDER_REPLICATE) > 0.999
    return SweepView(ops.put(image), ops.put(still), ops.put(sure), K, np.linalg.inv(T_world_cam))


def _smaller(image: np.ndarray, still: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    height, width = image.shape
    size = max(1, round(width * COARSE)), max(1, round(height * COARSE))
    scale = np.array([size[0] / width, size[1] / height])
    small_K = K.copy()
    small_K[:2] *= scale[:, None]
    small_K[:2, 2] += 0.5 * scale - 0.5  # pixel centres at integers, before and after
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    share = cv2.resize(still, size, interpolation=cv2.INTER_AREA)
    return small, (share > 0.999).astype(np.float32), small_K
