"""Choice of device and precision, on stand-ins for GPUs of several ages."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from easi3r_ns.core.errors import InputError
from easi3r_ns.network import compute as module
from easi3r_ns.network.compute import Compute, choose_compute, free_memory, in_batches
from tests.support.pretend_gpu import NEW, OLD, install_gpu

CUDA = torch.device("cuda")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch):
    return partial(install_gpu, monkeypatch)


@pytest.mark.parametrize(("capability", "precision"), ((OLD, torch.float16), (NEW, torch.bfloat16)))
def test_bf16_is_taken_where_the_gpu_has_it_and_fp16_elsewhere(gpu, capability, precision) -> None:
    gpu(capability=capability)
    assert choose_compute("auto", "auto", 0) == Compute(CUDA, precision)


def test_amd_has_bf16(gpu, monkeypatch) -> None:
    gpu(capability=OLD)
    monkeypatch.setattr(torch.version, "hip", "6.0")
    assert choose_compute("cuda", "auto", 0).dtype == torch.bfloat16


def test_free_memory_counts_what_torch_can_give_back(gpu) -> None:
    gpu(free=1000, reserved=700, allocated=200)
    assert free_memory(CUDA) == free_memory(torch.device("cuda", 0)) == 1500
    assert free_memory(torch.device("cpu")) is None


def test_the_batch_on_a_gpu_follows_from_it(gpu) -> None:
    gpu(free=2**30, reserved=2**30, allocated=0)
    assert Compute(CUDA).batch_for(576, item_bytes=2**27) == 8


def test_mps_has_a_bound_on_its_batch(monkeypatch) -> None:
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 2**31)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 2**30)
    assert Compute(torch.device("mps")).batch_for(576, item_bytes=2**27) == 4


def test_mps_without_autocast_is_refused_with_the_remedy(monkeypatch) -> None:
    def refuse(device: str, dtype: torch.dtype) -> None:
        raise RuntimeError(f"User specified an unsupported autocast device_type '{device}'")

    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_compute("mps", "fp16", 0).dtype == torch.float16
    monkeypatch.setattr(torch, "autocast", refuse)
    with pytest.raises(InputError, match="--dtype fp16.*use fp32"):
        choose_compute("mps", "fp16", 0)
    assert choose_compute("mps", "auto", 0).dtype == torch.float32


@pytest.mark.parametrize("asked", (False, True))
def test_tensor_float_32_only_on_request_and_only_meanwhile(monkeypatch, asked: bool) -> None:
    settings = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [setting.allow_tf32 for setting in settings]
    with Compute(CUDA, tf32=asked).autocast():
        assert [setting.allow_tf32 for setting in settings] == [asked, asked]
    assert [setting.allow_tf32 for setting in settings] == before
    with pytest.raises(ZeroDivisionError), Compute(CUDA, tf32=not before[0]).autocast():
        raise ZeroDivisionError
    assert [setting.allow_tf32 for setting in settings] == before


def test_every_kind_of_failed_allocation_halves_the_batch(monkeypatch) -> None:
    errors = [
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    ]
    sizes: list[int] = []

    def work(rows: slice) -> None:
        sizes.append(rows.stop - rows.start)
        if errors:
            raise errors.pop(0)

    in_batches(32, 32, work)
    assert sizes == [32, 16, 8, 4, *([2] * 16)]
    with pytest.raises(RuntimeError, match="shapes"):
        in_batches(4, 4, lambda rows: (_ for _ in ()).throw(RuntimeError("shapes do not match")))


def test_one_place_asks_for_the_memory_of_a_gpu() -> None:
    package = Path(module.__file__).parents[1]
    askers = [path.name for path in package.rglob("*.py") if "mem_get_info" in path.read_text(encoding="utf-8")]
    assert askers == ["compute.py"]
