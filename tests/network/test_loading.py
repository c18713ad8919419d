"""Weights come from their file to the device without a second copy in the host's memory."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from easi3r_ns.network.weights import build_backbone, load_part, load_state
from tests.support.pretend_cuda import pretend_cuda


def mapped(path: Path) -> list[range]:
    """Addresses at which the file is mapped into this process."""
    rows = (line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines())
    spans = [row[0].split("-") for row in rows if len(row) == 6 and row[5] == str(path.resolve())]
    return [range(int(begin, 16), int(end, 16)) for begin, end in spans]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_read_is_the_file_itself() -> None:
    """Tensors are views of the mapped file: what a device takes from them is in memory once."""
    _, info = build_backbone("tiny")
    tensors = load_state(info.source)
    spans = mapped(info.source.path)
    assert spans
    for name, value in tensors.items():
        assert any(value.data_ptr() in span for span in spans), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_tensor_is_copied_to_the_device_once(dtype: torch.dtype) -> None:
    with pretend_cuda() as counts:
        model, info = build_backbone("tiny")
        assert counts.to_device == 0, "the network is built without memory"
        load_part(model, info.source, "encoder", device=torch.device("cuda"), dtype=dtype)
        loaded = [value for value in model.state_dict().values() if value.device.type == "cuda"]
        assert counts.to_device == len(loaded) > 0
        assert counts.to_host == 0
        assert {value.dtype for value in loaded} <= {dtype, torch.float32}
        assert any(value.dtype == dtype for value in loaded)
