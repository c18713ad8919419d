"""Images of several sizes or orientations in one source: counted, and reduced to those of one size."""

from __future__ import annotations

import io
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..core.errors import InputError
from ..storage.orientation import TURNED, as_stored, by_exif, is_tiff


def upright_size(path: Path) -> tuple[int, int] | None:
    """(width, height) of an image as it is to be seen, from its header; None: it cannot be read."""
    try:
        with path.open("rb") as file:
            tiff = is_tiff(file.read(4))
        content, turn = as_stored(path.read_bytes()) if tiff else (None, None)
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            turn = by_exif(image) if turn is None else turn
            return (image.height, image.width) if turn in TURNED else image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
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
        f"{len(sizes)} images: {kinds} (width x height, upright). --weights none uses all, each size with its own "
        f"camera; --data {shlex.quote(str(data))} --image-size {as_text(size)} uses the {count} of the most frequent"
    )


def of_size(sizes: Sequence[tuple[int, int] | None], wanted: tuple[int, int], data: Path) -> list[int]:
    """Indices of the images of the ``wanted`` size. Raises InputError where fewer than two have it."""
    kept = [index for index, size in enumerate(sizes) if size == wanted]
    if len(kept) < 2:
        raise InputError(f"--image-size {as_text(wanted)} leaves {len(kept)} of {counted(sizes, data)}")
    return kept
