"""A rendered clip as the perfect Scene, and the distance of points to its true static surface."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from scipy.spatial import cKDTree

from easi3r_ns.core.geometry import project, transform
from easi3r_ns.core.scene import Scene, SparsePoints
from easi3r_ns.core.types import DynamicMasks, PixelMap
from easi3r_ns.training.scenes import Clip, ClipOptions, render_clip


def perfect_scene(clip: Clip, folder: Path, noise: float = 0.0) -> Scene:
    """The clip's own truth as a Scene without a crop; ``noise`` is relative to the depth. Writes the images."""
    folder.mkdir(parents=True, exist_ok=True)
    n, height, width = clip.depth.shape
    paths = [folder / f"frame_{k + 1:05d}.png" for k in range(n)]
    for path, image in zip(paths, clip.images):
        cv2.imwrite(str(path), image[..., ::-1])
    factor = 1 + noise * np.random.default_rng(0).standard_normal(clip.depth.shape)
    return Scene(
        images=clip.images,
        T_world_cam=clip.T_world_cam,
        focals=np.full(n, clip.focal),
        principal_point=clip.principal_point,
        depth=(clip.depth * factor).astype(np.float32),
        confidence=np.full(clip.depth.shape, 3.0, dtype=np.float32),
        dynamic=DynamicMasks(clip.moving, np.zeros((n, 4, 4), dtype=np.float32), 0.5),
        pixel_map=PixelMap((width, height), (width, height), (0, 0, width, height)),
        times=clip.times,
        indices=np.arange(n),
        names=("clip.mp4",) * n,
        source_paths=tuple(paths),
    )


def sharp_clip(seed: int, num_frames: int, height: int, width: int) -> Clip:
    """Without blur and noise in the colours."""
    return render_clip(seed, num_frames, height, width, options=ClipOptions(noise=0.0, blur=0.0))


class TrueSurface:
    """What the clip shows, as dense points: render it finer than what is measured."""

    def __init__(self, clip: Clip) -> None:
        frames = range(len(clip))
        self.static = np.concatenate([clip.points(f)[~clip.moving[f]] for f in frames])
        self.colors = np.concatenate([clip.images[f][~clip.moving[f]] for f in frames])
        self.centre = clip.T_world_cam[:, :3, 3].mean(axis=0)
        moving = [clip.points(f)[clip.moving[f]] for f in frames]
        self.moving = cKDTree(np.concatenate(moving)) if any(map(len, moving)) else None
        self.tree = cKDTree(self.static)

    def distances(self, points: np.ndarray) -> np.ndarray:
        """(N,) from points to the nearest true static point."""
        return self.tree.query(points)[0]

    def completeness(self, points: np.ndarray, stride: int = 7) -> np.ndarray:
        """(M,) from a part of the true static points to the nearest given point."""
        return cKDTree(points).query(self.static[::stride])[0]


def from_dataset_world(points: np.ndarray, applied_transform: np.ndarray) -> np.ndarray:
    """Undo the (4, 4) ``applied_transform`` of transforms.json."""
    return transform(np.linalg.inv(applied_transform), points)


def true_points(clip: Clip, per_frame: int = 200, seed: int = 0) -> SparsePoints:
    """Points of what stands still, seen by every frame that shows them: what mapping would find."""
    rng = np.random.default_rng(seed)
    n, height, width = clip.depth.shape
    places = [rng.choice(np.flatnonzero(~clip.moving[f]), per_frame) for f in range(n)]
    points = np.concatenate([clip.points(f).reshape(-1, 3)[at] for f, at in enumerate(places)])
    colors = np.concatenate([clip.images[f].reshape(-1, 3)[at] for f, at in enumerate(places)])
    seen = []
    for frame in range(n):
        local = transform(np.linalg.inv(clip.T_world_cam[frame]), points)
        xy = project(local, clip.focal, clip.focal, *clip.principal_point)
        column, row = np.rint(xy).astype(int).T
        inside = (local[:, 2] > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        index = np.flatnonzero(inside)
        row, column = row[index], column[index]
        shown = np.abs(clip.depth[frame][row, column] - local[index, 2]) < 0.02 * local[index, 2]
        index = index[shown & ~clip.moving[frame][row, column]]
        seen.append((index, np.full(len(index), frame), xy[index] + 0.5))
    index, frames, pixels = (np.concatenate(column) for column in zip(*seen, strict=True))
    return SparsePoints(points, colors, np.zeros(len(points)), index, frames, pixels)
