"""Tensors that are larger than the memory: filled row by row into a file, or mapped from one."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import torch
from torch import Tensor

from ..core.errors import OutputError

_NAMES = {torch.float32: "F32", torch.float16: "F16"}

Shapes = Mapping[str, tuple[int, ...]]
"""Of tensors by name, all rows included."""


class RowStore(Protocol):
    """Takes in rows of some tensors in any order; a row may come again."""

    dtype: torch.dtype
    """Of all the tensors."""

    def write(self, rows: np.ndarray, values: Mapping[str, Tensor]) -> None:
        """``values[name]`` (B, ...) of type :attr:`dtype` on the CPU become the rows (B,) of the tensor ``name``."""


class MemoryRows:
    """Whole tensors in memory."""

    def __init__(self, shapes: Shapes, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.tensors = {name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}

    def write(self, rows: np.ndarray, values: Mapping[str, Tensor]) -> None:
        """See :class:`RowStore`."""
        index = torch.from_numpy(rows)
        for name, value in values.items():
            self.tensors[name][index] = value


class FileRows:
    """A safetensors file (https://github.com/huggingface/safetensors#format) that is written in pieces.

    What is written goes to the system's file cache, not to the memory of the process. The space is reserved first: a
    full disk is known before the work is done.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, shapes: Shapes, dtype: torch.dtype) -> None:
        self.dtype, self._shapes = dtype, dict(shapes)
        table, end = {}, 0
        for name, shape in self._shapes.items():
            begin, end = end, end + math.prod(shape) * dtype.itemsize
            table[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
        header = json.dumps(table).encode()
        header += b" " * (-len(header) % 8)
        self._start = {name: 8 + len(header) + entry["data_offsets"][0] for name, entry in table.items()}
        self._file: BinaryIO = open(path, "wb")  # noqa: SIM115, closed by close()
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._file.fileno(), 0, 8 + len(header) + end)
            else:
                self._file.truncate(8 + len(header) + end)
            self._file.write(len(header).to_bytes(8, "little") + header)
        except OSError:
            self._file.close()
            raise

    def write(self, rows: np.ndarray, values: Mapping[str, Tensor]) -> None:
        """See :class:`RowStore`."""
        for name, value in values.items():
            shape = self._shapes[name]
            if tuple(value.shape[1:]) != shape[1:] or value.dtype != self.dtype:
                raise ValueError(f"{name}: rows {tuple(value.shape[1:])} {value.dtype} for {shape[1:]} {self.dtype}")
            data, size = value.contiguous().numpy(), math.prod(shape[1:]) * self.dtype.itemsize
            for row, part in zip(rows.tolist(), data):
                if not 0 <= row < shape[0]:
                    raise IndexError(f"{name}: row {row} of {shape[0]}")
                self._file.seek(self._start[name] + row * size)
                self._file.write(part.data)

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


def empty_tensor(shape: tuple[int, ...], dtype: torch.dtype, folder: Path | None) -> torch.Tensor:
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
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle, 0, num_bytes)
        return torch.from_file(name, shared=True, size=count, dtype=dtype).view(shape)
    except (OSError, RuntimeError) as error:
        raise OutputError(
            f"cannot keep {num_bytes / 1e9:.2g} GB of intermediate results in {folder}: {error}; free some space"
        ) from error
    finally:
        os.close(handle)
        with contextlib.suppress(OSError):  # Windows keeps a mapped file until the workspace goes
            os.unlink(name)
