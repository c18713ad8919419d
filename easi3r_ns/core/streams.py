"""Standard streams that take any text and never decide how a program ends."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

_STANDARD = (0, 1, 2)


@contextlib.contextmanager
def steady_streams() -> Iterator[None]:
    """Within the block, writing to stdout and stderr never fails, whatever happened to them.

    Letters that a stream's encoding lacks are written as escapes (``\\xe9``). Once a stream refuses (a closed pipe, a
    full device), the rest of its text is dropped; a reason other than a closed pipe is told on stderr. A stream that
    was closed before the start leads to the null device, and so does its descriptor: otherwise the next file that the
    program opens would get it, and with it what native libraries print.
    """
    _occupy_descriptors()
    before = sys.stdout, sys.stderr
    sys.stderr = _steady(sys.stderr)
    sys.stdout = _steady(sys.stdout)
    try:
        yield
    finally:
        # Flushed here: the interpreter flushes at its end, where a failure would change the exit code.
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


class SteadyStream:
    """A text stream whose write and flush never raise because of the stream; all else is that of the stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._broken = stream, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write as much as the stream takes."""
        if not self._broken:
            with self._giving_up():
                try:
                    self._stream.write(text)
                except UnicodeEncodeError:
                    encoding = self._stream.encoding or "ascii"
                    self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Iterator[str]) -> None:
        """Write every line."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush, as far as the stream takes it."""
        if not self._broken:
            with self._giving_up():
                self._stream.flush()

    @contextlib.contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            self._broken = True
            self._lead_nowhere()
            if isinstance(error, OSError) and error.errno not in (errno.EPIPE, errno.EBADF, errno.EINVAL):
                if self is not sys.stderr:
                    sys.stderr.write(f"warning: the output could not be written: {error.strerror or error}\n")

    def _lead_nowhere(self) -> None:
        """Empty what the stream still holds into the null device, so that its last flush succeeds."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            descriptor = self._stream.fileno()
            if descriptor in _STANDARD:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
                self._stream.flush()


def _steady(stream: TextIO | None) -> TextIO:
    if isinstance(stream, SteadyStream):
        return cast(TextIO, stream)
    if stream is None or stream.closed:
        stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as long as the program
    return cast(TextIO, SteadyStream(stream))


def _occupy_descriptors() -> None:
    for descriptor in _STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number is taken, which is this one.
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            with contextlib.suppress(OSError):
                os.set_inheritable(descriptor, True)
