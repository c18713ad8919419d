"""What the command lines share: folders that may not be empty, and usage errors in the user's own words."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from tyro.constructors import PrimitiveConstructorSpec

from ..core.errors import Easi3RError


def _folder(words: list[str]) -> Path:
    # Path("") is the present folder: an unset shell variable would fill it with files.
    if not words[0].strip():
        raise ValueError("the name of the folder is empty; give one (. is the present folder)")
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
"""A path whose text on the command line is not empty."""


@contextlib.contextmanager
def own_usage_errors() -> Iterator[None]:
    """Let an :class:`Easi3RError` that an option class raises come out as itself.

    tyro shows it under a name that it made up for the command (``__tyro-dummy-inner__.align``) and exits; everything
    else that it prints, it prints.
    """
    held = _Held()
    try:
        with contextlib.redirect_stderr(held):
            yield
    except SystemExit as request:
        own = _own_cause(request)
        if own is None:
            raise
        held.truncate(0)
        raise own from None
    finally:
        sys.stderr.write(held.getvalue())


def _own_cause(error: BaseException) -> Easi3RError | None:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, Easi3RError):
        cause = cause.__cause__ or cause.__context__
    return cause


class _Held(io.StringIO):
    """Text for the terminal, kept back."""

    def isatty(self) -> bool:
        return sys.__stderr__ is not None and sys.__stderr__.isatty()
