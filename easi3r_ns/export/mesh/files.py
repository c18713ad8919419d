"""Triangle meshes as files: PLY (binary), OBJ (text), glTF (binary). Each holds vertices, normals and colours.

PLY and OBJ hold the numbers they are given, in the order of the mesh; what a glTF file does with its up axis is told in
:mod:`~easi3r_ns.export.gltf`.
"""

from __future__ import annotations

from pathlib import Path

from ...core.errors import InputError
from ...storage.files import write_bytes
from ..gltf import GlbFile
from .triangles import Mesh


def write_mesh(mesh: Mesh, path: Path) -> Path:
    """Write ``mesh`` in the format that the ending of ``path`` names, atomically, and return the path.

    Raises InputError for another ending than .ply, .obj or .glb, OutputError when the disk refuses.
    """
    if path.suffix == ".glb":
        file = GlbFile()
        file.add_mesh(path.stem, mesh)
        return file.write(path)
    if path.suffix not in (".ply", ".obj"):
        raise InputError(f"{path}: meshes are written as .ply, .obj or .glb")
    write_bytes(path, _content(mesh, path.suffix[1:]))
    return path


def _content(mesh: Mesh, kind: str) -> bytes:
    # Open3D would join vertices that coincide, and reports success on a full disk.
    import trimesh

    options = {
        "ply": {"vertex_normal": True},
        # Colours follow the position, as MeshLab, Blender and Open3D read them.
        "obj": {"include_normals": True, "include_color": True},
    }
    part = trimesh.Trimesh(
        mesh.vertices, mesh.triangles, vertex_normals=mesh.normals, vertex_colors=mesh.colors, process=False
    )
    content = part.export(file_type=kind, **options[kind])
    return content.encode() if isinstance(content, str) else content
