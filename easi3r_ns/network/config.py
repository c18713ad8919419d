"""Hyper-parameters of the network, and the image size that it expects."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DUSt3RConfig:
    """Architecture of one checkpoint (names as in the published ``config.json``)."""

    patch_size: int = 16
    enc_embed_dim: int = 1024
    enc_depth: int = 24
    enc_num_heads: int = 16
    dec_embed_dim: int = 768
    dec_depth: int = 12
    dec_num_heads: int = 12
    mlp_ratio: float = 4.0
    head_type: str = "dpt"
    """'dpt' or 'linear'."""
    image_size: int = 512
    """Long side of the training images, in pixels; with :attr:`square` the side of the square."""
    square: bool = False
    """Whether the network was trained on square images only, as the published 224-pixel checkpoint was."""
    absolute_position: bool = False
    """Add sine-cosine absolute positions, in units of the long side, after the patch embedding; the published networks
    have none."""
    rope_stretch: float = 1.0
    """RoPE positions per token; 1 in published networks, 0.5 for a network whose token grid was doubled in training."""
    dpt_feature_dim: int = 256
    dpt_last_dim: int = 128
    dpt_layer_dims: tuple[int, int, int, int] = (96, 192, 384, 768)

    def __post_init__(self) -> None:
        if self.head_type not in ("dpt", "linear"):
            raise ValueError(f"head_type {self.head_type!r} must be 'dpt' or 'linear'")
        for dim, heads in ((self.enc_embed_dim, self.enc_num_heads), (self.dec_embed_dim, self.dec_num_heads)):
            if dim % heads or (dim // heads) % 4:
                raise ValueError(f"{dim} channels in {heads} heads: channels per head must be a multiple of 4")
        if self.head_type == "dpt" and self.dec_depth % 4:
            raise ValueError(
                f"dec_depth {self.dec_depth} must be a multiple of 4: the DPT head reads layers depth/2 and 3 depth/4"
            )
