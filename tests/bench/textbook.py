"""The reference's schedule written down as a textbook would: per pair, nothing shared, every attention matrix of the
pair kept until it is done, the predictions of all pairs in float32.

The twin of ``network.inference`` for benchmarks and for a test that both agree. Letters in shapes: B = 1 pair, H
heads, N tokens, C = layers * heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from easi3r_ns.core.types import AttentionStats
from easi3r_ns.network.blocks import CrossAttention, SelfAttention, Silence, Tables
from easi3r_ns.network.heads import postprocess
from easi3r_ns.network.model import DUSt3R, Grid, absolute_positions
from easi3r_ns.network.rope import apply_rope, rope_tables
from tests.support.twins import attention_stats_naive, cross_attention_naive


@dataclass(frozen=True)
class TextbookPass:
    """What one pass over all pairs leaves; E entries each, all of them in memory."""

    points_i: list[Tensor]
    """(H, W, 3)."""
    conf_i: list[Tensor]
    """(H, W)."""
    points_j: list[Tensor]
    conf_j: list[Tensor]
    on_j: list[np.ndarray]
    """(h, w, C) query-means of decoder 1."""
    on_i: list[np.ndarray]
    """(h, w, C) of decoder 2."""

    def stats(self, edges: np.ndarray, num_frames: int) -> AttentionStats:
        """Of all pairs at once."""
        return attention_stats_naive(edges, np.stack(self.on_j), np.stack(self.on_i), num_frames)


@torch.inference_mode()
def run_pass(
    model: DUSt3R,
    images: Tensor,
    edges: np.ndarray,
    token_masks: np.ndarray | None = None,
    advance: Callable[[int], None] = lambda steps: None,
) -> TextbookPass:
    """Both views of every pair encoded again, both heads always computed; images (F, 3, H, W) in [-1, 1]."""
    grid = model.token_grid(*images.shape[-2:])
    result = TextbookPass([], [], [], [], [], [])
    for i, j in edges.tolist():
        silence = None if token_masks is None else Silence(*(_flat(token_masks[k], images) for k in (i, j)))
        features = [encode(model, images[k : k + 1], grid) for k in (i, j)]
        tokens_i, tokens_j, logits_j, logits_i = decode(model, *features, grid, silence)
        points_i, conf_i = postprocess(model.downstream_head1(tokens_i, grid))
        points_j, conf_j = postprocess(model.downstream_head2(tokens_j, grid))
        for name, value in (("points_i", points_i), ("conf_i", conf_i), ("points_j", points_j), ("conf_j", conf_j)):
            getattr(result, name).append(value[0].cpu())
        result.on_j.append(_query_mean(logits_j, grid))
        result.on_i.append(_query_mean(logits_i, grid))
        advance(1)
    return result


def encode(model: DUSt3R, images: Tensor, grid: Grid) -> Tensor:
    """(1, 3, H, W) -> (1, N, D) with explicit attention."""
    c = model.config
    tables = rope_tables(grid, c.enc_embed_dim // c.enc_num_heads, c.rope_stretch, images.device)
    x = model.patch_embed(images)
    if c.absolute_position:
        x = x + absolute_positions(grid, c.enc_embed_dim).to(x)
    for block in model.enc_blocks:
        x = x + _self_attention(block.attn, block.norm1(x), tables)
        x = x + block.mlp(block.norm2(x))
    return model.enc_norm(x)


def decode(
    model: DUSt3R, features_i: Tensor, features_j: Tensor, grid: Grid, silence: Silence | None
) -> tuple[dict[int, Tensor], dict[int, Tensor], list[Tensor], list[Tensor]]:
    """Tokens by layer of both decoders and the logits (1, H, N, N) of every layer, all of them alive at the end."""
    c = model.config
    tables = rope_tables(grid, c.dec_embed_dim // c.dec_num_heads, c.rope_stretch, features_i.device)
    x, y = model.decoder_embed(features_i), model.decoder_embed(features_j)
    tokens_i, tokens_j, logits_j, logits_i = {0: features_i}, {0: features_j}, [], []
    for layer, (block_i, block_j) in enumerate(zip(model.dec_blocks, model.dec_blocks2), start=1):
        (x, of_j), (y, of_i) = _block(block_i, x, y, tables, silence), _block(block_j, y, x, tables, None)
        logits_j.append(of_j)
        logits_i.append(of_i)
        tokens_i[layer], tokens_j[layer] = x, y
    tokens_i[c.dec_depth], tokens_j[c.dec_depth] = model.dec_norm(x), model.dec_norm(y)
    return tokens_i, tokens_j, logits_j, logits_i


def _block(block, x: Tensor, y: Tensor, tables: Tables, silence: Silence | None) -> tuple[Tensor, Tensor]:
    x = x + _self_attention(block.attn, block.norm1(x), tables)
    attended, logits = _cross_attention(block.cross_attn, block.norm2(x), block.norm_y(y), tables, silence)
    x = x + attended
    return x + block.mlp(block.norm3(x)), logits


def _self_attention(layer: SelfAttention, x: Tensor, tables: Tables) -> Tensor:
    q, k, v = layer.qkv(x).unflatten(-1, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4)
    out, _ = cross_attention_naive(apply_rope(q, tables), apply_rope(k, tables), v)
    return layer.proj(out.transpose(1, 2).flatten(-2))


def _cross_attention(
    layer: CrossAttention, x: Tensor, y: Tensor, tables: Tables, silence: Silence | None
) -> tuple[Tensor, Tensor]:
    q, k = layer.queries_keys(x, y, tables)
    v = layer.projv(y).unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)
    out, logits = cross_attention_naive(q, k, v, silence)
    return layer.proj(out.transpose(1, 2).flatten(-2)), logits


def _query_mean(logits: list[Tensor], grid: Grid) -> np.ndarray:
    """Per layer (1, H, N, N) -> (h, w, C)."""
    means = torch.stack([layer[0].mean(dim=1) for layer in logits])
    return means.flatten(0, 1).T.unflatten(0, grid).float().cpu().numpy()


def _flat(mask: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(mask).flatten()[None].to(like.device)
