"""Depth as an OpenEXR picture: one channel Z of half floats, uncompressed scan lines.

https://openexr.com/en/latest/OpenEXRFileLayout.html. OpenCV's wheels write EXR only with a variable of the environment
that is read before they load, and no other dependency does.
"""

from __future__ import annotations

import struct

import numpy as np

_MAGIC, _VERSION = 20000630, 2
_HALF, _NO_COMPRESSION, _DOWNWARDS = 1, 0, 0


def exr_bytes(depth: np.ndarray) -> bytes:
    """The file of an (H, W) depth map; values beyond the range of half floats become infinite."""
    height, width = depth.shape
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    channel = b"Z\0" + struct.pack("<iB3xii", _HALF, 0, 1, 1) + b"\0"
    attributes = [
        ("channels", "chlist", channel),
        ("compression", "compression", bytes([_NO_COMPRESSION])),
        ("dataWindow", "box2i", window),
        ("displayWindow", "box2i", window),
        ("lineOrder", "lineOrder", bytes([_DOWNWARDS])),
        ("pixelAspectRatio", "float", struct.pack("<f", 1)),
        ("screenWindowCenter", "v2f", struct.pack("<2f", 0, 0)),
        ("screenWindowWidth", "float", struct.pack("<f", 1)),
    ]
    head = struct.pack("<2i", _MAGIC, _VERSION)
    for name, kind, value in attributes:
        head += name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<i", len(value)) + value
    head += b"\0"
    lines = np.empty(height, dtype=[("y", "<i4"), ("size", "<i4"), ("values", "<f2", width)])
    lines["y"], lines["size"] = np.arange(height), 2 * width
    with np.errstate(over="ignore"):
        lines["values"] = depth.astype(np.float16)
    offsets = len(head) + 8 * height + lines.itemsize * np.arange(height)
    return head + offsets.astype("<u8").tobytes() + lines.tobytes()
