"""``preview.mp4``: every frame, the same with what moves tinted, and its depth, side by side."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from ..core.scene import Scene
from ..core.workers import ordered
from ..storage.video import write_video
from ..view.colors import several_objects
from .pictures import depth_picture, depth_range, outlined, panel_size, photo

PANEL_WIDTH = 480
"""Largest width in pixels of each of the pictures side by side."""
FRAME_RATES = (6, 30)
"""Slowest and fastest playback in frames per second; in between, the clip plays at its own speed."""


def write_preview(scene: Scene, path: Path, advance: Callable[[int], None] = lambda steps: None) -> Path:
    """Write a video of the whole scene to ``path``, atomically, and return the path.

    Frame, mask overlay and, where the scene has any, depth stand side by side, as the network saw them. The same scene
    gives identical bytes. Raises OutputError.
    """
    size, limits = panel_size(scene, PANEL_WIDTH), depth_range(scene)
    pictures = ordered(lambda frame: side_by_side(scene, frame, size, limits), range(len(scene)))
    return write_video(path, pictures, playback_rate(scene.times), advance)


def playback_rate(times: np.ndarray) -> Fraction:
    """Frames per second for the (F,) seconds of the frames: the clip's own rate, within :data:`FRAME_RATES`."""
    gaps = np.diff(times)
    gaps = gaps[gaps > 0]
    rate = 1 / float(np.median(gaps)) if len(gaps) else float(FRAME_RATES[0])
    return Fraction(float(np.clip(rate, *FRAME_RATES))).limit_denominator(1000)


def side_by_side(scene: Scene, frame: int, size: tuple[int, int], limits: tuple[float, float]) -> np.ndarray:
    """(h, 2 w or 3 w, 3) RGB of one frame; ``size`` is (w, h) of each picture, ``limits`` the nearest and farthest."""
    image = photo(scene, frame, size)
    parts = [image, outlined(image, scene.dynamic.masks[frame], several_objects(scene, frame))]
    if scene.has_depth:
        parts.append(cv2.resize(depth_picture(scene, frame, limits), size, interpolation=cv2.INTER_NEAREST))
    return np.concatenate(parts, axis=1)
