"""Opening a video file: any file name, and the video stream that holds the clip."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError
from ..core.runlog import RunLog
from ..storage.names import address

if TYPE_CHECKING:
    import av

_SIDE_SHARE = 0.1
"""A stream with fewer frames than this share of the longest one is a cover picture or thumbnails, not a clip."""
_AS_LONG = 0.95
"""Share of the frames of the longest stream from which another one counts as equally long."""


@dataclass(frozen=True)
class VideoTrack:
    """What decides between the video streams of a file."""

    index: int
    """Position among the video streams of the file."""
    frames: int
    width: int
    height: int
    default: bool
    """Whether the file marks the stream as the one that is shown."""


@contextlib.contextmanager
def opened(path: Path, index: int) -> Iterator[av.VideoStream]:
    """The video stream ``index`` of the file, ready to be read from its start. Raises InputError."""
    with _open(path) as container:
        stream = container.streams.video[index]
        stream.thread_type = "AUTO"
        yield stream


def choose_stream(path: Path, log: RunLog) -> int:
    """Which video stream of the file is the clip, as a position among its video streams; see :func:`best_track`.

    Pictures that are marked as such are no streams of this kind. Where the file does not say how many frames its
    streams have, their packets are counted. Raises InputError where there is no stream, or none that can be decoded.
    """
    from av.stream import Disposition

    with _open(path) as container:
        still = Disposition.attached_pic | Disposition.timed_thumbnails
        streams = [(n, s) for n, s in enumerate(container.streams.video) if not s.disposition & still]
        if not streams:
            raise InputError(f"{path} holds no video stream: give a video, or a folder of images")
        decoded = [(n, s) for n, s in streams if s.codec_context is not None]
        if not decoded:
            raise InputError(f"{path}: no decoder for its video stream; convert it to H.264 first")
        if len(decoded) == 1:
            return decoded[0][0]
        counts = _count_frames(container, [s for _, s in decoded])
        tracks = [
            VideoTrack(
                n, count, s.codec_context.width, s.codec_context.height, bool(s.disposition & Disposition.default)
            )
            for (n, s), count in zip(decoded, counts)
        ]
    best, others = best_track(tracks)
    if others:
        left = ", ".join(_described(track) for track in others)
        log.once(
            f"{path.name} has {len(others) + 1} video tracks: {_described(best)} is used"
            f"{', the default one' if best.default and not any(t.default for t in others) else ''}, and not {left} "
            "(ffmpeg -i IN -map 0:v:NUMBER -c copy OUT makes a file of one of them)"
        )
    return best.index


def best_track(tracks: Sequence[VideoTrack]) -> tuple[VideoTrack, list[VideoTrack]]:
    """The track that holds the clip, and the others that might have: streams of a few frames are left out.

    The default track is taken before others, a longer one before a shorter one, then the larger picture, then the
    first.
    """
    longest = max(track.frames for track in tracks)
    clips = [track for track in tracks if track.frames >= max(1, _SIDE_SHARE * longest)] or list(tracks)
    best = max(clips, key=lambda t: (t.default, t.frames >= _AS_LONG * longest, t.width * t.height, -t.index))
    return best, [track for track in clips if track is not best]


def _described(track: VideoTrack) -> str:
    return f"{track.index} ({track.width}x{track.height}, {track.frames} frames)"


def _count_frames(container: Any, streams: list[Any]) -> list[int]:
    import av

    if all(stream.frames for stream in streams):
        return [int(stream.frames) for stream in streams]
    counts = {stream.index: 0 for stream in streams}
    with contextlib.suppress(av.error.FFmpegError):
        for packet in container.demux(streams):
            counts[packet.stream.index] += bool(packet.size)
    return [counts[stream.index] for stream in streams]


def _open(path: Path) -> Any:
    import av

    try:
        # FFmpeg lets a playlist that is opened as a file fetch nothing from a network.
        return av.open(address(path), metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a video ({getattr(error, 'strerror', None) or error}): check that the file is "
            "complete and plays, or give a folder of images"
        ) from error
