"""Point clouds of a scene for the viewer: one of the static points of all frames, one of each frame's moving points."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import zoom

from ..core.geometry import Z_UP_FROM_OPENCV_WORLD, transform
from ..core.objects import object_colours
from ..core.scene import Scene
from ..core.surface import grow_mask, shown_depth, shown_moving, solid_pixels, world_points
from ..core.voxels import fit_voxels
from .config import ViewConfig

MASK_GROWTH = 3.0
"""Network pixels around the masks that are left out of the static cloud: masks often miss the edge of an object."""
MAX_ALL_MOVING = 2_000_000
"""Most moving points of all frames together (30 MB)."""

_CANDIDATES_PER_POINT = 5
_FAR_QUANTILE = 0.75
"""A cloud's spacing is taken at this quantile of the depths: nearer points overlap, farther ones leave gaps."""
_MAX_CELLS = 2**21 - 1
"""Voxels along an axis, so that three indices fit into 63 bits."""
_WORKERS = 4


@dataclass(frozen=True)
class Cloud:
    """N points in the world of ``transforms.json`` (z up), with what the colour modes and sliders need."""

    points: np.ndarray
    """(N, 3) float32 scene units."""
    colors: np.ndarray
    """(N, 3) uint8 RGB of the photos."""
    confidence: np.ndarray
    """(N,) float32; of triangulated points the number of frames that see them."""
    score: np.ndarray
    """(N,) float32 dynamic score in [0, 1]."""
    spacing: float
    """Typical distance between neighbouring points in scene units."""
    marks: np.ndarray | None = None
    """(N, 3) uint8 RGB that tells several objects apart; None: there is one, or none."""

    def __len__(self) -> int:
        return len(self.points)

    def above(self, min_confidence: float) -> Cloud:
        """The points with at least this confidence."""
        keep = self.confidence >= min_confidence
        if keep.all():
            return self
        marks = None if self.marks is None else self.marks[keep]
        values = (self.points[keep], self.colors[keep], self.confidence[keep], self.score[keep])
        return Cloud(*values, self.spacing, marks)


@dataclass(frozen=True)
class Clouds:
    """All point clouds of a scene."""

    static: Cloud
    moving: tuple[Cloud, ...]
    """One per frame; empty where nothing moves or nothing that moves has a depth."""
    assumed: bool = False
    """Whether points that move have an assumed depth; their confidence is 0."""

    @property
    def num_points(self) -> int:
        """Static and moving points together."""
        return len(self.static) + sum(len(cloud) for cloud in self.moving)

    def confidence_range(self) -> tuple[float, float]:
        """Lowest confidence of all points, and their 98 % quantile."""
        values = np.concatenate([cloud.confidence for cloud in (self.static, *self.moving)])
        if not len(values):
            return 0.0, 0.0
        return float(values.min()), float(np.quantile(values, 0.98))


