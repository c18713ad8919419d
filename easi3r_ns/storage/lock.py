"""A folder that one process at a time writes to, on Linux, macOS and Windows.

filelock is not used here: on a file system without locks its releases differ, and either report a lock that nobody
holds or leave a file that outlives a killed process.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..core.errors import OutputError
from .files import make_folder, writing

LOCK_FILE = ".easi3r.lock"
"""What Windows locks in the folder, because a folder itself cannot be locked there."""
_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
"""What the system answers when another process holds the lock."""


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Create ``folder`` where it is missing and keep every other process that asks out of it.

    The operating system drops the lock with the process, however that ends. Some network drives have no locks: there
    the block runs all the same.

    Raises:
        OutputError: another process is in such a block for this folder, or the folder cannot be written.
    """
    make_folder(folder)
    if fcntl := _module("fcntl"):
        with _locked_folder(folder, fcntl):
            yield
    elif msvcrt := _module("msvcrt"):
        with _locked_file(folder, msvcrt):
            yield
    else:
        yield


@contextlib.contextmanager
def _locked_folder(folder: Path, fcntl: Any) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        with _refused_when_held(folder):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _locked_file(folder: Path, msvcrt: Any) -> Iterator[None]:
    path = folder / LOCK_FILE
    with writing(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        with _refused_when_held(folder):
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        yield
    finally:
        with contextlib.suppress(OSError):
            msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
        os.close(handle)
        # Windows deletes no file that another process has open: the lock of a run that follows stays what it is.
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def _refused_when_held(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _HELD:
            raise OutputError(
                f"another run is writing to {folder}: wait for it, or choose another --output-dir"
            ) from error


def _module(name: str) -> Any:
    """A module of the standard library that only some systems have, or None."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
