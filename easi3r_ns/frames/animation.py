"""An animated image (GIF, WebP, APNG) as a source of frames, read with Pillow, which composes the frames."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..core.config import FrameConfig
from ..core.errors import InputError
from ..core.runlog import RunLog
from ..core.types import RecordedFocal
from .cuts import Watch, thumbnail
from .video import Video

FORMATS = ("GIF", "WEBP", "PNG", "AVIF")
"""Formats of Pillow that hold animations. Several pictures in files of other formats (MPO, TIFF) are no animation."""
_SHORTEST_MS, _DEFAULT_MS = 10, 100
"""Browsers show frames of at most the first duration for the second one: encoders that know no time write 0 or 10."""
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


def is_animated(path: Path) -> bool:
    """Whether a file is an animation with at least two frames. Damaged files and other formats are none."""
    try:
        with Image.open(path) as image:
            return image.format in FORMATS and _num_frames(image) > 1
    except _DAMAGE:
        return False


class AnimatedImage:
    """The frames of an animation as a viewer shows them, over white where they are transparent."""

    unit = "s"
    shows_all = True
    """Whether reading decodes frames that were not asked for: a frame is drawn over those before it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def signature(self) -> dict[str, Any]:
        """What must be unchanged for extracted frames to be valid still."""
        return Video(self.path).signature()

    def times(self, select: FrameConfig, log: RunLog) -> np.ndarray:
        """(n,) float64 seconds at which the frames appear, from the first. Raises InputError for a damaged file."""
        return self._times(log)

    def recount(self, log: RunLog) -> np.ndarray:
        """(n,) seconds of the frames that can be decoded."""
        return self._times(log)

    def name(self, index: int) -> str:
        """The file's name, the same for every frame."""
        return self.path.name

    def focals(self, indices: Sequence[int], source_wh: tuple[int, int]) -> list[RecordedFocal | None]:
        """Nothing: animations name no lens."""
        return [None]

    def read(self, indices: Sequence[int], log: RunLog, watch: Watch | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """(H, W, 3) uint8 RGB of the frames ``indices``, in order; ``watch`` sees every frame up to the last."""
        wanted = {int(index) for index in indices}
        for index, (image, _) in enumerate(self._frames(log)):
            if watch is not None:
                watch(index, thumbnail(image))
            if index in wanted:
                wanted.remove(index)
                yield index, image
            if not wanted:
                return

    def _times(self, log: RunLog) -> np.ndarray:
        seconds = np.array([duration for _, duration in self._frames(log)])
        if not len(seconds):
            raise InputError(f"{self.path} holds no frame that can be decoded: the file is damaged")
        return np.concatenate([[0.0], np.cumsum(seconds)[:-1]])

    def _frames(self, log: RunLog) -> Iterator[tuple[np.ndarray, float]]:
        """(H, W, 3) uint8 RGB and seconds of every frame that can be decoded."""
        position = 0
        try:
            with Image.open(self.path) as image:
                # A PNG may begin with a picture for programs that know no animations; it is not part of this one.
                first = 1 if getattr(image, "default_image", False) else 0
                for position in range(first, image.n_frames):
                    image.seek(position)
                    rgb = _over_white(image, log)  # decodes; the duration is known afterwards
                    shown = float(image.info.get("duration", 0) or 0)
                    yield rgb, (shown if shown > _SHORTEST_MS else _DEFAULT_MS) / 1000
        except _DAMAGE as error:
            log.warn(f"{self.path.name} is damaged ({error}): reading stopped after {position} frames")


def _num_frames(image: Image.Image) -> int:
    return int(getattr(image, "n_frames", 1)) - (1 if getattr(image, "default_image", False) else 0)


def _over_white(image: Image.Image, log: RunLog) -> np.ndarray:
    rgba = image.convert("RGBA")
    if np.asarray(rgba.getchannel("A")).min() == 255:
        return np.asarray(rgba.convert("RGB"))
    log.warn("the animation is transparent in places: they are used as white")
    white = Image.new("RGBA", rgba.size, "white")
    return np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
