"""Names of files and choice of the stream."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from fractions import Fraction
from pathlib import Path

import av
import pytest

from easi3r_ns.core.config import FrameConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.frames import ImageGeometry, load_frames, preview_source
from easi3r_ns.frames.container import VideoTrack, best_track
from easi3r_ns.frames.video import Video
from tests.frames.test_frames import _code, _write_video
from tests.support.video_clips import read_all

NAMES = [
    "10:30.mp4",
    "concat:a.mp4",
    "http:a.mp4",
    "file:a.mp4",
    "subfile,,start,0:.mp4",
    "a%03d.mp4",
    "-a.mp4",
    "-",
    "new\nline.mp4",
    "[a]*?.mp4",
    "Füße.mp4",
]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no files of these names")
@pytest.mark.parametrize("name", NAMES)
def test_names_that_look_like_something_else(tmp_path, monkeypatch, name):
    """The path is relative, as it is typed in the folder of the clip."""
    _write_video(tmp_path / "a.mp4", [_code(i) for i in range(4)])
    monkeypatch.chdir(tmp_path)
    os.rename("a.mp4", name)
    select, geometry = FrameConfig(num_frames_target=0), ImageGeometry(64, 8)
    assert preview_source(Path(name), select, geometry, RunLog())[0] == 4
    frames = load_frames(Path(name), tmp_path / "store", select=select, geometry=geometry, log=RunLog())
    assert len(frames) == 4 and frames.recorded_focal is None


def test_a_playlist_under_the_name_of_a_video_opens_no_network(tmp_path):
    clip = tmp_path / "clip.m3u8"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(1)
        place = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        clip.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{place}\n#EXT-X-ENDLIST\n")
        visits: list[bool] = []

        def answer() -> None:
            with contextlib.suppress(TimeoutError):
                server.accept()[0].close()
                visits.append(True)

        guard = threading.Thread(target=answer)
        guard.start()
        with pytest.raises(InputError, match="clip.m3u8"):
            read_all(clip)
        guard.join()
        assert not visits


def _tracks(path: Path, tracks: list[tuple[int, int, int, int]], muxer: str | None = None) -> Path:
    """A file with a video stream for each (width, height, frames, disposition)."""
    with av.open(str(path), "w", format=muxer) as container:
        streams = []
        for width, height, count, disposition in tracks:
            stream = container.add_stream("mjpeg" if count == 1 else "libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuvj420p" if count == 1 else "yuv420p"
            stream.disposition = disposition
            streams.append(stream)
        for stream, (width, height, count, _) in zip(streams, tracks):
            for index in range(count):
                frame = av.VideoFrame.from_ndarray(_code(index, width, height), format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, 10)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", ["mov", "mkv"])
def test_a_cover_picture_without_a_flag_is_not_the_clip(tmp_path, caplog, suffix):
    clip = _tracks(tmp_path / f"clip.{suffix}", [(160, 128, 1, 0), (96, 64, 20, 0)])
    with caplog.at_level("INFO"):
        times, images = read_all(clip)
    assert len(times) == 20 and images[0].shape == (64, 96, 3) and "tracks" not in caplog.text


@pytest.mark.parametrize("marked", [0, 1])
def test_the_default_of_two_tracks_is_taken_and_the_choice_is_said(tmp_path, caplog, marked):
    default = av.stream.Disposition.default.value
    dispositions = [default if marked == number else 0 for number in range(2)]
    sizes = [(96, 64, 20, dispositions[0]), (128, 96, 20, dispositions[1])]
    clip = _tracks(tmp_path / "clip.mkv", sizes)
    with caplog.at_level("INFO"):
        _, images = read_all(clip)
    assert images[0].shape[1::-1] == sizes[marked][:2]
    assert f"2 video tracks: {marked} ({sizes[marked][0]}x{sizes[marked][1]}, 20 frames) is used" in caplog.text


def test_rule_for_the_track():
    def best(*tracks: VideoTrack) -> tuple[int, int]:
        chosen, others = best_track(tracks)
        return chosen.index, len(others)

    assert best(VideoTrack(0, 1, 4000, 3000, True), VideoTrack(1, 100, 640, 480, False)) == (1, 0)
    assert best(VideoTrack(0, 5, 640, 480, True), VideoTrack(1, 100, 640, 480, False)) == (1, 0), (
        "a track of thumbnails"
    )
    assert best(VideoTrack(0, 50, 640, 480, False), VideoTrack(1, 100, 640, 480, False)) == (1, 1), "the longer one"
    assert best(VideoTrack(0, 100, 640, 480, False), VideoTrack(1, 99, 3840, 2160, False)) == (1, 1), (
        "a preview beside it"
    )
    assert best(VideoTrack(0, 100, 640, 480, True), VideoTrack(1, 99, 3840, 2160, False)) == (0, 1), "the default one"
    assert best(VideoTrack(0, 100, 640, 480, False), VideoTrack(1, 100, 640, 480, False)) == (0, 1), "the first"
    assert best(VideoTrack(0, 0, 640, 480, False), VideoTrack(1, 0, 640, 480, False)) == (0, 1), "both empty"


def test_a_cover_picture_with_the_flag_is_no_stream(tmp_path):
    cover = (160, 128, 1, av.stream.Disposition.attached_pic.value)
    clip = _tracks(tmp_path / "clip.mp4", [cover, (96, 64, 20, 0)])
    with av.open(str(clip)) as container:
        assert any(s.disposition & av.stream.Disposition.attached_pic for s in container.streams.video)
    assert read_all(clip)[1][0].shape == (64, 96, 3)
    only = _tracks(tmp_path / "only.mp4", [cover])
    with pytest.raises(InputError, match="no video stream"):
        Video(only).times(FrameConfig(), RunLog())
