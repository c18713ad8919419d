"""Rendered training data: a pool of scenes that is renewed while the training runs, and batches of view pairs.

Letters in shapes: B pairs, V views of a scene, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .scenes import RenderCameras, SceneOptions, focal_from_fov, make_scene, render, training_views
from .scenes.cameras import HFOV_DEGREES


@dataclass(frozen=True)
class Views:
    """V views of each of S static scenes."""

    images: Tensor
    """(S, V, H, W, 3) uint8."""
    depth: Tensor
    """(S, V, H, W) float32 z-depth in metres."""
    T_world_cam: Tensor
    """(S, V, 4, 4) float32."""
    focal: Tensor
    """(S, V) pixels."""
    overlap: Tensor
    """(S, V, V) share of the pixels of the first view that the second sees."""


@dataclass(frozen=True)
class PairBatch:
    """B pairs of views; every geometric quantity is in the camera frame of the view it names."""

    images: Tensor
    """(2, B, 3, H, W) in [-1, 1]; entry 0 is view i."""
    points: Tensor
    """(2, B, H, W, 3) points of view v in camera v, metres."""
    T_i_j: Tensor
    """(B, 4, 4) camera j to camera i."""
    focal: Tensor
    """(2, B) pixels."""


def render_views(seeds: list[int], shape: tuple[int, int], num_views: int, family: str, device: str) -> Views:
    """Render static scenes; a seed always gives the same views."""
    scenes, poses, focals = [], [], []
    for seed in seeds:
        rs = np.random.RandomState([seed % 2**32, 11])
        scenes.append(make_scene(seed, SceneOptions(family)))
        poses.append(training_views(scenes[-1], num_views, rs))
        focals.append(np.full(num_views, focal_from_fov(rs.uniform(*HFOV_DEGREES), *shape)))
    cameras = RenderCameras(np.stack(poses), np.stack(focals), np.zeros((len(seeds), num_views)), *shape)
    shot = render(scenes, cameras, device=device)
    T = torch.as_tensor(cameras.T_world_cam, dtype=torch.float32, device=device)
    focal = torch.as_tensor(cameras.focal, dtype=torch.float32, device=device)
    images = (shot.colour * 255).round().to(torch.uint8)
    return Views(images, shot.depth, T, focal, pairwise_overlap(shot.depth, T, focal))


def camera_points(depth: Tensor, focal: Tensor) -> Tensor:
    """(..., H, W) z-depth and (...,) focal -> (..., H, W, 3) points in the camera; principal point at the centre."""
    height, width = depth.shape[-2:]
    y = torch.arange(height, device=depth.device) - (height - 1) / 2
    x = torch.arange(width, device=depth.device) - (width - 1) / 2
    inverse = 1 / focal[..., None, None]
    return torch.stack([x * inverse * depth, y[:, None] * inverse * depth, depth], dim=-1)


def move(T: Tensor, points: Tensor) -> Tensor:
    """(..., 4, 4) and (..., H, W, 3) -> (..., H, W, 3)."""
    rotated = points.flatten(-3, -2) @ T[..., :3, :3].transpose(-1, -2) + T[..., None, :3, 3]
    return rotated.reshape(points.shape)


def invert(T: Tensor) -> Tensor:
    """Inverse of rigid (..., 4, 4)."""
    result = torch.zeros_like(T)
    R = T[..., :3, :3].transpose(-1, -2)
    result[..., :3, :3], result[..., 3, 3] = R, 1
    result[..., :3, 3] = -(R @ T[..., :3, 3:])[..., 0]
    return result


def look_up(points: Tensor, depth: Tensor, focal: Tensor, tolerance: float = 0.05) -> tuple[Tensor, Tensor]:
    """Points in a camera's frame, (B, N, 3), against its depth map (B, H, W).

    Returns (B, N) index of the nearest pixel (0 outside) and (B, N) bool: inside the image and not hidden.
    """
    height, width = depth.shape[-2:]
    z = points[..., 2].clamp_min(1e-6)
    x = (points[..., 0] / z * focal[:, None] + (width - 1) / 2).round()
    y = (points[..., 1] / z * focal[:, None] + (height - 1) / 2).round()
    inside = (points[..., 2] > 0.05) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = torch.where(inside, y * width + x, 0).long()
    seen = depth.flatten(1).gather(1, index)
    return index, inside & ((seen - z).abs() < tolerance * z)


def pairwise_overlap(depth: Tensor, T_world_cam: Tensor, focal: Tensor, stride: int = 5) -> Tensor:
    """(S, V, H, W) depth -> (S, V, V) share of the (sub-sampled) pixels of view a that view b sees."""
    S, V = depth.shape[:2]
    points = camera_points(depth, focal)[:, :, stride // 2 :: stride, stride // 2 :: stride]
    relative = invert(T_world_cam)[:, None] @ T_world_cam[:, :, None]  # [s, a, b]: camera a to camera b
    moved = move(relative.flatten(0, 2), points[:, :, None].expand(-1, -1, V, -1, -1, -1).flatten(0, 2))
    target = depth[:, None].expand(-1, V, -1, -1, -1).flatten(0, 2)
    seen = look_up(moved.flatten(1, 2), target, focal[:, None].expand(-1, V, -1).flatten())[1]
    return seen.float().mean(1).reshape(S, V, V)


class ScenePool:
    """The newest scenes of one image shape. Scene n of the pool has a seed that depends on n alone."""

    def __init__(self, shape: tuple[int, int], capacity: int, views: int, first_seed: int, device: str) -> None:
        self.shape, self.capacity, self.views, self.device = shape, capacity, views, device
        self.first_seed = first_seed
        self.chunk = min(capacity, 4 if device == "cpu" else 32)
        """Scenes rendered together."""
        self.count = 0
        """Scenes rendered since the beginning."""
        self._data: Views | None = None

    def grow(self, number: int) -> None:
        """Render ``number`` more scenes, in the place of the oldest when the pool is full."""
        while number > 0:
            size = min(self.chunk, number)
            seeds = [(self.first_seed + self.count + k) % 2**32 for k in range(size)]
            fresh = render_views(seeds, self.shape, self.views, "train", self.device)
            if self._data is None:
                self._data = Views(
                    *(
                        torch.empty((self.capacity, *x.shape[1:]), dtype=x.dtype, device=x.device)
                        for x in vars(fresh).values()
                    )
                )
            slots = torch.arange(self.count, self.count + size, device=fresh.depth.device) % self.capacity
            for target, source in zip(vars(self._data).values(), vars(fresh).values(), strict=True):
                target[slots] = source
            self.count += size
            number -= size

    def restore(self, count: int) -> None:
        """Bring the pool to the state that it had after ``count`` scenes."""
        self.count = max(0, count - self.capacity)
        self.grow(count - self.count)

    def sample(self, number: int, min_overlap: float, generator: torch.Generator) -> PairBatch:
        """``number`` pairs with at least this mutual overlap (of the pairs with most overlap where none reaches it)."""
        data, filled = self._data, min(self.count, self.capacity)
        draw = torch.rand(number, generator=generator)
        scene = (draw * filled).long().to(data.depth.device)
        overlap = data.overlap[scene]
        mutual = torch.minimum(overlap, overlap.transpose(1, 2)).flatten(1)
        diagonal = torch.eye(self.views, dtype=torch.bool, device=mutual.device).flatten()
        mutual = torch.where(diagonal, -1.0, mutual)
        lottery = torch.rand(mutual.shape, generator=generator).to(mutual.device)
        choice = torch.where(mutual >= min_overlap, 1 + lottery, mutual).argmax(1)
        return make_pairs(data, scene, choice // self.views, choice % self.views)


def make_pairs(data: Views, scene: Tensor, i: Tensor, j: Tensor) -> PairBatch:
    """Select (B,) pairs of views."""
    images = torch.stack([data.images[scene, i], data.images[scene, j]]).permute(0, 1, 4, 2, 3)
    focal = torch.stack([data.focal[scene, i], data.focal[scene, j]])
    depth = torch.stack([data.depth[scene, i], data.depth[scene, j]])
    T_i_j = invert(data.T_world_cam[scene, i]) @ data.T_world_cam[scene, j]
    return PairBatch(images.float() / 127.5 - 1, camera_points(depth, focal), T_i_j, focal)


def augment(batch: PairBatch, generator: torch.Generator) -> PairBatch:
    """Mirror, permute channels, change gain and gamma, add noise: per pair, with small differences between views."""
    count, device = batch.images.shape[1], batch.images.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return (low + (high - low) * torch.rand(shape, generator=generator)).to(device)

    image = batch.images * 0.5 + 0.5
    order = torch.rand(count, 3, generator=generator).argsort(1).to(device)
    image = image.gather(2, order[None, :, :, None, None].expand_as(image))
    gain = uniform(0.75, 1.2, 1, count, 3, 1, 1) * uniform(0.93, 1.07, 2, count, 1, 1, 1)
    image = (image * gain).clamp(0, 1) ** uniform(0.75, 1.35, 1, count, 1, 1, 1)
    noise = torch.randn(image.shape, generator=generator if device.type == "cpu" else None, device=device)
    image = (image + uniform(0, 0.02, 1, count, 1, 1, 1) * noise).clamp(0, 1)
    mirror = uniform(0, 1, count) < 0.5
    image = torch.where(mirror[:, None, None, None], image.flip(-1), image)
    flipped = batch.points.flip(-2) * batch.points.new_tensor([-1.0, 1.0, 1.0])
    points = torch.where(mirror[:, None, None, None], flipped, batch.points)
    S = torch.diag(batch.T_i_j.new_tensor([-1.0, 1.0, 1.0, 1.0]))
    T_i_j = torch.where(mirror[:, None, None], S @ batch.T_i_j @ S, batch.T_i_j)
    return PairBatch(image * 2 - 1, points, T_i_j, batch.focal)


def both_orders(batch: PairBatch) -> PairBatch:
    """(i, j) followed by (j, i): 2 B pairs."""
    swap = lambda x: torch.cat([x, x.flip(0)], dim=1)  # noqa: E731
    return PairBatch(
        swap(batch.images), swap(batch.points), torch.cat([batch.T_i_j, invert(batch.T_i_j)]), swap(batch.focal)
    )
