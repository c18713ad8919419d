"""What is cut off the frames of a clip before anything else sees them: bars, and what the user asks for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..core.config import FrameConfig
from ..core.errors import InputError
from ..core.runlog import RunLog
from ..core.types import PixelMap, SourceCut
from .source import Source, readable

_LOOKS = 12
"""Frames, spread over the clip, in which a bar must be a bar."""
_DARK = 24
"""Grey level that nothing in a bar exceeds, up to the ringing of the codec, which :data:`_NEARLY_ALL` leaves out."""
_NEARLY_ALL = 0.995
_BEGINS = 0.5
"""Share of the columns (rows) in which the picture is brighter than a bar, in one frame or another, directly beside it.
Where the picture itself is dark towards its edge, fewer are, and more only by and by."""
_WITHIN = 2
"""Rows over which the picture begins: codecs and scaling blend the first ones with the bar."""
_LEAST, _MOST = 0.01, 0.7
"""Share of the height (width) that both bars have together."""
_UNEVEN, _ROUNDED = 0.2, 4
"""Difference of the two bars over the larger one, at most: bars fill the difference of two shapes on both sides. Up to
so many pixels it comes from dark rows of the picture, and both are taken to be as large as the larger one."""


def find_cut(
    source: Source, inside: np.ndarray, select: FrameConfig, log: RunLog, like: PixelMap | None = None
) -> SourceCut | None:
    """What to cut off the frames ``inside`` of a source; None: nothing.

    Frames of the size of those of another clip, whose map is ``like``, are cut in the same way.

    A first readable frame without black or white rows along two opposite sides decides that there are no bars, so that
    most clips cost one frame. Otherwise frames from all over the clip decide.

    Raises:
        InputError: ``--crop-factor`` leaves nothing, or the source cannot be read.
    """
    if not select.crop_bars and not any(select.crop_factor):
        return None
    first = next((image for _, image in readable(source, inside, log)), None)
    if first is None:
        return None
    full_wh = (first.shape[1], first.shape[0])
    if like is not None and full_wh == like.full_wh:
        return like.cut
    picture = (0, 0, *full_wh)
    if select.crop_bars and any(any(_edges(_dark_sides([level]))) for level in _levels(first)):
        some = np.unique(inside[np.linspace(0, len(inside) - 1, min(_LOOKS, len(inside))).round().astype(int)])
        picture = find_bars(image for _, image in readable(source, some, log)) or picture
    box = _shares(picture, select.crop_factor)
    if box == (0, 0, *full_wh):
        return None
    cut = SourceCut(full_wh, box, picture)
    _say(cut, select, log)
    return cut


def find_bars(images: Iterable[np.ndarray]) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) of the picture between bars in frames (H, W, 3) uint8 of a clip; None: no bars.

    A bar is black and even in every frame that is not black altogether, and the picture begins directly beside it.
    Bars come in pairs of about one size. A dark scene has none of this: it is uneven, it changes, and it grows
    brighter by and by. White bars, as programs that undistort pictures leave them, are found in the same way in the
    negative; where there are both, the black ones are cut off.
    """
    levels = [_levels(image) for image in images]
    return _between([dark for dark, _ in levels]) or _between([light for _, light in levels])


