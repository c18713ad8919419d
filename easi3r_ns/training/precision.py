"""Mixed precision for training, on GPUs and on CPUs with bfloat16 instructions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode


class _ExplicitAttention(TorchFunctionMode):
    """Computes attention by two plain matrix products.

    The CPU's fused kernel handles bfloat16 by conversion and is two to seven times slower on the few hundred tokens
    of a small network.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not scaled_dot_product_attention or len(args) != 3 or kwargs:
            return func(*args, **(kwargs or {}))
        q, k, v = (x.to(torch.bfloat16) for x in args)
        with torch.autocast("cpu", enabled=False):
            return explicit_attention(q, k, v)


def explicit_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T d^(-1/2)) v of (B, H, N, d)."""
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(dim=-1) @ v


@contextlib.contextmanager
def mixed_precision(device_type: str, enabled: bool) -> Iterator[None]:
    """Run the network's matrix products in bfloat16; weights, losses and heads stay in float32."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.autocast(device_type, dtype=torch.bfloat16, enabled=enabled))
        if enabled and device_type == "cpu":
            stack.enter_context(_ExplicitAttention())
        yield
