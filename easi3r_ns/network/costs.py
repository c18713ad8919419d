"""Floating-point operations, parameters and memory of the network, computed from its configuration alone.

A multiplication and an addition count as two operations; norms, activations, softmax and interpolation, a few per cent
of the total, are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .config import DUSt3RConfig

if TYPE_CHECKING:
    from torch import Tensor

Grid = tuple[int, int]


@dataclass(frozen=True)
class NetworkCost:
    """Floating-point operations of the network's calls, for one image size."""

    encode: float
    """The encoder on one frame."""
    attention: float
    """Pass 1 on one ordered pair: both decoders up to the keys of the last layer, without heads."""
    decode: float
    """Both decoders on one ordered pair, without attention masking."""
    silence: float
    """Additional cost of the attention masking of one pair: the cross-attention of decoder 1 is computed twice."""
    heads: float
    """Both heads on one ordered pair."""
    start: float
    """The part of ``attention`` and ``decode`` that all pairs of a frame share (:meth:`~.model.DUSt3R.start`), for one
    of the two views."""
    start_heads: float
    """The part of ``heads`` that all pairs of a frame share, for one of the two views."""


def network_cost(config: DUSt3RConfig, grid: Grid) -> NetworkCost:
    """Operations for images of ``grid`` = (h, w) tokens."""
    c, n = config, grid[0] * grid[1]
    embed = 2.0 * n * 3 * c.patch_size**2 * c.enc_embed_dim
    hidden_enc, hidden_dec = (int(dim * c.mlp_ratio) for dim in (c.enc_embed_dim, c.dec_embed_dim))
    encoder_block = _attention(n, c.enc_embed_dim) + _linear(n, c.enc_embed_dim, 4 * c.enc_embed_dim)
    encoder_block += 2 * _linear(n, c.enc_embed_dim, hidden_enc)

    dim, start = c.dec_embed_dim, 2 * _linear(n, c.enc_embed_dim, c.dec_embed_dim)
    self_attention = _attention(n, dim) + _linear(n, dim, 4 * dim)
    cross_attention = _attention(n, dim) + _linear(n, dim, 4 * dim)
    mean_logits = 2.0 * n * dim
    block = self_attention + cross_attention + mean_logits + 2 * _linear(n, dim, hidden_dec)
    last_of_pass_1 = self_attention + _linear(n, dim, 2 * dim) + mean_logits
    head = _dpt_head(c, grid) if c.head_type == "dpt" else _linear(n, dim, 4 * c.patch_size**2)
    return NetworkCost(
        encode=embed + c.enc_depth * encoder_block,
        attention=start + 2 * ((c.dec_depth - 1) * block + last_of_pass_1),
        decode=start + 2 * c.dec_depth * block,
        silence=c.dec_depth * _attention(n, dim),
        heads=2 * head,
        start=start / 2 + self_attention,
        start_heads=_finest_level(c, grid) if c.head_type == "dpt" else 0.0,
    )


@dataclass(frozen=True)
class ActivationBytes:
    """Upper estimates of the peak memory of the activations during a call, in bytes per image or pair."""

    encode: float
    """The encoder on one frame."""
    decode: float
    """Both decoders on one pair, including the tokens that the heads read."""
    heads: float
    """One head and its result; the two heads run one after the other."""


def activation_bytes(config: DUSt3RConfig, grid: Grid) -> ActivationBytes:
    """Memory for images of ``grid`` = (h, w) tokens in float32, an upper bound for half precision."""
    c, n = config, grid[0] * grid[1]
    # The residual stream, its norm, and the MLP's hidden layer before and after its activation; q, k and v take less.
    encode = 4.0 * n * c.enc_embed_dim * (2 + 2 * c.mlp_ratio)
    streams = 4.0 * n * c.dec_embed_dim * (4 + 2 * c.mlp_ratio)
    kept = 4.0 * n * 2 * (3 * c.dec_embed_dim if c.head_type == "dpt" else c.dec_embed_dim)
    kept += 2 * start_bytes(c, grid, heads=True)
    pixels = n * c.patch_size**2
    # The DPT head needs most where it upsamples to full size: the full-size map twice, and its half-size input.
    numbers = pixels * (2 * c.dpt_last_dim + c.dpt_feature_dim / 4 + 8) if c.head_type == "dpt" else 12 * pixels
    return ActivationBytes(encode, streams + kept, 4.0 * numbers)


