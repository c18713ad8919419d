"""Which way up an image file is stored, independent of what a library makes of it.

Pillow and OpenCV differ by release and by format in whether they turn an image while they read it. Here the orientation
is taken out of the bytes before they are decoded, and the pixels are turned afterwards.
"""

from __future__ import annotations

import struct

import numpy as np
from PIL import Image

TAG = 0x0112
"""Orientation in EXIF and TIFF: 1 upright, 2 to 8 mirrored or turned (TIFF 6.0, section 8)."""
TURNED = (5, 6, 7, 8)
"""Orientations of which width and height change places."""
_SAMPLE_FORMAT, _FLOAT = 339, 3
_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 16: 8}
"""TIFF type of a field -> bytes of one value."""


def as_stored(content: bytes) -> tuple[bytes, int | None]:
    """The bytes of an image file without its orientation, and the orientation if the file is a TIFF.

    Files of other formats keep their bytes, except PNG files, whose EXIF chunk is left out: they are turned by what
    Pillow reads from the original.
    """
    if content[:8] == b"\x89PNG\r\n\x1a\n":
        return _png_without_exif(content), None
    field = _field(content, TAG)
    if field is None:
        return content, 1 if is_tiff(content) else None
    place, value, order = field
    return content[:place] + struct.pack(order + "H", 1) + content[place + 2 :], value


def by_exif(image: Image.Image) -> int:
    """The orientation that an opened image names; 1 where its EXIF data are damaged, which spoils no pixel."""
    try:
        return int(image.getexif().get(TAG, 1))
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return 1


def is_tiff(content: bytes) -> bool:
    """Whether the bytes begin as a TIFF or BigTIFF file does."""
    return content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def holds_floats(content: bytes) -> bool:
    """Whether the first image of a TIFF file holds floating-point values."""
    field = _field(content, _SAMPLE_FORMAT)
    return field is not None and field[1] == _FLOAT


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) pixels as they are stored -> as they are to be seen; unknown orientations change nothing."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _field(content: bytes, tag: int) -> tuple[int, int, str] | None:
    """(place, first value, byte order) of a field of 16-bit numbers in the first directory of a TIFF file."""
    if not is_tiff(content):
        return None
    order, big = ("<" if content[:2] == b"II" else ">"), content[2:4] in (b"+\0", b"\0+")
    count_type, offset_type, entry = ("Q", "Q", 20) if big else ("H", "I", 12)
    try:
        (start,) = struct.unpack_from(order + offset_type, content, 8 if big else 4)
        (entries,) = struct.unpack_from(order + count_type, content, start)
        start += struct.calcsize(count_type)
        for place in range(start, start + entry * min(entries, 4096), entry):
            found, kind = struct.unpack_from(order + "HH", content, place)
            if found == tag:
                (count,) = struct.unpack_from(order + offset_type, content, place + 4)
                inside = place + 4 + struct.calcsize(offset_type)
                if count * _WIDTHS.get(kind, 8) > struct.calcsize(offset_type):
                    (inside,) = struct.unpack_from(order + offset_type, content, inside)
                return (inside, *struct.unpack_from(order + "H", content, inside), order) if kind == 3 else None
    except struct.error:
        pass  # cut off: whoever decodes it says so
    return None


def _png_without_exif(content: bytes) -> bytes:
    kept, place = [content[:8]], 8
    while place + 8 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        end = place + 12 + length
        if content[place + 4 : place + 8] != b"eXIf":
            kept.append(content[place:end])
        place = end
    return b"".join(kept)
