"""360 degree footage is recognised by its metadata, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from easi3r_ns.core.config import FrameConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.frames import is_sphere
from easi3r_ns.frames.panorama import EQUIRECTANGULAR, SPHERICAL_UUID, projection_of
from easi3r_ns.storage.kinds import HEIF_BRANDS


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


CUBES = VERSION_2.replace(b"equi", b"cbmp")


@pytest.mark.parametrize("extra", [VERSION_1, VERSION_2])
def test_spherical_video_is_recognised(extra: bytes, tmp_path: Path) -> None:
    path = clip(tmp_path / "round.mp4", extra)
    assert projection_of(path) == EQUIRECTANGULAR
    assert is_sphere(path, FrameConfig())
    assert not is_sphere(path, FrameConfig(projection="perspective"))


def test_spherical_video_of_another_projection_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cube map.*v360"):
        is_sphere(clip(tmp_path / "cubes.mp4", CUBES), FrameConfig())


def test_other_video_twice_as_wide_as_high_is_not(tmp_path: Path) -> None:
    assert projection_of(clip(tmp_path / "wide.mp4", box(b"free", b"sv3d of no meaning"))) is None


@pytest.mark.parametrize(
    "kind, found", [(b"equirectangular", EQUIRECTANGULAR), (b"cylindrical", None), (b"cubemap", "cubemap")]
)
@pytest.mark.parametrize("form", [b'GPano:ProjectionType="%s"', b"<GPano:ProjectionType>%s</GPano:ProjectionType>"])
def test_photo_spheres(kind: bytes, found: str | None, form: bytes, tmp_path: Path) -> None:
    xmp = b"<x:xmpmeta><rdf:Description " + form % kind + b"/></x:xmpmeta>"
    for k in range(3):
        Image.fromarray(np.full((32, 64, 3), 40 * k, np.uint8)).save(tmp_path / f"{k}.jpg", xmp=xmp)
    assert projection_of(tmp_path / "0.jpg") == found
    if found == "cubemap":
        with pytest.raises(InputError, match="cubemap"):
            is_sphere(tmp_path, FrameConfig())
    else:
        assert is_sphere(tmp_path, FrameConfig()) == (found is not None)


@pytest.mark.parametrize("brand", HEIF_BRANDS)
def test_photo_spheres_of_every_brand(brand: bytes, tmp_path: Path) -> None:
    """Only the beginning of a HEIF file says that it is none of the videos, which begin in the same way."""
    xmp = b'<rdf:Description GPano:ProjectionType="equirectangular"/>'
    (tmp_path / "a.heic").write_bytes(box(b"ftyp", brand + bytes(4)) + box(b"mdat", xmp))
    assert projection_of(tmp_path / "a.heic") == EQUIRECTANGULAR
    (tmp_path / "a.mp4").write_bytes(box(b"ftyp", b"isom" + bytes(4)) + box(b"mdat", xmp))
    assert projection_of(tmp_path / "a.mp4") is None


@pytest.mark.parametrize(
    "content", [b"", b"\0\0\0\1moov", b"\0\0\0\x08ftyp" * 3, b"\0\0\0\x01ftyp" + b"\xff" * 8, b"x" * 40]
)
def test_damaged_files_say_nothing(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    assert projection_of(path) is None
    assert projection_of(tmp_path / "missing.mp4") is None
