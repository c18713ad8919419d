"""A video file as a source of frames, read with PyAV (the libraries of FFmpeg)."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.config import FrameConfig
from ..core.errors import InputError
from ..core.runlog import RunLog
from ..core.types import RecordedFocal
from .cuts import Watch, thumb_size
from .focal import video_focal

if TYPE_CHECKING:
    import av

_HDR_TRANSFERS = (16, 18)
"""Transfer characteristics PQ and HLG of ITU-T H.273."""


@dataclass(frozen=True)
class Timeline:
    """The frames of a video in presentation order."""

    pts: tuple[int, ...] | None
    """Unique time stamps in stream units. None when the time stamps of the container do not identify frames; frames are
    then identified by their order."""
    times: np.ndarray
    """(n,) float64 seconds from the first frame."""


class Video:
    """One video stream; frames come out upright (display matrix applied) and with square pixels."""

    unit = "s"
    shows_all = True
    """Whether reading decodes frames that were not asked for: a video is decoded from its start to the last one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._timeline: Timeline | None = None

    def signature(self) -> dict[str, Any]:
        """What must be unchanged for extracted frames to be valid still: place, size, date, both ends of the file."""
        stat = self.path.stat()
        digest = hashlib.blake2b(digest_size=16)
        with open(self.path, "rb") as file:
            digest.update(file.read(1 << 20))
            file.seek(max(0, stat.st_size - (1 << 20)))
            digest.update(file.read(1 << 20))
        return {
            "video": str(self.path.resolve()),
            "bytes": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
            "ends": digest.hexdigest(),
        }

    def times(self, select: FrameConfig, log: RunLog) -> np.ndarray:
        """(n,) float64 seconds of all frames, from their packets alone (nothing is decoded). Raises InputError."""
        with _opened(self.path) as stream:
            declared = stream.frames if "mp4" in stream.container.format.name else 0
            stamps, trimmed, complete = _demux(stream)
            timeline = _timeline(stamps, stream)
        if len(stamps) + trimmed < declared:
            log.warn(f"{self.path.name} is incomplete: it announces {declared} frames and holds {len(stamps)}")
        elif not complete:
            log.warn(f"{self.path.name} is damaged: reading stopped after {len(stamps)} frames")
        if not stamps:
            raise InputError(f"{self.path} holds no video frame: the file is empty or damaged")
        self._timeline = timeline
        return timeline.times

    def recount(self, log: RunLog) -> np.ndarray:
        """(n,) seconds of the frames that can be decoded; for a damaged video, which has fewer of them than packets."""
        with _opened(self.path) as stream:
            stamps = [frame.pts for frame in _decode(stream)]
            timeline = _timeline(stamps, stream)
        if not stamps:
            raise InputError(f"{self.path} holds no frame that can be decoded: the file is damaged")
        assert self._timeline is not None
        log.warn(
            f"{self.path.name} is damaged: only {len(stamps)} of its {len(self._timeline.times)} frames can be "
            "decoded; going on with these"
        )
        self._timeline = timeline
        return timeline.times

    def name(self, index: int) -> str:
        """The clip's file name, the same for every frame."""
        return self.path.name

    def focals(self, indices: Sequence[int], source_wh: tuple[int, int]) -> list[RecordedFocal | None]:
        """What the file says about the focal length of frames of ``source_wh`` upright pixels."""
        with _opened(self.path) as stream:
            return [video_focal([stream.metadata, stream.container.metadata], source_wh)]

    def read(self, indices: Sequence[int], log: RunLog, watch: Watch | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Upright (H, W, 3) uint8 RGB of the frames ``indices``, in presentation order, from one sequential pass.

        Frames that do not decode are left out. ``watch`` is called with every frame up to the last of ``indices``: all
        of them are decoded anyway. Raises InputError when the size changes within the video.
        """
        assert self._timeline is not None
        pts = self._timeline.pts
        index_of = None if pts is None else {stamp: index for index, stamp in enumerate(pts)}
        thumb_wh: tuple[int, int] | None = None
        wanted = {pts[i] if pts is not None else i: int(i) for i in indices}
        first: tuple[int, tuple[int, int]] | None = None
        with _opened(self.path) as stream:
            for count, frame in enumerate(_decode(stream)):
                if watch is not None:
                    thumb_wh = thumb_wh or thumb_size(frame.width, frame.height)
                    position = count if index_of is None else index_of.get(frame.pts)
                    if position is not None:
                        watch(position, _thumbnail(frame, thumb_wh))
                index = wanted.pop(frame.pts if pts is not None else count, None)
                if index is None:
                    continue
                if getattr(frame, "color_trc", None) in _HDR_TRANSFERS:
                    log.warn("the video is HDR: its colours are used without tone mapping and may look flat")
                image = _upright_rgb(frame, stream)
                size = (image.shape[1], image.shape[0])
                first = first or (index, size)
                if size != first[1]:
                    raise InputError(
                        f"{self.path.name} changes its size: frame {first[0]} is {first[1][0]}x{first[1][1]}, frame "
                        f"{index} is {size[0]}x{size[1]}; cut the clip with --start and --end"
                    )
                yield index, image
                if not wanted:
                    return


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[av.VideoStream]:
    import av

    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a video ({getattr(error, 'strerror', None) or error}): check that the file is "
            "complete and plays, or give a folder of images"
        ) from error
    with container:
        streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            raise InputError(f"{path} holds no video stream: give a video, or a folder of images")
        stream = streams[0]
        if stream.codec_context is None:
            raise InputError(f"{path}: no decoder for its video stream; convert it to H.264 first")
        stream.thread_type = "AUTO"
        yield stream


def _demux(stream: av.VideoStream) -> tuple[list[int | None], int, bool]:
    """Time stamps of all packets that become frames, in file order; the number of packets that an edit list trims; and
    whether the file could be read to its end.
    """
    import av

    stamps: list[int | None] = []
    trimmed = 0
    try:
        for packet in stream.container.demux(stream):
            if packet.size and packet.is_discard:
                trimmed += 1
            elif packet.size:
                stamps.append(packet.pts)
    except av.error.FFmpegError:
        return stamps, trimmed, False
    return stamps, trimmed, True


def _decode(stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """All frames that decode without damage, in presentation order."""
    import av

    packets = stream.container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.FFmpegError):
            return
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            continue
        yield from (frame for frame in frames if not frame.is_corrupt)


def _timeline(stamps: list[int | None], stream: av.VideoStream) -> Timeline:
    known = sorted({stamp for stamp in stamps if stamp is not None})
    if not stamps or len(known) < len(stamps):
        rate = float(stream.average_rate or stream.guessed_rate or 30)
        return Timeline(None, np.arange(len(stamps)) / rate)
    times = np.array([float((stamp - known[0]) * stream.time_base) for stamp in known])
    # AVI stores the order of packets only. With B-frames, the time stamps that FFmpeg guesses belong to other frames.
    guessed = stream.container.format.name == "avi" and stream.codec_context.has_b_frames
    return Timeline(None if guessed else tuple(known), times)


def _thumbnail(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
    return frame.reformat(*size, format="gray", interpolation="AREA").to_ndarray()


def _upright_rgb(frame: av.VideoFrame, stream: av.VideoStream) -> np.ndarray:
    import cv2

    rgb = frame.to_ndarray(format="rgb24")
    aspect = float(stream.sample_aspect_ratio or 1) or 1.0
    if aspect != 1.0:
        height, width = rgb.shape[:2]
        # Grow the coarser axis: one focal length holds only for square pixels, and nothing is thrown away.
        size = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_CUBIC)
    # The display matrix turns counter-clockwise, as numpy.rot90 does.
    return np.ascontiguousarray(np.rot90(rgb, round(frame.rotation / 90) % 4))
