"""Reading files that somebody else wrote: nothing in them is trusted before it is checked.

Only regular files are opened (a pipe would block for ever), sizes that a file announces are compared with its real size
and with the free memory before anything is allocated, and nothing is executed. Every function raises ValueError or
OSError with the reason alone; who calls it knows the path.
"""

from __future__ import annotations

import contextlib
import json
import lzma
import math
import os
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..core.errors import shortened
from ..core.free_memory import available_memory_bytes

MOST_JSON_BYTES = 1 << 28
"""Largest JSON or text file that is read: that of a clip of 100,000 frames is smaller."""
_npy: Any = np.lib.format  # numpy 1 has no types for it
_HEADER_READERS = {(1, 0): _npy.read_array_header_1_0, (2, 0): _npy.read_array_header_2_0}
_KINDS = "biufSU"
"""numpy's kinds of values that are read: booleans, numbers and text."""
_DAMAGED = (
    *(EOFError, KeyError, IndexError, TypeError, NotImplementedError, RuntimeError, OverflowError, MemoryError),
    *(SyntaxError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)
"""What zipfile and numpy raise, beside OSError and ValueError, for a file that is not what it should be."""


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading. Raises OSError, for a folder, a pipe or a device too."""
    # Without O_NONBLOCK, opening a pipe waits for somebody who writes into it.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("it is not a regular file")
        file = open(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise
    with file:
        yield file


def require_regular(path: Path) -> None:
    """Raises OSError unless ``path`` can be opened and is a regular file."""
    with open_regular(path):
        pass


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """The content of a regular file of at most ``most`` bytes (None: of what fits into memory).

    Raises OSError or ValueError.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise ValueError(f"it has {_size(size)}, more than {_size(most)}")
        refuse_larger_than_memory(size)
        return file.read()


def read_text(path: Path) -> str:
    """The text of a UTF-8 file of at most :data:`MOST_JSON_BYTES`. Raises OSError or ValueError."""
    return read_bytes(path, MOST_JSON_BYTES).decode("utf-8")


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises OSError or ValueError, for one that is nested too deeply too."""
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_npy(path: Path) -> np.ndarray:
    """The array of booleans, numbers or text in an ``.npy`` file. Raises OSError or ValueError."""
    with open_regular(path) as file, _damage_told():
        return _read_array(file, os.fstat(file.fileno()).st_size)


class Archive(Mapping[str, np.ndarray]):
    """The arrays of an ``.npz`` file by their names; each is read, and checked, when it is asked for."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._members = {
            info.filename.removesuffix(".npy"): info for info in archive.infolist() if info.filename.endswith(".npy")
        }

    def __getitem__(self, name: str) -> np.ndarray:
        """Raises KeyError where there is no such array, ValueError where it is damaged."""
        with self._opened(name) as file:
            return _read_array(file, self._members[name].file_size)

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and type of an array that is not read. Raises as ``[name]``."""
        with self._opened(name) as file:
            return _read_header(file, self._members[name].file_size)[:2]

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[BinaryIO]:
        if name not in self._members:
            raise KeyError(name)
        with _damage_told(name), self._archive.open(self._members[name]) as file:
            yield file  # type: ignore[misc]


@contextlib.contextmanager
def open_npz(path: Path) -> Iterator[Archive]:
    """Open an ``.npz`` file. Raises OSError or ValueError."""
    with open_regular(path) as file:
        with _damage_told():
            archive = zipfile.ZipFile(file)
        with archive:
            yield Archive(archive)


def refuse_larger_than_memory(size: float) -> None:
    """Raises ValueError where ``size`` bytes exceed the memory that is free now."""
    free = available_memory_bytes()
    if free is not None and size > free:
        raise ValueError(f"it needs {_size(size)} of memory, {_size(free)} are free")


@contextlib.contextmanager
def _damage_told(name: str = "") -> Iterator[None]:
    """Turn what the libraries raise for a damaged file into a ValueError."""
    of = f"{name}: " if name else ""
    try:
        yield
    except _DAMAGED as error:
        raise ValueError(f"{of}it is damaged or of another kind ({_reason(error)})") from error
    except ValueError as error:
        raise ValueError(f"{of}{_reason(error)}") from error


def _read_array(file: BinaryIO, size: int) -> np.ndarray:
    shape, dtype, fortran = _read_header(file, size)
    content = file.read(math.prod(shape) * dtype.itemsize)
    if len(content) < math.prod(shape) * dtype.itemsize or file.read(1):
        raise ValueError(f"it does not hold exactly the {shape} {dtype.name} values that it announces")
    array = np.frombuffer(bytearray(content), dtype=dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def _read_header(file: BinaryIO, size: int) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Shape, type and order of the array in a file of ``size`` bytes, which can hold them."""
    version = _npy.read_magic(file)
    if version not in _HEADER_READERS:
        raise ValueError(f"version {version} of the format is not read: save the array again")
    shape, fortran, dtype = _HEADER_READERS[version](file)
    if dtype.kind not in _KINDS:
        raise ValueError(f"it holds values of type {dtype}, not numbers")
    if any(side < 0 for side in shape) or math.prod(shape) * dtype.itemsize > size:
        raise ValueError(
            f"it announces {_size(abs(math.prod(shape)) * dtype.itemsize)} {shape}, the file has {_size(size)}"
        )
    refuse_larger_than_memory(2 * math.prod(shape) * dtype.itemsize)
    return shape, dtype, fortran


def _reason(error: BaseException) -> str:
    return shortened(str(error), 200) or type(error).__name__


def _size(count: float) -> str:
    """Bytes in words: '745 GiB'."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} bytes"


@contextlib.contextmanager
def open_zip(path: Path) -> Iterator[Callable[[str], bytes | None]]:
    """Open a ZIP archive: the content of a member by its name, None where there is none. Raises OSError or ValueError.

    Members are read one by one, and only those that fit into memory.
    """
    with open_regular(path) as file:
        with _damage_told():
            archive = zipfile.ZipFile(file)
        names = set(archive.namelist())

        def read(name: str) -> bytes | None:
            if name not in names:
                return None
            with _damage_told(name):
                refuse_larger_than_memory(archive.getinfo(name).file_size)
                return archive.read(name)

        with archive:
            yield read
