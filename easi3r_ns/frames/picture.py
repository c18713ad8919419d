"""A decoded frame as an upright picture with square pixels, in the colours that the ffmpeg tool gives."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from ..core.runlog import RunLog
from .tonemap import Colours, tone_map

_UNKNOWN = (0, 2)
"""Numbers of ITU-T H.273 for reserved and unspecified colours."""
_DOLBY_ONLY = ("dvh1", "dvhe")
"""Tags of Dolby Vision streams; those that name no transfer have no HLG or PQ picture as a base (profile 5)."""
_ASPECTS = (0.1, 10.0)
"""Believable shapes of a pixel: the widest that is in use, of anamorphic lenses and of old half-width formats, is 2."""


class FrameConverter:
    """Converts the decoded frames of one stream."""

    def __init__(self, stream: Any, tonemap: bool, log: RunLog) -> None:
        from av.video.reformatter import VideoReformatter

        self._stream, self._tonemap, self._log = stream, tonemap, log
        self._reformatter = VideoReformatter()

    def upright(self, frame: Any) -> np.ndarray:
        """(H, W, 3) uint8 RGB: HDR tone-mapped if asked for, square pixels, turned and mirrored as the file says."""
        colours = Colours(*(self._number(frame, name) for name in ("color_trc", "color_primaries")))
        if colours.transfer in _UNKNOWN and self._stream.codec_context.codec_tag in _DOLBY_ONLY:
            self._log.warn(
                "the video is Dolby Vision of a profile that only its own players show: its colours are wrong here; "
                "export it as HLG or SDR"
            )
        kind = colours.kind
        if kind is None:
            rgb = self._rgb(frame, "rgb24")
        elif self._tonemap:
            rgb = tone_map(self._rgb(frame, "rgb48le"), colours)
            into = "BT.709 colours" if kind == "wide gamut" else "SDR with BT.709 colours (curve of ITU-R BT.2390)"
            self._log.once(f"the video is {_named(kind)}: converted to {into}; --no-tonemap keeps its values")
        else:
            rgb = self._rgb(frame, "rgb24")
            self._log.warn(
                f"the video is {_named(kind)}: its values are used as they are (--no-tonemap), and may look flat"
            )
        return turned(self._square(rgb), self._matrix(frame))

    def _rgb(self, frame: Any, format: str) -> np.ndarray:
        """The frame as RGB.

        Matrix and range of the source are named, because releases of PyAV before 17 do not look at the frame's. They
        convert nothing, either, where source and destination have the same matrix, hence the one of the destination,
        which means nothing for RGB.
        """
        from av.video.reformatter import Colorspace

        return self._reformatter.reformat(
            frame,
            format=format,
            interpolation="BICUBIC",
            src_colorspace=int(frame.colorspace),
            dst_colorspace=Colorspace.DEFAULT,
            src_color_range=int(frame.color_range),
        ).to_ndarray()

    def _number(self, frame: Any, name: str) -> int:
        """A number of H.273 from the frame, where this PyAV knows it there, or else from its decoder."""
        value = int(getattr(frame, name, 0) or 0)
        return value if value not in _UNKNOWN else int(getattr(self._stream.codec_context, name, 0) or 0)

    def _square(self, rgb: np.ndarray) -> np.ndarray:
        aspect = float(self._stream.sample_aspect_ratio or 1) or 1.0
        if aspect == 1.0:
            return rgb
        if not _ASPECTS[0] <= aspect <= _ASPECTS[1]:
            self._log.warn(f"the file says that pixels are {aspect:.3g} times as wide as high: taken for square")
            return rgb
        height, width = rgb.shape[:2]
        # Grow the coarser axis: one focal length holds only for square pixels, and nothing is thrown away.
        size = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
        return cv2.resize(rgb, size, interpolation=cv2.INTER_CUBIC)

    def _matrix(self, frame: Any) -> np.ndarray | None:
        data = next((entry for entry in side_data(frame) if entry.type.name == "DISPLAYMATRIX"), None)
        if data is None:
            return None
        matrix = np.frombuffer(bytes(data), np.int32)[:9].reshape(3, 3)[:2, :2]
        if (matrix != 0).sum() > 2:
            self._log.warn("the file asks for a turn by no multiple of 90 degrees: the nearest one is made")
        return matrix


def side_data(frame: Any) -> Any:
    """What a file says beside the pixels of a frame.

    PyAV gives none of it where one entry is of a kind that it has no name for: EXIF data in motion JPEG and TIFF,
    views of spatial video. Such numbers get one.
    """
    from av.sidedata.sidedata import Type

    try:
        return frame.side_data
    except ValueError:
        Type._missing_ = classmethod(_nameless)  # type: ignore[assignment, method-assign]
        return frame.side_data


def _nameless(kind: Any, number: object) -> Any:
    """A member of the enumeration ``kind`` for a number that it does not have."""
    member = object.__new__(kind)
    member._name_, member._value_ = f"KIND_{number}", number
    return member


def turned(image: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """(H, W, ...) turned and mirrored by the four numbers of a display matrix, [[a, b], [c, d]].

    It takes a pixel at (x, y) to (a x + c y, b x + d y), x to the right and y down (ISO/IEC 14496-12, 6.2.2). None is
    no turn.
    """
    if matrix is not None and matrix.any():
        (a, b), (c, d) = matrix.tolist()
        if abs(b) + abs(c) > abs(a) + abs(d):
            image = image.swapaxes(0, 1)
            a, d = c, b
        image = image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(image)


def _named(kind: str) -> str:
    return "SDR with BT.2020 colours" if kind == "wide gamut" else f"HDR ({kind})"
