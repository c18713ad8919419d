"""Colours of decoded video: matrix, range and depth, against the formulas of the standards and the ffmpeg tool."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from easi3r_ns.core.runlog import RunLog
from tests.support.video_clips import Tags, centres, patches, read_all, to_yuv, write_planes

BARS = np.array(
    [[1, 1, 1], [1, 1, 0], [0, 1, 1], [0, 1, 0], [1, 0, 1], [1, 0, 0], [0, 0, 1], [0.5, 0.5, 0.5], [0.1, 0.3, 0.2]]
)
LOSS = 4
"""Grey levels that rounding to Y'CbCr and FFmpeg's conversion lose; a wrong matrix or range costs 14 to 60."""
MATRICES = {"bt709": 1, "bt601": 6, "bt2020": 9}


def _bars(path: Path, matrix: str, full: bool, ten_bits: bool, tagged: bool = True, codec: str = "ffv1") -> Path:
    side = 16 if codec == "ffv1" else 32
    picture = to_yuv(patches(0.75 * BARS, side), matrix, 10 if ten_bits else 8, full)
    tags = Tags(MATRICES[matrix], 2 if full else 1) if tagged else Tags()
    return write_planes(path, [picture] * 6, tags, ten_bits=ten_bits, codec=codec)


@pytest.mark.parametrize("ten_bits", [False, True], ids=["8 bits", "10 bits"])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
def test_colours_come_back_whatever_matrix_range_and_depth(tmp_path, matrix, full, ten_bits):
    _, images = read_all(_bars(tmp_path / "bars.mkv", matrix, full, ten_bits))
    assert np.abs(centres(images[0]) - 255 * 0.75 * BARS).max() <= LOSS


def test_a_file_that_names_no_matrix_has_that_of_bt601_as_for_ffmpeg(tmp_path):
    _, images = read_all(_bars(tmp_path / "bars.mkv", "bt601", False, False, tagged=False))
    assert np.abs(centres(images[0]) - 255 * 0.75 * BARS).max() <= LOSS


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
def test_hevc_with_ten_bits(tmp_path, full):
    if "libx265" not in av.codecs_available:
        pytest.skip("this PyAV has no encoder for HEVC")
    _, images = read_all(_bars(tmp_path / "bars.mp4", "bt709", full, True, codec="libx265"))
    assert np.abs(centres(images[0], 32) - 255 * 0.75 * BARS).max() <= LOSS


@pytest.mark.parametrize("codec, suffix", [("libx264", "mp4"), ("mpeg2video", "ts"), ("mjpeg", "avi")])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
def test_every_pixel_is_what_the_ffmpeg_tool_gives(tmp_path, matrix, full, codec, suffix):
    if shutil.which("ffmpeg") is None:
        pytest.skip("no ffmpeg on this machine")
    if (codec, full) in {("mpeg2video", True), ("mjpeg", False)}:
        pytest.skip("the format has one range only")
    clip = _bars(tmp_path / f"bars.{suffix}", matrix, full, False, codec=codec)
    _, images = read_all(clip)
    command = ["ffmpeg", "-v", "error", "-i", str(clip), "-frames:v", "1", "-pix_fmt", "rgb24", str(tmp_path / "r.png")]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    reference = cv2.imread(str(tmp_path / "r.png"))[..., ::-1].astype(int)
    assert np.abs(images[0] - reference).max() <= 3


def test_grey_and_rgb_video_is_unchanged(tmp_path):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)
    for kind, expected in (("bgr0", picture), ("gray", np.repeat(picture[..., :1], 3, axis=-1))):
        path = tmp_path / f"{kind}.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("ffv1", rate=10)
            stream.height, stream.width, stream.pix_fmt = 32, 48, kind
            source = picture if kind == "bgr0" else picture[..., 0]
            for _ in range(2):
                frame = av.VideoFrame.from_ndarray(source, format="rgb24" if kind == "bgr0" else "gray")
                container.mux(stream.encode(frame.reformat(format=kind)))
            container.mux(stream.encode())
        assert np.abs(read_all(path)[1][0].astype(int) - expected).max() <= 1


def test_dolby_vision_without_a_base_picture_is_said(tmp_path):
    if "libx265" not in av.codecs_available:
        pytest.skip("this PyAV has no encoder for HEVC")
    clip = _bars(tmp_path / "bars.mp4", "bt709", False, True, codec="libx265")
    content = clip.read_bytes()
    tag = next(tag for tag in (b"hev1", b"hvc1") if tag in content)
    log = RunLog()
    read_all(clip, log)
    assert not log.warnings
    clip.write_bytes(content.replace(tag, b"dvh1"))
    read_all(clip, log)
    assert any("Dolby Vision" in warning for warning in log.warnings)
