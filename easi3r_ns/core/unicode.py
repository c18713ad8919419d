"""Names on disk that are no text."""

from __future__ import annotations

from pathlib import Path

NOT_UNICODE = (
    "its name is not UTF-8, which libraries that read it need: rename it (where the locale is POSIX or C, set "
    "PYTHONUTF8=1 instead)"
)
"""Why a file cannot be read whose name is not :func:`is_unicode`, and what to do."""


def is_unicode(path: Path) -> bool:
    """Whether the absolute path is text: a name on disk may hold any bytes, for which Python has escapes."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        return False
    return True
