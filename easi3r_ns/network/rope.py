"""Two-dimensional rotary position embedding (RoPE, arXiv:2104.09864; 2-D form of CroCo v2, arXiv:2211.10408)."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

BASE = 100.0
"""Base of the frequencies, as in CroCo v2."""


@lru_cache(maxsize=16)
def rope_tables(grid: tuple[int, int], head_dim: int, stretch: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Two (h * w, d) float32 tables of cosines and signed sines for the tokens of an h x w grid in row-major order.

    The first half of a head's d channels is rotated by y, the second half by x. In each half, channels c and c + d/4
    form a pair that is rotated by ``position * stretch * 100^(-2c / (d/2))``. The sines of the first channel of a pair
    carry the minus sign of the rotation.
    """
    # The tables are cached and may be used in training later, so they must not be inference tensors.
    with torch.inference_mode(False):
        return _rope_tables(grid, head_dim, stretch, device)


def _rope_tables(grid: tuple[int, int], head_dim: int, stretch: float, device: torch.device) -> tuple[Tensor, Tensor]:
    height, width = grid
    quarter = head_dim // 4
    inv_freq = BASE ** (-torch.arange(quarter, dtype=torch.float32) / quarter)
    y = torch.arange(height, dtype=torch.float32).repeat_interleave(width)[:, None] * stretch * inv_freq
    x = torch.arange(width, dtype=torch.float32).repeat(height)[:, None] * stretch * inv_freq
    angles = torch.cat([y, y, x, x], dim=-1)
    sign = torch.cat([-torch.ones(quarter), torch.ones(quarter)]).repeat(2)
    return angles.cos().to(device), (angles.sin() * sign).to(device)


def apply_rope(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate (B, H, N, d) queries or keys by the position of their token; shape and dtype are kept."""
    cos, sin = (table.to(x.dtype) for table in tables)
    y1, y2, x1, x2 = x.chunk(4, dim=-1)
    return x * cos + torch.cat([y2, y1, x2, x1], dim=-1) * sin
