"""Tensors that are larger than the memory: filled row by row into memory-mapped files, or mapped from one."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.errors import OutputError

_npy: Any = np.lib.format  # numpy 1 has no types for it
_ZEROS = bytes(2**20)

Shapes = Mapping[str, tuple[int, ...]]
"""Of tensors by name, all rows included."""


class RowStore(Protocol):
    """Takes in rows of some tensors in any order; a row may come again."""

    dtype: torch.dtype
    """Of all the tensors."""

    def write(self, rows: NDArray[Any], values: Mapping[str, Tensor]) -> None:
        """``values[name]`` (B, ...) of type :attr:`dtype` on the CPU become the rows (B,) of the tensor ``name``."""


class MemoryRows:
    """Whole tensors in memory."""

    def __init__(self, shapes: Shapes, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.tensors = {name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}

    def write(self, rows: NDArray[Any], values: Mapping[str, Tensor]) -> None:
        """See :class:`RowStore`."""
        index = torch.from_numpy(rows)
        for name, value in values.items():
            self.tensors[name][index] = value


class FileRows:
    """One ``.npy`` file per tensor in a folder that is there, written through a memory mapping.

    The space is reserved first: a full disk is known before the work is done. Each call of :meth:`write` maps the file
    anew, because pages that were written count as memory of the process for as long as they are mapped.

    Raises:
        OSError: a file cannot be written.
    """

    def __init__(self, folder: Path, shapes: Shapes, dtype: torch.dtype) -> None:
        self.dtype, self._shapes, self._folder = dtype, dict(shapes), folder
        kind = torch.empty(0, dtype=dtype).numpy().dtype
        for name, shape in self._shapes.items():
            start = _npy.open_memmap(tensor_path(folder, name), mode="w+", dtype=kind, shape=shape).offset
            with open(tensor_path(folder, name), "r+b") as file:
                _reserve(file.fileno(), start, math.prod(shape) * dtype.itemsize)

    def write(self, rows: NDArray[Any], values: Mapping[str, Tensor]) -> None:
        """See :class:`RowStore`."""
        for name, value in values.items():
            shape = self._shapes[name]
            if tuple(value.shape[1:]) != shape[1:] or value.dtype != self.dtype:
                raise ValueError(f"{name}: rows {tuple(value.shape[1:])} {value.dtype} for {shape[1:]} {self.dtype}")
            outside = [row for row in rows.tolist() if not 0 <= row < shape[0]]
            if outside:
                raise IndexError(f"{name}: row {outside[0]} of {shape[0]}")
            _npy.open_memmap(tensor_path(self._folder, name), mode="r+")[rows] = value.numpy()


def tensor_path(folder: Path, name: str) -> Path:
    """The file of a tensor in a folder of such files."""
    return folder / f"{name}.npy"


def map_tensor(path: Path) -> Tensor:
    """The tensor of a ``.npy`` file, mapped: what is not read costs no memory, and writing does not reach the file.

    Raises OSError when the file is not there, and for a damaged one whatever numpy and torch raise (ValueError,
    TypeError, ...).
    """
    return torch.from_numpy(_npy.open_memmap(path, mode="c"))


def empty_tensor(shape: tuple[int, ...], dtype: torch.dtype, folder: Path | None) -> Tensor:
    """A CPU tensor of unset (mapped: zero) numbers, in memory or, with ``folder``, in a file that the system pages.

    The file is unlinked at once where the system lets us: it goes with the tensor, however the process ends. Its space
    is reserved first, because a write into a mapping on a full disk would kill the process.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    count = math.prod(shape)
    if folder is None or count == 0:
        return torch.empty(shape, dtype=dtype)
    num_bytes = count * dtype.itemsize
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="spilled-", suffix=".tmp", dir=folder)
    except OSError as error:
        raise OutputError(f"cannot keep intermediate results in {folder}: {error}") from error
    try:
        _reserve(handle, 0, num_bytes)
        # torch.from_file would open the file by its name, which has to be UTF-8 for it.
        return torch.frombuffer(mmap.mmap(handle, num_bytes), dtype=dtype).view(shape)
    except (OSError, RuntimeError, ValueError) as error:
        raise OutputError(
            f"cannot keep {num_bytes / 1e9:.2g} GB of intermediate results in {folder}: {error}; free some space"
        ) from error
    finally:
        os.close(handle)
        with contextlib.suppress(OSError):  # Windows keeps a mapped file until the workspace goes
            os.unlink(name)


def _reserve(descriptor: int, start: int, num_bytes: int) -> None:
    """Make the disk hold so many bytes of an open file, unset. Raises OSError when it does not have them."""
    if not num_bytes:
        return
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, start, num_bytes)
        return
    os.lseek(descriptor, start, os.SEEK_SET)
    for done in range(0, num_bytes, len(_ZEROS)):
        os.write(descriptor, _ZEROS[: num_bytes - done])
