"""Frames of a short video that stay in memory, as they were decoded, between the look at all of them and their use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

KEPT_BYTES = 400e6
"""At most so much memory: 128 frames of 1920x1080. No more than the dataset takes later, when these are gone."""


class DecodedFrames:
    """Decoded frames by their indices: all of those that were shown, or, once they exceed a bound, none."""

    def __init__(self, most_bytes: float) -> None:
        self._left = most_bytes
        self._frames: dict[int, Any] = {}

    def add(self, index: int, frame: Any) -> None:
        """Keep the frame, which nobody may change. Beyond the bound all frames are given up."""
        self._left -= sum(plane.buffer_size for plane in frame.planes)
        if self._left >= 0:
            self._frames[index] = frame
        else:
            self._frames.clear()

    def those(self, indices: Sequence[int]) -> Iterator[tuple[int, Any]] | None:
        """Index and frame of ``indices`` in increasing order; None: not all of them are here."""
        wanted = sorted(int(index) for index in indices)
        if not wanted or not all(index in self._frames for index in wanted):
            return None
        return ((index, self._frames[index]) for index in wanted)
