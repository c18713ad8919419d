"""DUSt3R (Wang et al., CVPR 2024, arXiv:2312.14132): encoder, two decoders, two heads.

A frame is encoded once (:meth:`DUSt3R.encode`). Pairs are decoded from features (:meth:`DUSt3R.decode`), or only up to
the last layer's attention (:meth:`DUSt3R.attention`). What does not depend on the other view can be computed once for
all pairs of a frame (:meth:`DUSt3R.start`). Parameter names are those of the published checkpoints.
Letters in shapes: B images or pairs, H x W pixels, h x w tokens, N = h * w, C = layers * heads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .blocks import DecoderBlock, EncoderBlock, Silence, Tables
from .config import DUSt3RConfig
from .heads import DPTHead, LinearHead, postprocess
from .rope import rope_tables

ENCODER_PREFIXES = ("patch_embed.", "enc_blocks.", "enc_norm.")
"""Names of the parameters that :meth:`DUSt3R.encode` uses; everything else belongs to the decoders and heads."""

Grid = tuple[int, int]


@dataclass(frozen=True)
class PairAttention:
    """Pre-softmax cross-attention logits, averaged over the queries; one value per key token and channel.

    Channel = layer * heads + head.
    """

    on_j: Tensor
    """(B, h, w, C) float32, from decoder 1: queries of view i, keys of view j."""
    on_i: Tensor
    """(B, h, w, C) float32, from decoder 2: queries of view j, keys of view i."""


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


class Start(NamedTuple):
    """The part of the decoding of one view that does not depend on the other view of the pair."""

    memory: Tensor
    """(B, N, dec_embed_dim) embedded features, to which the other view attends in the first layer."""
    tokens: Tensor
    """(B, N, dec_embed_dim) tokens after the self-attention of the first layer."""
    finest: Tensor | None
    """(B, dpt_feature_dim, 4h, 4w) finest level of the DPT head; None for the linear head, or where it is left out."""


class PatchEmbed(nn.Module):
    """(B, 3, H, W) images -> (B, N, D) tokens, row by row."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class DUSt3R(nn.Module):
    """The network of one checkpoint.

    Build it under ``torch.device("meta")`` when its weights are loaded afterwards: no memory is initialised in vain.
    """

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
        """(h, w) tokens of an image.

        Raises:
            ValueError: a side is not a multiple of the patch size.
        """
        patch = self.config.patch_size
        if height % patch or width % patch or not (height and width):
            raise ValueError(f"{width}x{height} image: both sides must be positive multiples of the patch size {patch}")
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

    def start(self, features: Tensor, grid: Grid, view: int, *, heads: bool = True) -> Start:
        """The part of the decoding that all pairs with these frames as view ``view`` share.

        Args:
            features: (B, N, enc_embed_dim) of frames.
            view: 0 for the reference view i, 1 for the other view j.
            heads: False leaves out what only :meth:`decode_from` needs.
        """
        block, head = ((self.dec_blocks, self.downstream_head1), (self.dec_blocks2, self.downstream_head2))[view]
        memory = self.decoder_embed(features)
        tokens = block[0].self_step(memory, self._tables(grid, features.device))
        if not heads:
            return Start(memory, tokens, None)
        with torch.autocast(features.device.type, enabled=False):
            return Start(memory, tokens, head.finest(features.float(), grid))

    def attention(self, features_i: Tensor, features_j: Tensor, grid: Grid) -> PairAttention:
        """Pass 1: mean attention logits from the (B, N, enc_embed_dim) features of both views.

        The computation stops at the keys of the last layer.
        """
        return self.attention_from(self._starts(features_i, features_j, grid, heads=False), grid)

    def attention_from(self, starts: tuple[Start, Start], grid: Grid) -> PairAttention:
        """:meth:`attention` from the results of :meth:`start` for view i and view j."""
        tables = self._tables(grid, starts[0].memory.device)
        x, y = starts[0].memory, starts[1].memory
        on_j, on_i = [], []
        for x, y, of_j, of_i in self._layers(starts, tables, None, self.config.dec_depth - 1):
            on_j.append(of_j)
            on_i.append(of_i)
        on_j.append(self.dec_blocks[-1].logits_only(x, y, tables))
        on_i.append(self.dec_blocks2[-1].logits_only(y, x, tables))
        return PairAttention(_to_maps(on_j, grid), _to_maps(on_i, grid))

    def decode(self, features_i: Tensor, features_j: Tensor, grid: Grid, silence: Silence | None = None) -> PairOutput:
        """Pointmaps, confidences and mean attention logits from the (B, N, enc_embed_dim) features of both views.

        Args:
            silence: attention masking in decoder 1 (the reference view), where queries are view i and keys are view j.
        """
        return self.decode_from(self._starts(features_i, features_j, grid, heads=True), grid, silence)

    def decode_from(self, starts: tuple[Start, Start], grid: Grid, silence: Silence | None = None) -> PairOutput:
        """:meth:`decode` from the results of :meth:`start` for view i and view j, computed with ``heads=True``."""
        tokens_i, tokens_j, attention = self._decode(starts, grid, silence, set(self.downstream_head1.layers))
        with torch.autocast(starts[0].memory.device.type, enabled=False):
            points_i, conf_i = postprocess(self.downstream_head1(_floats(tokens_i), grid, starts[0].finest))
            points_j, conf_j = postprocess(self.downstream_head2(_floats(tokens_j), grid, starts[1].finest))
        return PairOutput(points_i, conf_i, points_j, conf_j, attention)

    def decoder_tokens(
        self,
        features_i: Tensor,
        features_j: Tensor,
        grid: Grid,
        silence: Silence | None = None,
        keep: set[int] | None = None,
    ) -> tuple[dict[int, Tensor], dict[int, Tensor], PairAttention]:
        """Tokens of both decoders by layer, and the mean attention logits.

        Layer 0 holds the encoder features; the tokens of layer ``dec_depth`` are those after ``dec_norm``.

        Args:
            keep: layers to return; default: all.
        """
        keep = set(range(self.config.dec_depth + 1)) if keep is None else keep
        starts = self._starts(features_i, features_j, grid, heads=False)
        tokens_i, tokens_j, attention = self._decode(starts, grid, silence, keep)
        return {0: features_i} | tokens_i, {0: features_j} | tokens_j, attention

    def _decode(
        self, starts: tuple[Start, Start], grid: Grid, silence: Silence | None, keep: set[int]
    ) -> tuple[dict[int, Tensor], dict[int, Tensor], PairAttention]:
        depth = self.config.dec_depth
        x, y = starts[0].memory, starts[1].memory
        tokens_i, tokens_j, on_j, on_i = {}, {}, [], []
        layers = self._layers(starts, self._tables(grid, x.device), silence, depth)
        for layer, (x, y, of_j, of_i) in enumerate(layers, start=1):
            on_j.append(of_j)
            on_i.append(of_i)
            if layer in keep and layer < depth:
                tokens_i[layer], tokens_j[layer] = x, y
        tokens_i[depth], tokens_j[depth] = self.dec_norm(x), self.dec_norm(y)
        return tokens_i, tokens_j, PairAttention(_to_maps(on_j, grid), _to_maps(on_i, grid))

    def _tables(self, grid: Grid, device: torch.device) -> Tables:
        c = self.config
        return rope_tables(grid, c.dec_embed_dim // c.dec_num_heads, c.rope_stretch, device)

    def _starts(self, features_i: Tensor, features_j: Tensor, grid: Grid, *, heads: bool) -> tuple[Start, Start]:
        return self.start(features_i, grid, 0, heads=heads), self.start(features_j, grid, 1, heads=heads)

    def _layers(
        self, starts: tuple[Start, Start], tables: Tables, silence: Silence | None, stop: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Per layer: new tokens of views i and j, and the mean logits of the keys of j and of i."""
        (x, inside_x, _), (y, inside_y, _) = starts
        for layer, (block_i, block_j) in enumerate(zip(self.dec_blocks[:stop], self.dec_blocks2[:stop])):
            if layer > 0:
                inside_x, inside_y = block_i.self_step(x, tables), block_j.self_step(y, tables)
            (x, on_j), (y, on_i) = (
                block_i.cross_step(inside_x, y, tables, silence),
                block_j.cross_step(inside_y, x, tables),
            )
            yield x, y, on_j, on_i


def absolute_positions(grid: Grid, dim: int) -> Tensor:
    """(N, dim) sine-cosine encoding of the token centres, relative to the image centre in units of the long side."""
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
    """Stack the logits (B, heads, N) of all layers to maps (B, h, w, layers * heads)."""
    return torch.stack(logits, dim=1).flatten(1, 2).transpose(1, 2).unflatten(1, grid)
