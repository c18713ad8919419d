"""Device, precision and batch size of the network's calls."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import InputError

logger = logging.getLogger(__name__)

CPU_TOKENS = 1024
"""Most tokens of one view per call on a CPU."""
GPU_TOKENS = 16384
"""Most tokens of one view per call on a GPU; larger batches are not faster."""
MEMORY_SHARE = 0.5
"""Share of a GPU's free memory that the activations of one call may take."""
_AMPERE = 8
"""Major compute capability from which on NVIDIA's GPUs calculate in bf16; older ones emulate it, slower than fp32."""
_NO_MEMORY = re.compile(r"out of memory|ALLOC_FAILED|ALLOCATION_FAILED", re.IGNORECASE)
"""In the message of a RuntimeError: what MPS says, and cuBLAS and cuDNN, which allocate memory of their own."""


@dataclass(frozen=True)
class Compute:
    """Device, precision and batch size of the network's calls."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    """Precision of the transformer blocks; heads and attention statistics are always float32."""
    batch_size: int = 0
    """Most images or pairs per call; 0: chosen by device, free memory and image size."""
    tf32: bool = False
    """Whether a GPU may round the factors of float32 products to 10 bits (TensorFloat-32)."""

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """The context in which the network is called."""
        with tensor_float(self.tf32) if self.device.type == "cuda" else contextlib.nullcontext():
            if self.dtype == torch.float32:
                yield
            else:
                with torch.autocast(self.device.type, dtype=self.dtype):
                    yield

    def batch_for(self, num_tokens: int, item_bytes: float) -> int:
        """Images or pairs per call.

        A CPU is fastest while the activations of a call stay small; a GPU gets what fits :data:`MEMORY_SHARE` of its
        free memory, at most :data:`GPU_TOKENS` tokens.

        Args:
            num_tokens: tokens of an image.
            item_bytes: memory of the activations of one image or pair.
        """
        if self.batch_size:
            return self.batch_size
        if self.device.type == "cpu":
            return max(1, CPU_TOKENS // num_tokens)
        fitting = GPU_TOKENS // num_tokens
        free = free_memory(self.device)
        if free is not None:
            fitting = min(fitting, int(MEMORY_SHARE * free / item_bytes))
        return max(1, fitting)


def free_memory(device: torch.device) -> float | None:
    """Bytes that can still be allocated on a GPU, with those that torch keeps for itself; None for other devices."""
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        free, _ = torch.cuda.mem_get_info(index)  # a device without an index is refused by torch before 2.5
        return float(free + torch.cuda.memory_reserved(index) - torch.cuda.memory_allocated(index))
    if device.type == "mps" and hasattr(torch.mps, "recommended_max_memory"):
        return float(max(0, torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()))
    return None


def total_memory() -> float:
    """Bytes of memory that the current CUDA device has."""
    return float(torch.cuda.mem_get_info(torch.cuda.current_device())[1])


@contextlib.contextmanager
def tensor_float(allowed: bool) -> Iterator[None]:
    """Float32 products with TensorFloat-32 or without; torch's default is with it in convolutions only."""
    settings: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [setting.allow_tf32 for setting in settings]
    try:
        for setting in settings:
            setting.allow_tf32 = allowed
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.allow_tf32 = value


def normalise(images: np.ndarray, device: torch.device) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def in_batches(total: int, size: int, work: Callable[[slice], None]) -> None:
    """Call ``work`` on consecutive slices of ``range(total)`` of length ``size``, halved when memory does not suffice.

    When the device runs out of memory, ``work`` must not have recorded anything: it is called again with the same rows.

    Raises:
        InputError: a single row does not fit into the memory.
    """
    start = 0
    while start < total:
        rows = slice(start, min(start + size, total))
        if _fits(work, rows):
            start = rows.stop
            continue
        if size == 1:
            raise InputError("a single image or pair does not fit into the memory of the device: use --device cpu")
        size = max(1, (rows.stop - rows.start) // 2)
        logger.info("out of memory: continuing with batches of %d", size)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _fits(work: Callable[[slice], None], rows: slice) -> bool:
    # The exception refers to the stack frames of the failed call and with them to its tensors: it must be deleted
    # before the next attempt.
    try:
        work(rows)
    except torch.cuda.OutOfMemoryError:
        return False
    except RuntimeError as error:
        if not _NO_MEMORY.search(str(error)):
            raise
        return False
    return True


def choose_compute(device: str, dtype: str, batch_size: int, *, tf32: bool = False) -> Compute:
    """Device and precision for the options --device, --dtype and --batch-size; ``auto`` is the fastest of this machine.

    Args:
        device: 'auto', 'cpu', 'cuda' or 'mps'.
        dtype: 'auto', 'fp32', 'bf16' or 'fp16'.
        batch_size, tf32: see :class:`Compute`.

    Raises:
        InputError: the requested device does not exist, or does not support the precision.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        device = next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available[device]:
        usable = ", ".join(name for name, there in available.items() if there)
        raise InputError(f"--device {device}: not available on this machine; use one of: {usable}")
    if dtype == "auto":
        dtype = ("bf16" if _calculates_in_bf16() else "fp16") if device == "cuda" else "fp32"
    if dtype == "fp16" and device == "cpu":
        raise InputError("--dtype fp16: not supported on the CPU; use fp32 or bf16")
    precision = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    if device == "mps" and dtype != "fp32" and not _autocasts("mps", precision):
        raise InputError(
            f"--dtype {dtype}: torch {torch.__version__} cannot do this on mps; use fp32, or a newer torch"
        )
    return Compute(torch.device(device), precision, batch_size, tf32)


def _calculates_in_bf16() -> bool:
    """Whether the GPU has bf16 in hardware; ``torch.cuda.is_bf16_supported`` also says yes where it is emulated."""
    return torch.version.hip is not None or torch.cuda.get_device_capability()[0] >= _AMPERE


def _autocasts(device: str, precision: torch.dtype) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # autocast of a precision that the device lacks switches itself off, and warns
        try:
            torch.autocast(device, dtype=precision)
        except (RuntimeError, UserWarning):
            return False
    return True
