"""What becomes of one decoded frame: the files of it, and how the network sees it. One thread does it for one frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.types import PixelMap
from ..storage.copies import write_copies
from ..storage.files import read_png, write_image, write_png
from .near import NEAR_SIDE, near_size
from .preprocess import resize_and_crop


@dataclass(frozen=True)
class Kept:
    """What is kept of frames, in the store and in memory."""

    suffix: str = ".png"
    """Of their files: PNG, or JPEG (``.jpg``), from which then all that follows is made."""
    near_side: int = NEAR_SIDE
    """Pixels along the longer side of the small copies."""
    num_downscales: int = 0
    """Copies of half, a quarter ... of the size that lie beside each frame for a dataset (``storage/copies.py``)."""
    decoded_bytes: float = 0
    """Memory for the decoded frames of a short video, which is then decoded once only; see :mod:`.decoded`."""


@dataclass(frozen=True)
class FrameJob:
    """What becomes of one decoded frame."""

    image: np.ndarray
    file: str | None
    near: str | None
    """Name of the small copy; None: there is none."""
    network: PixelMap | None
    """How the network sees it; None: it does not."""
    kept: Kept

    def done(self, store: Path) -> np.ndarray | None:
        """Write the files, and return the image at network size."""
        image = self.image
        if self.near is not None:
            write_png(store / self.near, near_size(image, self.kept.near_side))
        if self.file is not None:
            write_image(store / self.file, image)
            if not self.file.endswith(".png"):
                image = read_png(store / self.file)  # what a run sees that goes on with these files
            write_copies(store / self.file, image, self.kept.num_downscales)
        return None if self.network is None else resize_and_crop(image, self.network)
