"""Images of any depth are upright, whatever Pillow and OpenCV make of the orientation in a file."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from easi3r_ns.core.errors import InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.frames.images import read_image
from easi3r_ns.frames.shapes import upright_size
from easi3r_ns.storage.orientation import as_stored

WIDTH, HEIGHT = 60, 40
UPRIGHT = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def stored(image: np.ndarray, orientation: int) -> np.ndarray:
    """How a camera stores what is to be seen as ``image`` (TIFF 6.0: where row 0 and column 0 of the file lie)."""
    return {
        1: image,
        2: image[:, ::-1],
        3: image[::-1, ::-1],
        4: image[::-1],
        5: image.swapaxes(0, 1),
        6: image.swapaxes(0, 1)[::-1],
        7: image.swapaxes(0, 1)[::-1, ::-1],
        8: image.swapaxes(0, 1)[:, ::-1],
    }[orientation]


def tiff(image: np.ndarray, orientation: int, order: str = "<", big: bool = False, sample_format: int = 1) -> bytes:
    """A TIFF or BigTIFF file with one strip, by hand: eleven tags and those of the samples."""
    height, width = image.shape[:2]
    samples = 1 if image.ndim == 2 else image.shape[2]
    data = image.astype(image.dtype.newbyteorder(order)).tobytes()
    bits = struct.pack(f"{order}{samples}H", *[8 * image.itemsize] * samples)
    formats = struct.pack(f"{order}{samples}H", *[sample_format] * samples)
    count_type, offset, head = ("Q", "Q", 16) if big else ("H", "I", 8)
    room = struct.calcsize(offset)
    fields = [(256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, 2 if samples == 3 else 1)]
    fields += [(273, 4, data), (274, 3, orientation), (277, 3, samples), (278, 3, height), (279, 4, len(data))]
    fields += [(284, 3, 1), (339, 3, formats)]
    after = head + struct.calcsize(count_type) + (4 + 2 * room) * len(fields) + room
    entries, extra = b"", b""
    for tag, kind, value in fields:
        count = 1
        if isinstance(value, bytes):
            count = 1 if tag == 273 else len(value) // 2
            if tag == 273 or len(value) > room:
                value, extra = struct.pack(order + offset, after + len(extra)), extra + value
        else:
            value = struct.pack(order + ("H" if kind == 3 else "I"), value)
        entries += struct.pack(order + "HH" + offset, tag, kind, count) + value.ljust(room, b"\0")
    magic = struct.pack(order + "H", 43 if big else 42) + (struct.pack(order + "HH", 8, 0) if big else b"")
    begin = (b"II" if order == "<" else b"MM") + magic + struct.pack(order + offset, head)
    return begin + struct.pack(order + count_type, len(fields)) + entries + bytes(room) + extra


def read(path: Path) -> np.ndarray:
    return read_image(path, RunLog())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["little", "big", "BigTIFF"])
def test_sixteen_bit_tiff(tmp_path, orientation, kind):
    order = ">" if kind == "big" else "<"
    image = stored(UPRIGHT.astype(np.uint16) * 257, orientation)
    (tmp_path / "a.tif").write_bytes(tiff(image, orientation, order, kind == "BigTIFF"))
    assert upright_size(tmp_path / "a.tif") == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), UPRIGHT)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_eight_bit_and_grey_tiff(tmp_path, orientation):
    (tmp_path / "a.tif").write_bytes(tiff(stored(UPRIGHT, orientation), orientation))
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), UPRIGHT)
    grey = UPRIGHT[..., 0]
    (tmp_path / "b.tif").write_bytes(tiff(stored(grey.astype(np.uint16) * 257, orientation), orientation))
    np.testing.assert_array_equal(read(tmp_path / "b.tif"), np.repeat(grey[..., None], 3, axis=-1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sixteen_bit_png(tmp_path, orientation):
    image = np.ascontiguousarray(stored(UPRIGHT.astype(np.uint16) * 257, orientation)[..., ::-1])
    content = cv2.imencode(".png", image)[1].tobytes()
    exif = Image.Exif()
    exif[0x0112] = orientation
    body = b"eXIf" + exif.tobytes()[6:]
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "a.png").write_bytes(content[:33] + chunk + content[33:])
    np.testing.assert_array_equal(read(tmp_path / "a.png"), UPRIGHT)


def test_a_library_sees_no_orientation(monkeypatch, tmp_path):
    """Releases of OpenCV differ in what they do with it, and Pillow 10.0 turns a TIFF that still says that it is not
    upright: neither may see any.
    """
    seen = []
    imdecode, open_image = cv2.imdecode, Image.open

    def watched(file):
        image = open_image(file)
        seen.append(image.getexif().get(0x0112, 1))
        return image

    def decoded(content, flags):
        with open_image(io.BytesIO(content.tobytes())) as image:
            seen.append(image.getexif().get(0x0112, 1))
        return imdecode(content, flags)

    (tmp_path / "a.tif").write_bytes(tiff(stored(UPRIGHT.astype(np.uint16) * 257, 6), 6))
    monkeypatch.setattr(cv2, "imdecode", decoded)
    monkeypatch.setattr(Image, "open", watched)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), UPRIGHT)
    assert seen == [1, 1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_floats_are_refused_in_one_line(tmp_path, dtype, channels):
    image = np.ones((HEIGHT, WIDTH, 3), dtype)[..., :channels].squeeze()
    (tmp_path / "a.tif").write_bytes(tiff(image, 1, sample_format=3))
    with pytest.raises(InputError, match=r"a\.tif holds floating-point values: convert it to 8 or 16 bits"):
        read(tmp_path / "a.tif")


def test_thirty_two_bit_integers_are_refused_in_one_line(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(np.ones((HEIGHT, WIDTH, 3), np.uint32), 6))
    with pytest.raises(InputError, match="cannot be read as an image"):
        read(tmp_path / "a.tif")


@pytest.mark.parametrize("length", [0, 3, 8, 9, 12, 40, 120, 200])
def test_files_that_were_cut_off(tmp_path, length):
    content = tiff(stored(UPRIGHT.astype(np.uint16), 6), 6)[:length]
    assert len(as_stored(content)[0]) == len(content)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as an image"):
        read(tmp_path / "a.tif")
    png = cv2.imencode(".png", UPRIGHT.astype(np.uint16))[1].tobytes()[:length]
    (tmp_path / "a.png").write_bytes(png)
    with pytest.raises(InputError, match="cannot be read as an image"):
        read(tmp_path / "a.png")
