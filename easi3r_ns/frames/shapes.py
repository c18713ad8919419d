"""Images of several sizes or orientations in one source: counted, and reduced to those of one size."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..core.errors import InputError
from .orientation import TAG


def upright_size(path: Path) -> tuple[int, int] | None:
    """(width, height) of an image after its EXIF orientation, from its header; None: it cannot be read."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(TAG, 1) in (5, 6, 7, 8)
            # Some releases of Pillow exchange the sides of a TIFF themselves.
            width, height = (image.tag_v2[256], image.tag_v2[257]) if image.format == "TIFF" else image.size
            return (height, width) if turned else (width, height)
    except (OSError, SyntaxError, ValueError, KeyError, Image.DecompressionBombError):
        return None


def as_text(size: tuple[int, int]) -> str:
    """``1920x1080``."""
    return f"{size[0]}x{size[1]}"


def counted(sizes: Sequence[tuple[int, int] | None], data: Path) -> str:
    """How many images have which size, and the option that keeps the most frequent one."""
    counts = Counter(size for size in sizes if size is not None).most_common()
    kinds = ", ".join(f"{count} of {as_text(size)}" for size, count in counts[:5])
    kinds += f" and {len(counts) - 5} other sizes" if len(counts) > 5 else ""
    size, count = counts[0]
    return (
        f"{len(sizes)} images: {kinds} (width x height, upright). One size only: "
        f"--data {shlex.quote(str(data))} --image-size {as_text(size)} uses the {count} of the most frequent size"
    )


def of_size(sizes: Sequence[tuple[int, int] | None], wanted: tuple[int, int], data: Path) -> list[int]:
    """Indices of the images of the ``wanted`` size. Raises InputError where fewer than two have it."""
    kept = [index for index, size in enumerate(sizes) if size == wanted]
    if len(kept) < 2:
        raise InputError(f"--image-size {as_text(wanted)} leaves {len(kept)} of {counted(sizes, data)}")
    return kept