def start_bytes(config: DUSt3RConfig, grid: Grid, *, heads: bool) -> float:
    """Bytes of the result of :meth:`~.model.DUSt3R.start` for a frame as one of the two views."""
    tokens = grid[0] * grid[1]
    finest = 16 * config.dpt_feature_dim if heads and config.head_type == "dpt" else 0
    return 4.0 * tokens * (2 * config.dec_embed_dim + finest)


def num_parameters(config: DUSt3RConfig) -> tuple[int, int]:
    """Parameters of (encoder, decoders and heads)."""
    from .model import ENCODER_PREFIXES

    counts = {name: p.numel() for name, p in _on_paper(config).items()}
    encoder = sum(count for name, count in counts.items() if name.startswith(ENCODER_PREFIXES))
    return encoder, sum(counts.values()) - encoder


def weight_bytes(config: DUSt3RConfig, item_bytes: int) -> tuple[int, int]:
    """Bytes of the weights of (encoder, decoders and heads), as :func:`~.weights.load_part` holds them.

    Args:
        item_bytes: bytes of an element of the matrices; those of the heads are always float32.
    """
    from .model import ENCODER_PREFIXES

    parts = [0, 0]
    for name, p in _on_paper(config).items():
        size = 4 if name.startswith("downstream_head") or p.ndim < 2 else item_bytes
        parts[not name.startswith(ENCODER_PREFIXES)] += size * p.numel()
    return parts[0], parts[1]


def _on_paper(config: DUSt3RConfig) -> dict[str, Tensor]:
    """Parameters by name, on the meta device: they take no memory."""
    import torch

    from .model import DUSt3R

    with torch.device("meta"):
        return dict(DUSt3R(config).named_parameters())


def _linear(tokens: int, inputs: int, outputs: int) -> float:
    return 2.0 * tokens * inputs * outputs


def _attention(tokens: int, dim: int) -> float:
    """Operations of the logits and the weighted sum."""
    return 4.0 * tokens * tokens * dim


def _conv(height: int, width: int, inputs: int, outputs: int, kernel: int) -> float:
    return 2.0 * height * width * inputs * outputs * kernel**2


def _finest_level(c: DUSt3RConfig, grid: Grid) -> float:
    """Operations of the DPT head's finest level before the fusion with coarser ones; it reads encoder features only."""
    (h, w), first, dim = grid, c.dpt_layer_dims[0], c.dpt_feature_dim
    reassembled = _conv(h, w, c.enc_embed_dim, first, 1) + _conv(h, w, first, first, 4)
    return reassembled + _conv(4 * h, 4 * w, first, dim, 3) + 2 * _conv(4 * h, 4 * w, dim, dim, 3)


def _dpt_head(c: DUSt3RConfig, grid: Grid) -> float:
    h, w = grid
    inputs, dims = (c.enc_embed_dim, *(c.dec_embed_dim,) * 3), c.dpt_layer_dims
    dim, last = c.dpt_feature_dim, c.dpt_last_dim
    sizes = [(4 * h, 4 * w), (2 * h, 2 * w), (h, w), ((h + 1) // 2, (w + 1) // 2)]
    total = sum(_conv(h, w, i, d, 1) for i, d in zip(inputs, dims))
    # In a transposed convolution whose stride is its kernel size, every input pixel makes kernel^2 output pixels.
    total += _conv(h, w, dims[0], dims[0], 4) + _conv(h, w, dims[1], dims[1], 2) + _conv(*sizes[3], dims[3], dims[3], 3)
    for level, (rows, columns) in enumerate(sizes):
        units = 1 if level == 3 else 2
        total += _conv(rows, columns, dims[level], dim, 3)
        total += 2 * units * _conv(rows, columns, dim, dim, 3) + _conv(rows, columns, dim, dim, 1)
    total += _conv(8 * h, 8 * w, dim, dim // 2, 3)
    return total + _conv(16 * h, 16 * w, dim // 2, last, 3) + _conv(16 * h, 16 * w, last, 4, 1)
