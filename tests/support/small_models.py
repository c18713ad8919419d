"""Random networks of the classes of transformers that a run may use, small, as save_pretrained writes them."""

from __future__ import annotations

import json
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


def save_detector(folder: Path, words: tuple[str, ...] = ("person", "dog", "car")) -> Path:
    """Write a small random Grounding DINO, always the same, with a tokenizer that knows some words."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    torch = pytest.importorskip("torch")
    swin = transformers.SwinConfig(
        image_size=64,
        patch_size=4,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=2,
        out_features=["stage2", "stage3", "stage4"],
    )
    text = dict(model_type="bert", hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    config = transformers.GroundingDinoConfig(
        backbone_config=swin,
        text_config=text | {"vocab_size": 1100, "max_position_embeddings": 64},
        num_queries=6,
        encoder_layers=1,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_layers=2,
        decoder_ffn_dim=16,
        decoder_attention_heads=2,
        d_model=32,
        max_text_len=32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.GroundingDinoForObjectDetection(config).save_pretrained(folder)
    # The model knows these four by their numbers, which are BERT's.
    known = {"[UNK]": 100, "[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}
    vocabulary = known | {word: 200 + number for number, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 102), ("[CLS]", 101))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def save_sam3(folder: Path, words: tuple[str, ...] = ("person", "dog", "car"), *, video: bool = False) -> Path:
    """Write a small random SAM 3 with a tokenizer that knows some words; ``video``: laid out as published."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    torch = pytest.importorskip("torch")
    if not hasattr(transformers, "Sam3Model"):
        pytest.skip("this transformers has no SAM 3")
    vit = dict(model_type="sam3_vit_model", hidden_size=32, intermediate_size=32, num_hidden_layers=2)
    vit |= dict(num_attention_heads=2, image_size=56, patch_size=14, window_size=2, global_attn_indexes=[1])
    vision = dict(backbone_config=vit | {"pretrain_image_size": 56}, fpn_hidden_size=32)
    vision |= {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]}
    text = dict(model_type="clip_text_model", vocab_size=64, hidden_size=16, intermediate_size=16, projection_dim=16)
    text |= dict(num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=32)
    text |= dict(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    small = dict(hidden_size=32, num_layers=1, num_attention_heads=2, intermediate_size=16)
    config = transformers.Sam3Config(
        vision_config=vision,
        text_config=text,
        geometry_encoder_config=small,
        detr_encoder_config=small,
        detr_decoder_config=small | {"num_queries": 5},
        mask_decoder_config=dict(hidden_size=32, num_attention_heads=2),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.Sam3Model(config).save_pretrained(folder)
    if video:
        _as_published(folder)
    vocabulary = {"[UNK]": 0, "<s>": 1, "</s>": 2} | {word: 10 + number for number, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("</s>", 2), ("<s>", 1))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def _as_published(folder: Path) -> None:
    """The published weights hold a tracker beside the detector, whose names begin with ``detector_model.``."""
    from safetensors.torch import load_file, save_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    outer = {"architectures": ["Sam3VideoModel"], "model_type": "sam3_video", "detector_config": config}
    (folder / "config.json").write_text(json.dumps(outer), encoding="utf-8")
    weights = load_file(folder / "model.safetensors")
    more = {"tracker_neck.x": next(iter(weights.values())).clone()}
    named = {f"detector_model.{name}": values for name, values in weights.items()}
    save_file(named | more, folder / "model.safetensors", metadata={"format": "pt"})
