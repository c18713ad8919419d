"""File names for libraries that cannot take every name that the system can."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .files import writing


@contextlib.contextmanager
def plain_name(path: Path) -> Iterator[Path]:
    """A path to the content of the file ``path`` whose letters are all ASCII, for as long as the block lasts.

    Native libraries convert names to an encoding of their own: letters outside of it are not found, and some releases
    of Open3D end the process. A file whose path is not ASCII is copied to a temporary one with the same suffix.

    Raises:
        OSError: there is no such file; OutputError: it cannot be copied.
    """
    if str(path.absolute()).isascii():
        yield path
        return
    path.stat()
    suffix = path.suffix if path.suffix.isascii() else ""
    with tempfile.TemporaryDirectory(prefix="easi3r-") as folder:
        copy = Path(folder) / f"copy{suffix}"
        with writing(copy):
            shutil.copyfile(path, copy)
        yield copy


def address(path: Path) -> str:
    """A file as FFmpeg has to be told it: ``10:30.mp4`` or ``concat:a.mp4`` alone would name a protocol."""
    return f"file:{os.path.abspath(path)}"
