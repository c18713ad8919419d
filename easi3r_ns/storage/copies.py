"""Downscaled copies of extracted frames, made while a frame is in memory, for the dataset to link to.

They lie in folders beside the frames, ``copies_2/NAME``, and belong to a store of frames only: a folder of the user may
hold pictures of such names that show something else.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ..core.downscale import downscale_factors, downscaled_size, shrink_image
from .files import make_folder, write_image

MANIFEST = "frames.json"
"""In a store of frames, says what they came from."""
_FOLDER = "copies_"


def write_copies(frame: Path, image: np.ndarray, num_downscales: int) -> None:
    """Write the copies of the stored ``frame``, whose (H, W, 3) uint8 RGB pixels are ``image``. Raises OutputError."""
    for factor in downscale_factors((image.shape[1], image.shape[0]), num_downscales):
        copy = _copy(frame, factor)
        make_folder(copy.parent)
        write_image(copy, shrink_image(image, factor))


def remove_copies(frame: Path) -> None:
    """Delete the copies of a stored frame."""
    for copy in frame.parent.glob(f"{_FOLDER}*/{frame.name}"):
        copy.unlink(missing_ok=True)


def kept_copies(frame: Path, source_wh: tuple[int, int], factors: tuple[int, ...]) -> dict[int, Path] | None:
    """Factor -> copy of a frame of ``source_wh`` pixels; None where one is missing, older than the frame, of another
    size, or no copy of this package.
    """
    if not (frame.parent / MANIFEST).is_file():
        return None
    copies = {factor: _copy(frame, factor) for factor in factors}
    sizes = {frame: source_wh} | {copy: downscaled_size(source_wh, factor) for factor, copy in copies.items()}
    try:
        written = frame.stat().st_mtime_ns
        whole = all(copy.stat().st_mtime_ns >= written for copy in copies.values())
        return copies if whole and all(_size(path) == size for path, size in sizes.items()) else None
    except (OSError, ValueError, SyntaxError):
        return None


def _copy(frame: Path, factor: int) -> Path:
    return frame.parent / f"{_FOLDER}{factor}" / frame.name


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:  # reads the header alone
        return image.size
