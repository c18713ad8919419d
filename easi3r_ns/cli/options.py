"""Parts that the commands share: an option type for output folders, and the display of errors in options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.constructors import PrimitiveConstructorSpec

from ..core.usage import own_usage_errors

__all__ = ["OutputFolder", "own_usage_errors"]


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
