"""Arrays on disk for the time of a run, and optical flow that is remembered there."""

from __future__ import annotations

import errno
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from easi3r_ns.motion.flow.dis import DISFlow
from easi3r_ns.motion.flow.provider import is_parallel
from easi3r_ns.motion.flow.remembered import RememberedFlow
from easi3r_ns.storage.cache import StageCache
from easi3r_ns.storage.scratch import Scratch


def numbers(seed: int, count: int = 50) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3), dtype=np.float32)


def test_arrays_come_back_as_they_were_from_several_threads(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path / "new")

    def there_and_back(seed: int) -> bool:
        scratch.put(bytes([seed]), numbers(seed))
        found = scratch.get(bytes([seed]))
        return found is not None and np.array_equal(found, numbers(seed))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(there_and_back, range(40)))
    assert scratch.get(b"other") is None
    found = scratch.get(bytes([1]))
    assert found is not None
    found[:] = 0
    np.testing.assert_array_equal(scratch.get(bytes([1])), numbers(1), "a copy")


def test_what_does_not_fit_is_not_kept(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, most_bytes=1000)
    for seed in (1, 2):
        scratch.put(bytes([seed]), numbers(seed))
    assert scratch.get(bytes([1])) is not None and scratch.get(bytes([2])) is None
    nowhere = Scratch(None)
    nowhere.put(b"key", numbers(1))
    assert nowhere.get(b"key") is None


def test_a_disk_with_little_room_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, kept in ((1999, False), (2001, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, free=free: SimpleNamespace(free=free))
        scratch = Scratch(tmp_path, most_bytes=1000)
        scratch.put(b"key", numbers(1))
        assert (scratch.get(b"key") is not None) == kept


def test_a_full_disk_gets_its_room_back(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    scratch.put(b"one", numbers(1))
    file = scratch._file
    assert file is not None

    class Full:
        def seek(self, place: int) -> None:
            raise OSError(errno.ENOSPC, "full")

        def close(self) -> None:
            file.close()

    scratch._file = Full()  # type: ignore[assignment]
    scratch.put(b"two", numbers(2))
    assert file.closed and scratch.get(b"one") is None and scratch.get(b"two") is None
    scratch.put(b"three", numbers(3))
    assert scratch.get(b"three") is None, "no more is tried"


class Counting:
    name = "counting"

    def __init__(self) -> None:
        self.calls = 0

    def flow(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        self.calls += 1
        return (target.astype(np.float32) - source)[..., :2]


@pytest.mark.parametrize(("kept", "calls"), [(True, 2), (False, 3)])
def test_flow_between_the_same_pictures_is_computed_once(tmp_path: Path, kept: bool, calls: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    provider, cache = Counting(), StageCache(tmp_path if kept else None)
    first, again = (RememberedFlow(provider, cache.scratch).flow(images, images[[1, 0]]) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    back = RememberedFlow(provider, cache.scratch).flow(images[[1, 0]], images)
    np.testing.assert_array_equal(back, -first)
    assert provider.calls == calls


def test_estimators_do_not_mix_and_threads_are_those_of_the_estimator(tmp_path: Path) -> None:
    images = np.zeros((1, 8, 8, 3), np.uint8)
    scratch, one, other = Scratch(tmp_path), Counting(), Counting()
    other.name = "another"
    for provider in (one, other):
        RememberedFlow(provider, scratch).flow(images, images)
    assert (one.calls, other.calls) == (1, 1)
    assert is_parallel(RememberedFlow(DISFlow(), scratch)) and not is_parallel(RememberedFlow(one, scratch))
