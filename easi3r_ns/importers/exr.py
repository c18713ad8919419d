"""Depth in an OpenEXR picture (https://openexr.com/en/latest/OpenEXRFileLayout.html).

Scan lines, without compression or with RLE or ZIP; OpenCV reads such files only with a variable of the environment that
is read before it loads.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from ..storage.foreign import refuse_larger_than_memory

_MAGIC = 20000630
_LINES = {0: 1, 1: 1, 2: 1, 3: 16}
"""Scan lines per block by the number of the compression: none, RLE, ZIP of single lines, ZIP."""
_OTHERS = {4: "PIZ", 5: "PXR24", 6: "B44", 7: "B44A", 8: "DWAA", 9: "DWAB"}
_TYPES: dict[int, np.dtype] = {0: np.dtype("<u4"), 1: np.dtype("<f2"), 2: np.dtype("<f4")}
_WANTED = ("Z", "depth", "Y", "R", "V")
"""Names of the channel of depth, the first that is there; else the only channel."""
_MOST_SIDE = 1 << 16


@dataclass(frozen=True)
class _Header:
    compression: int
    width: int
    height: int
    top: int
    channels: tuple[tuple[str, np.dtype], ...]
    end: int
    """Where the table of offsets begins."""


def read_exr(content: bytes) -> np.ndarray:
    """(H, W) float32 values of the depth channel. Raises ValueError for what is no such file."""
    try:
        header = _header(content)
        refuse_larger_than_memory(8 * header.width * header.height)
        name = next((w for w in _WANTED if w in dict(header.channels)), header.channels[0][0])
        if name not in _WANTED and len(header.channels) > 1:
            raise ValueError(f"none of its channels {[channel for channel, _ in header.channels]} is a depth")
        return _pixels(content, header, name)
    except (struct.error, LookupError, zlib.error, OverflowError, UnicodeDecodeError) as error:
        raise ValueError(f"not a readable EXR picture ({error})") from error


def _header(content: bytes) -> _Header:
    magic, version = struct.unpack_from("<2i", content)
    if magic != _MAGIC:
        raise ValueError("not an EXR picture")
    if version & 0xFF != 2 or version & ~0x4FF:
        raise ValueError("tiles, deep pixels and several parts are not read: save it as scan lines")
    at, values = 8, {}
    while content[at]:
        name, at = _text(content, at)
        _, at = _text(content, at)
        (size,) = struct.unpack_from("<i", content, at)
        if size < 0 or at + 4 + size > len(content):
            raise ValueError("its header is cut")
        values[name] = content[at + 4 : at + 4 + size]
        at += 4 + size
    left, top, right, bottom = struct.unpack("<4i", values["dataWindow"])
    width, height, compression = right - left + 1, bottom - top + 1, values["compression"][0]
    if not (0 < width <= _MOST_SIDE and 0 < height <= _MOST_SIDE):
        raise ValueError(f"it announces {width}x{height} pixels")
    if compression not in _LINES:
        raise ValueError(f"its compression {_OTHERS.get(compression, compression)} is not read: save it with ZIP")
    return _Header(compression, width, height, top, _channels(values["channels"]), at + 1)


def _channels(content: bytes) -> tuple[tuple[str, np.dtype], ...]:
    found: list[tuple[str, np.dtype]] = []
    at = 0
    while content[at]:
        name, at = _text(content, at)
        kind, across, down = struct.unpack_from("<i4x2i", content, at)
        if (across, down) != (1, 1):
            raise ValueError(f"its channel {name} has fewer pixels than the picture")
        found.append((name, _TYPES[kind]))
        at += 16
    if not found:
        raise ValueError("it has no channel")
    return tuple(found)


def _pixels(content: bytes, header: _Header, wanted: str) -> np.ndarray:
    lines = _LINES[header.compression]
    blocks = -(-header.height // lines)
    offsets = struct.unpack_from(f"<{blocks}Q", content, header.end)
    row = np.dtype([(name, dtype, (header.width,)) for name, dtype in header.channels])
    pixels = np.zeros((header.height, header.width), dtype=np.float32)
    for offset in offsets:
        y, size = struct.unpack_from("<2i", content, offset)
        first = y - header.top
        if not 0 <= first < header.height or size < 0 or offset + 8 + size > len(content):
            raise ValueError("a block lies outside of the picture or of the file")
        count = min(lines, header.height - first)
        data = _raw(content[offset + 8 : offset + 8 + size], row.itemsize * count, header.compression)
        pixels[first : first + count] = np.frombuffer(data, dtype=row, count=count)[wanted]
    return pixels


def _raw(data: bytes, size: int, compression: int) -> bytes:
    """The ``size`` bytes of a block."""
    if compression == 0 or len(data) == size:
        if len(data) != size:
            raise ValueError("a block has another size than its lines")
        return data
    if compression == 1:
        data = _run_lengths(data, size)
    else:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(data, size + 1)
    if len(data) != size:
        raise ValueError("a block has another size than its lines")
    # Every byte but the first is a difference to the one before, plus 128; even bytes come before odd ones.
    steps = np.frombuffer(data, dtype=np.uint8).astype(np.int64)
    steps[1:] -= 128
    values = (np.cumsum(steps) & 0xFF).astype(np.uint8)
    out = np.empty(size, dtype=np.uint8)
    half = (size + 1) // 2
    out[0::2], out[1::2] = values[:half], values[half:]
    return out.tobytes()


def _run_lengths(data: bytes, size: int) -> bytes:
    out, at = bytearray(), 0
    while at < len(data) and len(out) <= size:
        (count,) = struct.unpack_from("<b", data, at)
        if count < 0:
            out += data[at + 1 : at + 1 - count]
            at += 1 - count
        else:
            out += data[at + 1 : at + 2] * (count + 1)
            at += 2
    return bytes(out)


def _text(content: bytes, at: int) -> tuple[str, int]:
    end = content.index(b"\0", at)
    return content[at:end].decode("utf-8"), end + 1
