"""Frames that threads write while the clip is decoded: errors, Ctrl-C, and what the next run finds."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.core.config import FrameConfig
from easi3r_ns.core.errors import OutputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.types import Frames
from easi3r_ns.frames import ImageGeometry, jobs, load_frames
from easi3r_ns.storage.files import read_png, writing
from tests.frames.test_frames import _code, _write_video

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", [_code(i) for i in range(20)])


def load(clip: Path, store: Path) -> Frames:
    select = FrameConfig(num_frames_target=12)
    return load_frames(clip, store, select=select, geometry=ImageGeometry(size=64, patch=8), log=RunLog())


@pytest.mark.parametrize(("stops", "raised"), [(FULL, OutputError), (KeyboardInterrupt(), KeyboardInterrupt)])
def test_frames_that_cannot_be_written_are_not_taken_for_finished(clip, tmp_path, monkeypatch, stops, raised) -> None:
    """An error in a worker ends the stage as one of the caller would; the next run starts the stage again."""
    write, calls = jobs.write_image, []

    def failing(path: Path, image: np.ndarray) -> None:
        calls.append(path)
        if len(calls) > 3:
            with writing(path):
                raise stops
        write(path, image)

    monkeypatch.setattr(jobs, "write_image", failing)
    before = threading.active_count()
    with pytest.raises(raised, match="disk is full" if raised is OutputError else None):
        load(clip, tmp_path / "store")
    assert threading.active_count() == before and len(calls) < 12
    assert not (tmp_path / "store" / "frames.json").exists()
    monkeypatch.undo()
    frames, expected = load(clip, tmp_path / "store"), load(clip, tmp_path / "other")
    np.testing.assert_array_equal(frames.images, expected.images)
    for path, other in zip(frames.source_paths, expected.source_paths, strict=True):
        np.testing.assert_array_equal(read_png(path), read_png(other))


def test_several_workers_give_what_one_gives(clip, tmp_path, monkeypatch) -> None:
    loaded = []
    for cores in (1, 8):
        monkeypatch.setattr("easi3r_ns.core.workers.usable_cores", lambda cores=cores: cores)
        loaded.append(load(clip, tmp_path / str(cores)))
    one, eight = loaded
    np.testing.assert_array_equal(one.images, eight.images)
    for paths, others in ((one.source_paths, eight.source_paths), (one.near.paths, eight.near.paths)):
        assert [path.name for path in paths] == [path.name for path in others]
        assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in others]
