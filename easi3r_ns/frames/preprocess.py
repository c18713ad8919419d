"""How a source image becomes a network image: one resize, one centred crop (DUSt3R's rule)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..core.errors import InputError
from ..core.types import PixelMap


@dataclass(frozen=True)
class ImageGeometry:
    """The image shapes that a network takes."""

    size: int = 512
    """Long side in pixels (``square``: the side)."""
    patch: int = 16
    """Side of a token in pixels; both network sides are multiples of it."""
    square: bool = False
    """Scale the SHORT side to ``size`` and crop the centred square (the 224 checkpoint)."""
    square_ok: bool = False
    """Keep a square source square instead of cropping it to 4:3."""

    def __post_init__(self) -> None:
        if not 0 < self.patch <= self.size:
            raise ValueError(f"patch {self.patch} does not fit into size {self.size}")


def plan_preprocessing(source_wh: tuple[int, int], geometry: ImageGeometry) -> PixelMap:
    """Resize and crop for images of ``source_wh`` (width, height) pixels.

    Raises InputError when less than one patch would be left.
    """
    width, height = source_wh
    if min(width, height) < geometry.patch:
        raise InputError(
            f"images of {width}x{height} pixels are too small: the network's patch alone is {geometry.patch}x"
            f"{geometry.patch}; use larger images"
        )
    resized_wh = _resized(source_wh, geometry)
    crop_wh = _crop(resized_wh, geometry)
    if min(crop_wh) < geometry.patch:
        raise InputError(
            f"images of {width}x{height} pixels are too elongated: at network size they are {resized_wh[0]}x"
            f"{resized_wh[1]}, less than one patch of {geometry.patch} pixels; crop them first"
        )
    left, top = resized_wh[0] // 2 - crop_wh[0] // 2, resized_wh[1] // 2 - crop_wh[1] // 2
    return PixelMap(source_wh, resized_wh, (left, top, left + crop_wh[0], top + crop_wh[1]))


def enlarged(pixel_map: PixelMap, times: int) -> PixelMap:
    """The same crop of the same source with ``times`` as many pixels a side."""
    width, height = pixel_map.resized_wh
    left, top, right, bottom = (times * edge for edge in pixel_map.crop_box)
    return PixelMap(pixel_map.source_wh, (times * width, times * height), (left, top, right, bottom), pixel_map.cut)


FLOW_SIDE = 384
"""Pixels of the longer side, about, of the images in which optical flow is estimated for motion masks."""


def enlargement(height: int, width: int) -> int:
    """Times that images of a network's size are enlarged for optical flow; tokens stay whole pixels."""
    return max(1, round(FLOW_SIDE / max(height, width)))


def resize_and_crop(image: np.ndarray, pixel_map: PixelMap) -> np.ndarray:
    """(H, W, 3) uint8 RGB at source size -> the same at network size; Lanczos when shrinking, else bicubic."""
    shrinks = max(pixel_map.source_wh) > max(pixel_map.resized_wh)
    resample = Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize(pixel_map.resized_wh, resample).crop(pixel_map.crop_box))


def shrink(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> the same picture at (width, height), which are smaller: Lanczos, several times as fast.

    PyTorch's filter, where this release has it, and else Pillow's: they differ by a level, beside the sharpest edges by
    two, in less than one value of a hundred. For pictures that need not be those of the reference.
    """
    import torch

    values = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)[None]
    try:
        small = torch.nn.functional.interpolate(values, size=size[::-1], mode="lanczos", antialias=True)
    except (NotImplementedError, ValueError, RuntimeError):
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    return np.ascontiguousarray(small[0].permute(1, 2, 0).numpy())


def _resized(source_wh: tuple[int, int], geometry: ImageGeometry) -> tuple[int, int]:
    width, height = source_wh
    long_side = geometry.size
    if geometry.square:
        long_side = round(geometry.size * max(width / height, height / width))
    # The product before the quotient, as in the reference: the rounding depends on it.
    return (
        round(width * long_side / max(source_wh)),
        round(height * long_side / max(source_wh)),
    )


def _crop(resized_wh: tuple[int, int], geometry: ImageGeometry) -> tuple[int, int]:
    """Width and height of the crop: even numbers of pixels around the centre, cut to whole patches."""
    patch = geometry.patch
    even_wh = [side // 2 * 2 for side in resized_wh]
    if geometry.square:
        even_wh = [min(even_wh)] * 2
    crop_wh = [side // patch * patch for side in even_wh]
    if resized_wh[0] == resized_wh[1] and not geometry.square and not geometry.square_ok:
        crop_wh[1] = 3 * crop_wh[0] // 4 // patch * patch
    return crop_wh[0], crop_wh[1]
