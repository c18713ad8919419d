"""When and with what a clip was filmed, by its file: EXIF of photos, QuickTime and Android metadata of videos."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from PIL import Image

from ..core.errors import InputError
from .images import ImageFolder
from .video import Video

_EXIF_IFD = 0x8769
_MAKE, _MODEL, _TAKEN, _OFFSET = 0x010F, 0x0110, 0x9003, 0x9011
_UNKNOWN_YEARS = 1971
"""Cameras without a clock write the first instant of their time scale (1904, 1970)."""


@dataclass(frozen=True)
class Recorded:
    """What the file of a clip says; None where it says nothing."""

    created: datetime | None = None
    """When the recording began; in UTC where the file tells its time zone."""
    device: str | None = None
    """Maker and model."""


def recorded_of(source: Any) -> Recorded:
    """What the files of a source say: the video's metadata, or the EXIF data of the first image."""
    if isinstance(source, Video):
        return of_video(source.metadata())
    if isinstance(source, ImageFolder):
        with contextlib.suppress(InputError), source.file(0) as path:
            return _of_photo(path)
    return Recorded()


def of_video(metadata: Mapping[str, str]) -> Recorded:
    """What the metadata of a container say, whoever wrote them."""
    entries = {key.lower(): text.strip() for key, text in metadata.items()}

    def value(*ends: str) -> str | None:
        return next((text for end in ends for key, text in entries.items() if key.endswith(end) and text), None)

    created = _instant(value("quicktime.creationdate")) or _instant(value("creation_time"))
    makers, models = ("quicktime.make", "android.manufacturer", "make"), ("quicktime.model", "android.model", "model")
    parts = value(*makers), value(*models)
    return Recorded(created, " ".join(part for part in parts if part) or None)


def _of_photo(path: Path) -> Recorded:
    try:
        with Image.open(path) as image:
            tags = image.getexif()
            taken, offset = (tags.get_ifd(_EXIF_IFD).get(tag) for tag in (_TAKEN, _OFFSET))
            parts = [str(tags[tag]).strip("\0 ") for tag in (_MAKE, _MODEL) if tags.get(tag)]
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return Recorded()
    text = str(taken or "").strip("\0 ").replace(":", "-", 2) + str(offset or "").strip("\0 ")
    return Recorded(_instant(text), " ".join(part for part in parts if part) or None)


def _instant(text: str | None) -> datetime | None:
    try:
        found = datetime.fromisoformat((text or "").replace("Z", "+00:00"))
    except ValueError:
        try:
            found = datetime.strptime(text or "", "%Y-%m-%dT%H:%M:%S%z")  # +0100, which Apple writes
        except ValueError:
            return None
    if found.year < _UNKNOWN_YEARS:
        return None
    return found if found.tzinfo is None else found.astimezone(timezone.utc)
