"""Tensors that are filled row by row."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from easi3r_ns.storage.rows import FileRows, MemoryRows, map_tensor

SHAPES = {"points": (5, 2, 3, 3), "conf": (5, 2, 3)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_file_and_memory_hold_the_same(tmp_path, dtype):
    file, memory = FileRows(tmp_path, SHAPES, dtype), MemoryRows(SHAPES, dtype)
    generator = torch.Generator().manual_seed(0)
    for rows in ([3], [0, 4], [2, 1], [4]):
        values = {n: torch.randn(len(rows), *s[1:], generator=generator).to(dtype) for n, s in SHAPES.items()}
        for store in (file, memory):
            store.write(np.array(rows), values)
    for name in SHAPES:
        read = np.load(tmp_path / f"{name}.npy")
        np.testing.assert_array_equal(read[[0, 1, 2, 3, 4]], memory.tensors[name].numpy())
        assert torch.equal(map_tensor(tmp_path / f"{name}.npy"), memory.tensors[name])


def test_rows_that_do_not_fit_are_refused(tmp_path):
    file = FileRows(tmp_path, SHAPES, torch.float32)
    with pytest.raises(ValueError, match="conf: rows"):
        file.write(np.array([0]), {"conf": torch.zeros(1, 3, 2)})
    with pytest.raises(ValueError, match="float16"):
        file.write(np.array([0]), {"conf": torch.zeros(1, 2, 3, dtype=torch.float16)})
    with pytest.raises(IndexError, match="row 5 of 5"):
        file.write(np.array([5]), {"conf": torch.zeros(1, 2, 3)})
    with pytest.raises(IndexError, match="row -1 of 5"):
        file.write(np.array([0, -1]), {"conf": torch.zeros(2, 2, 3)})


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (1,)])
def test_small_and_empty_tensors(tmp_path, shape):
    FileRows(tmp_path, {"x": shape}, torch.float32)
    assert np.load(tmp_path / "x.npy").shape == shape


@pytest.mark.parametrize("reserves", [True, False])
def test_the_space_is_taken_before_the_work(tmp_path, monkeypatch, reserves):
    if not reserves:
        monkeypatch.delattr("os.posix_fallocate", raising=False)  # as on macOS
    FileRows(tmp_path, {"x": (2**16, 40)}, torch.float32)
    assert os.stat(tmp_path / "x.npy").st_blocks * 512 >= 2**16 * 40 * 4
    assert not np.load(tmp_path / "x.npy").any()


MEMORY = """
import sys
from pathlib import Path
import numpy as np, torch
from easi3r_ns.storage.rows import FileRows, MemoryRows
from easi3r_ns.core.runlog import resident_memory_bytes

shapes, part = {"x": (64, 2**18)}, torch.ones(1, 2**18)
kinds = {"file": lambda: FileRows(Path(sys.argv[1]), shapes, torch.float32),
         "memory": lambda: MemoryRows(shapes, torch.float32)}
for kind, make in kinds.items():
    before = resident_memory_bytes()
    store = make()
    for row in range(64):
        store.write(np.array([row]), {"x": part})
    print(kind, (resident_memory_bytes() - before) / (64 * 2**20))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_written_to_a_file_is_not_in_memory(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", MEMORY, str(tmp_path)]
    root = Path(__file__).parents[2]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    grown = {kind: float(share) for kind, share in (line.split() for line in result.stdout.splitlines())}
    assert grown["file"] < 0.2 and grown["memory"] > 0.8
