"""The grid of a Scene for depth maps that are as large as the frames of a video."""

from __future__ import annotations

import cv2
import numpy as np

LARGEST_GRID = 640
"""Pixels of the longer side of the depth maps that are kept: those of a video are larger than what they resolve."""


def reduced(values: np.ndarray) -> np.ndarray:
    """(H, W) depth or flags -> the same with at most :data:`LARGEST_GRID` pixels along the longer side, unmixed."""
    height, width = values.shape
    factor = min(1.0, LARGEST_GRID / max(height, width))
    if factor == 1:
        return values
    return resized(values, (round(height * factor), round(width * factor)))


def resized(values: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """(H, W) values -> those of the nearest pixels on a grid of ``size`` (h, w)."""
    whole = values.astype(np.uint8) if values.dtype == bool else values
    return cv2.resize(whole, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT).astype(values.dtype)


def on_grid(K: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(F, 3, 3) intrinsics, integer pixel centres, on a grid with ``scale`` (x, y) times as many pixels."""
    K = K.copy()
    K[:, 0, 0] *= scale[0]
    K[:, 1, 1] *= scale[1]
    K[:, :2, 2] = (K[:, :2, 2] + 0.5) * scale - 0.5
    return K
