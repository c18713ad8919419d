"""Footage of everything around the camera, recognised by what its files say."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from ..core.errors import InputError
from ..core.runlog import RunLog
from ..storage.kinds import HEAD, is_image
from .container import choose_stream, opened
from .picture import side_data
from .timeline import decode

SPHERICAL_UUID = bytes.fromhex("ffcc8263f8554a938814587a02521fdd")
"""Box of Google's Spherical Video RFC, version 1; version 2 has a box ``sv3d``."""
EQUIRECTANGULAR = "equirectangular"
"""A whole sphere with longitude along the width and latitude along the height."""
_PROJECTIONS = (
    *(EQUIRECTANGULAR, "cube map", "part of an equirectangular frame", "half of a sphere"),
    *("rectilinear", "fisheye"),
)
"""FFmpeg's ``AVSphericalProjection``, in its order."""
_PERSPECTIVE = "rectilinear"
_MOST_MOOV = 64 * 2**20
_MOST_XMP = 2**18
_MOST_BOXES = 10_000
_XMP = re.compile(rb"ProjectionType\s*(?:=\s*[\"']|>)\s*([A-Za-z]+)")


def projection_of(file: Path) -> str | None:
    """How a file says that it shows everything around the camera; None: it does not.

    Videos by the spherical metadata of MP4, MOV, Matroska and WebM, as FFmpeg reads them or as Google's older box;
    images by the XMP of Photo Sphere (GPano). :data:`EQUIRECTANGULAR` is a whole sphere. A file that cannot be read
    says nothing here.
    """
    try:
        with file.open("rb") as stream:
            head = stream.read(HEAD)
        return _of_image(file) if is_image(head) else _of_video(file)
    except OSError:
        return None


def _of_image(file: Path) -> str | None:
    with file.open("rb") as stream:
        found = _XMP.search(stream.read(_MOST_XMP))
    kind = found and found[1].decode().lower()
    return kind if kind in (EQUIRECTANGULAR, "cubemap") else None


def _of_video(file: Path) -> str | None:
    with contextlib.suppress(InputError, *_decoding_errors()):
        with opened(file, choose_stream(file, RunLog())) as stream:
            frame = next(decode(stream), None)
            for entry in () if frame is None else side_data(frame):
                if entry.type.name == "SPHERICAL":
                    return _projection(bytes(entry))
    moov = _movie_box(file)
    spherical = SPHERICAL_UUID in moov or (b"sv3d" in moov and b"proj" in moov)
    return EQUIRECTANGULAR if spherical else None


def _decoding_errors() -> tuple[type[Exception], ...]:
    import av

    return (av.error.FFmpegError, OSError, ValueError)


def _projection(mapping: bytes) -> str | None:
    """The projection that FFmpeg's ``AVSphericalMapping`` names: an int32, three angles, four bounds, a padding."""
    number = int.from_bytes(mapping[:4], "little")
    kind = _PROJECTIONS[number] if number < len(_PROJECTIONS) else f"projection {number}"
    return None if kind == _PERSPECTIVE else kind


def _movie_box(file: Path) -> bytes:
    """The content of the box ``moov`` of an MP4 or MOV file, which holds no pictures; empty where there is none."""
    end = file.stat().st_size
    with file.open("rb") as stream:
        position = 0
        for _ in range(_MOST_BOXES):
            if position >= end:
                return b""
            stream.seek(position)
            head = stream.read(16)
            if len(head) < 8:
                return b""
            size, kind, used = int.from_bytes(head[:4], "big"), head[4:8], 8
            if size == 1:
                size, used = int.from_bytes(head[8:16], "big"), 16
            size = size or end - position
            if size < used:
                return b""
            if kind == b"moov":
                stream.seek(position + used)
                return stream.read(min(size - used, _MOST_MOOV))
            position += size
    return b""
