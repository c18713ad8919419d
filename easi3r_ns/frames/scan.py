"""One look at every frame of a clip before any is chosen: how sharp it is, what it repeats, and where the clip cuts.

Sharpness is the energy of the grey level's gradient (Tenengrad: Krotkov, Focusing, IJCV 1988; compared with 35 other
measures by Pertuz, Puig and Garcia, Analysis of focus measure operators for shape-from-focus, Pattern Recognition 2013)
at a fixed working size, so that noise and the traces of compression count little. Motion blur removes the gradient
along the motion only, so that the smaller one of the energies along x and along y is taken.

The energy depends on what is in the picture. It is therefore compared between neighbouring frames only, which show the
same, and less the drift of their neighbourhood (:func:`~.select.choose_scanned`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from ..core.errors import InputError
from ..core.runlog import RunLog
from .cuts import Cut, CutFinder
from .images import ImageFolder
from .source import Source

_BLOCK = 16
"""Pixels along the side of the blocks whose means are compared to tell whether a frame repeats another one."""
_SAME = 2.0
"""Grey levels by which the mean of a block may differ between frames that show the same. Noise of a deviation of 6
changes the mean of 256 pixels by 0.4; an edge of 150 grey levels that moves by a fifth of a pixel changes it by 2."""


@dataclass(frozen=True)
class Scan:
    """What the look at a clip found."""

    indices: np.ndarray
    """(N,) int64 increasing indices of the frames that could be seen."""
    sharpness: np.ndarray
    """(N,) float64 natural logarithm of the gradient's energy; NaN: the image is not fit for use."""
    run: np.ndarray
    """(N,) int64: frames with the same number show the same; numbers increase."""
    cuts: tuple[Cut, ...]
    """Where the clip goes on in another scene."""

    def part(self) -> np.ndarray:
        """(N,) int64 number of the part between cuts that a frame belongs to."""
        return np.searchsorted([cut.after for cut in self.cuts], self.indices, side="right")


class _Looks:
    """Collects what is seen; keeps a few small pictures, never the clip."""

    def __init__(self) -> None:
        self.finder = CutFinder()
        self.indices: list[int] = []
        self.sharpness: list[float] = []
        self.run: list[int] = []
        self._anchor: np.ndarray | None = None

    def add(self, index: int, thumb: np.ndarray) -> None:
        """The next frame, as (h, w) uint8 grey."""
        self.finder.add(index, thumb)
        blocks = _block_means(thumb)
        last = self.run[-1] if self.run else 0
        same = self._anchor is not None and shows_the_same(self._anchor, blocks)
        if not same:
            # Compared with the first frame of a run, not with the one before: slow motion adds up.
            self._anchor = blocks
        self.indices.append(index)
        self.sharpness.append(gradient_energy(thumb))
        self.run.append(last + (not same))

    def unfit(self, index: int) -> None:
        """An image that cannot be used; it is noted, so that it is met where nothing else can be taken."""
        self.indices.append(index)
        self.sharpness.append(np.nan)
        self.run.append((self.run[-1] if self.run else 0) + 1)
        self._anchor = None


def scan(source: Source, inside: np.ndarray, log: RunLog) -> Scan:
    """Look at the frames ``inside`` (increasing indices) of a source, in one pass, in constant memory.

    Raises:
        InputError: as reading the source does.
    """
    looks = _Looks()
    with log.stage("choosing frames", len(inside)) as advance:
        if isinstance(source, ImageFolder):
            _scan_images(source, inside, looks, advance)
        else:
            wanted = set(inside.tolist())

            def watch(index: int, thumb: np.ndarray) -> None:
                if index in wanted:
                    looks.add(index, thumb)
                    advance(1)

            for _ in source.read(inside[-1:].tolist(), log, watch):
                pass
    return Scan(
        np.array(looks.indices, dtype=np.int64),
        np.array(looks.sharpness),
        np.array(looks.run, dtype=np.int64),
        looks.finder.finish(),
    )


def _scan_images(source: ImageFolder, inside: np.ndarray, looks: _Looks, advance: Callable[..., None]) -> None:
    wanted = None
    for index in inside.tolist():
        try:
            image, size = source.glance(index)
        except InputError:
            looks.unfit(index)
        else:
            wanted = wanted or size
            if size == wanted:
                looks.add(index, image)
            else:
                looks.unfit(index)
        advance(1)


def gradient_energy(thumb: np.ndarray) -> float:
    """Logarithm of the mean squared difference of neighbours in (h, w) uint8 grey: along x or y, the smaller one."""
    grey = thumb.astype(np.float32)
    along_x, along_y = np.diff(grey, axis=1), np.diff(grey, axis=0)
    # A picture without any gradient, and one of noise alone, are equally unsharp.
    return float(np.log(min(np.mean(along_x * along_x), np.mean(along_y * along_y)) + 1.0))


def relative(values: np.ndarray, part: np.ndarray, reach: int) -> np.ndarray:
    """(N,) logarithms of energies -> the same less the median of the ``reach`` frames on both sides, in the same part.

    NaN stays NaN and counts nowhere.
    """
    result = np.full(len(values), np.nan)
    for number in np.unique(part):
        rows = np.flatnonzero((part == number) & np.isfinite(values))
        own = values[rows]
        for at, row in enumerate(rows):
            result[row] = own[at] - np.median(own[max(0, at - reach) : at + reach + 1])
    return result


def shows_the_same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the block means of two frames differ by noise alone; a change of the brightness of all blocks counts as
    noise, since lamps flicker.
    """
    if one.shape != other.shape:
        return False
    change = other - one
    return bool(np.abs(change - np.median(change)).max() <= _SAME)


def _block_means(thumb: np.ndarray) -> np.ndarray:
    height, width = thumb.shape
    size = max(1, width // _BLOCK), max(1, height // _BLOCK)
    return cv2.resize(thumb.astype(np.float32), size, interpolation=cv2.INTER_AREA)
