"""Interlaced video: recognised by its pictures and its flags, and made progressive with FFmpeg's bwdif.

A frame of an interlaced clip is woven of two fields, the even and the odd rows, that were taken at different times.
Flow, features and depth of such a frame are wrong wherever something moves. The flags alone do not tell: progressive
frames are often stored as interlaced ones, and a conversion may lose the flag and keep the comb.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

_LARGEST = 1152
"""Rows of the tallest interlaced formats (1080 rows, coded as 1088, and their relatives)."""
_PLACES = 3
_RUN = 9
"""Frames in a row that are looked at, at each of the places in the clip."""
_COLUMN_STEP = 4
_MOVED = 12
"""Grey levels by which a pixel must change between two frames to take part: fields differ where something moves."""
_LEAST_MOVED = 0.002
"""Share of the picture that must move."""
_WHOLE = 2.0
"""A progressive frame is smoother across its rows, by this factor, than rows woven of two frames: it reaches 2.3 to 20
in clips of all kinds, interlaced frames 0.9 to 1.8."""
_ONE_SIDED = 1.15
"""Of the two ways to weave two interlaced frames, one joins fields that are three times as far apart in time."""
_LEAST_PAIRS = 4
_COMBED_SHARE = 0.25
"""Share of the pairs from which a clip without the flag counts as interlaced: a telecine combs two frames of five."""

Verdict = Literal["progressive", "flagged but progressive", "interlaced", "interlaced without the flag"]


@dataclass(frozen=True)
class Fields:
    """How the frames of a clip are made of fields."""

    verdict: Verdict
    top_first: bool = True
    """Field order where no flag tells it."""

    @property
    def message(self) -> str | None:
        """One line for the user; None for an ordinary clip."""
        return {
            "progressive": None,
            "flagged but progressive": "the video is flagged as interlaced, but its frames are whole: used as they are",
            "interlaced": "the video is interlaced: its frames are deinterlaced (bwdif)",
            "interlaced without the flag": "the video is interlaced, although it is not flagged so: its frames are "
            f"deinterlaced (bwdif, {'top' if self.top_first else 'bottom'} field first)",
        }[self.verdict]


def examine(stream: Any) -> Fields:
    """Look at short runs of frames at three places of the clip; moves the reading position of ``stream``."""
    if (stream.codec_context.height or 0) > _LARGEST:
        return Fields("progressive")
    votes, flagged = [], False
    for run in _runs(stream):
        flagged |= any(frame.interlaced_frame for frame in run)
        # Pictures of a stream may change their size.
        lumas = [frame.reformat(format="gray").to_ndarray()[:, ::_COLUMN_STEP] for frame in run]
        votes += [vote(a, b) for a, b in zip(lumas, lumas[1:]) if a.shape == b.shape]
    whole, top, bottom = (votes.count(kind) for kind in ("whole", "top", "bottom"))
    if flagged:
        clear = whole >= _LEAST_PAIRS and whole >= _LEAST_PAIRS * (top + bottom)
        return Fields("flagged but progressive" if clear else "interlaced")
    combed = max(top, bottom)
    if combed >= _LEAST_PAIRS and combed > 9 * min(top, bottom) and combed >= _COMBED_SHARE * (combed + whole):
        return Fields("interlaced without the flag", top > bottom)
    return Fields("progressive")


def vote(a: np.ndarray, b: np.ndarray) -> Literal["whole", "top", "bottom"] | None:
    """What two (H, W) uint8 grey frames, ``b`` right after ``a``, say about their fields; None: nothing clear.

    ``top`` and ``bottom`` name the field that is earlier. Compared is the roughness across the rows, on pixels that
    move, of the frames and of the two frames woven of a field of each. In whole frames both fields are of one time, so
    that weaving makes them rougher, either way. In interlaced ones the later field of ``a`` and the earlier one of
    ``b`` are as close in time as the fields of a frame are, and the other two are three times as far apart.
    """
    a, b = a.astype(np.int16), b.astype(np.int16)
    moves = np.abs(a - b)[1:-1] > _MOVED
    if len(a) < 8 or moves.mean() < _LEAST_MOVED:
        return None
    even_a, even_b = a.copy(), b.copy()
    even_a[1::2], even_b[1::2] = b[1::2], a[1::2]
    own = (_roughness(a, moves) + _roughness(b, moves)) / 2
    # The top field, the even rows, is earlier where those of the next frame fit the odd rows of this one.
    top, bottom = _roughness(even_b, moves), _roughness(even_a, moves)
    if min(top, bottom) > _WHOLE * own:
        return "whole"
    if max(top, bottom) > _ONE_SIDED * min(top, bottom):
        return "top" if top < bottom else "bottom"
    return None


def _roughness(image: np.ndarray, where: np.ndarray) -> float:
    return float(np.abs(image[:-2] + image[2:] - 2 * image[1:-1])[where].mean())


def _runs(stream: Any) -> Iterator[list[Any]]:
    import av

    container = stream.container
    start = stream.start_time or 0
    length = stream.duration or (container.duration or 0) / 1e6 / float(stream.time_base)
    for place in range(_PLACES):
        run: list[Any] = []
        try:
            if place:
                container.seek(int(start + length * place / _PLACES), stream=stream)
            for frame in container.decode(stream):
                if not frame.is_corrupt:
                    run.append(frame)
                if len(run) == _RUN:
                    break
        except (av.error.FFmpegError, OverflowError):
            pass
        yield run
        if not length:
            return


class Deinterlacer:
    """Makes the frames of a clip progressive, one for one, with their time stamps.

    Frames that are not flagged as interlaced pass unchanged, unless the whole clip lacks the flag.
    """

    def __init__(self, fields: Fields, time_base: Any, tell: Callable[[str], None]) -> None:
        """``tell`` is told, once, of interlaced frames that were not among those that were looked at."""
        self._time_base, self._tell = time_base, tell
        self._always = fields.verdict != "progressive"
        order = "tff" if fields.top_first else "bff"
        bwdif = ("bwdif", "mode=send_frame:deint=interlaced")
        self._filters = {
            "progressive": [bwdif],
            "interlaced": [bwdif],
            "interlaced without the flag": [("setfield", order), bwdif],
            # The colours of frames with the flag are converted field by field.
            "flagged but progressive": [("setfield", "prog")],
        }[fields.verdict]
        self._graph: Any = None
        self._shape: tuple[Any, ...] = ()

    def frames(self, decoded: Iterator[Any]) -> Iterator[Any]:
        """Frames as they come from the decoder, in presentation order -> as many progressive ones."""
        for frame in decoded:
            if self._graph is None and not (self._always or frame.interlaced_frame):
                yield frame
                continue
            if not self._always and self._graph is None:
                self._tell("some frames of the video are interlaced: these are deinterlaced (bwdif)")
            shape = (frame.width, frame.height, frame.format.name)
            if self._graph is None or shape != self._shape:
                yield from self._end()
                self._begin(frame, shape)
            self._graph.vpush(frame)
            yield from self._ready()
        yield from self._end()

    def _begin(self, frame: Any, shape: tuple[Any, ...]) -> None:
        from av.filter import Graph

        self._shape = shape
        graph = Graph()
        nodes = [
            graph.add(
                "buffer",
                video_size=f"{frame.width}x{frame.height}",
                pix_fmt=frame.format.name,
                time_base=str(self._time_base),
                pixel_aspect="1/1",
                colorspace=str(int(frame.colorspace)),
                range=str(int(frame.color_range)),
            )
        ]
        nodes += [graph.add(name, options) for name, options in [*self._filters, ("buffersink", None)]]
        graph.link_nodes(*nodes)
        graph.configure()
        self._graph = graph

    def _ready(self) -> Iterator[Any]:
        while True:
            try:
                frame = self._graph.vpull()
            except (BlockingIOError, EOFError):
                return
            if frame.pts is not None and frame.time_base != self._time_base:
                frame.pts = round(frame.pts * frame.time_base / self._time_base)
                frame.time_base = self._time_base
            yield frame

    def _end(self) -> Iterator[Any]:
        if self._graph is not None:
            self._graph.vpush(None)
            yield from self._ready()
            self._graph = None
