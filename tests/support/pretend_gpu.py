"""What torch says of a GPU, said without one."""

from __future__ import annotations

import pytest
import torch

NEW, OLD = (8, 6), (7, 5)
"""Compute capabilities of GPUs with and without bf16 in hardware."""


def install_gpu(
    monkeypatch: pytest.MonkeyPatch,
    *,
    capability: tuple[int, int] = NEW,
    free: int = 0,
    reserved: int = 0,
    allocated: int = 0,
) -> None:
    """Make torch report one GPU of a compute capability; memory in bytes. Nothing can be computed on it."""

    def memory(index: int) -> tuple[int, int]:
        assert isinstance(index, int)  # torch before 2.5 refuses a device without an index
        return free, 2**40

    cuda = torch.cuda
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "current_device", lambda: 0)
    monkeypatch.setattr(cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(cuda, "is_bf16_supported", lambda *_: True)  # true by emulation, on old ones too
    monkeypatch.setattr(cuda, "mem_get_info", memory)
    monkeypatch.setattr(cuda, "memory_reserved", lambda index: reserved)
    monkeypatch.setattr(cuda, "memory_allocated", lambda index: allocated)
