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
    """Which tokens move: static queries must not listen to dynamic keys (Easi3R, section 3.3)."""

    query_dynamic: Tensor
    """(B, N) bool."""
    key_dynamic: Tensor
    """(B, M) bool."""
    most_dynamic: int | None = None
    """The largest number of dynamic queries of a pair, or a bound on it; None: not known, which costs as if all were.
    Given by who knows the masks on the host, so that a GPU need not be asked."""


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
    """Multi-head attention of one view to the other, which also tells how much each key was attended to."""

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

        Returns the output (B, N, D) and the query-mean (B, H, M) of the pre-softmax logits; for ``silence`` see
        :func:`attend_silenced`.
        """
        q, k = self.queries_keys(x, y, tables)
        v = self._split(self.projv(y))
        out = scaled_dot_product_attention(q, k, v) if silence is None else attend_silenced(q, k, v, silence)
        return self.proj(out.transpose(1, 2).flatten(-2)), mean_query_logits(q, k)


def attend_silenced(q: Tensor, k: Tensor, v: Tensor, silence: Silence) -> Tensor:
    """Attention (B, H, N, d) in which the softmax weights from static queries to dynamic keys count as 0.

    Nothing is renormalised, so it is the same as attending to values that are 0 at dynamic keys. Only the dynamic
    queries, usually few, attend once more, to all values.
    """
    out = scaled_dot_product_attention(q, k, v.masked_fill(silence.key_dynamic[:, None, :, None], 0.0))
    most = q.shape[2] if silence.most_dynamic is None else silence.most_dynamic
    if most == 0:
        return out
    # The dynamic queries of a pair first; where a pair has fewer than `most`, static ones fill up and keep their value.
    dynamic, rows = silence.query_dynamic.byte().sort(dim=1, descending=True, stable=True)
    rows = rows[:, None, :most, None].expand(-1, q.shape[1], -1, q.shape[-1])
    heard = scaled_dot_product_attention(q.gather(2, rows), k, v)
    heard = torch.where(dynamic[:, None, :most, None] > 0, heard, out.gather(2, rows))
    return out.scatter(2, rows, heard)


def mean_query_logits(q: Tensor, k: Tensor) -> Tensor:
    """Mean over queries of q k^T d^(-1/2): (B, H, N, d), (B, H, M, d) -> (B, H, M) float32, without an N x M matrix."""
    mean_q = q.float().mean(dim=2, keepdim=True) * q.shape[-1] ** -0.5
    with torch.autocast(q.device.type, enabled=False):
        return (mean_q @ k.float().transpose(-1, -2)).squeeze(2)


def cross_attention_naive(q: Tensor, k: Tensor, v: Tensor, silence: Silence | None = None) -> tuple[Tensor, Tensor]:
    """Explicit softmax, the reference of :class:`CrossAttention`: returns (B, H, N, d) and (B, H, N, M) logits."""
    logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    weights = logits.softmax(dim=-1)
    if silence is not None:
        silenced = ~silence.query_dynamic[:, None, :, None] & silence.key_dynamic[:, None, None, :]
        weights = weights.masked_fill(silenced, 0.0)
    return weights @ v, logits


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
        """One layer for view x (B, N, D) that looks at view y: new x, and the query-mean logits (B, H, M)."""
        return self.look_across(self.look_inside(x, tables), y, tables, silence)

    def look_inside(self, x: Tensor, tables: Tables) -> Tensor:
        """The part of :meth:`forward` that does not know the other view."""
        return x + self.attn(self.norm1(x), tables)

    def look_across(
        self, x: Tensor, y: Tensor, tables: Tables, silence: Silence | None = None
    ) -> tuple[Tensor, Tensor]:
        """The rest of :meth:`forward`, for x from :meth:`look_inside`."""
        attended, logits = self.cross_attn(self.norm2(x), self.norm_y(y), tables, silence)
        x = x + attended
        return x + self.mlp(self.norm3(x)), logits

    def logits_only(self, x: Tensor, y: Tensor, tables: Tables) -> Tensor:
        """The query-mean logits (B, H, M) of :meth:`forward` without what comes after them."""
        x = self.look_inside(x, tables)
        return mean_query_logits(*self.cross_attn.queries_keys(self.norm2(x), self.norm_y(y), tables))
