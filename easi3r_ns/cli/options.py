"""Parts that the commands share: an option type for output folders, and the display of errors in options."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
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


@contextlib.contextmanager
def closed_pipe_ends() -> Iterator[None]:
    """End quietly where the reader of our output has gone away, as after ``| head``.

    What the body has done by then stays done: printing is the last thing that a command does.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout once more when it ends, and would complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
