"""DUSt3R (Wang et al., CVPR 2024, arXiv:2312.14132): encoder, two decoders, two heads.

A frame is encoded once (:meth:`DUSt3R.encode`); pairs are decoded from features (:meth:`DUSt3R.decode`), or only as far
as their attention is needed (:meth:`DUSt3R.attention`). Parameter names are those of the published checkpoints.
Letters in shapes: B images or pairs, H x W pixels, h x w tokens, N = h * w, C = layers * heads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .blocks import DecoderBlock, EncoderBlock, Silence
from .config import DUSt3RConfig
from .heads import DPTHead, LinearHead, postprocess
from .rope import rope_tables

ENCODER_PREFIXES = ("patch_embed.", "enc_blocks.", "enc_norm.")
"""Names of the parameters that :meth:`DUSt3R.encode` uses; everything else belongs to the decoders and heads."""

Grid = tuple[int, int]


@dataclass(frozen=True)
class PairAttention:
    """Query-means of the pre-softmax cross-attention logits, per KEY token; channel = layer * heads + head."""

    on_j: Tensor
    """(B, h, w, C) float32: decoder 1, queries of view i, keys of view j."""
    on_i: Tensor
    """(B, h, w, C) float32: decoder 2, queries of view j, keys of view i."""


@dataclass(frozen=True)
class PairOutput:
    """Pointmaps of both views in the camera frame of view i (OpenCV axes, arbitrary scale)."""

    points_i: Tensor
    """(B, H, W, 3) float32."""
    conf_i: Tensor
    """(B, H, W) float32, > 1."""
    points_j: Tensor
    """(B, H, W, 3) float32."""
    conf_j: Tensor
    """(B, H, W) float32, > 1."""
    attention: PairAttention


class PatchEmbed(nn.Module):
    """(B, 3, H, W) images -> (B, N, D) tokens, row by row."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class DUSt3R(nn.Module):
    """The network of one checkpoint; build it under ``torch.device("meta")`` when weights follow."""

    def __init__(self, config: DUSt3RConfig) -> None:
        super().__init__()
        c = self.config = config
        self.patch_embed = PatchEmbed(c.patch_size, c.enc_embed_dim)
        self.enc_blocks = nn.ModuleList(
            EncoderBlock(c.enc_embed_dim, c.enc_num_heads, c.mlp_ratio) for _ in range(c.enc_depth)
        )
        self.enc_norm = nn.LayerNorm(c.enc_embed_dim, eps=1e-6)
        self.decoder_embed = nn.Linear(c.enc_embed_dim, c.dec_embed_dim)
        for name in ("dec_blocks", "dec_blocks2"):
            blocks = (DecoderBlock(c.dec_embed_dim, c.dec_num_heads, c.mlp_ratio) for _ in range(c.dec_depth))
            self.add_module(name, nn.ModuleList(blocks))
        self.dec_norm = nn.LayerNorm(c.dec_embed_dim, eps=1e-6)
        head = {"dpt": DPTHead, "linear": LinearHead}[c.head_type]
        self.downstream_head1 = head(c)
        self.downstream_head2 = head(c)

    def token_grid(self, height: int, width: int) -> Grid:
        """(h, w) tokens of an image; raises ValueError when it does not divide into patches."""
        patch = self.config.patch_size
        if height % patch or width % patch or not (height and width):
            raise ValueError(f"{width}x{height} image: both sides must be multiples of the patch size {patch}")
        return height // patch, width // patch

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) images in [-1, 1] -> (B, N, enc_embed_dim) features, after ``enc_norm``."""
        c = self.config
        grid = self.token_grid(*images.shape[-2:])
        tables = rope_tables(grid, c.enc_embed_dim // c.enc_num_heads, c.rope_stretch, images.device)
        x = self.patch_embed(images)
        if c.absolute_position:
            x = x + absolute_positions(grid, c.enc_embed_dim).to(x)
        for block in self.enc_blocks:
            x = block(x, tables)
        return self.enc_norm(x)

    def attention(self, features_i: Tensor, features_j: Tensor, grid: Grid) -> PairAttention:
        """Pass 1: (B, N, enc_embed_dim) features of both views -> attention means; stops at the last layer's keys."""
        x, y, tables = self._start(features_i, features_j, grid)
        on_j, on_i = [], []
        for block_i, block_j in self._layers(stop=-1):
            (x, logits_j), (y, logits_i) = block_i(x, y, tables), block_j(y, x, tables)
            on_j.append(logits_j)
            on_i.append(logits_i)
        on_j.append(self.dec_blocks[-1].logits_only(x, y, tables))
        on_i.append(self.dec_blocks2[-1].logits_only(y, x, tables))
        return PairAttention(_to_maps(on_j, grid), _to_maps(on_i, grid))

    def decode(
        self, features_i: Tensor, features_j: Tensor, grid: Grid, silence: Silence | None = None
    ) -> PairOutput:
        """(B, N, enc_embed_dim) features of both views -> pointmaps, confidences and attention means.

        ``silence`` acts in decoder 1 (the reference view) only: queries are view i, keys view j.
        """
        tokens_i, tokens_j, attention = self.decoder_tokens(
            features_i, features_j, grid, silence, keep=set(self.downstream_head1.layers)
        )
        with torch.autocast(features_i.device.type, enabled=False):
            points_i, conf_i = postprocess(self.downstream_head1(_floats(tokens_i), grid))
            points_j, conf_j = postprocess(self.downstream_head2(_floats(tokens_j), grid))
        return PairOutput(points_i, conf_i, points_j, conf_j, attention)

    def decoder_tokens(
        self,
        features_i: Tensor,
        features_j: Tensor,
        grid: Grid,
        silence: Silence | None = None,
        keep: set[int] | None = None,
    ) -> tuple[dict[int, Tensor], dict[int, Tensor], PairAttention]:
        """Tokens of both decoders by layer: 0 is the encoder's feature, ``dec_depth`` comes after ``dec_norm``.

        ``keep`` names the layers to return (default: all).
        """
        depth = self.config.dec_depth
        keep = set(range(depth + 1)) if keep is None else keep
        x, y, tables = self._start(features_i, features_j, grid)
        tokens_i, tokens_j = {0: features_i}, {0: features_j}
        on_j, on_i = [], []
        for layer, (block_i, block_j) in enumerate(self._layers(), start=1):
            (x, logits_j), (y, logits_i) = block_i(x, y, tables, silence), block_j(y, x, tables)
            on_j.append(logits_j)
            on_i.append(logits_i)
            if layer in keep and layer < depth:
                tokens_i[layer], tokens_j[layer] = x, y
        tokens_i[depth], tokens_j[depth] = self.dec_norm(x), self.dec_norm(y)
        return tokens_i, tokens_j, PairAttention(_to_maps(on_j, grid), _to_maps(on_i, grid))

    def _start(self, features_i: Tensor, features_j: Tensor, grid: Grid) -> tuple[Tensor, Tensor, tuple]:
        c = self.config
        tables = rope_tables(grid, c.dec_embed_dim // c.dec_num_heads, c.rope_stretch, features_i.device)
        return self.decoder_embed(features_i), self.decoder_embed(features_j), tables

    def _layers(self, stop: int | None = None) -> Iterator[tuple[DecoderBlock, DecoderBlock]]:
        return zip(self.dec_blocks[:stop], self.dec_blocks2[:stop])


def absolute_positions(grid: Grid, dim: int) -> Tensor:
    """(N, dim) sines and cosines of the token centres, measured from the image centre in units of the long side."""
    height, width = grid
    y = (torch.arange(height) + 0.5 - height / 2) / max(grid)
    x = (torch.arange(width) + 0.5 - width / 2) / max(grid)
    frequencies = math.pi * 2 ** torch.linspace(0, 5, dim // 4)
    angles = torch.cat(
        [y.repeat_interleave(width)[:, None] * frequencies, x.repeat(height)[:, None] * frequencies], dim=-1
    )
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _floats(tokens: dict[int, Tensor]) -> dict[int, Tensor]:
    return {layer: value.float() for layer, value in tokens.items()}


def _to_maps(logits: list[Tensor], grid: Grid) -> Tensor:
    """Per layer (B, heads, N) -> (B, h, w, layers * heads)."""
    return torch.stack(logits, dim=1).flatten(1, 2).transpose(1, 2).unflatten(1, grid)