def build_clouds(scene: Scene, config: ViewConfig, advance: Callable[[int], None] = lambda steps: None) -> Clouds:
    """Point clouds of a scene, of at most the sizes in ``config``; ``advance`` is called after every frame.

    The points are those of the dataset: trusted depths away from depth edges, and assumed ones of what moves. A scene
    without depth gives its triangulated points as the static cloud and no moving points; without either, all clouds
    are empty.
    """
    if not scene.has_depth:
        return Clouds(_sparse_cloud(scene), (_empty(),) * len(scene))
    stride = _stride(scene, config.max_static_points)
    per_frame = max(1, min(config.max_moving_points, MAX_ALL_MOVING // len(scene)))

    def one(frame: int) -> tuple[Cloud, Cloud]:
        solid = solid_pixels(scene, frame)
        moving = scene.dynamic.masks[frame]
        static = solid & ~grow_mask(moving, MASK_GROWTH) & _lattice(moving.shape, stride, frame)
        whole = _frame_cloud(scene, frame)
        return whole(static, stride), thin(whole(shown_moving(scene, frame), 1), per_frame)

    pairs = []
    with ThreadPoolExecutor(_WORKERS) as pool:
        for pair in pool.map(one, range(len(scene))):
            pairs.append(pair)
            advance(1)
    static = thin(_join([static for static, _ in pairs]), config.max_static_points)
    static = static if scene.has_measured_depth else _sparse_cloud(scene)
    return Clouds(static, tuple(moving for _, moving in pairs), assumed=scene.assumed_depth is not None)


def thin(cloud: Cloud, max_points: int) -> Cloud:
    """At most ``max_points`` points: averages of positions, colours, confidences and scores over cubic voxels."""
    if len(cloud) <= max_points:
        return cloud
    centred = cloud.points - np.median(cloud.points, axis=0)
    size, (labels, count) = fit_voxels(centred, max_points, lambda s: voxel_labels(centred, s), lambda found: found[1])
    members = np.bincount(labels, minlength=count)

    def mean(values: np.ndarray) -> np.ndarray:
        columns = values.reshape(len(values), -1).T
        means = np.stack([np.bincount(labels, column, count) / members for column in columns], axis=-1)
        return means.reshape(count, *values.shape[1:]).astype(np.float32)

    return Cloud(
        points=mean(cloud.points),
        colors=np.rint(mean(cloud.colors)).astype(np.uint8),
        confidence=mean(cloud.confidence),
        score=mean(cloud.score),
        spacing=float(max(size, cloud.spacing)),
        marks=None if cloud.marks is None else np.rint(mean(cloud.marks)).astype(np.uint8),
    )


def voxel_labels(points: np.ndarray, size: float) -> tuple[np.ndarray, int]:
    """(N,) index of the voxel that each of (N, 3) points falls into, and the number of filled voxels, which it counts.

    One voxel has its centre at the origin. Coordinates beyond 2^20 voxels are clipped.
    """
    cells = np.rint(points / size) + _MAX_CELLS // 2
    i, j, k = np.clip(cells, 0, _MAX_CELLS).astype(np.int64).T
    filled, labels = np.unique((i << 42) | (j << 21) | k, return_inverse=True)
    return labels, len(filled)


def _frame_cloud(scene: Scene, frame: int) -> Callable[[np.ndarray, int], Cloud]:
    """A function that makes the cloud of the pixels in an (H, W) bool mask, which took every ``stride``-th pixel."""
    depth, tokens = shown_depth(scene, frame), scene.dynamic.score[frame]
    factors = depth.shape[0] / tokens.shape[0], depth.shape[1] / tokens.shape[1]
    score = np.clip(zoom(tokens, factors, order=1, mode="nearest", grid_mode=True), 0, 1)
    points = world_points(scene, frame, depth)
    objects = scene.dynamic.objects
    several = objects is not None and int(objects.max(initial=0)) > 1

    def kept(keep: np.ndarray, stride: int) -> Cloud:
        far = float(np.quantile(depth[keep], _FAR_QUANTILE)) if keep.any() else 0.0
        return Cloud(
            points=transform(Z_UP_FROM_OPENCV_WORLD, points[keep]).astype(np.float32),
            colors=scene.images[frame][keep],
            confidence=scene.confidence[frame][keep],
            score=score[keep].astype(np.float32),
            spacing=stride * far / float(scene.focals[frame]),
            marks=object_colours(objects[frame][keep]) if objects is not None and several else None,
        )

    return kept


def _sparse_cloud(scene: Scene) -> Cloud:
    if scene.sparse is None or not len(scene.sparse):
        return _empty()
    points = transform(Z_UP_FROM_OPENCV_WORLD, scene.sparse.points).astype(np.float32)
    seen = np.bincount(scene.sparse.point_index, minlength=len(points)).astype(np.float32)
    extent = np.ptp(np.quantile(points, [0.05, 0.95], axis=0), axis=0).max()
    score = np.zeros(len(points), np.float32)
    return Cloud(points, scene.sparse.colors, seen, score, float(extent / max(len(points), 1) ** 0.5 / 2))


def _empty() -> Cloud:
    none = np.zeros(0, np.float32)
    return Cloud(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), none, none, 0.0)


def _join(clouds: list[Cloud]) -> Cloud:
    names = ("points", "colors", "confidence", "score")
    columns = [np.concatenate([getattr(cloud, name) for cloud in clouds]) for name in names]
    spacings = [cloud.spacing for cloud in clouds if len(cloud)]
    return Cloud(*columns, spacing=float(np.median(spacings)) if spacings else 0.0)


def _stride(scene: Scene, max_points: int) -> int:
    """Step in x and y between pixels that gives enough candidates for ``max_points`` points."""
    total = int(((scene.depth > 0) & ~scene.dynamic.masks).sum())
    return max(1, round((total / (_CANDIDATES_PER_POINT * max_points)) ** 0.5))


def _lattice(shape: tuple[int, ...], stride: int, frame: int) -> np.ndarray:
    """(H, W) bool: every ``stride``-th pixel in x and y, shifted from frame to frame so that all are used."""
    keep = np.zeros(shape, dtype=bool)
    keep[frame % stride :: stride, (frame // stride) % stride :: stride] = True
    return keep
