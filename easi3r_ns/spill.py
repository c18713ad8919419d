"""Tensors that are too large for the memory, in memory-mapped files."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from pathlib import Path

import torch

from .errors import OutputError


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
