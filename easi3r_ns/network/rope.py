"""Two-dimensional rotary positions (RoPE, arXiv:2104.09864; 2-D form of CroCo v2, arXiv:2211.10408)."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

BASE = 100.0


@lru_cache(maxsize=16)
def rope_tables(grid: tuple[int, int], head_dim: int, stretch: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines for the tokens of an h x w grid in row-major order.

    The first half of a head's channels turns with y, the second with x; in each half channel c is paired with channel
    c + d/4, and both turn by ``position * stretch * 100^(-2c / (d/2))``. Returns two (h * w, d) float32 tables; the
    sign of rotate-half is folded into the second.
    """
    # The tables are kept and may serve a training later, so they must not be inference tensors.
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
    """Rotate (B, H, N, d) queries or keys by their token's position; same shape and dtype."""
    cos, sin = (table.to(x.dtype) for table in tables)
    y1, y2, x1, x2 = x.chunk(4, dim=-1)
    return x * cos + torch.cat([y2, y1, x2, x1], dim=-1) * sin
