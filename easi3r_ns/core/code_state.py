"""Which state of the code made a result: a digest of the package's own files, which needs no version control."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
_DIGITS = 12


@lru_cache(maxsize=1)
def code_state() -> str:
    """12 hexadecimal digits that change with every ``.py`` file of the package; line ends do not matter."""
    found = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py"), key=lambda path: path.relative_to(PACKAGE).as_posix()):
        content = path.read_bytes().replace(b"\r\n", b"\n")
        found.update(f"{path.relative_to(PACKAGE).as_posix()}\0{len(content)}\0".encode() + content)
    return found.hexdigest()[:_DIGITS]
