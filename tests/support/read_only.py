"""A folder in which nothing may be written, for root too, whom permissions do not bind."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def make_read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every attempt of Python code to make, write, replace or delete a file below ``folder`` ends in EROFS."""
    root = str(folder.resolve())

    def below(path: Any) -> bool:
        return isinstance(path, (str, os.PathLike)) and str(Path(path).absolute()).startswith(root)

    def refuse(path: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def guarded(function: Callable[..., Any], places: tuple[int, ...]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            for place in places:
                if place < len(args) and below(args[place]):
                    refuse(args[place])
            return function(*args, **options)

        return call

    def opened(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            if below(file) and set(mode) & set("wax+"):
                refuse(file)
            return function(file, mode, *args, **options)

        return call

    for name, places in {"mkdir": (0,), "unlink": (0,), "replace": (0, 1), "link": (1,), "rmdir": (0,)}.items():
        monkeypatch.setattr(os, name, guarded(getattr(os, name), places))
    monkeypatch.setattr(builtins, "open", opened(builtins.open))
    monkeypatch.setattr(io, "open", opened(io.open))
