"""The same object in the other frames of its clip."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..core.scene import Scene
from ..motion.propagate import follow_region
from .session import Follow


def follower(scene: Scene) -> Follow:
    """What follows a region through the frames of a scene: of several clips in its own, of views of a sphere in its own
    view.
    """

    def follow(frame: int, region: np.ndarray, advance: Callable[[int], None]) -> Mapping[int, np.ndarray]:
        rows = rows_beside(scene, frame)
        at = int(np.flatnonzero(rows == frame)[0])
        found = follow_region(scene.images[rows], region, at, advance=advance)
        return {int(row): found[k] for k, row in enumerate(rows) if k != at}

    return follow


def rows_beside(scene: Scene, frame: int) -> np.ndarray:
    """Increasing rows of the frames in which an object of a frame can be followed, with the frame itself."""
    same = np.ones(len(scene), dtype=bool)
    if scene.clip is not None:
        same &= scene.clip == scene.clip[frame]
    if scene.rig is not None:
        same &= scene.rig.view == scene.rig.view[frame]
    return np.flatnonzero(same)
