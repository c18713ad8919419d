"""Small videos with planes, tags and packets that a test chooses; lossless, so that values come back as written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from easi3r_ns.core.config import FrameConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.frames.video import Video

KR_KB = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}


@dataclass(frozen=True)
class Tags:
    """Numbers of ITU-T H.273, and the range (1 limited, 2 full); 2 and 0 mean that the file does not say."""

    matrix: int = 2
    range: int = 0
    transfer: int = 2
    primaries: int = 2


def to_yuv(rgb: np.ndarray, matrix: str, bits: int, full: bool) -> np.ndarray:
    """(..., 3) R'G'B' in [0, 1] -> integer Y'CbCr of ``bits`` bits, by the formula of ITU-R BT.601, 709 and 2020."""
    kr, kb = KR_KB[matrix]
    y = rgb @ np.array([kr, 1 - kr - kb, kb])
    cb, cr = (rgb[..., 2] - y) / (2 * (1 - kb)), (rgb[..., 0] - y) / (2 * (1 - kr))
    top, step = 2**bits - 1, 2 ** (bits - 8)
    if full:
        planes = np.stack([y * top, cb * top + 128 * step, cr * top + 128 * step], axis=-1)
    else:
        planes = np.stack([16 + 219 * y, 128 + 224 * cb, 128 + 224 * cr], axis=-1) * step
    return np.clip(np.rint(planes), 0, top).astype(np.uint16)


def patches(colours: np.ndarray, side: int = 16) -> np.ndarray:
    """(n, 3) -> (side, n * side, 3): one square of each colour in a row."""
    return np.repeat(np.repeat(colours[None], side, axis=1), side, axis=0)


def centres(image: np.ndarray, side: int = 16) -> np.ndarray:
    """(side, n * side, 3) -> (n, 3): the colours in the middle of the squares."""
    return image[side // 2, side // 2 :: side]


def write_planes(
    path: Path, pictures: Sequence[np.ndarray], tags: Tags = Tags(), *, ten_bits: bool = False, codec: str = "ffv1"
) -> Path:
    """Write (H, W, 3) Y'CbCr pictures, chroma averaged over 2x2 pixels, ten frames a second."""
    kind = "yuv420p10le" if ten_bits else "yuv420p"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = kind
        context = stream.codec_context
        context.colorspace, context.color_range = tags.matrix, tags.range
        context.color_trc, context.color_primaries = tags.transfer, tags.primaries
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame(stream.width, stream.height, kind)
            frame.colorspace, frame.color_range = tags.matrix, tags.range
            small = picture.reshape(len(picture) // 2, 2, -1, 2, 3).mean(axis=(1, 3))
            for plane, values in zip(frame.planes, (picture[..., 0], small[..., 1], small[..., 2])):
                _fill(plane, np.rint(values), np.uint16 if ten_bits else np.uint8)
            frame.pts, frame.time_base = index, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _fill(plane: Any, values: np.ndarray, dtype: Any) -> None:
    rows = np.zeros((plane.height, plane.line_size // np.dtype(dtype).itemsize), dtype)
    rows[:, : values.shape[1]] = values
    plane.update(rows.tobytes())


def read_all(path: Path, log: RunLog | None = None, **select: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    """(times, pictures) of all frames of a video."""
    log = log or RunLog()
    video = Video(path)
    times = video.times(FrameConfig(**select), log)
    return times, [image for _, image in video.read(range(len(times)), log)]
