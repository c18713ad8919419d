"""Colours of points and images in each colour mode of the viewer."""

from __future__ import annotations

import numpy as np

from ..core.objects import object_colours
from ..core.scene import Scene
from .clouds import Cloud
from .config import ColorMode

MOVING = np.array([255, 45, 45])
"""RGB that marks what moves."""
_TINT = 0.55
"""Share of :data:`MOVING` in a tinted colour."""
_RAMP = np.array([[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]], dtype=float)
"""Dark to bright through violet, red and orange: every fifth of matplotlib's 'magma', which is CC0."""
_WHEEL = np.array([[53, 92, 255], [0, 190, 200], [60, 200, 70], [250, 200, 30], [245, 60, 40]], dtype=float)
"""Early to late: blue, cyan, green, yellow, red."""


def ramp(values: np.ndarray, anchors: np.ndarray = _RAMP) -> np.ndarray:
    """(...) values in [0, 1] -> (..., 3) uint8 along the anchors; values outside are clipped."""
    place = np.linspace(0, 1, len(anchors))
    return np.rint(np.stack([np.interp(values, place, column) for column in anchors.T], axis=-1)).astype(np.uint8)


def tint(colors: np.ndarray, marks: np.ndarray = MOVING) -> np.ndarray:
    """(..., 3) uint8 -> the same, tinted with ``marks``, (3,) or (..., 3) RGB."""
    return np.rint(colors * (1 - _TINT) + marks * _TINT).astype(np.uint8)


def several_objects(scene: Scene, frame: int) -> np.ndarray | None:
    """(H, W) ids of the objects of a frame; None where the scene has no more than one, which is red."""
    objects = scene.dynamic.objects
    return None if objects is None or int(objects.max(initial=0)) < 2 else objects[frame]


def overlay(image: np.ndarray, mask: np.ndarray, objects: np.ndarray | None = None) -> np.ndarray:
    """(H, W, 3) uint8 with the pixels of the (H, W) bool mask tinted: red, or by the (H, W) ids of several objects."""
    marks = MOVING if objects is None else object_colours(objects)
    return np.where(mask[..., None], tint(image, marks), image)


def cloud_colors(
    cloud: Cloud, mode: ColorMode, confidence_range: tuple[float, float], time: float | None
) -> np.ndarray:
    """(N, 3) uint8 colours of a cloud; ``time`` is the frame of a moving cloud as a share of the clip, None for static.

    Confidence is coloured over ``confidence_range`` on a logarithmic scale: the network's output is exponential.
    """
    if mode == "score":
        return ramp(cloud.score)
    if mode == "confidence":
        low, high = (np.log(max(value, 1e-6)) for value in confidence_range)
        return ramp((np.log(np.maximum(cloud.confidence, 1e-6)) - low) / max(high - low, 1e-6))
    if time is not None and mode == "mask":
        return tint(cloud.colors, MOVING if cloud.marks is None else cloud.marks)
    if time is not None and mode == "time":
        brightness = 0.4 + 0.6 * cloud.colors.mean(axis=1, keepdims=True) / 255
        return np.rint(ramp(np.array(time), _WHEEL) * brightness).astype(np.uint8)
    return cloud.colors
