"""360 degree footage is refused by its metadata, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from easi3r_ns.core.errors import InputError
from easi3r_ns.frames import open_source
from easi3r_ns.frames.images import ImageFolder
from easi3r_ns.frames.panorama import SPHERICAL_UUID, refuse_panorama
from easi3r_ns.frames.video import Video


def box(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + kind + content


def clip(path: Path, extra: bytes = b"") -> Path:
    """Four frames of 64x32 pixels as MP4, with a further box at the end of ``moov``, which stands last."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for k in range(4):
            image = np.full((32, 64, 3), 40 * k, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    content = path.read_bytes()
    at = content.index(b"moov") - 4
    size = int.from_bytes(content[at : at + 4], "big")
    assert at + size == len(content)
    path.write_bytes(content[:at] + (size + len(extra)).to_bytes(4, "big") + content[at + 4 :] + extra)
    return path


VERSION_2 = box(b"sv3d", box(b"svhd", bytes(5)) + box(b"proj", box(b"prhd", bytes(16)) + box(b"equi", bytes(20))))
VERSION_1 = box(b"uuid", SPHERICAL_UUID + b"<GSpherical:Spherical>true</GSpherical:Spherical>")


@pytest.mark.parametrize("extra", [VERSION_1, VERSION_2])
def test_spherical_video_is_refused(extra: bytes, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"360 degree footage by its metadata.*v360"):
        open_source(clip(tmp_path / "round.mp4", extra))


def test_other_video_twice_as_wide_as_high_is_not(tmp_path: Path) -> None:
    assert isinstance(open_source(clip(tmp_path / "wide.mp4", box(b"free", b"sv3d of no meaning"))), Video)


@pytest.mark.parametrize("says", [True, False])
def test_photo_spheres(says: bool, tmp_path: Path) -> None:
    xmp = b'<x:xmpmeta><rdf:Description GPano:ProjectionType="%s"/></x:xmpmeta>' % (
        b"equirectangular" if says else b"cylindrical"
    )
    for k in range(3):
        Image.fromarray(np.full((32, 64, 3), 40 * k, np.uint8)).save(tmp_path / f"{k}.jpg", xmp=xmp)
    if says:
        with pytest.raises(InputError, match="360 degree"):
            open_source(tmp_path)
    else:
        assert isinstance(open_source(tmp_path), ImageFolder)


@pytest.mark.parametrize(
    "content", [b"", b"\0\0\0\1moov", b"\0\0\0\x08ftyp" * 3, b"\0\0\0\x01ftyp" + b"\xff" * 8, b"x" * 40]
)
def test_damaged_files_say_nothing(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    refused = []
    for file in (path, tmp_path / "missing.mp4"):
        try:
            refuse_panorama(file, [file])
        except InputError:
            refused.append(file)
    assert not refused