def _levels(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) uint8, the brightest channel of a frame, and of its negative: 0 in black bars, and in white ones."""
    return image.max(axis=-1), 255 - image.min(axis=-1)


def _between(levels: list[np.ndarray]) -> tuple[int, int, int, int] | None:
    """The picture between bars in which no level is more than :data:`_DARK`."""
    levels = [level for level in levels if level.shape == levels[0].shape and level.max() > 2 * _DARK]
    if not levels:
        return None
    height, width = levels[0].shape
    sides = _dark_sides(levels)
    # A bar of the top crosses those of the sides, so that each pair is looked for in what the other one leaves.
    top, bottom = _pair(sides.rows, sides.row_bright, height)
    left, right = _pair(sides.columns, sides.column_bright, width)
    if top + bottom and not left + right:
        inner = _dark_sides([level[top : height - bottom] for level in levels])
        left, right = _pair(inner.columns, inner.column_bright, width)
    elif left + right and not top + bottom:
        inner = _dark_sides([level[:, left : width - right] for level in levels])
        top, bottom = _pair(inner.rows, inner.row_bright, height)
    if not (top + bottom + left + right):
        return None
    return left, top, width - right, height - bottom


@dataclass(frozen=True)
class _Sides:
    """Of some frames together."""

    rows: np.ndarray
    """(H,) bool: the row is black in all of them."""
    row_bright: np.ndarray
    """(H,) share of its pixels that are brighter than a bar in at least one of them."""
    columns: np.ndarray
    column_bright: np.ndarray


def _dark_sides(levels: list[np.ndarray]) -> _Sides:
    """``levels``: (H, W) uint8, the brightest channel of each frame."""
    rows = np.all([np.quantile(level, _NEARLY_ALL, axis=1) <= _DARK for level in levels], axis=0)
    columns = np.all([np.quantile(level, _NEARLY_ALL, axis=0) <= _DARK for level in levels], axis=0)
    bright = np.max(levels, axis=0) > _DARK
    return _Sides(rows, bright.mean(axis=1), columns, bright.mean(axis=0))


def _edges(sides: _Sides) -> tuple[bool, bool]:
    """Whether both the first and the last row, and column, are black."""
    return bool(sides.rows[0] and sides.rows[-1]), bool(sides.columns[0] and sides.columns[-1])


def _pair(black: np.ndarray, bright: np.ndarray, length: int) -> tuple[int, int]:
    """Sizes of the bars at both ends, the blended row beside each included; (0, 0): there is no pair."""
    if black.all():
        return 0, 0
    first, last = int(np.argmin(black)), int(np.argmin(black[::-1]))
    sizes = []
    for size, share in ((first, bright), (last, bright[::-1])):
        begins = share[size : size + _WITHIN + 1]
        reached = np.flatnonzero(begins >= _BEGINS)
        if not size or not len(reached):
            return 0, 0
        sizes.append(size + max(1, int(reached[0])))
    apart = abs(sizes[0] - sizes[1])
    if apart <= _ROUNDED:
        sizes = [max(sizes)] * 2
    alike = apart <= max(_ROUNDED, _UNEVEN * max(sizes))
    fits = _LEAST * length <= first + last and sum(sizes) <= _MOST * length
    return (sizes[0], sizes[1]) if alike and fits else (0, 0)


def _shares(picture: tuple[int, int, int, int], factor: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
    """What is left of the picture without the shares (top, bottom, left, right) of its height and width."""
    left, top, right, bottom = picture
    width, height = right - left, bottom - top
    box = (
        left + round(factor[2] * width),
        top + round(factor[0] * height),
        right - round(factor[3] * width),
        bottom - round(factor[1] * height),
    )
    if box[2] - box[0] < 1 or box[3] - box[1] < 1:
        raise InputError(f"--crop-factor {' '.join(f'{share:g}' for share in factor)} leaves nothing: crop less")
    return box


def _say(cut: SourceCut, select: FrameConfig, log: RunLog) -> None:
    left, top, right, bottom = cut.picture
    width, height = cut.full_wh
    kept = f"{cut.wh[0]}x{cut.wh[1]} of {width}x{height} pixels are used"
    if cut.picture != (0, 0, width, height):
        sides = {"top": top, "bottom": height - bottom, "left": left, "right": width - right}
        bars = ", ".join(f"{side} {pixels}" for side, pixels in sides.items() if pixels)
        log.info(f"bars are cut off ({bars} pixels; --no-crop-bars keeps them): {kept}")
    else:
        log.info(f"--crop-factor: {kept}")
