"""Point clouds of a scene: what stands still over the whole clip, what moves in one frame; PLY files."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ..core.optional import load_open3d
from ..core.scene import ASSUMED, Scene
from ..core.surface import assumed_pixels, grow_mask, shown_depth, shown_moving, solid_pixels, world_points
from ..core.voxels import filled_voxels, fit_voxels
from ..storage.files import write_bytes

_SPARSE_SHARE = 0.5
"""Most of the cloud that triangulated points may take where there are depth maps too."""
_CANDIDATES_PER_POINT = 5
"""How many pixels at most are unprojected for every point that is kept."""


def static_points(
    scene: Scene, max_points: int, mask_growth: float = 3, frames: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) float32 points in the OpenCV world and (N, 3) uint8 RGB: static, confident, N <= ``max_points``.

    Triangulated points come first: they are exact and were seen from several places. A scene without depth gives these
    alone. Moving regions are grown by ``mask_growth`` network pixels before they are left out; pixels at depth edges
    are left out too. Points are averaged, with their colours, over voxels just large enough to keep within
    ``max_points``. ``frames`` names the frames that count (default: all).
    """
    counted = range(len(scene)) if frames is None else frames
    sparse, sparse_colors = _triangulated(scene, counted)
    if len(sparse) and not scene.has_measured_depth:
        return thin(sparse, sparse_colors, max_points)
    sparse, sparse_colors = thin(sparse, sparse_colors, max(1, int(_SPARSE_SHARE * max_points)))
    max_points -= len(sparse)
    keeps = {f: solid_pixels(scene, f) & ~grow_mask(scene.dynamic.masks[f], mask_growth) for f in counted}
    total = sum(int(keep.sum()) for keep in keeps.values())
    stride = max(1, round((total / (_CANDIDATES_PER_POINT * max_points)) ** 0.5))
    parts = [_frame_points(scene, f, _every(stride, keep)) for f, keep in keeps.items()]
    points, colors = thin(*(np.concatenate(columns) for columns in zip(*parts)), max_points)
    return np.concatenate([sparse, points]), np.concatenate([sparse_colors, colors])


def _triangulated(scene: Scene, frames: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) triangulated points that one of the frames has seen, and their (N, 3) uint8 colours."""
    if scene.sparse is None:
        return np.zeros((0, 3)), np.zeros((0, 3), np.uint8)
    seen = np.unique(scene.sparse.point_index[np.isin(scene.sparse.frame_index, list(frames))])
    return scene.sparse.points[seen], scene.sparse.colors[seen]


def dynamic_points(scene: Scene, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) float32 points in the OpenCV world and (N, 3) uint8 RGB: what moves in ``frame`` and is confident.

    Where the scene has an assumed depth of what moves, its points are among them.
    """
    keep = shown_moving(scene, frame)
    return world_points(scene, frame, shown_depth(scene, frame), keep), scene.images[frame][keep]


def dynamic_remark(scene: Scene, frame: int) -> str:
    """What the file of :func:`dynamic_points` has to say about them; empty where all were measured."""
    return ASSUMED if assumed_pixels(scene, frame).any() else ""


def thin(points: np.ndarray, colors: np.ndarray, max_points: int) -> tuple[np.ndarray, np.ndarray]:
    """Average (N, 3) points and (N, 3) uint8 colours over cubic voxels so that at most ``max_points`` are left."""
    if len(points) <= max_points:
        return points.astype(np.float32), colors
    open3d = load_open3d()
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points.astype(np.float64)))
    cloud.colors = open3d.utility.Vector3dVector(colors / 255.0)
    # Open3D groups the points, not numpy: the order of the points in a dataset is the one that it gives. It does so
    # once; while the size is looked for, the voxels are only counted, which is several times faster.
    count = functools.lru_cache(partial(filled_voxels, np.asarray(cloud.points)))
    size, _ = fit_voxels(points, max_points, lambda size: size, count)
    kept = cloud.voxel_down_sample(size)
    return np.asarray(kept.points, dtype=np.float32), np.rint(np.asarray(kept.colors) * 255).astype(np.uint8)


def write_ply(
    path: Path, xyz: np.ndarray, rgb: np.ndarray, normals: np.ndarray | None = None, remark: str = ""
) -> Path:
    """Write (N, 3) points, (N, 3) uint8 colours and perhaps (N, 3) normals as a binary PLY, atomically.

    ``remark``: one line of ASCII for the header. Raises OutputError.
    """
    # No library does it without loss: trimesh writes no normals of a cloud; Open3D reports success on a full disk and
    # refuses a cloud without points.
    columns = {"xyz": ("<f4", xyz), **({} if normals is None else {"normal": ("<f4", normals)}), "rgb": ("u1", rgb)}
    vertices = np.empty(len(xyz), dtype=[(name, kind, 3) for name, (kind, _) in columns.items()])
    for name, (_, values) in columns.items():
        vertices[name] = values
    floats = ["x", "y", "z"] if normals is None else ["x", "y", "z", "nx", "ny", "nz"]
    header = ["ply", "format binary_little_endian 1.0", *([f"comment {remark}"] if remark else [])]
    header += [f"element vertex {len(xyz)}"]
    header += [f"property float {name}" for name in floats]
    header += [*(f"property uchar {channel}" for channel in ("red", "green", "blue")), "end_header\n"]
    write_bytes(path, "\n".join(header).encode() + vertices.tobytes())
    return path


def _frame_points(scene: Scene, frame: int, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return world_points(scene, frame, where=keep), scene.images[frame][keep]


def _every(stride: int, keep: np.ndarray) -> np.ndarray:
    lattice = np.zeros_like(keep)
    lattice[stride // 2 :: stride, stride // 2 :: stride] = True
    return keep & lattice
