"""Random networks of the classes of transformers that a run may use, small, as save_pretrained writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

SIDE = 64
"""Pixels of the square pictures of the trackers."""


def tracker_config(kind: str) -> Any:
    """Configuration of a small SAM 2 (``sam2``) or EdgeTAM (``edgetam``, with SAM 2's encoder, which needs no timm)."""
    transformers = pytest.importorskip("transformers")
    hiera = transformers.Sam2HieraDetConfig(
        hidden_size=8,
        num_attention_heads=1,
        image_size=[SIDE, SIDE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[8, 4, 2, 2],
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[2, 2],
    )
    vision = transformers.Sam2VisionConfig(
        backbone_config=hiera,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[SIDE // 4] * 2, [SIDE // 8] * 2, [SIDE // 16] * 2],
        fpn_hidden_size=128,
    )
    common: dict[str, Any] = dict(
        vision_config=vision,
        prompt_encoder_config=dict(hidden_size=128, image_size=SIDE, patch_size=16, mask_input_channels=4),
        mask_decoder_config=dict(hidden_size=128, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=16),
        image_size=SIDE,
        memory_attention_hidden_size=128,
        memory_attention_num_layers=1,
        memory_attention_rope_feat_sizes=[SIDE // 16] * 2,
        memory_encoder_hidden_size=128,
        memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=32,
    )
    if kind == "sam2":
        return transformers.Sam2VideoConfig(**common, memory_attention_feed_forward_hidden_size=32)
    return transformers.EdgeTamVideoConfig(
        **common,
        memory_attention_mlp_hidden_size=32,
        memory_attention_rope_k_sizes=[2, 2],
        perceiver_resampler_num_latents=4,
        perceiver_resampler_num_latents_2d=4,
        perceiver_resampler_mlp_intermediate_size=16,
    )


def save_tracker(kind: str, folder: Path) -> Path:
    """Write a small random tracker, always the same."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    config = tracker_config(kind)
    cls = {"sam2": transformers.Sam2VideoModel, "edgetam": transformers.EdgeTamVideoModel}[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cls(config).save_pretrained(folder)
    return folder
