"""The exceptions that this package raises on purpose.

The command line prints the message of an :class:`Easi3RError` without a traceback and exits with its ``exit_code``;
every other exception is a bug and keeps its traceback.
"""


class Easi3RError(Exception):
    """Base of all errors with a remedy in their message."""

    exit_code = 1


class InputError(Easi3RError, ValueError):
    """The user's clip, folder, mask or option cannot be used as it is.

    Also a ValueError: tyro shows those that an option class raises as usage errors.
    """

    exit_code = 2


class MemoryLimitError(InputError):
    """A run does not fit into the memory that the user allows it."""


class CheckpointError(Easi3RError):
    """A weight file is missing, damaged, unsafe or does not fit the network."""

    exit_code = 3


class AlignmentError(Easi3RError):
    """No consistent set of cameras could be found."""

    exit_code = 4


class OutputError(Easi3RError):
    """The dataset cannot be written, or what was written does not pass its own check."""

    exit_code = 5


class MissingExtraError(Easi3RError):
    """A library does not load, or an optional one is needed; the message says what to install."""

    exit_code = 6


def shown(value: object, most: int = 80) -> str:
    """A value for a message: in one line, of ``most`` characters."""
    return shortened(repr(value), most)


def shortened(text: str, most: int = 300) -> str:
    """The first line of a text, and of that ``most`` characters."""
    line = (text.strip().splitlines() or [""])[0]
    return line if len(line) <= most else f"{line[:most]}..."
