"""Images that mark pixels: masks as programs write them, and what they mean.

One reading for all that take masks (``--masks``, ``easi3r import``, ``easi3r evaluate``). Whether the marked pixels
move or stand still is another question, see :mod:`easi3r_ns.motion.polarity`.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..core.errors import InputError
from . import kinds
from .files import natural_key
from .orientation import as_stored, by_exif, upright

SUFFIXES = frozenset({*kinds.SUFFIXES, ".gif", ".pgm"})
MIDDLE = 127
"""Grey levels above it are white."""
_COLOURFUL = 48
"""Difference of two channels from which on a pixel has a colour: more than the chroma noise of JPEG."""
_FEW = 0.0005
"""Share of the pixels that may be coloured in a black and white mask."""
_LABELS = 32
"""Largest value of a dark mask whose values are numbers of objects, and no grey levels."""
_MID, _PHOTO = (48, 208), 0.3
"""Grey levels that are neither black nor white, and the share of them from which on an image is no mask."""
_BETWEEN = 0.03
"""Share of grey levels that are neither, up to which others that are not quite black or white are noise."""
_FLAT, _MOSTLY_FLAT = 3, 0.8
"""Levels by which neighbouring pixels differ at most where an image is flat, and the share of flat pixels from which on
it may be a mask. Filmed and rendered pictures have 0.14 to 0.72, masks 0.995 and more (small ones a little less)."""
_AGREE = 0.01
"""Share of the pixels in which colour and alpha may differ: edges."""
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class Marks:
    """What one mask marks."""

    marked: np.ndarray
    """(H, W) bool, upright: white, opaque, or an object."""
    objects: bool = False
    """Whether the mask names objects by colours or numbers, so that the rest is background."""


def mask_files(folder: Path) -> tuple[Path, ...]:
    """The mask images of a folder in natural order of their names.

    What systems leave beside them (``._mask.png``, ``.DS_Store``, ``Thumbs.db``, ``__MACOSX``) does not count.
    """
    files = (file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
    return tuple(sorted((file for file in files if file.is_file()), key=lambda file: natural_key(file.name)))


def read_marks(path: Path, *, above: int = MIDDLE) -> Marks:
    """The marked pixels of an image file.

    * Black and white, of any depth, or a palette whose used colours are grey: the bright pixels.
    * Colours, in pixels or in a palette: all that is not the background, which is black (palette: entry 0, unless
      another one is black and that one is not).
    * Small numbers in a dark image: numbers of objects; 0 is the background.
    * An alpha channel that varies: the opaque pixels. Black and white below it have to say the same.

    Args:
        above: the largest of 256 grey levels that is not marked.

    Raises:
        InputError: no readable image, a photograph, or one whose colour and alpha contradict each other.
    """
    try:
        content = path.read_bytes()
        plain, orientation = as_stored(content)
        with Image.open(io.BytesIO(content if orientation is None else plain)) as image:
            image.load()
            marks = _marks(image, path, above)
            turn = by_exif(image) if orientation is None else orientation
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(f"{path} cannot be read as a mask ({error}): replace or remove it") from error
    return Marks(upright(marks.marked, turn), marks.objects)


def marks_of_pixels(pixels: np.ndarray, name: str, *, above: int = MIDDLE, lossy: bool = True) -> Marks:
    """The marked pixels of (H, W) grey levels or (H, W, 3) uint8 colours, as :func:`read_marks`.

    Args:
        name: what messages call the image.
        lossy: whether small values may be noise, and so name no objects.

    Raises:
        InputError: it is a photograph, or dark all over.
    """
    if pixels.ndim == 3:
        spread = pixels.max(axis=-1).astype(np.int16) - pixels.min(axis=-1)
        if (spread > _COLOURFUL).mean() > _FEW:
            _refuse_pictures(pixels, name)
            return Marks(_objects_by_colour(pixels, name), objects=True)
        pixels = pixels.max(axis=-1)
    return _grey_marks(_grey_levels(pixels, name), name, above, lossy)


def _marks(image: Image.Image, path: Path, above: int) -> Marks:
    alpha = _alpha(image)
    if alpha is None or alpha.min() > MIDDLE:
        return _colour_marks(image, path, above)
    opaque = alpha > MIDDLE
    with image.convert("RGBA") as shown:
        rgb = np.asarray(shown)[..., :3]
    white = rgb.min(axis=-1) > MIDDLE
    mid = ~white & (rgb.max(axis=-1) > MIDDLE) | (np.abs(rgb.mean(axis=-1) - MIDDLE) < 64)
    black_and_white = mid.mean() <= _AGREE and white.any() and not white.all()
    if black_and_white and (white != opaque).mean() > _AGREE:
        raise InputError(
            f"{path}: its black and white says something else than its alpha channel: keep one of them (alpha: opaque "
            "is marked)"
        )
    return Marks(opaque)


def _alpha(image: Image.Image) -> np.ndarray | None:
    """(H, W) uint8; None without an alpha channel or a transparent colour."""
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa"):
        return np.asarray(image.getchannel(image.getbands()[-1]))
    if "transparency" in image.info:
        with image.convert("RGBA") as shown:
            return np.asarray(shown.getchannel("A"))
    return None


def _colour_marks(image: Image.Image, path: Path, above: int) -> Marks:
    if image.mode in ("P", "PA"):
        return _palette_marks(image, path, above)
    lossy = image.format in ("JPEG", "MPO", "WEBP")
    if image.mode == "1":
        return marks_of_pixels(np.asarray(image), str(path), above=above, lossy=False)
    if image.mode == "L" or image.mode == "F" or image.mode.startswith("I"):
        return marks_of_pixels(np.asarray(image), str(path), above=above, lossy=lossy)
    if image.mode == "LA":
        return marks_of_pixels(np.asarray(image.getchannel("L")), str(path), above=above, lossy=lossy)
    with image.convert("RGB") as rgb:
        return marks_of_pixels(np.asarray(rgb), str(path), above=above, lossy=lossy)


def _palette_marks(image: Image.Image, path: Path, above: int) -> Marks:
    entries = np.asarray(image.getchannel(0) if image.mode == "PA" else image)
    colours = np.zeros((256, 3), dtype=np.uint8)
    given = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)[:256]
    colours[: len(given)] = given
    used = np.unique(entries)
    if (np.ptp(colours[used].astype(np.int16), axis=1) <= _COLOURFUL).all():
        return marks_of_pixels(colours[entries].max(axis=-1), str(path), above=above, lossy=False)
    _refuse_pictures(colours[entries], str(path))
    dark = used[colours[used].max(axis=1) <= _COLOURFUL]
    # Where entry 0 is the background, another black entry names an object.
    background = dark if len(dark) and 0 not in dark else np.zeros(1, dtype=entries.dtype)
    return Marks(~np.isin(entries, background), objects=True)


def _objects_by_colour(pixels: np.ndarray, name: str) -> np.ndarray:
    """All that is not black, in an image of few colours."""
    coarse = (pixels >> 5).astype(np.int32) @ np.array([64, 8, 1])
    counts = np.sort(np.bincount(coarse.ravel(), minlength=512))[::-1]
    if counts[:_LABELS].sum() < (1 - _PHOTO) * pixels[..., 0].size or not (pixels.max(axis=-1) <= _COLOURFUL).any():
        raise InputError(f"{name} is a picture in colours, not a mask: masks are black and white, or objects on black")
    return np.asarray(pixels.max(axis=-1) > _COLOURFUL)


def _refuse_pictures(pixels: np.ndarray, name: str) -> None:
    """Raises InputError where (H, W, C) pixels are not flat almost everywhere, as masks are."""
    values = pixels.astype(np.int16)
    across, down = (np.abs(np.diff(values, axis=axis)).max(axis=-1) for axis in (1, 0))
    if across.size and down.size and min((across <= _FLAT).mean(), (down <= _FLAT).mean()) < _MOSTLY_FLAT:
        raise InputError(f"{name} is a picture, not a mask: masks are black and white, or objects on black")


def _grey_levels(values: np.ndarray, name: str) -> np.ndarray:
    """(H, W) numbers of any type -> the same in 0..255, as integers."""
    if values.dtype == bool:
        return values.astype(np.int64) * 255
    if values.dtype.kind == "f":
        if not np.isfinite(values).all() or values.min() < 0:
            raise InputError(f"{name} holds negative or undefined values: masks are black (0) and white")
        return np.rint(values * 255 if values.max() <= 1 else values).astype(np.int64)
    values = values.astype(np.int64)
    if values.min() < 0:
        raise InputError(f"{name} holds negative values: masks are black (0) and white")
    return values // 257 if values.max() > 255 else values


def _grey_marks(levels: np.ndarray, name: str, above: int, lossy: bool) -> Marks:
    brightest = int(levels.max())
    if above < MIDDLE:
        return Marks(levels > above)
    if brightest > MIDDLE:
        between = (levels >= _MID[0]) & (levels <= _MID[1])
        if between.mean() > _PHOTO:
            raise InputError(f"{name} is a picture in grey, not a mask: masks are black and white")
        noisy = between.mean() <= _BETWEEN and (levels > _MID[1]).any()
        _refuse_pictures((np.where(between, MIDDLE, (levels > MIDDLE) * 255) if noisy else levels)[..., None], name)
        return Marks(levels > MIDDLE)
    if brightest <= _LABELS and not lossy:
        return Marks(levels > 0, objects=brightest > 1)
    if brightest > _LABELS:
        raise InputError(f"nothing in {name} is brighter than {brightest} of 255: masks are black and white")
    return Marks(np.zeros(levels.shape, dtype=bool))
