"""Things that have a name: ``--remove`` masks them whether they move or not, ``--keep`` never does.

A detector finds boxes for words, a model that segments makes masks of them, frame by frame; or the detector makes masks
itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import cv2
import numpy as np

from ...core.types import DynamicMasks

METHOD = 1
"""Number of this method; a new one finds things anew that were kept."""


@dataclass(frozen=True)
class Detection:
    """One thing in one picture."""

    name: str
    score: float
    box: np.ndarray
    """(4,) left, top, right, bottom in shares of the picture's sides."""
    mask: np.ndarray | None = None
    """(h, w) float32 over the whole picture in any size, positive on the thing; None: the detector makes no masks."""


class NamedDetector(Protocol):
    """Finds things in pictures by their names."""

    side: int
    """Pixels of the shorter side of the pictures that it wants."""

    @property
    def facts(self) -> dict[str, str]:
        """``model`` and ``licence``, and what else a dataset says of it; decides what is kept of its results."""

    def detect(self, image: np.ndarray, names: tuple[str, ...]) -> list[Detection]:
        """What a picture (h, w, 3) uint8 RGB, upright, shows of the names."""

    def release(self) -> None:
        """Free its memory."""


class BoxSegmenter(Protocol):
    """Segments what a box shows."""

    @property
    def facts(self) -> dict[str, str]:
        """As :attr:`NamedDetector.facts`."""

    def look(self, image: np.ndarray) -> Any:
        """What the model sees in a picture (h, w, 3) uint8 RGB, upright."""

    def segment(self, seen: Any, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """(h, w) float32 of the ``size`` (h, w), positive on what the box shows; see :attr:`Detection.box`."""

    def release(self) -> None:
        """Free its memory."""


@dataclass(frozen=True)
class NamedMasks:
    """Where things with a name are."""

    remove: np.ndarray
    """(F, H, W) bool: masked whether it moves or not."""
    keep: np.ndarray
    """(F, H, W) bool: never masked; wins over ``remove``."""
    facts: dict[str, Any]
    """JSON-serialisable: the models, and of every name what was asked and in how many frames it was found."""

    def of_frames(self, kept: np.ndarray) -> NamedMasks:
        """Those of some frames only, by their positions."""
        return replace(self, remove=self.remove[kept], keep=self.keep[kept])

    def applied(self, dynamic: DynamicMasks) -> DynamicMasks:
        """The masks with what is to be removed and without what is to be kept; of the refined ones too."""
        masks, refined = self._of(dynamic.masks), dynamic.refined
        final = dynamic.final.masks
        facts = self.facts | {
            "added": float((self.remove & ~self.keep & ~final).mean()),
            "taken": float((self.keep & final).mean()),
        }
        if refined is not None:
            own = self._of(refined.masks)
            same = bool((own == refined.masks).all())
            refined = replace(refined, masks=own, objects=refined.objects if same else None)
        source = "user" if dynamic.source == "none" and masks.any() else dynamic.source
        objects = dynamic.objects if (masks == dynamic.masks).all() else None
        return replace(dynamic, masks=masks, objects=objects, refined=refined, named=facts, source=source)

    def _of(self, masks: np.ndarray) -> np.ndarray:
        return (masks | self.remove) & ~self.keep


def find_named(
    image: np.ndarray,
    names: tuple[str, ...],
    size: tuple[int, int],
    detector: NamedDetector,
    segmenter: BoxSegmenter | None,
) -> dict[str, np.ndarray]:
    """Name -> (h, w) bool of the ``size`` (h, w), for the names that a picture (H, W, 3) uint8 RGB shows.

    ``segmenter``: None where the detector makes masks itself.
    """
    found: dict[str, np.ndarray] = {}
    seen: Any = None
    for one in detector.detect(image, names):
        if one.mask is not None:
            mask = cv2.resize(one.mask, size[::-1], interpolation=cv2.INTER_LINEAR) > 0
        elif segmenter is None:
            continue
        else:
            seen = segmenter.look(image) if seen is None else seen
            mask = segmenter.segment(seen, one.box, size) > 0
        if mask.any():
            found[one.name] = found.get(one.name, np.zeros(size, dtype=bool)) | mask
    return found


Find = Callable[[np.ndarray], dict[str, np.ndarray]]
"""(H, W, 3) uint8 RGB, upright -> see :func:`find_named`."""
