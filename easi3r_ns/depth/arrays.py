"""The few operations in which a sweep differs between NumPy with OpenCV (CPU) and torch (CUDA, MPS).

The sweep itself is written once: ``ops.xp`` is ``numpy`` or ``torch``, whose elementwise functions have the same names.
Images are (H, W) float32; pixel centres lie at integers.
"""

from __future__ import annotations

from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch.nn.functional import avg_pool2d, grid_sample, max_pool2d

Array = Any
"""np.ndarray or torch.Tensor, by the operations in use."""


class Operations(Protocol):
    """What a sweep needs beside elementwise arithmetic."""

    xp: Any

    def put(self, values: np.ndarray) -> Array:
        """To the device; float64 becomes float32."""

    def get(self, values: Array) -> np.ndarray:
        """Back."""

    def look_up(self, image: Array, x: Array, y: Array) -> Array:
        """(h, w) image at the places (x, y), each (H, W), bilinear; its border goes on outside."""

    def look_up_nearest(self, image: Array, x: Array, y: Array) -> Array:
        """(h, w) image at the pixels nearest to (x, y), each (H, W); 0 outside."""

    def warp(self, image: Array, H: np.ndarray, size: tuple[int, int]) -> Array:
        """(h, w) image -> (H, W) = ``size``: pixel p shows the image at H p; bilinear, its border goes on outside."""

    def warp_nearest(self, image: Array, H: np.ndarray, size: tuple[int, int]) -> Array:
        """The same with the nearest pixel; 0 outside."""

    def box(self, image: Array, radius: int) -> Array:
        """Mean over the square window of 2 radius + 1 pixels; the image is 0 outside."""

    def none_within(self, condition: Array, radius: int) -> Array:
        """(H, W) bool -> bool: True where it holds nowhere in the square window of 2 radius + 1 pixels."""

    def mark(self, condition: Array) -> Array:
        """bool -> float32, 1 where it is True, else 0."""

    def take(self, values: Array, index: Array) -> Array:
        """(D, H, W) values at (H, W) int64 planes -> (H, W)."""


class OpenCVOperations:
    """On the CPU."""

    xp: Any = np

    def put(self, values: np.ndarray) -> Array:
        return np.ascontiguousarray(values, dtype=np.float32)

    def get(self, values: Array) -> np.ndarray:
        return values

    def look_up(self, image: Array, x: Array, y: Array) -> Array:
        return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def look_up_nearest(self, image: Array, x: Array, y: Array) -> Array:
        return cv2.remap(image, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)

    def warp(self, image: Array, H: np.ndarray, size: tuple[int, int]) -> Array:
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpPerspective(image, H, size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)

    def warp_nearest(self, image: Array, H: np.ndarray, size: tuple[int, int]) -> Array:
        flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        return cv2.warpPerspective(image, H, size[::-1], flags=flags, borderMode=cv2.BORDER_CONSTANT)

    def box(self, image: Array, radius: int) -> Array:
        side = 2 * radius + 1
        return cv2.boxFilter(image, -1, (side, side), borderType=cv2.BORDER_CONSTANT)

    def none_within(self, condition: Array, radius: int) -> Array:
        window = np.ones((2 * radius + 1, 2 * radius + 1), dtype=np.uint8)
        return cv2.dilate(condition.view(np.uint8), window) == 0

    def mark(self, condition: Array) -> Array:
        return condition.astype(np.float32)

    def take(self, values: Array, index: Array) -> Array:
        return np.take_along_axis(values, index[None], axis=0)[0]


class TorchOperations:
    """On a CUDA or MPS device, or for comparison on the CPU."""

    xp: Any = torch

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def put(self, values: np.ndarray) -> Array:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(self._device)

    def get(self, values: Array) -> np.ndarray:
        return values.cpu().numpy()

    def look_up(self, image: Array, x: Array, y: Array) -> Array:
        return self._sample(image, x, y, "bilinear", "border")

    def look_up_nearest(self, image: Array, x: Array, y: Array) -> Array:
        return self._sample(image, x, y, "nearest", "zeros")

    def warp(self, image: Array, H: np.ndarray, size: tuple[int, int]) -> Array:
        return self.look_up(image, *self._places(H, size))

    def warp_nearest(self, image: Array, H: np.ndarray, size: tuple[int, int]) -> Array:
        return self.look_up_nearest(image, *self._places(H, size))

    def box(self, image: Array, radius: int) -> Array:
        return avg_pool2d(image[None, None], 2 * radius + 1, stride=1, padding=radius)[0, 0]

    def none_within(self, condition: Array, radius: int) -> Array:
        return max_pool2d(condition.float()[None, None], 2 * radius + 1, stride=1, padding=radius)[0, 0] < 0.5

    def mark(self, condition: Array) -> Array:
        return condition.float()

    def take(self, values: Array, index: Array) -> Array:
        return torch.take_along_dim(values, index[None], dim=0)[0]

    def _sample(self, image: Array, x: Array, y: Array, mode: str, padding: str) -> Array:
        height, width = image.shape
        places = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
        # What is not finite lies outside.
        places = torch.nan_to_num(places, nan=4.0, posinf=4.0, neginf=-4.0)
        return grid_sample(image[None, None], places[None], mode, padding, align_corners=False)[0, 0]

    def _places(self, H: np.ndarray, size: tuple[int, int]) -> tuple[Array, Array]:
        height, width = size
        x = torch.arange(width, dtype=torch.float32, device=self._device)[None, :]
        y = torch.arange(height, dtype=torch.float32, device=self._device)[:, None]
        h = H.tolist()
        across, down, depth = (row[0] * x + row[1] * y + row[2] for row in h)
        return across / depth, down / depth
