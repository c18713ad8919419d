"""The text of ``--metric-reference``: a distance that somebody measured between two places of a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import InputError, shown

LEAST_PIXELS = 2.0
"""Distance in the picture below which two points count as one."""
METRES = 1e-4, 1e6
"""Shortest and longest distance that an option takes."""
FORM = '"FRAME X1 Y1 X2 Y2 METRES", such as "7 412 300 980 310 1.85"'


@dataclass(frozen=True)
class MetricReference:
    """So many metres lie between two places in one picture."""

    frame: str
    """Number of the picture in the dataset, from 1, as in ``frame_00001.png``; or the name of its file, there or in a
    folder of photos."""
    pixels: tuple[tuple[float, float], tuple[float, float]]
    """Two (x, y) in source pixels of the upright picture; the first pixel's centre is at (0.5, 0.5)."""
    metres: float

    @classmethod
    def parse(cls, text: str) -> MetricReference:
        """Read ``FRAME X1 Y1 X2 Y2 METRES``; the frame may contain spaces.

        Raises:
            InputError: it is not of this form, the two points are the same, or the length is none.
        """
        words = text.split()
        said = f"--metric-reference {shown(text)}"
        try:
            x1, y1, x2, y2, metres = (float(word) for word in words[-5:])
        except ValueError as error:
            raise InputError(f"{said}: give {FORM}") from error
        if len(words) < 6 or not all(map(math.isfinite, (x1, y1, x2, y2, metres))):
            raise InputError(f"{said}: give {FORM}")
        if not METRES[0] <= metres <= METRES[1]:
            raise InputError(f"{said}: the distance is {metres:g} m; give one from {METRES[0]:g} to {METRES[1]:g}")
        if math.hypot(x2 - x1, y2 - y1) < LEAST_PIXELS:
            raise InputError(
                f"{said}: both points are at ({x1:g}, {y1:g}); a scale needs two places, the farther apart the better"
            )
        return cls(" ".join(words[:-5]), ((x1, y1), (x2, y2)), metres)

    def __str__(self) -> str:
        (x1, y1), (x2, y2) = self.pixels
        return f'--metric-reference "{self.frame} {x1:g} {y1:g} {x2:g} {y2:g} {self.metres:g}"'

    def refuse_outside(self, source_wh: tuple[int, int]) -> None:
        """Raises InputError where a point lies outside a picture of this width and height."""
        width, height = source_wh
        for x, y in self.pixels:
            if not (0 <= x <= width and 0 <= y <= height):
                raise InputError(
                    f"{self}: ({x:g}, {y:g}) lies outside the picture, which has {width}x{height} pixels: give pixels "
                    "of the pictures of the dataset"
                )

    def position_in(self, stems: Sequence[str], names: Sequence[str], *, guessed: bool = False) -> int:
        """Which of the pictures is meant.

        Args:
            stems: their names in the dataset, without the ending.
            names: their names in the source; those of a video are all the same, and none of them is meant. A picture
                without a depth has none ('').
            guessed: the stems are some that the dataset may have, and a number may fit several.

        Raises:
            InputError: none of them is.
        """
        asked, own = self.frame, list(stems)
        stem = asked.rsplit(".", 1)[0] if asked.lower().endswith((".png", ".jpg")) else asked
        if stem in own:
            return own.index(stem)
        named = [name for name in names if name]
        if len(set(named)) == len(named) and asked in named:
            return list(names).index(asked)
        if asked.isdecimal() and len(asked) < 10:
            numbered = [k for k, name in enumerate(own) if name.rsplit("_", 1)[-1] == f"{int(asked):05d}"]
            if len(numbered) == 1 or (numbered and guessed):
                return numbered[0]
        number = f"the number of one in the dataset (1 for {own[0]}), or " if own[0][-5:].isdecimal() else ""
        raise InputError(f"{self}: no picture {shown(asked)}: give {number}its name; there are {own[0]} to {own[-1]}")
