"""Triangle meshes as files: PLY (binary), OBJ (text), glTF (binary). Each holds vertices, normals and colours.

PLY and OBJ hold the numbers they are given; what a glTF file does with its up axis is told in
:mod:`~easi3r_ns.export.gltf`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..core.errors import InputError
from ..dataset.pointcloud import ply_vertices
from ..storage.files import write_bytes
from .gltf import GlbFile
from .triangles import Mesh


def write_mesh(mesh: Mesh, path: Path) -> Path:
    """Write ``mesh`` in the format that the ending of ``path`` names, atomically, and return the path.

    Raises InputError for another ending than .ply, .obj or .glb, OutputError when the disk refuses.
    """
    if path.suffix == ".glb":
        file = GlbFile()
        file.add_mesh(path.stem, mesh)
        return file.write(path)
    writers = {".ply": _ply, ".obj": _obj}
    if path.suffix not in writers:
        raise InputError(f"{path}: meshes are written as .ply, .obj or .glb")
    write_bytes(path, writers[path.suffix](mesh))
    return path


def _ply(mesh: Mesh) -> bytes:
    faces = np.empty(len(mesh.triangles), dtype=[("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, mesh.triangles
    header, vertices = ply_vertices(mesh.vertices, mesh.colors, mesh.normals)
    header = ["ply", "format binary_little_endian 1.0", *header, f"element face {len(faces)}"]
    header += ["property list uchar int vertex_indices", "end_header\n"]
    return "\n".join(header).encode() + vertices + faces.tobytes()


def _obj(mesh: Mesh) -> bytes:
    """Colours follow the position, as MeshLab, Blender and Open3D read them."""
    positions = mesh.vertices.astype(float).tolist()
    colors = (mesh.colors / 255.0).tolist()
    lines = ["v %.7g %.7g %.7g %.4f %.4f %.4f" % (*xyz, *rgb) for xyz, rgb in zip(positions, colors)]
    lines += ["vn %.4f %.4f %.4f" % tuple(normal) for normal in mesh.normals.tolist()]
    lines += ["f %d//%d %d//%d %d//%d" % (a, a, b, b, c, c) for a, b, c in (mesh.triangles + 1).tolist()]
    return "\n".join([*lines, ""]).encode()
