"""A backbone that answers with the truth of a rendered clip plus noise: tests everything around a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from easi3r_ns.core.geometry import (
    focal_from_source,
    image_centre_in_network,
    network_to_source,
    pixel_grid,
    transform,
)
from easi3r_ns.core.types import PixelMap
from easi3r_ns.network.backbone import DUSt3RBackbone
from easi3r_ns.network.blocks import Silence
from easi3r_ns.network.config import DUSt3RConfig
from easi3r_ns.network.model import PairAttention, PairOutput, Start
from easi3r_ns.network.sources import WeightsSource
from easi3r_ns.network.weights import WeightsInfo
from easi3r_ns.training.scenes import Clip

CHANNELS = 6


class StandIn(DUSt3RBackbone):
    """Plays ``Backbone`` and the network: frame k is recognised by the order of encoding."""

    def __init__(self, clip: Clip, pixel_map: PixelMap, config: DUSt3RConfig, noise: float = 0.003) -> None:
        source = WeightsSource("stand-in", Path("none"), None, "Apache-2.0")
        self.info = WeightsInfo("stand-in", source, "Apache-2.0", False, "0" * 64, config, 0)
        self.config, self.noise = config, noise
        self.encoded = 0
        self.silenced: list[Silence] = []
        width, height = pixel_map.network_wh
        xy = network_to_source(pixel_grid(height, width), pixel_map) - 0.5
        rows = np.clip(np.round(xy[..., 1]).astype(int), 0, clip.depth.shape[1] - 1)
        cols = np.clip(np.round(xy[..., 0]).astype(int), 0, clip.depth.shape[2] - 1)
        depth = clip.depth[:, rows, cols].astype(float)
        self.moving = clip.moving[:, rows, cols]
        self.images = clip.images[:, rows, cols]
        # Rays of the exact lens; a resize that rounds stretches x and y differently.
        focal = np.array([focal_from_source(clip.focal, pixel_map), clip.focal * pixel_map.scale_xy[1]])
        rays = (pixel_grid(height, width) - image_centre_in_network(pixel_map)) / focal
        rays = np.concatenate([rays, np.ones_like(rays[..., :1])], axis=-1)
        self.points = rays * depth[..., None]
        self.T_world_cam = clip.T_world_cam

    def encoder(self) -> StandIn:
        return self

    decoder = encoder

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        return height // self.config.patch_size, width // self.config.patch_size

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Features: frame number, then mean colour of the token, then whether it moves (so that k-means can tell)."""
        patch = self.config.patch_size
        rows = range(self.encoded, self.encoded + len(images))
        self.encoded += len(images)
        colour = torch.nn.functional.avg_pool2d(images, patch).flatten(2).transpose(1, 2)
        moving = torch.stack([self._tokens(row) for row in rows])[..., None].float()
        number = torch.tensor(rows)[:, None, None].expand(-1, colour.shape[1], 1)
        features = torch.cat([number * 1e-3, colour * 0.1, moving * 3], dim=-1)
        return torch.nn.functional.pad(features, (0, self.config.enc_embed_dim - features.shape[-1]))

    def start(self, features: torch.Tensor, grid: tuple[int, int], view: int, *, heads: bool = True) -> Start:
        return Start(features, features, None)

    def attention_from(self, starts: tuple[Start, Start], grid: tuple[int, int]) -> PairAttention:
        return self.attention(starts[0].memory, starts[1].memory, grid)

    def decode_from(
        self, starts: tuple[Start, Start], grid: tuple[int, int], silence: Silence | None = None
    ) -> PairOutput:
        return self.decode(starts[0].memory, starts[1].memory, grid, silence)

    def attention(self, features_i: torch.Tensor, features_j: torch.Tensor, grid: tuple[int, int]) -> PairAttention:
        """Logits with the paper's signs: moving keys are low and unsteady as source, high and steady as reference."""
        on_j, on_i = [], []
        for i, j in zip(self._frames(features_i), self._frames(features_j)):
            rng = np.random.default_rng([i, j])
            moves_j, moves_i = (self._tokens(f).numpy().reshape(*grid, 1) for f in (j, i))
            shape = (*grid, CHANNELS)
            on_j.append(np.where(moves_j, rng.normal(0, 1.0, shape), rng.normal(3, 0.1, shape)))
            on_i.append(np.where(moves_i, rng.normal(3, 0.1, shape), rng.normal(0, 1.0, shape)))
        return PairAttention(*(torch.from_numpy(np.stack(m).astype(np.float32)) for m in (on_j, on_i)))

    def decode(
        self,
        features_i: torch.Tensor,
        features_j: torch.Tensor,
        grid: tuple[int, int],
        silence: Silence | None = None,
    ) -> PairOutput:
        if silence is not None:
            self.silenced.append(silence)
        outputs = []
        for row, (i, j) in enumerate(zip(self._frames(features_i), self._frames(features_j))):
            rng = np.random.default_rng([i, j, 1])
            silenced = None if silence is None else [silence.query_dynamic[row], silence.key_dynamic[row]]
            T_i_j = self.relative_pose(i, j, silenced)
            scale = rng.uniform(0.5, 2.0)
            views = [self.points[i], transform(T_i_j, self.points[j])]
            outputs.append([scale * v * (1 + self.noise * rng.standard_normal((*v.shape[:2], 1))) for v in views])
        points_i, points_j = (torch.from_numpy(np.stack(v).astype(np.float32)) for v in zip(*outputs))
        conf = torch.full(points_i.shape[:3], 5.0)
        return PairOutput(points_i, conf, points_j, conf.clone(), self.attention(features_i, features_j, grid))

    def relative_pose(self, i: int, j: int, silenced: list[torch.Tensor] | None) -> np.ndarray:
        """(4, 4) camera j to camera i, as this network sees it; ``silenced``: (N,) bool tokens of i and of j."""
        return np.linalg.inv(self.T_world_cam[i]) @ self.T_world_cam[j]

    def _frames(self, features: torch.Tensor) -> list[int]:
        return [round(1e3 * float(f[0, 0])) for f in features]

    def _tokens(self, frame: int) -> torch.Tensor:
        patch = self.config.patch_size
        mask = torch.from_numpy(self.moving[frame])[None, None].float()
        return torch.nn.functional.avg_pool2d(mask, patch).flatten() > 0.3
