"""360 degree footage, recognised by what its files say: no camera model of ours has a picture all around."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..core.errors import InputError

SPHERICAL_UUID = bytes.fromhex("ffcc8263f8554a938814587a02521fdd")
"""Box of Google's Spherical Video RFC, version 1; version 2 has a box ``sv3d``."""
_MOST_MOOV = 64 * 2**20
_MOST_XMP = 2**18
_MOST_BOXES = 10_000


def refuse_panorama(data: Path, files: Sequence[Path]) -> None:
    """Raises InputError where the first of the ``files`` of ``data`` says that it shows everything around the camera.

    MP4 and MOV files by their spherical metadata, images by the XMP of Photo Sphere. Files that cannot be read say
    nothing here.
    """
    if not files:
        return
    try:
        panorama = _says_spherical(files[0])
    except OSError:
        return
    if panorama:
        raise InputError(
            f"{data} is 360 degree footage by its metadata, which no camera model here describes: cut a view out of it "
            "first, for example with ffmpeg -i CLIP -vf v360=e:flat:h_fov=90:v_fov=60 flat.mp4. If the metadata are "
            "wrong, remove them: ffmpeg -i CLIP -map_metadata -1 -c copy plain.mp4"
        )


def _says_spherical(file: Path) -> bool:
    with file.open("rb") as stream:
        head = stream.read(12)
        if head[4:8] not in (b"ftyp", b"moov", b"free", b"wide", b"mdat", b"skip"):
            start = head + stream.read(_MOST_XMP)
            return b"ProjectionType" in start and b"equirectangular" in start
    moov = _movie_box(file)
    return SPHERICAL_UUID in moov or (b"sv3d" in moov and b"proj" in moov)


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
