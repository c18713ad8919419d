"""Transformer blocks of DUSt3R (CVPR 2024), with parameter names as in the published checkpoints.

Letters in shapes: B pairs, H heads, N query tokens, M key tokens, D channels, d = D / H.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from .rope import apply_rope

Tables = tuple[Tensor, Tensor]


class Silence(NamedTuple):
    """Tokens that move, for the attention masking of Easi3R (section 3.3): static queries ignore dynamic keys."""

    query_dynamic: Tensor
    """(B, N) bool."""
    key_dynamic: Tensor
    """(B, M) bool."""
    most_dynamic: int | None = None
    """Upper bound on the number of dynamic queries of a pair; None: unknown, all N queries are assumed. A caller that
    has the masks on the host should give it, because computing it here would synchronise with the GPU."""


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(gelu(self.fc1(x)))


class SelfAttention(nn.Module):
    """Multi-head attention of one view to itself; (B, N, D) -> (B, N, D)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, tables: Tables) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        out = scaled_dot_product_attention(apply_rope(q, tables), apply_rope(k, tables), v)
        return self.proj(out.transpose(1, 2).flatten(-2))


class CrossAttention(nn.Module):
    """Multi-head attention of one view to the other; also returns the mean attention logit of each key."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.projq = nn.Linear(dim, dim)
        self.projk = nn.Linear(dim, dim)
        self.projv = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def queries_keys(self, x: Tensor, y: Tensor, tables: Tables) -> tuple[Tensor, Tensor]:
        """Rotated queries (B, H, N, d) from x (B, N, D) and keys (B, H, M, d) from y (B, M, D)."""
        return apply_rope(self._split(self.projq(x)), tables), apply_rope(self._split(self.projk(y)), tables)

    def forward(self, x: Tensor, y: Tensor, tables: Tables, silence: Silence | None = None) -> tuple[Tensor, Tensor]:
        """Attend from x (B, N, D) to y (B, M, D).

        Returns the output (B, N, D) and the mean over queries (B, H, M) of the pre-softmax logits. With ``silence``,
        the attention is that of :func:`attend_silenced`.
        """
        q, k = self.queries_keys(x, y, tables)
        v = self._split(self.projv(y))
        out = scaled_dot_product_attention(q, k, v) if silence is None else attend_silenced(q, k, v, silence)
        return self.proj(out.transpose(1, 2).flatten(-2)), mean_query_logits(q, k)


def attend_silenced(q: Tensor, k: Tensor, v: Tensor, silence: Silence) -> Tensor:
    """Attention (B, H, N, d) in which the softmax weights from static queries to dynamic keys are set to 0.

    The remaining weights are not renormalised, so the result for static queries equals attention with values that are 0
    at dynamic keys. A second attention computes the dynamic queries, usually few, with all values.
    """
    out = scaled_dot_product_attention(q, k, v.masked_fill(silence.key_dynamic[:, None, :, None], 0.0))
    most = q.shape[2] if silence.most_dynamic is None else silence.most_dynamic
    if most == 0:
        return out
    # Gather `most` queries of each pair, the dynamic ones first. Where a pair has fewer dynamic queries, the rest are
    # static ones, whose first result is kept.
    dynamic, rows = silence.query_dynamic.byte().sort(dim=1, descending=True, stable=True)
    rows = rows[:, None, :most, None].expand(-1, q.shape[1], -1, q.shape[-1])
    unmasked = scaled_dot_product_attention(q.gather(2, rows), k, v)
    unmasked = torch.where(dynamic[:, None, :most, None] > 0, unmasked, out.gather(2, rows))
    return out.scatter(2, rows, unmasked)


def mean_query_logits(q: Tensor, k: Tensor) -> Tensor:
    """Mean over queries of the logits q k^T d^(-1/2), computed without the N x M matrix.

    (B, H, N, d) queries and (B, H, M, d) keys -> (B, H, M) float32.
    """
    mean_q = q.float().mean(dim=2, keepdim=True) * q.shape[-1] ** -0.5
    with torch.autocast(q.device.type, enabled=False):
        return (mean_q @ k.float().transpose(-1, -2)).squeeze(2)


class EncoderBlock(nn.Module):
    """Pre-norm ViT block; (B, N, D) -> (B, N, D)."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = SelfAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, tables: Tables) -> Tensor:
        x = x + self.attn(self.norm1(x), tables)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    """Self-attention, attention to the other view, MLP; residual after each."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = SelfAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.cross_attn = CrossAttention(dim, num_heads)
        self.norm_y = nn.LayerNorm(dim, eps=1e-6)
        self.norm3 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, y: Tensor, tables: Tables, silence: Silence | None = None) -> tuple[Tensor, Tensor]:
        """One layer for view x (B, N, D) that attends to view y (B, M, D): new x, and mean logits (B, H, M) of y."""
        return self.cross_step(self.self_step(x, tables), y, tables, silence)

    def self_step(self, x: Tensor, tables: Tables) -> Tensor:
        """The self-attention of :meth:`forward`, which does not depend on the other view; (B, N, D) -> (B, N, D)."""
        return x + self.attn(self.norm1(x), tables)

    def cross_step(self, x: Tensor, y: Tensor, tables: Tables, silence: Silence | None = None) -> tuple[Tensor, Tensor]:
        """Cross-attention and MLP of :meth:`forward`, for x from :meth:`self_step`."""
        attended, logits = self.cross_attn(self.norm2(x), self.norm_y(y), tables, silence)
        x = x + attended
        return x + self.mlp(self.norm3(x)), logits

    def logits_only(self, x: Tensor, y: Tensor, tables: Tables) -> Tensor:
        """The mean logits (B, H, M) of :meth:`forward`, without computing the new tokens."""
        x = self.self_step(x, tables)
        return mean_query_logits(*self.cross_attn.queries_keys(self.norm2(x), self.norm_y(y), tables))
