"""Which frames and pixels stand for a whole clip."""

from __future__ import annotations

import numpy as np

from ..core.scene import Scene
from ..core.surface import solid_pixels


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` positions, evenly spaced, the first and the last among them."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))


def static_samples(scene: Scene, frame: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of about ``most`` static pixels of a frame, evenly spread, or of all where there are fewer.

    Their depth is trusted and away from depth edges.
    """
    rows, cols = np.nonzero(solid_pixels(scene, frame) & ~scene.dynamic.masks[frame])
    stride = max(1, len(rows) // most)
    return rows[stride // 2 :: stride], cols[stride // 2 :: stride]
