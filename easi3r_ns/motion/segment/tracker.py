"""What the refinement of masks needs of a model that follows objects through a video: :class:`ObjectTracker`."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class ObjectMemory(Protocol):
    """One object, as a model remembers it. Frames are named by numbers that count time."""

    def prompt(self, frame: int, seen: Any, mask: np.ndarray) -> None:
        """Remember the object in a frame; ``mask``: (h, w) bool with at least one True pixel, of any size."""

    def predict(self, frame: int, seen: Any, size: tuple[int, int]) -> np.ndarray:
        """Where the object is in a frame: (h, w) float32 of the ``size`` (h, w), positive on the object.

        At least one frame was remembered before. What was predicted is remembered too.
        """


class ObjectTracker(Protocol):
    """Follows objects through a video, frame by frame; what it holds of a clip does not grow with its length."""

    side: int
    """Pixels of the shorter side of the pictures that it wants."""

    @property
    def facts(self) -> dict[str, str]:
        """``model`` and ``licence``, and what else a dataset says of it; decides what is kept of its results."""

    def look(self, image: np.ndarray) -> Any:
        """What the model sees in a picture (h, w, 3) uint8 RGB, upright; several memories may use it."""

    def memory(self) -> ObjectMemory:
        """The memory of an object that was not seen yet."""

    def release(self) -> None:
        """Free its memory."""
