"""Scene -> triangle mesh of what stands still, as ``mesh.ply``, ``mesh.obj`` and ``mesh.glb``."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from ...core.config import MeshConfig
from ...core.geometry import Z_UP_FROM_OPENCV_WORLD
from ...core.optional import load_open3d
from ...core.scene import Scene
from ..exporter import Exporter, ExportJob, require_depth
from .files import write_mesh
from .triangles import Mesh, canonical
from .tsdf import choose_resolution, fuse, static_depths

MESH_FILES = ("mesh.ply", "mesh.obj", "mesh.glb")

_POISSON_DEPTHS = (5, 11)
"""Least and most levels of the octree."""
_POISSON_REACH = 4.0
"""Voxels from the nearest fused vertex at which the Poisson surface is cut: holes up to twice as wide are closed."""


def static_mesh(scene: Scene, config: MeshConfig = MeshConfig(), mask_growth: float = 3) -> Mesh:
    """The static background of a scene as one coloured mesh, in the scene's world; the same scene, the same mesh.

    Fused from the depth of all frames without the movers, whose regions are grown by ``mask_growth`` network pixels
    (:mod:`~easi3r_ns.export.mesh.tsdf`); closed by a screened Poisson surface where ``config.method`` says so, rid of
    small components, and simplified to ``config.max_triangles``.

    Raises InputError when the scene has no depth or nothing static; MissingExtraError without Open3D.
    """
    static = static_depths(scene, mask_growth)
    resolution = choose_resolution(scene, static, config.voxel_size, config.max_triangles)
    mesh = without_specks(fuse(scene, static, resolution, config.min_views), config.min_component)
    if config.method == "poisson":
        mesh = without_specks(poisson(mesh, resolution.voxel), config.min_component)
    return simplified(mesh, config.max_triangles)


def without_specks(mesh: Mesh, min_share: float) -> Mesh:
    """The mesh without the connected components that hold less than ``min_share`` of its triangles."""
    if not len(mesh.triangles):
        return mesh
    count = len(mesh.vertices)
    rows, columns = mesh.triangles[:, [0, 1]].ravel(), mesh.triangles[:, [1, 2]].ravel()
    edges = coo_matrix((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(count, count))
    _, labels = connected_components(edges, directed=False)
    owner = labels[mesh.triangles[:, 0]]
    sizes = np.bincount(owner)
    # The largest stays, whatever its share.
    keep = sizes >= min(min_share * len(owner), sizes.max())
    return canonical(mesh.vertices, mesh.triangles[keep[owner]], mesh.colors)


def simplified(mesh: Mesh, max_triangles: int) -> Mesh:
    """At most ``max_triangles`` triangles, by quadric edge collapse (Garland and Heckbert, 1997)."""
    if len(mesh.triangles) <= max_triangles:
        return mesh
    return _from_open3d(_to_open3d(mesh).simplify_quadric_decimation(max_triangles))


def poisson(mesh: Mesh, voxel: float) -> Mesh:
    """A screened Poisson surface (Kazhdan and Hoppe, 2013) through the vertices of ``mesh``, where there are any near.

    It closes holes and smooths noise; what lies further from the given surface than a few voxels is cut away.
    """
    open3d = load_open3d()
    known = np.linalg.norm(mesh.normals, axis=1) > 0.5
    points = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(mesh.vertices[known].astype(float)))
    points.normals = open3d.utility.Vector3dVector(mesh.normals[known].astype(float))
    points.colors = open3d.utility.Vector3dVector(mesh.colors[known] / 255.0)
    levels = math.ceil(math.log2(max(float(np.ptp(mesh.vertices, axis=0).max()) / voxel, 2.0)))
    depth = int(np.clip(levels, *_POISSON_DEPTHS))
    # One thread: with several, the sums and so the surface differ from run to run.
    closed, _ = open3d.geometry.TriangleMesh.create_from_point_cloud_poisson(points, depth=depth, n_threads=1)
    closed = _from_open3d(closed)
    distance, _ = cKDTree(mesh.vertices).query(closed.vertices, distance_upper_bound=_POISSON_REACH * voxel)
    near = np.isfinite(distance)
    return canonical(closed.vertices, closed.triangles[near[closed.triangles].all(axis=1)], closed.colors)


def _to_open3d(mesh: Mesh):  # noqa: ANN202 - an open3d.geometry.TriangleMesh, which is imported only here
    open3d = load_open3d()
    result = open3d.geometry.TriangleMesh(
        open3d.utility.Vector3dVector(mesh.vertices.astype(float)), open3d.utility.Vector3iVector(mesh.triangles)
    )
    result.vertex_colors = open3d.utility.Vector3dVector(mesh.colors / 255.0)
    return result


def _from_open3d(mesh) -> Mesh:  # noqa: ANN001 - see above
    colors = np.rint(np.clip(np.asarray(mesh.vertex_colors), 0, 1) * 255).astype(np.uint8)
    return canonical(np.asarray(mesh.vertices, dtype=np.float32), np.asarray(mesh.triangles), colors)


def _write(job: ExportJob) -> list[Path]:
    mesh = job.static_mesh.moved(Z_UP_FROM_OPENCV_WORLD)
    return [write_mesh(mesh, job.folder / name) for name in MESH_FILES]


EXPORTER = Exporter(files=lambda job: set(MESH_FILES), write=_write, needs=require_depth)
