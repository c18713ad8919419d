"""Writes videos that browsers play, with PyAV."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import OutputError
from .files import replacing
from .names import address

if TYPE_CHECKING:
    from av.container import OutputContainer

ENCODERS: tuple[tuple[str, dict[str, str]], ...] = (
    # With x264's look-ahead, bytes differ from one call to the next, even on one thread.
    ("libx264", {"crf": "21", "preset": "veryfast", "x264-params": "rc-lookahead=0:sync-lookahead=0:mbtree=0"}),
    ("libopenh264", {}),
    ("h264", {}),
    ("mpeg4", {"qscale": "4"}),
)
"""Tried in this order. The last one is in every build of FFmpeg, but few browsers play it."""


def write_video(
    path: Path, frames: Iterable[np.ndarray], rate: Fraction, advance: Callable[[int], None] = lambda steps: None
) -> Path:
    """Encode (H, W, 3) uint8 RGB frames of one even size as an mp4 (H.264, yuv420p) and return its path.

    The file appears when it is complete; the same frames give identical bytes. ``rate`` is in frames per second.
    Raises OutputError when the disk or the encoder refuses.
    """
    import av

    with replacing(path, ".mp4") as temporary:
        try:
            with av.open(
                address(temporary), "w", options={"fflags": "+bitexact", "movflags": "+faststart"}
            ) as container:
                stream: Any = None
                for frame in frames:
                    stream = stream or _add_stream(container, rate, frame.shape[1], frame.shape[0])
                    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                    container.mux(stream.encode(picture))
                    advance(1)
                if stream is not None:
                    container.mux(stream.encode())
        except av.FFmpegError as error:
            raise OutputError(f"cannot encode {path}: {error}. `easi3r doctor` shows what PyAV can do") from error
    return path


def _add_stream(container: OutputContainer, rate: Fraction, width: int, height: int) -> Any:
    if width % 2 or height % 2:
        raise ValueError(f"frames of {width}x{height}: H.264 with yuv420p needs even sizes")
    name, options = _encoder()
    stream: Any = container.add_stream(name, rate=rate, options=dict(options))
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.thread_count = 1
    return stream


def _encoder() -> tuple[str, dict[str, str]]:
    """The first encoder that this build of PyAV has. Raises OutputError when it has none."""
    import av

    for name, options in ENCODERS:
        try:
            av.Codec(name, "w")
        except ValueError:  # PyAV's UnknownCodecError
            continue
        return name, options
    raise OutputError(f"PyAV has none of the encoders {', '.join(name for name, _ in ENCODERS)}: install av again")
