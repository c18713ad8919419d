"""A rendered closed path and a network that drifts along it, for the tests and the bench of long clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from easi3r_ns.core.geometry import project, transform
from easi3r_ns.core.types import Frames, PixelMap
from easi3r_ns.network.blocks import Silence
from easi3r_ns.network.config import DUSt3RConfig
from easi3r_ns.network.model import PairOutput
from easi3r_ns.training.scenes import Clip
from easi3r_ns.training.scenes.cameras import focal_from_fov, look_at
from easi3r_ns.training.scenes.clips import ClipOptions, film
from easi3r_ns.training.scenes.scene import SceneOptions, make_scene
from tests.support.standin import StandIn

NETWORK = DUSt3RConfig(image_size=64, patch_size=8, head_type="linear")
SIZE = (48, 64)
WAVES = 8
"""Spatial patterns that the features of a picture are made of."""
LEAST_SHARED = 0.3
"""Of a frame's pixels, below which this network knows nothing about a pair."""


def closed_clip(num_frames: int, size: tuple[int, int] = SIZE, seed: int = 24, turns: float = 1.0) -> Clip:
    """Around the middle of a room with a thing that moves; the last frame stands where the first does."""
    times = np.arange(num_frames) / 12.0
    scene = make_scene(seed, SceneOptions("held_out", 1, float(times[-1]), open_ground=False))
    radius = 0.75 * float(scene.room_half[:2].min())
    angle = turns * np.linspace(0, 2 * np.pi, num_frames)
    places = np.stack([radius * np.cos(angle), radius * np.sin(angle), 1.4 + 0.2 * np.sin(2 * angle)], axis=1)
    poses = np.stack([look_at(place, np.array([0.0, 0.0, 0.8])) for place in places])
    focal = focal_from_fov(60.0, *size)
    return film(scene, scene.mover_ids, poses, focal, size, times, ClipOptions(noise=0.5))


def frames_of(clip: Clip) -> Frames:
    """The clip at its own size, as a source would give it."""
    count, height, width = clip.depth.shape
    return Frames(
        images=clip.images,
        pixel_map=PixelMap((width, height), (width, height), (0, 0, width, height)),
        times=clip.times,
        indices=np.arange(count),
        names=("clip.mp4",) * count,
        source_paths=tuple(Path(f"frame_{k:05d}.png") for k in range(count)),
        num_source_frames=count,
    )


def drifting(T: np.ndarray, turn: float, growth: float) -> tuple[np.ndarray, np.ndarray]:
    """The path as a reconstruction sees it that errs by ``turn`` radians and ``growth`` (log-scale) in every step.

    Returns (F, 4, 4) cameras and (F,) the scale of what each of them sees.
    """
    out, scales = T.copy(), np.exp(growth * np.arange(len(T)))
    error = Rotation.from_rotvec([0.3 * turn, turn, 0.2 * turn]).as_matrix()
    for f in range(1, len(T)):
        step = np.linalg.inv(T[f - 1]) @ T[f]
        step[:3, :3] = step[:3, :3] @ error
        step[:3, 3] *= scales[f - 1]
        out[f] = out[f - 1] @ step
    return out, scales


class LongStandIn(StandIn):
    """Describes pictures by what they show, so that a place is known again, and errs a little between near frames."""

    def __init__(
        self,
        clip: Clip,
        config: DUSt3RConfig = NETWORK,
        *,
        turn: float = 0.0,
        growth: float = 0.0,
        noise: float = 0.003,
    ) -> None:
        super().__init__(clip, frames_of(clip).pixel_map, config, noise)
        self.path, self.scales = drifting(self.T_world_cam, turn, growth)
        self.reach, self.focal = 12, clip.focal

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        features = super().encode(images)
        patch = self.config.patch_size
        grey = torch.nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), patch).flatten(1)
        rows, cols = torch.meshgrid(*(torch.linspace(0, 1, side // patch) for side in images.shape[2:]), indexing="ij")
        k = torch.arange(1, WAVES + 1)[:, None]
        waves = torch.cat([torch.cos(3 * k * rows.flatten()), torch.cos(3 * k * cols.flatten())])
        features[..., 8 : 8 + len(waves)] = grey[..., None] * waves.T
        return features

    def decode(
        self,
        features_i: torch.Tensor,
        features_j: torch.Tensor,
        grid: tuple[int, int],
        silence: Silence | None = None,
    ) -> PairOutput:
        """Frames that share nothing give a guess, without confidence."""
        output = super().decode(features_i, features_j, grid, silence)
        for row, (i, j) in enumerate(zip(self._frames(features_i), self._frames(features_j))):
            if abs(i - j) > self.reach and min(self.shared(i, j), self.shared(j, i)) < LEAST_SHARED:
                output.points_j[row] = output.points_i[row] * torch.tensor([-1.0, 0.7, 1.2])
                output.conf_i[row] = output.conf_j[row] = 1.05
        return output

    def shared(self, i: int, j: int) -> float:
        """Share of frame j's pixels whose place frame i sees."""
        local = transform(np.linalg.inv(self.T_world_cam[i]) @ self.T_world_cam[j], self.points[j]).reshape(-1, 3)
        height, width = self.points.shape[1:3]
        u, v = np.round(project(local, self.focal, self.focal, (width - 1) / 2, (height - 1) / 2)).T
        inside = (local[:, 2] > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        seen = self.points[i][v[inside].astype(int), u[inside].astype(int), 2]
        return float((np.abs(seen / local[inside, 2] - 1) < 0.1).sum() / len(local))

    def relative_pose(self, i: int, j: int, silenced: list[torch.Tensor] | None) -> np.ndarray:
        """Drifted for near frames; what frames far apart in time share shows how they stand to each other."""
        if abs(i - j) > self.reach:
            return super().relative_pose(i, j, silenced)
        T = np.linalg.inv(self.path[i]) @ self.path[j]
        T[:3, :3] *= self.scales[j] / self.scales[i]
        T[:3, 3] /= self.scales[i]
        return T
