"""Point clouds of a scene with normals: what stands still, and what moves in each frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from ..core.errors import InputError
from ..core.geometry import Z_UP_FROM_OPENCV_WORLD, transform
from ..core.scene import Scene
from ..dataset.pointcloud import dynamic_points, dynamic_remark, static_points, write_ply
from ..storage.files import make_folder
from .exporter import Exporter, ExportJob, require_points

STATIC = "cloud.ply"
_NEIGHBOURS = 16
"""Points through which the plane of a normal is laid."""


def dynamic_name(frame: int) -> str:
    """File of what moves in a frame."""
    return f"dynamic/frame_{frame + 1:05d}.ply"


def cloud_files(scene: Scene) -> set[str]:
    """Every file that :func:`write_clouds` may write, relative to its folder."""
    moving = scene.dynamic.masks.any(axis=(1, 2)) & scene.has_depth
    return {STATIC, *(dynamic_name(int(frame)) for frame in np.flatnonzero(moving))}


def write_clouds(scene: Scene, path: Path, *, mask_growth: float = 3, max_points: int = 1_000_000) -> list[Path]:
    """Write ``cloud.ply`` and ``dynamic/frame_00001.ply``, ... into the folder ``path``, in the world of
    ``transforms.json`` (z up); frames in which nothing moves with a known or an assumed depth have no file, and an
    assumed depth is said in the file's header.

    The static cloud has unit normals that look towards the cameras. Raises InputError when no point is static,
    OutputError when the disk refuses.
    """
    require_points(scene)
    points, colors = static_points(scene, max_points, mask_growth)
    if not len(points):
        raise InputError("no point is static and confident: look at the masks, and lower --mask-growth")
    normals = facing(points, estimate_normals(points), scene.T_world_cam[:, :3, 3])
    make_folder(path)
    turned = (transform(Z_UP_FROM_OPENCV_WORLD, points), colors, normals @ Z_UP_FROM_OPENCV_WORLD[:3, :3].T)
    written = [write_ply(path / STATIC, *turned)]
    for frame in range(len(scene)):
        points, colors = dynamic_points(scene, frame)
        if len(points) and scene.has_depth:
            make_folder((path / dynamic_name(frame)).parent)
            points = transform(Z_UP_FROM_OPENCV_WORLD, points)
            remark = dynamic_remark(scene, frame)
            written.append(write_ply(path / dynamic_name(frame), points, colors, remark=remark))
    return written


def estimate_normals(points: np.ndarray, neighbours: int = _NEIGHBOURS) -> np.ndarray:
    """(N, 3) points -> (N, 3) float32 unit normals of the planes through their neighbours, of either sign."""
    points = points.astype(float)
    _, index = cKDTree(points).query(points, k=min(neighbours, len(points)))
    near = points[index.reshape(len(points), -1)]
    near = near - near.mean(axis=1, keepdims=True)
    _, vectors = np.linalg.eigh(np.einsum("nki,nkj->nij", near, near))
    return vectors[:, :, 0].astype(np.float32)


def facing(points: np.ndarray, normals: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The normals with the sign that looks towards the nearest of the (F, 3) camera centres."""
    _, nearest = cKDTree(centres).query(points)
    away = np.einsum("ni,ni->n", normals, centres[nearest] - points) < 0
    return np.where(away[:, None], -normals, normals)


def _write(job: ExportJob) -> list[Path]:
    return write_clouds(job.scene, job.folder, **job.point_options)


EXPORTER = Exporter(files=lambda job: cloud_files(job.scene), write=_write, needs=require_points)
