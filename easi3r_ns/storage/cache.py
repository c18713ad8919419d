"""Finished stages on disk, so that a killed run goes on where it stopped.

A stage's result is a folder, named by the stage and a digest of everything that decides the result, with one ``.npy``
file per tensor and ``index.json``, which names the tensors. It appears as a whole or not at all. Tensors come back
memory-mapped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tokenize
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.errors import OutputError
from ..core.runlog import RunLog
from .rows import FileRows, MemoryRows, RowStore, Shapes, map_tensor, tensor_path
from .scratch import Scratch

_INDEX, _WARNINGS = "index.json", "stage_warnings"
_DAMAGED = (OSError, EOFError, ValueError, KeyError, TypeError, OverflowError, SyntaxError, tokenize.TokenError)
"""What the readers of JSON and of npy (whose header is Python text) raise for a file that is not what it should be."""

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
        self.scratch = Scratch(folder)
        """For what two stages of this run need."""

    def path(self, stage: str, key: str) -> Path | None:
        """The folder where the result of a stage lies, or would lie."""
        return self.folder / f"{stage}-{key}" if self.folder else None

    def get(self, stage: str, key: str) -> Tensors | None:
        """The tensors of a finished stage, or None; where one file is damaged or missing, the whole counts as absent.

        Writing into the tensors does not change what is kept.
        """
        path = self.path(stage, key)
        if path is None:
            return None
        try:
            names = json.loads((path / _INDEX).read_text(encoding="utf-8"))["tensors"]
            return {name: map_tensor(tensor_path(path, name)) for name in names}
        except _DAMAGED:
            return None

    def put(self, stage: str, key: str, tensors: Tensors) -> None:
        """Keep the tensors of a stage; older results of the same stage are dropped.

        Raises:
            OutputError: the folder cannot be written (full disk, no permission).
        """
        path = self.path(stage, key)
        if path is None:
            return
        with self._appearing(stage, path, tensors) as partial:
            for name, tensor in tensors.items():
                np.save(tensor_path(partial, name), tensor.detach().cpu().numpy(), allow_pickle=False)

    def fill(
        self, stage: str, key: str, shapes: Shapes, dtype: torch.dtype, work: Callable[[RowStore], None], *, spill: bool
    ) -> Tensors:
        """Keep a stage that ``work`` writes row by row, and give back its tensors; they are made anew.

        ``spill`` writes straight into the files, so that the tensors are never in memory as a whole; without a folder
        they are nevertheless.

        Raises:
            OutputError: as :meth:`put`.
        """
        path = self.path(stage, key)
        if path is None or not spill:
            memory = MemoryRows(shapes, dtype)
            work(memory)
            self.put(stage, key, memory.tensors)
            kept = self.get(stage, key)
            return memory.tensors if kept is None else kept
        with self._appearing(stage, path, shapes) as partial:
            work(FileRows(partial, shapes, dtype))
        kept = self.get(stage, key)
        if kept is None:
            raise OutputError(f"{path} cannot be read again: check the disk")
        return kept

    @contextlib.contextmanager
    def _appearing(self, stage: str, path: Path, names: Iterable[str]) -> Iterator[Path]:
        """A folder to fill with the tensors ``names``, which takes its place when the block ends well; older results of
        the stage then go."""
        partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for leftover in path.parent.glob(f"{stage}-*.tmp"):  # of a killed run: the space is needed
                _remove(leftover)
            partial.mkdir()
            yield partial
            (partial / _INDEX).write_text(json.dumps({"tensors": list(names)}), encoding="utf-8")
            _remove(path)
            os.replace(partial, path)
        except OSError as error:
            raise OutputError(f"cannot keep intermediate results in {path.parent}: {error}; free some space") from error
        finally:
            _remove(partial)
        for old in path.parent.glob(f"{stage}-*"):
            if old != path:
                _remove(old)

    def stage(self, stage: str, key: str, compute: Callable[[], Tensors], log: RunLog | None = None) -> Tensors:
        """The kept result, or that of ``compute()``, which is then kept.

        Where it is kept, it comes back from its files: what a later stage does not read costs no memory. With ``log``,
        warnings of ``compute()`` are kept too, and given again.
        """
        kept = self.get(stage, key)
        if kept is None:
            told = len(log.warnings) if log else 0
            result = compute()
            said = {_WARNINGS: _as_tensor(log.warnings[told:])} if log else {}
            self.put(stage, key, result | said)
            kept = self.get(stage, key)
            kept = result if kept is None else kept
        elif log is not None and _WARNINGS in kept:
            for warning in json.loads(bytes(kept[_WARNINGS].numpy()).decode()):
                if warning not in log.warnings:  # of a stage that was computed within another one
                    log.warn(warning)
        return {name: tensor for name, tensor in kept.items() if name != _WARNINGS}


def _as_tensor(texts: Sequence[str]) -> torch.Tensor:
    return torch.frombuffer(bytearray(json.dumps(list(texts)).encode()), dtype=torch.uint8)


def _remove(path: Path) -> None:
    """Delete a file or a folder, as far as the system allows it (Windows keeps what is still mapped)."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
