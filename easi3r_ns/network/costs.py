"""What the network costs, counted from its configuration alone: floating-point operations and parameters.

A multiplication and an addition count as two operations; norms, activations, softmax and interpolation are left out (a
few per cent). Letters: N tokens of an image, D channels.
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
    """One frame through the encoder."""
    attention: float
    """One ordered pair through pass 1: both decoders up to the last layer's keys, no heads."""
    decode: float
    """One ordered pair through both decoders, without silencing."""
    silence: float
    """What silencing adds to one pair: decoder 1 attends to the other view twice."""
    heads: float
    """Both heads of one ordered pair."""
    start: float
    """The part of ``attention`` and ``decode`` that is the same in all pairs of a frame (:meth:`~.model.DUSt3R.start`),
    for one of the two views."""
    start_heads: float
    """The part of ``heads``, likewise."""


def network_cost(config: DUSt3RConfig, grid: Grid) -> NetworkCost:
    """Count for images of ``grid`` = (h, w) tokens."""
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
    """Largest memory of the activations of ONE image or pair while a call runs, in bytes (upper estimates)."""

    encode: float
    """One frame through the encoder."""
    decode: float
    """One pair through the decoders, the tokens that the heads read included."""
    heads: float
    """One head (they run one after the other), with its result."""


def activation_bytes(config: DUSt3RConfig, grid: Grid) -> ActivationBytes:
    """Estimate for images of ``grid`` = (h, w) tokens; float32 throughout, which half precision never exceeds."""
    c, n = config, grid[0] * grid[1]
    # Residual stream, its norm, and the MLP's hidden layer before and after its activation (q, k, v take less).
    encode = 4.0 * n * c.enc_embed_dim * (2 + 2 * c.mlp_ratio)
    streams = 4.0 * n * c.dec_embed_dim * (4 + 2 * c.mlp_ratio)
    kept = 4.0 * n * 2 * (3 * c.dec_embed_dim if c.head_type == "dpt" else c.dec_embed_dim)
    kept += 2 * start_bytes(c, grid, heads=True)
    pixels = n * c.patch_size**2
    # The DPT head is largest where it has doubled to full size: that map twice, and its half-size input.
    numbers = pixels * (2 * c.dpt_last_dim + c.dpt_feature_dim / 4 + 8) if c.head_type == "dpt" else 12 * pixels
    return ActivationBytes(encode, streams + kept, 4.0 * numbers)


def start_bytes(config: DUSt3RConfig, grid: Grid, *, heads: bool) -> float:
    """What is kept of a frame for all of its pairs (:meth:`~.model.DUSt3R.start`), for one of the two views."""
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
    """Memory of (encoder, decoders and heads) whose matrices, except those of the heads, take ``item_bytes`` a number
    (:func:`~.weights.load_part`).
    """
    from .model import ENCODER_PREFIXES

    parts = [0, 0]
    for name, p in _on_paper(config).items():
        size = 4 if name.startswith("downstream_head") or p.ndim < 2 else item_bytes
        parts[not name.startswith(ENCODER_PREFIXES)] += size * p.numel()
    return parts[0], parts[1]


def _on_paper(config: DUSt3RConfig) -> dict[str, Tensor]:
    """Parameters by name, without memory."""
    import torch

    from .model import DUSt3R

    with torch.device("meta"):
        return dict(DUSt3R(config).named_parameters())


def _linear(tokens: int, inputs: int, outputs: int) -> float:
    return 2.0 * tokens * inputs * outputs


def _attention(tokens: int, dim: int) -> float:
    """Logits and weighted sum."""
    return 4.0 * tokens * tokens * dim


def _conv(height: int, width: int, inputs: int, outputs: int, kernel: int) -> float:
    return 2.0 * height * width * inputs * outputs * kernel**2


def _finest_level(c: DUSt3RConfig, grid: Grid) -> float:
    """Of the DPT head, up to where the coarser levels join it; reads the encoder's features only."""
    (h, w), first, dim = grid, c.dpt_layer_dims[0], c.dpt_feature_dim
    reassembled = _conv(h, w, c.enc_embed_dim, first, 1) + _conv(h, w, first, first, 4)
    return reassembled + _conv(4 * h, 4 * w, first, dim, 3) + 2 * _conv(4 * h, 4 * w, dim, dim, 3)


def _dpt_head(c: DUSt3RConfig, grid: Grid) -> float:
    h, w = grid
    inputs, dims = (c.enc_embed_dim, *(c.dec_embed_dim,) * 3), c.dpt_layer_dims
    dim, last = c.dpt_feature_dim, c.dpt_last_dim
    sizes = [(4 * h, 4 * w), (2 * h, 2 * w), (h, w), ((h + 1) // 2, (w + 1) // 2)]
    total = sum(_conv(h, w, i, d, 1) for i, d in zip(inputs, dims))
    # A transposed convolution whose stride is its kernel: every input pixel makes kernel^2 output pixels.
    total += _conv(h, w, dims[0], dims[0], 4) + _conv(h, w, dims[1], dims[1], 2) + _conv(*sizes[3], dims[3], dims[3], 3)
    for level, (rows, columns) in enumerate(sizes):
        units = 1 if level == 3 else 2
        total += _conv(rows, columns, dims[level], dim, 3)
        total += 2 * units * _conv(rows, columns, dim, dim, 3) + _conv(rows, columns, dim, dim, 1)
    total += _conv(8 * h, 8 * w, dim, dim // 2, 3)
    return total + _conv(16 * h, 16 * w, dim // 2, last, 3) + _conv(16 * h, 16 * w, last, 4, 1)
