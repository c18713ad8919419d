"""Hyper-parameters of the network, and the image size that it expects."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.errors import shown


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
        for name, (low, high) in _INTEGERS.items():
            _require_integer(name, getattr(self, name), low, high)
        for name, most in _NUMBERS.items():
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 < value <= most:
                raise ValueError(f"{name} = {shown(value)} must be a number above 0 and at most {most:g}")
        for name in ("square", "absolute_position"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} = {shown(getattr(self, name))} must be true or false")
        if self.head_type not in ("dpt", "linear"):
            raise ValueError(f"head_type {shown(self.head_type)} must be 'dpt' or 'linear'")
        if not isinstance(self.dpt_layer_dims, tuple) or len(self.dpt_layer_dims) != 4:
            raise ValueError(f"dpt_layer_dims = {shown(self.dpt_layer_dims)} must be four integers")
        for dim in self.dpt_layer_dims:
            _require_integer("dpt_layer_dims", dim, *_INTEGERS["dpt_feature_dim"])
        if self.image_size < self.patch_size:
            raise ValueError(f"image_size {self.image_size} is smaller than patch_size {self.patch_size}")
        for dim, heads in ((self.enc_embed_dim, self.enc_num_heads), (self.dec_embed_dim, self.dec_num_heads)):
            if dim % heads or (dim // heads) % 4:
                raise ValueError(f"{dim} channels in {heads} heads: channels per head must be a multiple of 4")
            if int(dim * self.mlp_ratio) < 1:
                raise ValueError(f"mlp_ratio {self.mlp_ratio:g} of {dim} channels is less than one")
        if self.head_type == "dpt" and self.dec_depth % 4:
            raise ValueError(
                f"dec_depth {self.dec_depth} must be a multiple of 4: the DPT head reads layers depth/2 and 3 depth/4"
            )


_INTEGERS = {
    "patch_size": (1, 256),
    "enc_embed_dim": (4, 16384),
    "enc_depth": (1, 256),
    "enc_num_heads": (1, 256),
    "dec_embed_dim": (4, 16384),
    "dec_depth": (1, 256),
    "dec_num_heads": (1, 256),
    "image_size": (1, 8192),
    "dpt_feature_dim": (1, 16384),
    "dpt_last_dim": (1, 16384),
}
"""Least and greatest values that a network can have: the largest published ones have a tenth of the latter or less."""
_NUMBERS = {"mlp_ratio": 64.0, "rope_stretch": 1024.0}


def _require_integer(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} = {shown(value)} must be an integer from {low} to {high}")
