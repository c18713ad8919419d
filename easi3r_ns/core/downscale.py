"""Images downscaled by whole factors, as nerfstudio expects them.

Pixel u of an image downscaled by s covers the source pixels [s u, s (u + 1)).
"""

from __future__ import annotations

import numpy as np


def downscaled_size(source_wh: tuple[int, int], factor: int) -> tuple[int, int]:
    """Width and height after downscaling; what does not fill a whole pixel is cut off (as nerfstudio expects)."""
    return source_wh[0] // factor, source_wh[1] // factor


def downscale_factors(source_wh: tuple[int, int], num_downscales: int) -> tuple[int, ...]:
    """2, 4, 8 ... for so many downscales, less those that would leave no pixel."""
    factors = [2**k for k in range(1, num_downscales + 1)]
    return tuple(factor for factor in factors if min(downscaled_size(source_wh, factor)) > 0)


def shrink_image(image: np.ndarray, factor: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (H // factor, W // factor, 3): the mean over blocks of factor x factor pixels."""
    import cv2

    width, height = downscaled_size((image.shape[1], image.shape[0]), factor)
    block = image[: height * factor, : width * factor]
    return cv2.resize(block, (width, height), interpolation=cv2.INTER_AREA)
