"""Output heads of DUSt3R: tokens -> (B, 4, H, W) raw points and confidence (DPT: arXiv:2103.13413).

Letters in shapes: B images, H x W pixels, h x w tokens, N = h * w, D channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, pad, pixel_shuffle, relu

from .config import DUSt3RConfig

NUM_CHANNELS = 4
"""Output channels: x, y, z and confidence."""
STRIP_NUMBERS = 1 << 20
"""Elements of the enlarged feature map that are processed at a time on a CPU."""


class LinearHead(nn.Module):
    """One linear layer to patch_size^2 pixels per token."""

    def __init__(self, config: DUSt3RConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.layers = (config.dec_depth,)
        self.proj = nn.Linear(config.dec_embed_dim, NUM_CHANNELS * config.patch_size**2)

    def finest(self, features: Tensor, grid: tuple[int, int]) -> None:
        """None: no part of this head depends on the encoder features alone."""

    def forward(self, tokens: dict[int, Tensor], grid: tuple[int, int], finest: None = None) -> Tensor:
        """``tokens[dec_depth]`` (B, N, D) -> (B, 4, H, W)."""
        x = self.proj(tokens[self.layers[0]]).transpose(1, 2).unflatten(-1, grid)
        return pixel_shuffle(x, self.patch_size)


class ResidualConvUnit(nn.Module):
    """ReLU, convolution, ReLU, convolution, plus the input."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(relu(self.conv1(relu(x)), inplace=True))


