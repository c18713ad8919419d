"""Arrays on disk for the time of a run: what two stages need, and too large for the memory."""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

SCRATCH_BYTES = 2e9
"""Most that lies on the disk, and no longer than the run lasts."""


class Scratch:
    """Arrays by their keys in one file that has no name, so that it goes with the process, however that ends.

    What does not fit the bound or the disk is not kept. May be used from several threads.
    """

    def __init__(self, folder: Path | None, most_bytes: float = SCRATCH_BYTES) -> None:
        """``folder=None`` keeps nothing."""
        self._folder, self._left, self._room = folder, most_bytes, 2 * most_bytes
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._end = 0
        self._held: dict[bytes, tuple[int, Any, tuple[int, ...]]] = {}

    def get(self, key: bytes) -> NDArray[Any] | None:
        """The array that was put under ``key``, as a copy; None: it is not kept."""
        with self._lock:
            if self._file is None or key not in self._held:
                return None
            place, dtype, shape = self._held[key]
            array = np.empty(shape, dtype)
            try:
                self._file.seek(place)
                whole = self._file.readinto(array.reshape(-1).view(np.uint8).data)  # type: ignore[attr-defined]
            except OSError:
                return None
            return array if whole == array.nbytes else None

    def put(self, key: bytes, array: NDArray[Any]) -> None:
        """Keep an array, where there is room."""
        with self._lock:
            if self._folder is None or key in self._held or array.nbytes > self._left:
                return
            try:
                if self._file is None:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    if shutil.disk_usage(self._folder).free < self._room:
                        self._give_up()  # the results of the run need the disk more
                        return
                    self._file = tempfile.TemporaryFile(dir=self._folder, prefix="scratch-", buffering=0)
                self._file.seek(self._end)
                written = self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            except OSError:
                self._give_up()  # the disk is full: what follows needs the room more
                return
            if written == array.nbytes:
                self._held[key] = (self._end, array.dtype, array.shape)
            self._end += written
            self._left -= written

    def _give_up(self) -> None:
        if self._file is not None:
            self._file.close()
        self._folder, self._file = None, None
        self._held.clear()
