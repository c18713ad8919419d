"""Finished stages on disk, so that a killed run goes on where it stopped.

A stage's file is named by the stage and a digest of everything that decides its result; it appears atomically or not
at all. Tensors come back memory-mapped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..core.errors import OutputError
from .rows import FileRows, MemoryRows, RowStore, Shapes

Tensors = dict[str, torch.Tensor]


def digest(*parts: Any) -> str:
    """A 16-digit name for values of any kind used in the configuration: arrays, dataclasses, JSON values, strings."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            sha.update(f"{part.dtype}{part.shape}".encode())
            sha.update(np.ascontiguousarray(part).data)
        else:
            value = asdict(part) if is_dataclass(part) and not isinstance(part, type) else part
            sha.update(json.dumps(value, sort_keys=True, default=str).encode())
        sha.update(b"\0")
    return sha.hexdigest()[:16]


class StageCache:
    """Results of stages in a folder; ``folder=None`` keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def path(self, stage: str, key: str) -> Path | None:
        """Where the result of a stage lies, or would lie."""
        return self.folder / f"{stage}-{key}.safetensors" if self.folder else None

    def get(self, stage: str, key: str) -> Tensors | None:
        """The tensors of a finished stage, or None; a damaged file counts as absent."""
        path = self.path(stage, key)
        if path is None or not path.exists():
            return None
        try:
            return load_file(path)
        except (SafetensorError, OSError):
            return None

    def put(self, stage: str, key: str, tensors: Tensors) -> None:
        """Keep the tensors of a stage; older results of the same stage are dropped.

        Raises:
            OutputError: the folder cannot be written (full disk, no permission).
        """
        path = self.path(stage, key)
        if path is None or self.folder is None:
            return
        with self._appearing(stage, path) as partial:
            save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, partial)

    def fill(
        self, stage: str, key: str, shapes: Shapes, dtype: torch.dtype, work: Callable[[RowStore], None], *, spill: bool
    ) -> Tensors:
        """Keep a stage that ``work`` writes row by row, and give back its tensors; they are made anew.

        ``spill`` writes straight into the file, so that the tensors are never in memory as a whole; without a folder
        they are nevertheless.

        Raises:
            OutputError: as :meth:`put`.
        """
        path = self.path(stage, key)
        if path is None or not spill:
            memory = MemoryRows(shapes, dtype)
            work(memory)
            self.put(stage, key, memory.tensors)
            result = memory.tensors
        else:
            with self._appearing(stage, path) as partial:
                file = FileRows(partial, shapes, dtype)
                try:
                    work(file)
                finally:
                    file.close()
            result = {}
        kept = self.get(stage, key)
        if kept is None and not result:
            raise OutputError(f"{path} cannot be read again: check the disk")
        return result if kept is None else kept

    @contextlib.contextmanager
    def _appearing(self, stage: str, path: Path) -> Iterator[Path]:
        """A file to write, which takes its place when the block ends well; older results of the stage then go."""
        partial = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for leftover in path.parent.glob(f"{stage}-*.tmp"):  # of a killed run: the space is needed
                leftover.unlink(missing_ok=True)
            yield partial
            os.replace(partial, path)
        except (OSError, SafetensorError) as error:
            raise OutputError(f"cannot keep intermediate results in {path.parent}: {error}; free some space") from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        for old in path.parent.glob(f"{stage}-*"):
            if old != path:
                old.unlink(missing_ok=True)

    def stage(self, stage: str, key: str, compute: Callable[[], Tensors]) -> Tensors:
        """The kept result, or that of ``compute()``, which is then kept.

        Where it is kept, it comes back from its file: what a later stage does not read costs no memory.
        """
        result = self.get(stage, key)
        if result is not None:
            return result
        result = compute()
        self.put(stage, key, result)
        kept = self.get(stage, key)
        return result if kept is None else kept
