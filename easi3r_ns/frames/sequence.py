"""Images that a pattern names: ``shot_%04d.png`` or ``shots/*.jpg``."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from ..storage.files import natural_key
from ..storage.kinds import SYSTEM_FOLDERS
from .images import ImageFolder, usable

_NUMBER = re.compile(r"%(0\d+)?d")
_WILD = re.compile(r"[*?\[]")


class ImageFiles(ImageFolder):
    """The images that a pattern matches, in the order of :func:`matches`."""

    def __init__(self, pattern: Path, files: Sequence[Path]) -> None:
        self.folder = pattern
        self.files = usable(files, pattern)
        self._several = len({file.parent for file in self.files}) > 1

    def signature(self) -> dict[str, Any]:
        """What must be unchanged for extracted frames to be valid still."""
        files = [(str(file.resolve()), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in self.files]
        return {"images": [list(entry) for entry in files]}

    def name(self, index: int) -> str:
        """File name of image ``index``; where the images lie in several folders, with the name of its folder."""
        file = self.files[index]
        return f"{file.parent.name}/{file.name}" if self._several else file.name


def matches(pattern: Path) -> list[Path] | None:
    """The files that a pattern matches; None: it is no pattern.

    ``%d`` stands for a number and ``%04d`` for one of at least four digits, filled with zeros, as in C and FFmpeg;
    files are in the order of the number, and numbers may be missing. ``*``, ``?``, ``[...]`` and ``**`` mean what they
    mean in a shell; files are in natural order. Hidden files are left out. Raises InputError for two numbers.
    """
    numbers = len(_NUMBER.findall(pattern.name))
    if numbers > 1:
        raise InputError(f"{pattern}: a pattern of images has one number (%d or %04d), this one has {numbers}")
    if numbers == 1:
        return _numbered(pattern)
    if not _WILD.search(str(pattern)):
        return None
    found = [Path(name) for name in glob.glob(str(pattern), recursive=True)]
    found = [path for path in found if not path.name.startswith(".") and not set(SYSTEM_FOLDERS) & set(path.parts)]
    files = [path for path in found if path.is_file()]
    # A pattern that matches folders and no file names one of them, or none that can be told.
    return sorted(files or found, key=lambda path: [natural_key(part) for part in path.parts])


def _numbered(pattern: Path) -> list[Path]:
    number = _NUMBER.search(pattern.name)
    assert number is not None
    before, after = (part.replace("%%", "%") for part in (pattern.name[: number.start()], pattern.name[number.end() :]))
    width = int(number.group(1) or 0)
    expression = re.compile(re.escape(before) + r"([0-9]+)" + re.escape(after))
    found: dict[int, Path] = {}
    for path in pattern.parent.iterdir() if pattern.parent.is_dir() else ():
        match = expression.fullmatch(path.name)
        if match and match.group(1) == f"{int(match.group(1)):0{width}d}" and path.is_file():
            found[int(match.group(1))] = path
    return [found[key] for key in sorted(found)]
