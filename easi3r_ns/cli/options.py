"""Parts that the commands share: an option type for output folders, and the display of errors in options."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from tyro.constructors import PrimitiveConstructorSpec

from ..core.errors import Easi3RError


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


@contextlib.contextmanager
def own_usage_errors() -> Iterator[None]:
    """Raise an :class:`Easi3RError` that comes from an option class, in place of tyro's report of it.

    tyro would print the error with an internal name of the command (``__tyro-dummy-inner__.align``) and exit. Its
    output in all other cases is not changed.
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
    """Text for stderr that is held back; claims to be a terminal if stderr is one, so that tyro keeps its colours."""

    def isatty(self) -> bool:
        return sys.__stderr__ is not None and sys.__stderr__.isatty()
