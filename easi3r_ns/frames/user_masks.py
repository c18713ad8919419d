"""The user's own motion masks: a folder of images -> masks on the network grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..core.errors import InputError
from ..core.types import DynamicMasks, Frames, PixelMap, SkippedFrames
from ..storage.files import natural_key

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


def load_user_masks(folder: Path, frames: Frames, patch_size: int) -> DynamicMasks:
    """Read one mask per used frame, or one per source frame (then picked by ``frames.places``), in natural order.

    White (above the middle of the range) is what moves. Masks have the size of the source image.

    Raises:
        InputError: no such folder, unreadable file, wrong number or wrong size.
    """
    paths = _mask_paths(folder)
    if len(paths) == frames.num_source_frames:
        paths = [paths[i] for i in frames.places]
    if len(paths) != len(frames):
        raise InputError(
            f"--masks {folder}: {len(paths)} images for {len(frames)} used frames of {frames.num_source_frames}; give "
            "one per used frame or one per frame of the source"
        )
    masks = np.stack([_to_network(_read_mask(path, frames.pixel_map), frames.pixel_map) for path in paths])
    score = np.zeros((len(frames), masks.shape[1] // patch_size, masks.shape[2] // patch_size), dtype=np.float32)
    return DynamicMasks(masks, score, float("nan"), source="user")


def user_masks_between(folder: Path, frames: Frames, skipped: SkippedFrames) -> Callable[[int], np.ndarray] | None:
    """Row of ``skipped`` -> its (H, W) bool mask; None where the folder does not hold one mask per source frame.

    The clip of the skipped frames is the first source of ``frames``. Raises InputError as :func:`load_user_masks`.
    """
    paths = _mask_paths(folder)
    if len(paths) != frames.num_source_frames:
        return None
    return lambda row: _to_network(_read_mask(paths[skipped.indices[row]], frames.pixel_map), frames.pixel_map)


def _mask_paths(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"--masks {folder}: not a folder")
    return sorted((p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES), key=lambda p: natural_key(p.name))


def _read_mask(path: Path, pixel_map: PixelMap) -> np.ndarray:
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode == "P":
                # Palette masks (DAVIS annotations) name objects; 0 is the background.
                pixels = np.asarray(upright)
                moving = pixels > 0
            else:
                pixels = np.asarray(upright.convert("L") if not upright.mode.startswith("I") else upright)
                moving = pixels > (32767 if pixels.dtype.itemsize > 1 else 127)
            if pixels.max() > 0 and not moving.any():
                if pixels.max() > 1:
                    raise InputError(
                        f"--masks: nothing in {path} is brighter than {pixels.max()}; what moves must be white"
                    )
                moving = pixels == 1
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"--masks: cannot read {path}: {error}") from error
    if moving.shape[::-1] != pixel_map.source_wh:
        width, height = pixel_map.source_wh
        raise InputError(f"--masks: {path} is {moving.shape[1]}x{moving.shape[0]}, the frames are {width}x{height}")
    return moving


def _to_network(moving: np.ndarray, pixel_map: PixelMap) -> np.ndarray:
    """A network pixel moves when at least half of what it covers does."""
    share = Image.fromarray((moving * 255).astype(np.uint8)).resize(
        pixel_map.resized_wh, Image.Resampling.BOX, reducing_gap=None
    )
    left, top, right, bottom = pixel_map.crop_box
    return np.asarray(share)[top:bottom, left:right] > 127
