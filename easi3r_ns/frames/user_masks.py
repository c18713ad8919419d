"""The user's own masks -> what they mark on the network grid, frame by frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..core.errors import InputError
from ..core.runlog import RunLog
from ..core.types import Frames, PixelMap, SkippedFrames
from ..storage.mask_record import masks_of_dataset
from .mask_source import OPTION, Wanted, open_masks

_HALF = 127
_OFF = 1.0
"""Pixels by which a scaled mask may be higher or lower than its shape asks for: rounding."""


@dataclass(frozen=True)
class MarkedFrames:
    """What the masks of a clip mark; which of both, marked or not, moves is not said."""

    share: np.ndarray
    """(F, H, W) uint8 share, in 255ths, of what a network pixel covers that is marked; 0 for missing masks."""
    missing: np.ndarray
    """(F,) bool, frames without a mask."""
    objects: bool
    """Whether the masks name objects, by colours or numbers."""
    dataset: str | None
    """The record that says that white stands still, see :func:`~easi3r_ns.storage.mask_record.masks_of_dataset`."""

    def moving(self, white_moves: bool) -> np.ndarray:
        """(F, H, W) bool: a network pixel moves when half of what it covers does; False for missing masks."""
        moving = self.share > _HALF if white_moves else 255 - self.share > _HALF
        return moving & ~self.missing[:, None, None]


def read_user_masks(path: Path, frames: Frames, log: RunLog) -> MarkedFrames:
    """The masks of the used frames: a folder, pattern or archive of images, or a video.

    Masks have the shape of the upright source image, in any size.

    Raises:
        InputError: nothing there, unreadable or no masks, another shape, or it is unclear which belongs to which frame.
    """
    source = open_masks(path, log)
    found = source.find(Wanted.of(frames))
    width, height = frames.pixel_map.network_wh
    share = np.zeros((len(frames), height, width), dtype=np.uint8)
    missing, objects = np.ones(len(frames), dtype=bool), False
    rows: dict[int, list[int]] = {}
    for row, index in enumerate(found):
        if index is not None:
            rows.setdefault(index, []).append(row)
    for index, marks in source.read(sorted(rows)):
        share[rows[index]] = network_share(marks.marked, frames.pixel_map, path)
        missing[rows[index]] = False
        objects |= marks.objects
    if missing.all():
        raise InputError(f"{OPTION} {path}: no used frame has a mask")
    return MarkedFrames(share, missing, objects, masks_of_dataset(path) if path.is_dir() else None)


def user_masks_between(
    path: Path, frames: Frames, skipped: SkippedFrames, white_moves: bool, log: RunLog
) -> Callable[[int], np.ndarray] | None:
    """Row of ``skipped`` -> its (H, W) bool mask; None where not every one of them has a mask.

    The clip of the skipped frames is the first source of ``frames``. Raises InputError as :func:`read_user_masks`.
    """
    source = open_masks(path, log)
    try:
        found = source.find(Wanted.between(frames, skipped))
    except InputError:
        return None  # the used frames have theirs
    indices = [index for index in found if index is not None]
    if len(indices) < len(found):
        return None

    def moving(row: int) -> np.ndarray:
        for _, marks in source.read([indices[row]]):
            share = network_share(marks.marked, frames.pixel_map, path)
            return share > _HALF if white_moves else 255 - share > _HALF
        raise InputError(f"{OPTION} {path}: the mask of {skipped.names[row]} {skipped.indices[row]} cannot be decoded")

    return moving


def network_share(marked: np.ndarray, pixel_map: PixelMap, path: Path, option: str = OPTION) -> np.ndarray:
    """(h, w) bool of the source's shape, in any size -> (H, W) uint8 share of each network pixel, in 255ths.

    Where something was cut off the frames, masks of whole frames are cut in the same way. ``option`` and ``path`` are
    named in messages.

    Raises:
        InputError: the mask has another shape than the frames, or it is not clear whether it is one of whole frames.
    """
    image = Image.fromarray(marked.astype(np.uint8) * 255)
    box = _shown(image.size, pixel_map, f"{option} {path}")
    resized = image.resize(pixel_map.resized_wh, Image.Resampling.BOX, box=box, reducing_gap=None)
    left, top, right, bottom = pixel_map.crop_box
    return np.asarray(resized)[top:bottom, left:right]


def _shown(size: tuple[int, int], pixel_map: PixelMap, given: str) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the source image in a mask of ``size`` (width, height)."""
    cut, source_wh = pixel_map.cut, pixel_map.source_wh
    of_source, of_file = _fits(size, source_wh), cut is not None and _fits(size, cut.full_wh)
    if cut is not None and of_file and size != source_wh:
        if of_source and size != cut.full_wh:
            raise InputError(
                f"{given}: a mask is {_text(size)}, in the shape of the whole frames ({_text(cut.full_wh)}) "
                f"and of what is left of them ({_text(source_wh)}): give masks in one of these sizes"
            )
        across, down = size[0] / cut.full_wh[0], size[1] / cut.full_wh[1]
        left, top, right, bottom = cut.box
        return left * across, top * down, right * across, bottom * down
    if not of_source:
        file = "" if cut is None else f" (whole frames: {_text(cut.full_wh)})"
        raise InputError(
            f"{given}: a mask is {_text(size)}, the frames are {_text(source_wh)}{file}: give masks of the "
            "frames' shape, in any size"
        )
    return 0.0, 0.0, float(size[0]), float(size[1])


def _fits(size: tuple[int, int], frame: tuple[int, int]) -> bool:
    """Whether a mask has the shape of frames (width, height), up to rounding."""
    (columns, rows), (width, height) = size, frame
    return abs(rows - columns * height / width) <= _OFF or abs(columns - rows * width / height) <= _OFF


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
