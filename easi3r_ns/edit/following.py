"""The same object in the other frames of its clip."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..core.scene import Scene
from ..motion.propagate import follow_region
from .pointing import rows_beside
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
