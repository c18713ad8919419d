"""Images and maps at places between their pixels. Pixel centres are at integers, places are (x, y)."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", "np.ndarray", "torch.Tensor")
"""NumPy array or PyTorch tensor."""

MOST_POINTS = 32_766
"""Points in one call of OpenCV, which counts the rows and columns of an image in 16 bits."""


def sample_bilinear(values: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Bilinear values of an array at any places; outside of it, those of its nearest border pixel.

    Args:
        values: (H, W) or (H, W, C), uint8 or float32, H and W below 32,767.
        xy: (N, 2) points or an (h, w, 2) grid of them, in pixels. OpenCV rounds them to 1/32 pixel.

    Returns:
        (N,) or (N, C), for a grid (h, w) or (h, w, C), of the type of ``values``.
    """
    import cv2

    if xy.ndim == 2:
        if len(xy) == 0:
            return np.empty((0, *values.shape[2:]), values.dtype)
        parts = (xy[start : start + MOST_POINTS] for start in range(0, len(xy), MOST_POINTS))
        return np.concatenate([sample_bilinear(values, part[:, None])[:, 0] for part in parts])
    x, y = (xy[..., axis].astype(np.float32) for axis in (0, 1))
    return cv2.remap(values, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def inside_image(xy: Array, height: int, width: int) -> Array:
    """(...) bool: which of the (..., 2) places lie between the centres of the border pixels of an image."""
    x, y = xy[..., 0], xy[..., 1]
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
