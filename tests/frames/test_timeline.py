"""Time stamps of every awkward kind."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from easi3r_ns.core.runlog import RunLog
from easi3r_ns.frames.timeline import increasing
from tests.frames.test_frames import _code, _decode, _write_video
from tests.support.video_clips import read_all

NAN = np.nan


@pytest.mark.parametrize(
    "given, expected",
    [
        ([0, 1, 2, 3], [0, 1, 2, 3]),
        ([5, 6, 8], [0, 1, 3]),
        ([-2, -1, 0], [0, 1, 2]),
        ([0, 1, 1, 3], [0, 1, 2, 3]),
        ([0, 2, 1, 3], [0, 2, 2.5, 3]),
        ([NAN, NAN, 2, 3], [0, 1, 2, 3]),
        ([0, NAN, NAN, 3, 4], [0, 1, 2, 3, 4]),
        ([0, 1, 2, NAN], [0, 1, 2, 3]),
        ([NAN, NAN, NAN], [0, 0.5, 1]),
        ([0] * 4, [0, 0.5, 1, 1.5]),
        (list(range(20)) + list(range(20)), list(range(40))),
        (list(range(100, 112)) + list(range(12)), list(range(24))),
        (list(range(12)) + [NAN] + list(range(12)), list(range(25))),
    ],
)
def test_times_are_put_in_order(given, expected):
    times = increasing(np.array(given, dtype=float), 0.5)
    np.testing.assert_allclose(times, expected, atol=1e-9)


def test_random_disorder_still_increases():
    rng = np.random.default_rng(0)
    for _ in range(50):
        given = rng.integers(0, 30, 40).astype(float)
        given[rng.random(40) < 0.2] = np.nan
        times = increasing(given, 0.04)
        assert times[0] == 0 and (np.diff(times) > 0).all()


def _remux(source: Path, target: Path, change, **options) -> Path:
    """Copy the packets of the video; ``change`` sets their time stamps."""
    with av.open(str(source)) as inp, av.open(str(target), "w", **options) as out:
        stream = inp.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for number, packet in enumerate(p for p in inp.demux(stream) if p.size):
            change(number, packet)
            packet.stream = copy
            out.mux(packet)
    return target


def _clip(path: Path, count: int = 30, first: int = 0) -> Path:
    return _write_video(path, [_code(first + i) for i in range(count)])


def test_a_recording_joined_of_two_keeps_its_order(tmp_path):
    """Both parts start at the same time stamp, so that sorting them would weave the parts."""
    parts = [_clip(tmp_path / f"{n}.ts", 25, 100 * n) for n in range(2)]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(parts[0].read_bytes() + parts[1].read_bytes())
    log = RunLog()
    times, images = read_all(joined, log)
    assert [_decode(image) for image in images] == [*range(25), *range(100, 125)]
    np.testing.assert_allclose(times, np.arange(50) / 25, atol=2e-3)
    assert not log.warnings


@pytest.mark.parametrize("offset", [0, 95443, 95442.3], ids=["from 0", "just before the wrap", "across the wrap"])
def test_transport_streams_near_the_wrap_of_their_clock(tmp_path, offset):
    def later(number, packet):
        shift = int(offset / packet.time_base)
        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift

    clip = _remux(_clip(tmp_path / "a.mp4"), tmp_path / "clip.ts", later)
    log = RunLog()
    times, images = read_all(clip, log)
    np.testing.assert_allclose(times, np.arange(30) / 25, atol=2e-3)
    assert [_decode(image) for image in images] == list(range(30)) and not log.warnings


@pytest.mark.parametrize(
    "suffix, options",
    [
        ("mp4", {"movflags": "frag_keyframe+empty_moov"}),
        ("mp4", {"movflags": "frag_keyframe"}),
        ("mp4", {"movflags": "frag_every_frame+empty_moov+default_base_moof"}),
        ("mkv", {"live": "1"}),
    ],
)
def test_files_that_do_not_know_their_length(tmp_path, suffix, options):
    source = _clip(tmp_path / "a.mp4")
    clip = _remux(source, tmp_path / f"clip.{suffix}", lambda *_: None, container_options=options)
    log = RunLog()
    times, images = read_all(clip, log)
    np.testing.assert_allclose(times, np.arange(30) / 25, atol=2e-3)
    assert [_decode(image) for image in images] == list(range(30)) and not log.warnings


def test_frames_before_time_zero_are_not_called_missing(tmp_path):
    """The muxer writes an edit list that skips them, and the header still counts them."""

    def earlier(number, packet):
        shift = int(Fraction(1, 2) / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift

    clip = _remux(_clip(tmp_path / "a.mp4"), tmp_path / "clip.mp4", earlier, options={"avoid_negative_ts": "disabled"})
    log = RunLog()
    times, images = read_all(clip, log)
    with av.open(str(clip)) as container:
        expected = [frame.time for frame in container.decode(video=0)]
    assert 10 < len(times) == len(expected) < 30 and not log.warnings
    np.testing.assert_allclose(times, np.array(expected) - expected[0], atol=1e-6)
    assert _decode(images[-1]) == 29


def test_a_time_stamp_that_repeats_costs_no_other(tmp_path):
    def repeat(number, packet):
        if number >= 12:
            packet.pts, packet.dts = 3 * packet.pts, 3 * packet.dts

    plain = _write_video(tmp_path / "a.mkv", [_code(i) for i in range(24)], options={"bf": "0"})
    clip = _remux(plain, tmp_path / "clip.mkv", repeat)
    times, images = read_all(clip)
    assert [_decode(image) for image in images] == list(range(24))
    assert (np.diff(times) > 0).all() and times[-1] == pytest.approx(3 * 23 / 25, abs=0.1)


def test_a_long_gap_is_said(tmp_path):
    def jump(number, packet):
        if number >= 12:
            shift = int(18000 / packet.time_base)
            packet.pts, packet.dts = packet.pts + shift, packet.dts + shift

    plain = _write_video(tmp_path / "a.mkv", [_code(i) for i in range(24)], options={"bf": "0"})
    log = RunLog()
    times, _ = read_all(_remux(plain, tmp_path / "clip.mkv", jump), log)
    assert times[-1] == pytest.approx(18000 + 23 / 25, abs=0.01)
    assert any("no frame for 1.8e+04 s after 0.44 s" in warning for warning in log.warnings)
