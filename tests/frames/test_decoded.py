"""Decoded frames of a short video stay in memory between the choice of frames and their use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.core.config import FrameConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.types import Frames
from easi3r_ns.frames import KEPT_BYTES, Kept, load_frames, video
from easi3r_ns.frames.decoded import DecodedFrames
from easi3r_ns.frames.video import Video
from easi3r_ns.plan.forecast import writer_bytes
from easi3r_ns.storage.files import read_png
from tests.frames.test_frames import TINY, _code, _write_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", [_code(i) for i in range(30)])


def load(clip: Path, store: Path, decoded_bytes: float) -> Frames:
    kept = Kept(decoded_bytes=decoded_bytes)
    return load_frames(clip, store, select=FrameConfig(num_frames_target=6), geometry=TINY, log=RunLog(), kept=kept)


@pytest.mark.parametrize(("decoded_bytes", "passes"), [(KEPT_BYTES, 1), (1000, 2), (0, 2)])
def test_a_short_clip_is_decoded_once(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded_bytes: float, passes: int
) -> None:
    expected = load(clip, tmp_path / "twice", 0)
    decode, begun = video.decode, []
    monkeypatch.setattr(video, "decode", lambda stream: (begun.append(f) or f for f in decode(stream)))
    frames = load(clip, tmp_path / "once", decoded_bytes)
    assert round(len(begun) / 30) == passes
    np.testing.assert_array_equal(frames.images, expected.images)
    assert frames.near is not None and expected.near is not None
    for path, other in zip(
        frames.source_paths + frames.near.paths, expected.source_paths + expected.near.paths, strict=True
    ):
        np.testing.assert_array_equal(read_png(path), read_png(other))


class Plane:
    buffer_size = 10


class Frame:
    planes = (Plane(), Plane())


def test_what_exceeds_the_bound_is_given_up() -> None:
    kept = DecodedFrames(45)
    for index in (4, 7):
        kept.add(index, Frame())
    assert [index for index, _ in kept.those([7, 4]) or ()] == [4, 7]
    assert kept.those([4, 5]) is None and kept.those([]) is None
    kept.add(8, Frame())
    assert kept.those([4]) is None
    kept.add(9, Frame())
    assert kept.those([9]) is None, "nothing is kept after that"


def test_indices_of_before_are_not_used_after_a_recount(clip: Path) -> None:
    source = Video(clip)
    source.times(FrameConfig(), RunLog())
    source.keep_decoded(KEPT_BYTES)
    list(source.read([29], RunLog(), lambda index, thumb: None))
    assert source._decoded is not None and source._decoded.those([3]) is not None
    source.recount(RunLog())
    assert source._decoded is None


def test_no_limit_on_memory_is_broken_by_them() -> None:
    """A run that fits a limit has room for the dataset, and so for these."""
    assert writer_bytes(2, 1) >= KEPT_BYTES
