"""What a file or some files hold, in a few letters: equal for copies of the same content, wherever they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from .files import natural_key

_CHUNK = 1 << 22
"""Bytes that are read at once."""


def fingerprint(files: Iterable[Path]) -> str:
    """32 hexadecimal digits that stand for the content of some files in their order, and for the names of several.

    Raises:
        OSError: one of them cannot be read.
    """
    digest, files = hashlib.blake2b(digest_size=16), list(files)
    for path in files:
        name = path.name if len(files) > 1 else ""
        digest.update(f"{name}\0{path.stat().st_size}\0".encode("utf-8", "surrogateescape"))
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def files_of(path: Path) -> list[Path]:
    """The file itself, or the regular files that lie directly in the folder, without hidden ones."""
    if not path.is_dir():
        return [path]
    inside = [file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")]
    return sorted(inside, key=lambda file: natural_key(file.name))
