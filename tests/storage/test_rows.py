"""Tensors that are filled row by row."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from easi3r_ns.storage.rows import FileRows, MemoryRows

SHAPES = {"points": (5, 2, 3, 3), "conf": (5, 2, 3)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_file_and_memory_hold_the_same(tmp_path, dtype):
    path = tmp_path / "x.safetensors"
    file, memory = FileRows(path, SHAPES, dtype), MemoryRows(SHAPES, dtype)
    generator = torch.Generator().manual_seed(0)
    for rows in ([3], [0, 4], [2, 1], [4]):
        values = {n: torch.randn(len(rows), *s[1:], generator=generator).to(dtype) for n, s in SHAPES.items()}
        for store in (file, memory):
            store.write(np.array(rows), values)
    file.close()
    read = load_file(path)
    assert read.keys() == SHAPES.keys()
    for name, value in read.items():
        assert torch.equal(value, memory.tensors[name])


def test_rows_that_do_not_fit_are_refused(tmp_path):
    file = FileRows(tmp_path / "x.safetensors", SHAPES, torch.float32)
    with pytest.raises(ValueError, match="conf: rows"):
        file.write(np.array([0]), {"conf": torch.zeros(1, 3, 2)})
    with pytest.raises(ValueError, match="float16"):
        file.write(np.array([0]), {"conf": torch.zeros(1, 2, 3, dtype=torch.float16)})
    with pytest.raises(IndexError, match="row 5 of 5"):
        file.write(np.array([5]), {"conf": torch.zeros(1, 2, 3)})
    file.close()


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
    command = [sys.executable, "-W", "ignore", "-c", MEMORY, str(tmp_path / "x.safetensors")]
    root = Path(__file__).parents[2]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    grown = {kind: float(share) for kind, share in (line.split() for line in result.stdout.splitlines())}
    assert grown["file"] < 0.2 and grown["memory"] > 0.8