class FusionBlock(nn.Module):
    """Adds a finer level to the result of the coarser levels and doubles the resolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(dim, dim, 1)
        self.resConfUnit1 = ResidualConvUnit(dim)  # noqa: N815, the checkpoint's name
        self.resConfUnit2 = ResidualConvUnit(dim)  # noqa: N815

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """(B, D, H, W) -> (B, D, 2H, 2W).

        Args:
            skip: (B, D, H, W) finer level, already processed by :attr:`resConfUnit1`; None in the coarsest block.
        """
        if skip is not None:
            x = x + skip
        # A 1x1 convolution commutes with bilinear interpolation; before the upsampling it costs a quarter.
        return _double(_channels_last(self.out_conv(self.resConfUnit2(x))))


class _Scratch(nn.Module):
    """Holds the layers under the names of the checkpoint (``scratch.layer1_rn`` ... ``scratch.refinenet4``)."""

    def __init__(self, layer_dims: tuple[int, ...], dim: int) -> None:
        super().__init__()
        for level, layer_dim in enumerate(layer_dims, start=1):
            self.add_module(f"layer{level}_rn", nn.Conv2d(layer_dim, dim, 3, padding=1, bias=False))
            self.add_module(f"refinenet{level}", FusionBlock(dim))


class DPTCore(nn.Module):
    """Reassembles the tokens of four layers to feature maps and fuses these from coarse to fine."""

    def __init__(self, config: DUSt3RConfig) -> None:
        super().__init__()
        depth, dims = config.dec_depth, config.dpt_layer_dims
        self.layers = (0, depth // 2, 3 * depth // 4, depth)
        in_dims = (config.enc_embed_dim, *(config.dec_embed_dim,) * 3)
        self.act_postprocess = nn.ModuleList(
            nn.Sequential(nn.Conv2d(in_dim, dim, 1), *resample)
            for in_dim, dim, resample in zip(
                in_dims,
                dims,
                (
                    [nn.ConvTranspose2d(dims[0], dims[0], 4, stride=4)],
                    [nn.ConvTranspose2d(dims[1], dims[1], 2, stride=2)],
                    [],
                    [nn.Conv2d(dims[3], dims[3], 3, stride=2, padding=1)],
                ),
            )
        )
        dim, last = config.dpt_feature_dim, config.dpt_last_dim
        self.scratch = _Scratch(dims, dim)
        self.head = nn.Sequential(
            nn.Conv2d(dim, dim // 2, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Conv2d(dim // 2, last, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(last, NUM_CHANNELS, 1),
        )

    def forward(self, tokens: dict[int, Tensor], grid: tuple[int, int], finest: Tensor | None = None) -> Tensor:
        """Raw output (B, 4, H, W).

        Args:
            tokens: (B, N, D) by layer: 0 for the encoder, and three decoder layers.
            finest: the result of :meth:`finest`, if it is already computed; ``tokens[0]`` is not needed then.
        """
        path = self.scratch.refinenet4(self._level(3, tokens[self.layers[3]], grid))
        path = self.scratch.refinenet3(path[..., : grid[0], : grid[1]], self._skip(2, tokens[self.layers[2]], grid))
        path = self.scratch.refinenet2(path, self._skip(1, tokens[self.layers[1]], grid))
        finest = self.finest(tokens[0], grid) if finest is None else finest
        return self._enlarge(self.head[0](self.scratch.refinenet1(path, finest)))

    def finest(self, features: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, D) encoder features -> (B, dpt_feature_dim, 4h, 4w), the finest level of the fusion.

        It takes a fifth of the head's operations and is the same in all pairs of a frame.
        """
        return self._skip(0, features, grid)

    def _level(self, level: int, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        x = self.act_postprocess[level](tokens.transpose(1, 2).unflatten(-1, grid))
        return getattr(self.scratch, f"layer{level + 1}_rn")(_channels_last(x))

    def _skip(self, level: int, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        fusion = getattr(self.scratch, f"refinenet{level + 1}")
        return fusion.resConfUnit1(self._level(level, tokens, grid))

    def _enlarge(self, path: Tensor) -> Tensor:
        """Apply ``self.head[1:]`` to (B, D, H/2, W/2); after the upsampling, a CPU processes strips of rows.

        The intermediate results of a strip fit the processor's cache and hardly add to the peak memory of a run.
        """
        _, double, second, activation, last = self.head
        x = double(path)
        height = x.shape[-2]
        rows = height if x.device.type != "cpu" else max(1, STRIP_NUMBERS // x[..., 0, :].numel())
        strips = []
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            above, below = int(top > 0), int(bottom < height)
            strip = pad(x[..., top - above : bottom + below, :], (0, 0, 1 - above, 1 - below))
            strips.append(last(activation(conv2d(strip, second.weight, second.bias, padding=(0, 1)))))
        return torch.cat(strips, dim=-2)


class DPTHead(nn.Module):
    """Dense prediction transformer head over the tokens of four layers."""

    def __init__(self, config: DUSt3RConfig) -> None:
        super().__init__()
        if config.patch_size != 16:
            raise ValueError(f"patch_size {config.patch_size}: the DPT head enlarges tokens exactly 16 times")
        self.dpt = DPTCore(config)
        self.layers = self.dpt.layers

    def finest(self, features: Tensor, grid: tuple[int, int]) -> Tensor:
        """See :meth:`DPTCore.finest`."""
        return self.dpt.finest(features, grid)

    def forward(self, tokens: dict[int, Tensor], grid: tuple[int, int], finest: Tensor | None = None) -> Tensor:
        """See :meth:`DPTCore.forward`."""
        return self.dpt(tokens, grid, finest)


def postprocess(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Points and confidence from the raw output (B, 4, H, W) of a head.

    Returns:
        (B, H, W, 3) points: the first three channels, their norm n mapped to exp(n) - 1; and the (B, H, W) confidence,
        1 + exp of the last channel.
    """
    xyz, conf = raw[:, :3].permute(0, 2, 3, 1), raw[:, 3]
    norm = xyz.norm(dim=-1, keepdim=True)
    return xyz / norm.clip(min=1e-8) * torch.expm1(norm), 1 + conf.exp()


def _channels_last(x: Tensor) -> Tensor:
    """The memory layout in which convolutions and interpolation are fastest.

    3x3 convolutions preserve it; others may not.
    """
    return x.contiguous(memory_format=torch.channels_last)


def _double(x: Tensor) -> Tensor:
    return interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
