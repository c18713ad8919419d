"""Display of the errors that option classes raise while tyro reads a command line."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator

from .errors import Easi3RError


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


@contextlib.contextmanager
def own_errors() -> Iterator[None]:
    """Print an :class:`Easi3RError` as one line on stderr and exit with its code; for programs beside ``easi3r``.

    Raises:
        SystemExit: instead of every Easi3RError.
    """
    try:
        yield
    except Easi3RError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(error.exit_code) from error
