"""Interlaced video is recognised and deinterlaced; progressive video is left alone, whatever its flag says."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from easi3r_ns.core.runlog import RunLog
from easi3r_ns.frames.fields import Deinterlacer, Fields, vote
from tests.support.video_clips import read_all

WIDTH, HEIGHT, FRAMES = 128, 96, 30


def _scene(time: float) -> np.ndarray:
    """A textured picture that moves to the right; ``time`` in frames."""
    texture = np.random.default_rng(0).integers(0, 256, (HEIGHT, 3 * WIDTH), dtype=np.uint8)
    texture = cv2.GaussianBlur(texture, (0, 0), 2.5)
    texture = cv2.normalize(texture, None, 20, 235, cv2.NORM_MINMAX)
    shift = np.float32([[1, 0, 5 * time - 2 * WIDTH + 50], [0, 1, 0]])
    grey = cv2.warpAffine(texture, shift, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.repeat(grey[..., None], 3, axis=-1)


def _woven(index: int, top_first: bool) -> np.ndarray:
    early, late = _scene(index), _scene(index + 0.5)
    frame = early.copy()
    frame[1 if top_first else 0 :: 2] = late[1 if top_first else 0 :: 2]
    return frame


def _write(path: Path, pictures: list[np.ndarray], flag: str | None, codec: str = "libx264") -> Path:
    options = {"crf": "10"} | ({"x264-params": f"{flag}=1"} if flag else {}) if codec == "libx264" else {}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(_marked(frame, flag) if flag else frame))
        container.mux(stream.encode())
    return path


def _marked(frame: av.VideoFrame, flag: str) -> av.VideoFrame:
    """The frame with the flags of an interlaced one; the encoder takes the order of its fields from there."""
    graph = av.filter.Graph()
    size = f"{frame.width}x{frame.height}"
    source = graph.add("buffer", video_size=size, pix_fmt="yuv420p", time_base=str(frame.time_base), pixel_aspect="1/1")
    graph.link_nodes(source, graph.add("setfield", flag), graph.add("buffersink")).configure()
    graph.vpush(frame)
    return graph.vpull()


def _comb(image: np.ndarray) -> float:
    rows = image[..., 1].astype(int)
    return float(np.abs(rows[:-2] + rows[2:] - 2 * rows[1:-1]).mean())


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("flag, top_first", [("tff", True), ("bff", False)])
def test_interlaced_clips_are_deinterlaced_and_that_is_said(tmp_path, caplog, flag, top_first, suffix):
    clip = _write(tmp_path / f"clip.{suffix}", [_woven(i, top_first) for i in range(FRAMES)], flag)
    with caplog.at_level("INFO"):
        times, images = read_all(clip)
    assert caplog.text.count("the video is interlaced: its frames are deinterlaced") == 1
    assert len(images) == FRAMES, "one frame for one, to the last"
    np.testing.assert_allclose(times, np.arange(FRAMES) / 25, atol=2e-3)
    for index in (2, 14, 27):
        truth = _scene(index)
        assert _comb(_woven(index, top_first)) > 2.5 * _comb(truth)
        assert _comb(images[index]) < 1.3 * _comb(truth)
        error = [np.abs(images[index].astype(int) - _scene(index + shift)).mean() for shift in (0, 0.5)]
        assert error[0] < 4 and error[0] < 0.5 * error[1], "the earlier field, at the time of the frame"


@pytest.mark.parametrize("top_first", [True, False])
def test_interlaced_clips_that_lost_the_flag(tmp_path, caplog, top_first):
    clip = _write(tmp_path / "clip.mp4", [_woven(i, top_first) for i in range(FRAMES)], None)
    with caplog.at_level("INFO"):
        _, images = read_all(clip)
    assert "not flagged" in caplog.text and ("top" if top_first else "bottom") + " field first" in caplog.text
    assert np.abs(images[14].astype(int) - _scene(14)).mean() < 4


@pytest.mark.parametrize("flag", [None, "tff"])
def test_progressive_clips_are_left_alone(tmp_path, caplog, flag):
    pictures = [_scene(i) for i in range(FRAMES)]
    clip = _write(tmp_path / "clip.mp4", pictures, flag)
    with caplog.at_level("INFO"):
        times, images = read_all(clip)
    assert len(times) == len(images) == FRAMES
    assert ("used as they are" in caplog.text) == (flag is not None) and "deinterlaced" not in caplog.text
    with av.open(str(clip)) as container:
        plain = [frame.reformat(format="gray").to_ndarray() for frame in container.decode(video=0)]
    for image, grey in zip(images, plain):
        assert np.abs(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(int) - grey).mean() < 1.5


def test_frames_with_the_flag_that_no_sample_showed(caplog):
    """A progressive clip with an interlaced recording in it."""
    frames = []
    for index in range(8):
        picture = _scene(index) if index < 4 else _woven(index, True)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = index, Fraction(1, 25)
        frames.append(frame if index < 4 else _marked(frame, "tff"))
    told: list[str] = []
    whole = list(Deinterlacer(Fields("progressive"), Fraction(1, 25), told.append).frames(iter(frames)))
    assert [frame.pts for frame in whole] == list(range(8)) and len(told) == 1
    assert not any(frame.interlaced_frame for frame in whole)
    assert all(whole[index] is frames[index] for index in range(4))
    assert _comb(whole[6].to_ndarray(format="rgb24")) < 1.3 * _comb(_scene(6))


def test_votes_of_pairs():
    still = _scene(3)[..., 0]
    noise = np.random.default_rng(1).normal(0, 12, (2, HEIGHT, WIDTH))
    noisy = [np.clip(still + layer, 0, 255).astype(np.uint8) for layer in noise]
    assert vote(still, still) is None and vote(*noisy) is None
    assert vote(_scene(3)[..., 0], _scene(4)[..., 0]) == "whole"
    assert vote(_woven(3, True)[..., 0], _woven(4, True)[..., 0]) == "top"
    assert vote(_woven(3, False)[..., 0], _woven(4, False)[..., 0]) == "bottom"
    assert vote(still[:4], still[:4]) is None


def test_time_stamps_of_a_clip_without_any(tmp_path):
    clip = _write(tmp_path / "clip.h264", [_woven(i, True) for i in range(12)], "tff")
    log = RunLog()
    times, images = read_all(clip, log)
    assert len(times) == len(images) == 12 and not log.warnings
