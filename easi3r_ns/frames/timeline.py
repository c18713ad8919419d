"""Time stamps of a video's frames: from its packets, and from decoding where the packets leave doubts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_JITTER = 8
"""Frames after which a clock that ran backwards is above its highest value again, if that was disorder; a clock that
starts anew (a recording joined of several) takes longer."""
_FALLBACK_RATE = 30.0
_GAP_SECONDS, _GAP_STEPS = 10.0, 100.0
"""A gap of more than so many seconds and so many frames is no pause of a screen recording (FFmpeg takes 10 s, too)."""


@dataclass(frozen=True)
class Timeline:
    """The frames of a video in presentation order."""

    pts: tuple[int, ...] | None
    """Unique time stamps in stream units. None when the time stamps of the container do not identify frames; frames are
    then identified by their order."""
    times: np.ndarray
    """(n,) float64 seconds from the first frame, increasing."""


@dataclass(frozen=True)
class Packets:
    """What the packets of a stream say, in file order, without those that an edit list trims."""

    stamps: list[int | None]
    orderly: bool
    """Whether the decoding times never decrease."""
    trimmed: int
    """Packets that become no frame, because an edit list cuts them off."""
    complete: bool
    """Whether the file could be read to its end."""


def demux(stream: Any) -> Packets:
    """Read all packets of a stream; nothing is decoded."""
    import av

    stamps: list[int | None] = []
    trimmed, orderly, last = 0, True, None
    try:
        for packet in stream.container.demux(stream):
            if packet.size and packet.is_discard:
                trimmed += 1
            elif packet.size:
                stamps.append(packet.pts)
            if packet.size and packet.dts is not None:
                orderly &= last is None or packet.dts >= last
                last = packet.dts
    except av.error.FFmpegError:
        return Packets(stamps, orderly, trimmed, False)
    return Packets(stamps, orderly, trimmed, True)


def missing_end(packets: Packets, stream: Any) -> bool:
    """Whether an MP4 file ends before the time and the number of frames that it announces.

    The number alone does not tell: it counts frames too that an edit list skips.
    """
    announced, count = stream.frames, len(packets.stamps)
    if "mp4" not in stream.container.format.name or count + packets.trimmed >= announced or not stream.duration:
        return False
    known = [stamp for stamp in packets.stamps if stamp is not None]
    return not known or max(known) - min(known) < stream.duration * (1 - 1.5 / count)


def decode(stream: Any) -> Iterator[Any]:
    """All frames that decode without damage, in presentation order.

    After damage, those up to the next key frame are left out: they are drawn over what is missing, and smear it.
    """
    import av

    packets = stream.container.demux(stream)
    damaged = False
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.FFmpegError):
            return
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            damaged = True
            continue
        for frame in frames:
            damaged = frame.is_corrupt or (damaged and not frame.key_frame)
            if not damaged:
                yield frame


def timeline(packets: Packets, stream: Any) -> Timeline | None:
    """The frames of a stream from its packets; None where only decoding tells their order."""
    known = sorted({stamp for stamp in packets.stamps if stamp is not None})
    if not known:
        return Timeline(None, np.arange(len(packets.stamps)) / _rate(stream))
    if len(known) < len(packets.stamps) or not packets.orderly:
        return None
    times = np.array([float((stamp - known[0]) * stream.time_base) for stamp in known])
    # AVI stores the order of packets only. With B-frames, the time stamps that FFmpeg guesses belong to other frames.
    guessed = stream.container.format.name == "avi" and stream.codec_context.has_b_frames
    return Timeline(None if guessed else tuple(known), times)


def decoded_timeline(stamps: Sequence[int | None], stream: Any) -> Timeline:
    """The timeline of frames that were decoded, with the time stamps ``stamps``, in this order."""
    known = [stamp for stamp in stamps if stamp is not None]
    if len(known) == len(stamps) and all(a < b for a, b in zip(known, known[1:])):
        return Timeline(tuple(known), np.array([float((stamp - known[0]) * stream.time_base) for stamp in known]))
    scale = float(stream.time_base)
    seconds = np.array([np.nan if stamp is None else stamp * scale for stamp in stamps], dtype=np.float64)
    return Timeline(None, increasing(seconds, 1 / _rate(stream)))


def increasing(seconds: np.ndarray, step: float) -> np.ndarray:
    """(n,) times of frames in presentation order, NaN where unknown -> (n,) increasing times from 0.

    Single times that are unknown, repeated or out of order are put between their neighbours. Where a clock starts anew,
    it goes on one frame after the last. ``step`` is the duration of a frame where the times do not tell it.
    """
    times = np.array(seconds, dtype=np.float64)
    steps = np.diff(times[np.isfinite(times)])
    step = float(np.median(steps[steps > 0])) if (steps > 0).any() else step
    top, last, shift = -np.inf, 0, 0.0
    for i in range(len(times)):
        if np.isnan(times[i]):
            continue
        if times[i] + shift <= top:
            ahead = times[i + 1 : i + 1 + _JITTER] + shift
            if (ahead > top).any() or times[i] + shift == top:
                times[i] = np.nan
                continue
            shift = top + step * (i - last) - times[i]
        times[i] += shift
        top, last = times[i], i
    return _filled(times, step)


def longest_gap(times: np.ndarray) -> tuple[float, float] | None:
    """(start, length) in seconds of the longest gap in increasing times; None where it is not worth a word."""
    steps = np.diff(times)
    if len(steps) == 0 or steps.max() < max(_GAP_SECONDS, _GAP_STEPS * float(np.median(steps))):
        return None
    return float(times[steps.argmax()]), float(steps.max())


def _filled(times: np.ndarray, step: float) -> np.ndarray:
    """Times with NaN -> the same with those between their neighbours, or a step apart at the ends; the first is 0."""
    known = np.flatnonzero(np.isfinite(times))
    if len(known) == 0:
        return np.arange(len(times)) * step
    every = np.arange(len(times))
    filled = np.interp(every, known, times[known])
    filled[: known[0]] = times[known[0]] - step * (known[0] - every[: known[0]])
    filled[known[-1] :] = times[known[-1]] + step * (every[known[-1] :] - known[-1])
    return filled - filled[0]


def _rate(stream: Any) -> float:
    return float(stream.average_rate or stream.guessed_rate or _FALLBACK_RATE)
