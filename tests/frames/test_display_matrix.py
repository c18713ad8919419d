"""Display matrices and shapes of pixels: what a player shows."""

from __future__ import annotations

import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from easi3r_ns.core.runlog import RunLog
from easi3r_ns.frames.panorama import projection_of
from easi3r_ns.frames.picture import turned
from tests.frames.test_frames import _code, _write_video
from tests.support.video_clips import read_all

# The four numbers a, b, c, d of a display matrix, and the same by Pillow's names for EXIF orientations 1 to 8.
MATRICES = {
    "as it is": (1, 0, 0, 1),
    "mirrored": (-1, 0, 0, 1),
    "half turn": (-1, 0, 0, -1),
    "upside down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "quarter turn": (0, 1, -1, 0),
    "transposed across": (0, -1, -1, 0),
    "three quarters": (0, -1, 1, 0),
}
EXPECTED = {
    "as it is": lambda image: image,
    "mirrored": lambda image: image[:, ::-1],
    "half turn": lambda image: image[::-1, ::-1],
    "upside down": lambda image: image[::-1],
    "transposed": lambda image: image.swapaxes(0, 1),
    "quarter turn": lambda image: np.rot90(image, -1),
    "transposed across": lambda image: image.swapaxes(0, 1)[::-1, ::-1],
    "three quarters": lambda image: np.rot90(image),
}


def _with_matrix(mp4: Path, numbers: tuple[float, ...]) -> Path:
    """Put the matrix into the header of the track (ISO/IEC 14496-12, 8.3.2), with the shift that players expect."""
    content = bytearray(mp4.read_bytes())
    start = content.index(b"tkhd") - 4 + 48
    a, b, c, d = (round(value * 65536) for value in numbers)
    shift = [-min(v, 0) // 65536 for v in (a + c, b + d)]
    rows = np.array([a, b, 0, c, d, 0, 96 * shift[0] << 16, 64 * shift[1] << 16, 1 << 30], dtype=">i4")
    content[start : start + 36] = rows.tobytes()
    mp4.write_bytes(content)
    return mp4


@pytest.mark.parametrize("name", MATRICES)
def test_all_eight_orientations(tmp_path, name):
    picture = _code(5)
    clip = _with_matrix(_write_video(tmp_path / "clip.mp4", [picture] * 2), MATRICES[name])
    image = read_all(clip)[1][0]
    expected = EXPECTED[name](picture)
    assert image.shape == expected.shape and np.abs(image.astype(int) - expected).mean() < 6
    if shutil.which("ffmpeg"):
        command = ["ffmpeg", "-v", "error", "-i", str(clip), "-frames:v", "1", str(tmp_path / "r.png")]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        assert np.abs(image - cv2.imread(str(tmp_path / "r.png"))[..., ::-1].astype(int)).max() <= 3


def test_side_data_that_pyav_has_no_name_for(tmp_path):
    """TIFF frames carry EXIF data, as motion JPEG of cameras does."""
    clip = tmp_path / "clip.mov"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("tiff", rate=10, width=96, height=64, pix_fmt="rgb24")
        for index in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(_code(index), format="rgb24")))
        container.mux(stream.encode())
    for index, image in enumerate(read_all(clip)[1]):
        np.testing.assert_array_equal(image, _code(index))
    assert projection_of(clip) is None


def test_a_turn_by_another_angle_is_said(tmp_path):
    angle = np.radians(80)
    numbers = (np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle))
    log = RunLog()
    image = read_all(_with_matrix(_write_video(tmp_path / "clip.mp4", [_code(5)] * 2), numbers), log)[1][0]
    assert image.shape == (96, 64, 3) and any("90 degrees" in warning for warning in log.warnings)
    np.testing.assert_array_equal(turned(image, np.zeros((2, 2))), image)


@pytest.mark.parametrize("aspect, wh", [("4/3", (128, 64)), ("1/2", (96, 128)), ("1/1", (96, 64)), ("20/1", (96, 64))])
def test_pixels_become_square_along_the_coarser_axis(tmp_path, aspect, wh):
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        for index in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(_code(index), format="rgb24")))
        container.mux(stream.encode())
    log = RunLog()
    assert read_all(path, log)[1][0].shape[1::-1] == wh
    assert bool(log.warnings) == (aspect == "20/1")
