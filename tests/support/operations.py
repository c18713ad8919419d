"""Floating-point operations as torch counts them."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import torch
from torch.utils.flop_counter import FlopCounterMode

from easi3r_ns.network import blocks


def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1) @ v


def counted_operations(call: Callable[[], object]) -> float:
    """Operations of the matrix products and convolutions in ``call``.

    torch chooses a fused attention kernel by release, processor and shape, and does not count all of them: attention is
    computed by plain matrix products here, which every release counts.
    """
    with patch.object(blocks, "scaled_dot_product_attention", _attention):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            call()
    return counter.get_total_flops()


def inference_mode_is_counted() -> bool:
    """Whether this release of torch counts inside ``torch.inference_mode``; 2.1 does not."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        torch.ones(2, 2) @ torch.ones(2, 2)
    return counter.get_total_flops() > 0
