"""Tensors in memory-mapped files."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from easi3r_ns.core.errors import OutputError
from easi3r_ns.storage import rows
from easi3r_ns.storage.rows import empty_tensor


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bool, torch.int64])
def test_what_is_written_is_read(tmp_path, dtype):
    mapped, plain = (empty_tensor((3, 5, 7), dtype, folder) for folder in (tmp_path, None))
    values = (torch.arange(105).reshape(3, 5, 7) % 2).to(dtype)
    mapped[:], plain[:] = values, values
    assert mapped.dtype == dtype and torch.equal(mapped, plain) and torch.equal(mapped[1:, ::2], values[1:, ::2])


def test_two_tensors_do_not_share_a_file(tmp_path):
    first, second = (empty_tensor((4,), torch.float32, tmp_path) for _ in range(2))
    first.fill_(1), second.fill_(2)
    assert first.tolist() == [1] * 4


def test_nothing_is_left_behind(tmp_path):
    assert empty_tensor((2, 0), torch.float32, tmp_path).shape == (2, 0)
    kept = empty_tensor((8,), torch.float32, tmp_path / "a" / "b")
    assert kept.shape == (8,) and not list((tmp_path / "a" / "b").iterdir())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_mapped_tensor_costs_no_memory_of_its_own(tmp_path):
    code = (
        "import sys, torch, resource\nfrom pathlib import Path\nfrom easi3r_ns.storage.rows import empty_tensor\n"
        "t = empty_tensor((2**26,), torch.float32, Path(sys.argv[1]))\nt[::1024] = 1\n"
        "anon = next(l for l in open('/proc/self/status') if l.startswith('RssAnon'))\nprint(anon.split()[1])"
    )
    sizes = [
        int(subprocess.run([sys.executable, "-c", c, str(tmp_path)], capture_output=True, text=True).stdout)
        for c in (code, code.replace("Path(sys.argv[1])", "None"))
    ]
    assert sizes[1] - sizes[0] > 200_000


def test_a_full_disk_or_a_folder_that_is_a_file_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="intermediate results"):
        empty_tensor((8,), torch.float32, tmp_path / "file")

    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rows.os, "posix_fallocate", full, raising=False)
    with pytest.raises(OutputError, match="No space left.*free some space"):
        empty_tensor((8,), torch.float32, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
