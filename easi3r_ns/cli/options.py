"""Parts that the commands share: an option type for output folders, and the display of errors in options."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from tyro.constructors import PrimitiveConstructorSpec

from ..core.usage import own_usage_errors

__all__ = ["OutputFolder", "dashed_names", "own_usage_errors"]


def _folder(words: list[str]) -> Path:
    # Path("") is the current folder: an unset shell variable would fill it with files.
    if not words[0].strip():
        raise ValueError("the name of the folder is empty; give a name (. is the current folder)")
    return Path(words[0])


OutputFolder = Annotated[
    Path,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=_folder,
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    ),
]
"""Type of an option for a folder; the empty text is refused."""


def dashed_names(arguments: Sequence[str]) -> list[str]:
    """Arguments in which the name of a file that begins with a dash is no option: ``-a.mp4`` becomes ``./-a.mp4``.

    Taken for a name is what has a suffix and exists.
    """
    return [f"./{word}" if _is_name(word) else word for word in arguments]


def _is_name(word: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return word.startswith("-") and bool(Path(word).suffix) and Path(word).exists()
    return False
