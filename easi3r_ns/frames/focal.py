"""The focal length that the files of a clip name: EXIF of photos, QuickTime metadata of videos.

Convention: the 35 mm equivalent is that of CIPA DCG-001 and EXIF, which compare DIAGONALS: a picture of ``mm``
equivalent has the angle of view, from corner to corner, that a lens of ``mm`` has on film of 36 x 24 mm. In pixels the
focal length is therefore ``mm`` times the picture's diagonal over 43.27 mm, upright or not. Some makers compare widths
(4 % less for 4:3), and pictures of another shape than the sensor keep the number of the whole sensor: this, and that
the number is rounded, is the uncertainty. Values are start values, no measurements.

``DigitalZoomRatio`` enlarges the middle of what the lens shows. By its definition the equivalent holds for the picture
as it was recorded, so it contains this zoom; only where ``FocalLength`` and the pixels of the sensor show that it does
not, it is multiplied. Where they are missing, the zoom adds to the uncertainty.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..core.runlog import RunLog
from ..core.types import RecordedFocal

FILM_DIAGONAL = math.hypot(36, 24)
"""Millimetres."""
PLAUSIBLE = (0.3, 5.0)
"""Focal lengths over the longer side that are believed: 11 to 180 mm equivalent, about."""
PHOTO_SIGMA, VIDEO_SIGMA = 0.05, 0.15
"""Relative standard deviation of a focal length from an equivalent; that of a video does not tell what stabilisation
and the crop to its shape cut off."""
AGREE = 0.05
"""Photos whose focal lengths differ by more than this share were not taken with one lens."""
QUICKTIME_KEY = "focal_length.35mm_equivalent"
"""End of the key that phones write, after ``com.apple.quicktime.camera.``."""
_SAME_SHAPE = 0.01
_EXIF_IFD = 0x8769
_FOCAL, _EQUIVALENT, _ZOOM = 0x920A, 0xA405, 0xA404
_PLANE_RESOLUTION, _PLANE_UNIT = 0xA20E, 0xA210
_PIXELS_X, _PIXELS_Y = 0xA002, 0xA003
_UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 1e-3}
"""Millimetres of FocalPlaneResolutionUnit; 2 is the default."""


@dataclass(frozen=True)
class LensTags:
    """What EXIF says about the lens; None where it says nothing."""

    equivalent_mm: float | None = None
    focal_mm: float | None = None
    pixels_per_mm: float | None = None
    """On the sensor."""
    zoom: float | None = None
    """DigitalZoomRatio."""
    recorded_wh: tuple[float, float] | None = None
    """Size of the picture when it was taken; other programs may have resized or cropped it since."""


def read_tags(path: Path) -> LensTags:
    """The lens tags of an image file; all None where it has none or cannot be read."""
    try:
        with Image.open(path) as image:
            tags = image.getexif().get_ifd(_EXIF_IFD)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return LensTags()
    resolution, unit = _number(tags.get(_PLANE_RESOLUTION)), _UNIT_MM.get(tags.get(_PLANE_UNIT, 2))
    width, height = _number(tags.get(_PIXELS_X)), _number(tags.get(_PIXELS_Y))
    return LensTags(
        equivalent_mm=_positive(tags.get(_EQUIVALENT)),
        focal_mm=_positive(tags.get(_FOCAL)),
        pixels_per_mm=resolution / unit if resolution and unit else None,
        zoom=_positive(tags.get(_ZOOM)),
        recorded_wh=(width, height) if width and height else None,
    )


def photo_focal(tags: LensTags, source_wh: tuple[int, int]) -> RecordedFocal | None:
    """The focal length of a photo whose upright frame has ``source_wh`` pixels; None where the tags do not give it.

    The value is not checked, see :func:`common_focal`.
    """
    recorded = tags.recorded_wh or source_wh
    scale = _scale_since(recorded, source_wh)
    if scale is None:
        return None
    diagonal = math.hypot(*recorded)
    zoom = tags.zoom or 1.0
    from_sensor = None
    if tags.focal_mm and tags.pixels_per_mm:
        from_sensor = tags.focal_mm * tags.pixels_per_mm
    sigma = PHOTO_SIGMA
    if tags.equivalent_mm is not None:
        pixels = tags.equivalent_mm * diagonal / FILM_DIAGONAL
        if abs(zoom - 1) > AGREE:
            if from_sensor and pixels > 0:
                apart = abs(math.log(pixels / from_sensor)), abs(math.log(pixels / (zoom * from_sensor)))
                pixels *= zoom if apart[0] < apart[1] else 1.0
            else:
                sigma = math.hypot(sigma, math.log(zoom) / 2)
    elif from_sensor:
        pixels = from_sensor * zoom
    else:
        return None
    return RecordedFocal(pixels * scale, pixels * FILM_DIAGONAL / diagonal, "EXIF", sigma)


def video_focal(metadata: Sequence[Mapping[str, str]], source_wh: tuple[int, int]) -> RecordedFocal | None:
    """The focal length that the metadata of a container or stream name, for upright frames of ``source_wh`` pixels."""
    for entries in metadata:
        for key, text in entries.items():
            if key.lower().endswith(QUICKTIME_KEY) and (value := _number(text)) is not None:
                pixels = value * math.hypot(*source_wh) / FILM_DIAGONAL
                return RecordedFocal(pixels, value, "QuickTime metadata", VIDEO_SIGMA)
    return None


def common_focal(
    found: Sequence[RecordedFocal | None], source_wh: tuple[int, int], log: RunLog
) -> RecordedFocal | None:
    """The focal length of a clip from those of its files; None, with a warning, where they are absurd or differ.

    Where most of the files name none, those of the others are not taken for the clip's.
    """
    low, high = (share * max(source_wh) for share in PLAUSIBLE)
    known = [focal for focal in found if focal is not None]
    absurd = [focal for focal in known if not low <= focal.pixels <= high]
    if absurd:
        log.warn(
            f"the focal length {absurd[0]} is implausible for pictures with a long side of {max(source_wh)} pixels and "
            f"is ignored{f', as are {len(absurd) - 1} more' if len(absurd) > 1 else ''}"
        )
        known = [focal for focal in known if focal not in absurd]
    if not known or 2 * len(known) < len(found):
        return None
    known.sort(key=lambda focal: focal.pixels)
    shortest, longest = known[0], known[-1]
    if longest.pixels > (1 + AGREE) * shortest.pixels:
        log.warn(
            f"the files name different focal lengths, {shortest.equivalent_mm:.3g} to {longest.equivalent_mm:.3g} mm "
            "equivalent: none of them is used. If they are right, give --align.no-shared-focal, which finds one for "
            "every frame"
        )
        return None
    return known[len(known) // 2]


def _scale_since(recorded: tuple[float, float], source_wh: tuple[int, int]) -> float | None:
    """Pixels of the frame per pixel when it was taken; None where it was both resized and cropped.

    A frame of the same shape was resized, or turned; a smaller one of another shape was cropped.
    """
    before, now = sorted(recorded), sorted(source_wh)
    if abs(before[0] * now[1] / (before[1] * now[0]) - 1) < _SAME_SHAPE:
        return now[1] / before[1]
    return 1.0 if before[0] >= now[0] and before[1] >= now[1] else None


def _positive(value: Any) -> float | None:
    """A positive number; None for everything else: in EXIF 0 stands for unknown."""
    number = _number(value)
    return number if number is not None and number > 0 else None


def _number(value: Any) -> float | None:
    """A finite number; None for everything else, such as a fraction over 0."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if np.isfinite(number) else None
