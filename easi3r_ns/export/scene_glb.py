"""The whole scene as one glTF file: the static surface, the cameras as frusta and as cameras, their path."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ..core.geometry import Z_UP_FROM_OPENCV_WORLD, intrinsics_to_source, opencv_to_opengl, transform
from ..core.scene import Scene
from ..dataset.pointcloud import static_points
from .exporter import Exporter, ExportJob
from .gltf import GlbFile, GlbLens
from .mesh.triangles import Mesh

_FILE = "scene.glb"
_FRUSTUM_DEPTH = 0.05
"""Height of a frustum's pyramid, in median distances from a camera to the points."""
_FIRST, _LAST = np.array([40, 90, 255]), np.array([255, 110, 30])
"""Colours of the first and of the last camera."""


def write_scene_glb(
    scene: Scene, path: Path, mesh: Mesh | None, *, mask_growth: float = 3, max_points: int = 200_000
) -> Path:
    """Write ``path`` (.glb): ``mesh`` (in the scene's world), or static points where it is None; a frustum and a camera
    per frame; the path of the camera. Up axis and colours: see :mod:`~easi3r_ns.export.gltf`. Raises OutputError.
    """
    file = GlbFile()
    if mesh is not None:
        file.add_mesh("static", mesh.moved(Z_UP_FROM_OPENCV_WORLD))
        points = mesh.vertices
    else:
        points, colors = static_points(scene, max_points, mask_growth)
        file.add_points("static", transform(Z_UP_FROM_OPENCV_WORLD, points), colors)
    poses = Z_UP_FROM_OPENCV_WORLD @ scene.T_world_cam
    size = _FRUSTUM_DEPTH * _typical_distance(points, scene)
    for frame, pose in enumerate(poses):
        color = _FIRST + (_LAST - _FIRST) * frame / max(len(poses) - 1, 1)
        lines = transform(pose, frustum(scene, frame, size))
        file.add_lines(f"frustum {frame + 1:05d}", lines, np.rint(color).astype(int).tolist(), strip=False)
    file.add_lines("path", poses[:, :3, 3], (120, 120, 120), strip=True)
    for frame, pose in enumerate(opencv_to_opengl(poses)):
        width, height = scene.pixel_map.source_wh
        _, fy, _, _ = intrinsics_to_source(scene.focals[frame], scene.principal_point, scene.pixel_map)
        file.add_camera(GlbLens(f"camera {frame + 1:05d}", pose, 2 * math.atan(height / (2 * fy)), width / height))
    return file.write(path)


def frustum(scene: Scene, frame: int, depth: float) -> np.ndarray:
    """(20, 3) ends of ten lines in the camera frame (OpenCV axes): the pyramid of the source image at z = ``depth``,
    and a tick on its upper side.
    """
    fx, fy, cx, cy = intrinsics_to_source(scene.focals[frame], scene.principal_point, scene.pixel_map)
    width, height = scene.pixel_map.source_wh
    tick = np.array([[0.4 * width, 0], [0.5 * width, -0.15 * height], [0.6 * width, 0]])
    plane = np.array([[0, 0], [width, 0], [width, height], [0, height], *tick])
    corners = np.column_stack([(plane - [cx, cy]) / [fx, fy], np.ones(len(plane))]) * depth
    a, b, c, d, left, top, right = corners
    centre = np.zeros(3)
    return np.stack([centre, a, centre, b, centre, c, centre, d, a, b, b, c, c, d, d, a, left, top, top, right])


def _typical_distance(points: np.ndarray, scene: Scene) -> float:
    """Median distance from the middle camera to the points; 1 where there are none."""
    if not len(points):
        return 1.0
    return float(np.median(np.linalg.norm(points - scene.T_world_cam[len(scene) // 2, :3, 3], axis=1)))


def _write(job: ExportJob) -> list[Path]:
    mesh = job.static_mesh if job.scene.has_measured_depth else None
    return [write_scene_glb(job.scene, job.folder / _FILE, mesh, **job.point_options)]


EXPORTER = Exporter(files=lambda job: {_FILE}, write=_write)
