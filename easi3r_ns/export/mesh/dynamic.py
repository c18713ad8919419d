"""Scene -> triangle meshes of what moves, one sheet per frame: ``dynamic_mesh/frame_00001.ply``, ..."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...core.geometry import Z_UP_FROM_OPENCV_WORLD
from ...core.scene import Scene
from ...core.surface import on_surface, trusted_depth, world_points
from ...storage.files import make_folder
from ..exporter import Exporter, ExportJob, require_moving_depth
from .files import write_mesh
from .triangles import Mesh, canonical

_FOLDER = "dynamic_mesh"


def dynamic_mesh(scene: Scene, frame: int) -> Mesh:
    """What moves in one frame, as a sheet in the scene's world that faces the camera; may be empty."""
    return depth_mesh(scene, frame, scene.dynamic.masks[frame])


def depth_mesh(scene: Scene, frame: int, keep: np.ndarray) -> Mesh:
    """The depth map of one frame as a mesh in the scene's world, facing the camera.

    Each 2 x 2 square of neighbouring pixels gives two triangles; a triangle is left out unless ``keep`` (H, W) and a
    trusted depth hold at its three corners and none lies at a depth edge, where the sheet would hang between surfaces.
    """
    depth = trusted_depth(scene, frame)
    keep = keep & on_surface(depth)
    index = np.arange(depth.size, dtype=np.int32).reshape(depth.shape)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    triangles = np.concatenate([np.stack(corners, -1).reshape(-1, 3) for corners in ((a, c, b), (b, c, d))])
    triangles = triangles[keep.ravel()[triangles].all(axis=1)]
    return canonical(world_points(scene, frame).reshape(-1, 3), triangles, scene.images[frame].reshape(-1, 3))


def _file(frame: int) -> str:
    return f"{_FOLDER}/frame_{frame + 1:05d}.ply"


def _write(job: ExportJob) -> list[Path]:
    written = []
    make_folder(job.folder / _FOLDER)
    for frame in range(len(job.scene)):
        mesh = dynamic_mesh(job.scene, frame).moved(Z_UP_FROM_OPENCV_WORLD)
        if len(mesh.triangles):
            written.append(write_mesh(mesh, job.folder / _file(frame)))
    return written


EXPORTER = Exporter(
    files=lambda job: {_file(frame) for frame in range(len(job.scene))}, write=_write, needs=require_moving_depth
)
