from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from easi3r_ns.core.config import AlignConfig
from easi3r_ns.core.errors import OutputError
from easi3r_ns.storage.cache import StageCache, digest
from easi3r_ns.storage.rows import RowStore


def test_digest_tells_values_apart():
    a = np.arange(6, dtype=np.float32)
    values = [a, a + 1, a.reshape(2, 3), a.astype(np.float64), "a", 1, None, AlignConfig(), AlignConfig(flow_weight=1)]
    assert len({digest(v) for v in values}) == len(values)
    assert digest("x", a) == digest("x", a.copy()) and digest("a", "b") != digest("ab")


def test_a_stage_is_computed_once_per_key(tmp_path):
    cache, calls = StageCache(tmp_path / "work"), []

    def compute():
        calls.append(1)
        return {"x": torch.arange(3)}

    for key in ("k1", "k1", "k2", "k2"):
        torch.testing.assert_close(cache.stage("s", key, compute)["x"], torch.arange(3))
    assert len(calls) == 2
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["s-k2"]


def _cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


DAMAGE = {
    "a cut tensor": lambda path: _cut(path / "x.npy", 300),
    "a cut header": lambda path: _cut(path / "x.npy", 50),
    "an empty file": lambda path: _cut(path / "y.npy", 0),
    "another format": lambda path: (path / "y.npy").write_bytes(b"PK" + bytes(1000)),
    "a tensor less": lambda path: (path / "y.npy").unlink(),
    "no index": lambda path: (path / "index.json").unlink(),
    "an index of nothing": lambda path: (path / "index.json").write_text("{}"),
    "a cut index": lambda path: _cut(path / "index.json", 5),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("spill", [False, True])
def test_a_damaged_file_counts_as_absent_and_is_replaced(tmp_path, kind, spill):
    cache = StageCache(tmp_path)
    for _ in range(2):
        cache.fill("s", "k", {"x": (9, 9), "y": (3,)}, torch.float32, lambda store: None, spill=spill)
        assert cache.get("s", "k").keys() == {"x", "y"}
        DAMAGE[kind](cache.path("s", "k"))
        assert cache.get("s", "k") is None


def test_a_header_with_a_wrong_byte_is_never_an_exception(tmp_path):
    cache = StageCache(tmp_path)
    cache.put("s", "k", {"x": torch.arange(6.0).reshape(2, 3)})
    path = cache.path("s", "k") / "x.npy"
    whole, absent = path.read_bytes(), 0
    for position in range(128):
        for byte in (0x00, 0x28, 0xFF):
            path.write_bytes(whole[:position] + bytes([byte]) + whole[position + 1 :])
            absent += cache.get("s", "k") is None
    assert absent > 150


KEPT = {
    "half": torch.arange(5, dtype=torch.float16),
    "mask.bits": torch.tensor([[True, False]]),
    "number": torch.tensor(3.5, dtype=torch.float64),
    "none": torch.zeros(0, 4, dtype=torch.int64),
    "turned": torch.arange(6).reshape(2, 3).T,
}


def test_tensors_of_all_kinds_come_back(tmp_path):
    cache = StageCache(tmp_path)
    cache.put("s", "k", KEPT)
    found = cache.get("s", "k")
    assert list(found) == list(KEPT)
    for name, value in KEPT.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value)


def test_what_a_reader_writes_stays_with_him(tmp_path):
    cache = StageCache(tmp_path)
    cache.put("s", "k", {"x": torch.zeros(3)})
    cache.get("s", "k")["x"] += 1
    assert cache.get("s", "k")["x"].tolist() == [0, 0, 0]


def test_what_is_read_outlives_its_files(tmp_path):
    cache = StageCache(tmp_path)
    cache.put("s", "old", {"x": torch.arange(4.0)})
    held = cache.get("s", "old")
    cache.put("s", "new", {"x": torch.zeros(4)})
    assert cache.get("s", "old") is None and held["x"].tolist() == [0, 1, 2, 3]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        StageCache(tmp_path / "file").put("s", "k", {"x": torch.zeros(1)})


def test_without_a_folder_nothing_is_kept():
    cache = StageCache(None)
    cache.put("s", "k", {"x": torch.zeros(1)})
    assert cache.get("s", "k") is None


SHAPES = {"x": (4, 3)}


@pytest.mark.parametrize("spill", [False, True])
@pytest.mark.parametrize("folder", [False, True])
def test_rows_are_kept_alike_wherever_they_are_written(tmp_path, spill, folder):
    cache = StageCache(tmp_path if folder else None)

    def work(store: RowStore) -> None:
        for row in range(4):
            store.write(np.array([row]), {"x": torch.full((1, 3), float(row))})

    for key in ("old", "new"):
        result = cache.fill("s", key, SHAPES, torch.float32, work, spill=spill)
    expected = torch.arange(4.0)[:, None].expand(4, 3)
    assert torch.equal(result["x"], expected)
    if folder:
        assert [p.name for p in tmp_path.iterdir()] == ["s-new"]
        assert torch.equal(cache.get("s", "new")["x"], expected)


def test_rows_that_are_not_finished_leave_nothing(tmp_path):
    cache = StageCache(tmp_path)

    def work(store: RowStore) -> None:
        store.write(np.array([0]), {"x": torch.zeros(1, 3)})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.fill("s", "k", SHAPES, torch.float32, work, spill=True)
    assert not list(tmp_path.iterdir()) and cache.get("s", "k") is None


@pytest.mark.parametrize("spill", [False, True])
def test_what_a_killed_run_was_writing_makes_room_first(tmp_path, spill):
    leftover, other = tmp_path / "s-k.1.tmp", tmp_path / "other-k.1.tmp"
    leftover.write_bytes(b"x"), other.write_bytes(b"x")

    def work(store: RowStore) -> None:
        assert leftover.exists() != spill
        store.write(np.arange(4), {"x": torch.zeros(4, 3)})

    StageCache(tmp_path).fill("s", "k", SHAPES, torch.float32, work, spill=spill)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other-k.1.tmp", "s-k"]


def test_a_full_disk_is_known_before_the_work(tmp_path, monkeypatch):
    def full(*args) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(OutputError, match="No space left"):
        StageCache(tmp_path).fill("s", "k", SHAPES, torch.float32, lambda store: pytest.fail("worked"), spill=True)
    assert not list(tmp_path.iterdir())


MEMORY = """
import sys
from pathlib import Path
import torch
from easi3r_ns.storage.cache import StageCache

def private_bytes():
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("RssAnon")).split()[1]) * 1024

size = 2**26
before = private_bytes()
held = torch.ones(size, dtype=torch.uint8)
assert private_bytes() - before > 0.9 * size, "the measure does not work"
del held
result = StageCache(Path(sys.argv[1])).stage("s", "k", lambda: {"x": torch.ones(size, dtype=torch.uint8)})
print((private_bytes() - before) / size, int(result["x"].sum(dtype=torch.int64)) / size)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_kept_result_costs_no_memory_until_it_is_read(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", MEMORY, str(tmp_path)]
    root = Path(__file__).parents[2]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    held, read = map(float, result.stdout.split())
    assert held < 0.3 and read == 1
