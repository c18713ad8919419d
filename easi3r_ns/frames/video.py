"""A video file as a source of frames, read with PyAV (the libraries of FFmpeg)."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.config import FrameConfig
from ..core.errors import InputError
from ..core.runlog import RunLog
from ..core.types import RecordedFocal
from . import fields
from .container import choose_stream, opened
from .cuts import Watch, thumb_size
from .decoded import DecodedFrames
from .focal import video_focal
from .picture import FrameConverter
from .timeline import Timeline, decode, decoded_timeline, demux, longest_gap, missing_end, timeline

if TYPE_CHECKING:
    import av


class Video:
    """One video stream; frames come out upright (display matrix applied) and with square pixels."""

    unit = "s"
    shows_all = True
    """Whether reading decodes frames that were not asked for: a video is decoded from its start to the last one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream: int | None = None
        self._timeline: Timeline | None = None
        self._fields: fields.Fields | None = None
        self._tonemap = True
        self._decoded: DecodedFrames | None = None

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
        """(n,) float64 seconds of all frames, from their packets alone where these leave no doubt. Raises InputError.

        Chooses the stream of the file, and remembers of ``select`` how colours are converted.
        """
        self._tonemap = select.tonemap
        with self._opened(log) as stream:
            packets = demux(stream)
            found, announced, incomplete = timeline(packets, stream), stream.frames, missing_end(packets, stream)
        count = len(packets.stamps)
        if incomplete:
            log.warn(f"{self.path.name} is incomplete: it announces {announced} frames and holds {count}")
        elif not packets.complete:
            log.warn(f"{self.path.name} is damaged: reading stopped after {count} frames")
        if not count:
            raise InputError(f"{self.path} holds no video frame: the file is empty or damaged")
        if found is None:
            log.once(
                f"time stamps of {self.path.name} are missing, repeated or run backwards: its frames are put in order"
            )
        self._timeline = found or self._decoded_timeline()
        if (gap := longest_gap(self._timeline.times)) is not None:
            log.warn(
                f"{self.path.name} holds no frame for {gap[1]:.4g} s after {gap[0]:.4g} s: frames are spread in time, "
                "and many come from around the gap; --start and --end choose a part"
            )
        return self._timeline.times

    def keep_decoded(self, most_bytes: float) -> None:
        """Keep what :meth:`read` shows from now on, as far as it fits, for what it is asked next; 0 gives it up."""
        self._decoded = DecodedFrames(most_bytes) if most_bytes > 0 else None

    def recount(self, log: RunLog) -> np.ndarray:
        """(n,) seconds of the frames that can be decoded; for a damaged video, which has fewer of them than packets."""
        assert self._timeline is not None
        counted = self._decoded_timeline()
        log.warn(
            f"{self.path.name} is damaged: only {len(counted.times)} of its {len(self._timeline.times)} frames can be "
            "decoded; going on with these"
        )
        self._timeline, self._decoded = counted, None  # indices mean other frames now
        return counted.times

    def _decoded_timeline(self) -> Timeline:
        with self._opened() as stream:
            stamps = [frame.pts for frame in decode(stream)]
            if not stamps:
                raise InputError(f"{self.path} holds no frame that can be decoded: the file is damaged")
            return decoded_timeline(stamps, stream)

    def name(self, index: int) -> str:
        """The clip's file name, the same for every frame."""
        return self.path.name

    def focals(self, indices: Sequence[int], source_wh: tuple[int, int]) -> list[RecordedFocal | None]:
        """What the file says about the focal length of frames of ``source_wh`` upright pixels."""
        with self._opened() as stream:
            return [video_focal([stream.metadata, stream.container.metadata], source_wh)]

    def metadata(self) -> dict[str, str]:
        """What the file says about itself, as keys and texts; that of its stream first."""
        with self._opened() as stream:
            return {**stream.container.metadata, **stream.metadata}

    def read(self, indices: Sequence[int], log: RunLog, watch: Watch | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Upright (H, W, 3) uint8 RGB of the frames ``indices``, in presentation order, from one sequential pass.

        Frames that do not decode are left out. ``watch`` is called with every frame up to the last of ``indices``: all
        of them are decoded anyway. Raises InputError when the size changes within the video.
        """
        first = 0
        size: tuple[int, ...] | None = None
        with self._progressive(log) as (stream, frames):
            pictures = FrameConverter(stream, self._tonemap, log)
            for index, frame in self._wanted(frames, indices, watch):
                image = pictures.upright(frame)
                first, size = (index, image.shape[1::-1]) if size is None else (first, size)
                if image.shape[1::-1] != size:
                    raise InputError(
                        f"{self.path.name} changes its size: frame {first} is {size[0]}x{size[1]}, frame {index} is "
                        f"{image.shape[1]}x{image.shape[0]}; cut the clip with --start and --end"
                    )
                yield index, image

    def _wanted(
        self, frames: Iterator[av.VideoFrame], indices: Sequence[int], watch: Watch | None
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Those of ``indices``, kept ones where all of them are; else of the progressive ``frames`` of the video."""
        kept = self._decoded.those(indices) if self._decoded is not None and watch is None else None
        if kept is not None:
            yield from kept
            return
        assert self._timeline is not None
        pts = self._timeline.pts
        index_of = None if pts is None else {stamp: index for index, stamp in enumerate(pts)}
        thumb_wh: tuple[int, int] | None = None
        wanted = {pts[i] if pts is not None else i: int(i) for i in indices}
        for count, frame in enumerate(frames):
            if watch is not None:
                thumb_wh = thumb_wh or thumb_size(frame.width, frame.height)
                position = count if index_of is None else index_of.get(frame.pts)
                if position is not None:
                    watch(position, _thumbnail(frame, thumb_wh))
                    if self._decoded is not None:
                        self._decoded.add(position, frame)
            index = wanted.pop(frame.pts if pts is not None else count, None)
            if index is not None:
                yield index, frame
                if not wanted:
                    return

    @contextlib.contextmanager
    def _progressive(self, log: RunLog) -> Iterator[tuple[av.VideoStream, Iterator[av.VideoFrame]]]:
        """The stream and its frames, deinterlaced where they have to be."""
        if self._fields is None:
            with self._opened() as stream:
                self._fields = fields.examine(stream)
            if self._fields.message:
                log.once(self._fields.message)
        with self._opened() as stream:
            whole = fields.Deinterlacer(self._fields, stream.time_base, log.once)
            yield stream, whole.frames(decode(stream))

    def _opened(self, log: RunLog | None = None) -> contextlib.AbstractContextManager[av.VideoStream]:
        """The stream that holds the clip; ``log`` is told of the choice when it is made."""
        if self._stream is None:
            self._stream = choose_stream(self.path, log or RunLog())
        return opened(self.path, self._stream)


def _thumbnail(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
    return frame.reformat(*size, format="gray", interpolation="AREA").to_ndarray()
