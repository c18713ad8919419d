"""Meshes, points, lines and cameras as one binary glTF 2.0 file (https://registry.khronos.org/glTF/specs/2.0).

glTF worlds have y up. The geometry is stored in the world of ``transforms.json`` (z up) under a root node that turns
it, so that a viewer shows it upright; Blender, which turns back when it imports, shows the dataset's own coordinates.
Colours per vertex are linear in glTF, so the sRGB of the images is converted; materials are unlit.

Written here, because trimesh stores colours per vertex with 8 bits (dark tones of linear light need 16), has no unlit
materials, and writes one camera for a scene.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..storage.files import write_bytes
from .mesh.triangles import Mesh

_FLOAT, _UINT16, _UINT32 = 5126, 5123, 5125
_POINTS, _LINES, _LINE_STRIP, _TRIANGLES = 0, 1, 3, 4
_ARRAY_BUFFER, _INDEX_BUFFER = 34962, 34963
_Y_UP_FROM_Z_UP = [1, 0, 0, 0, 0, 0, -1, 0, 0, 1, 0, 0, 0, 0, 0, 1]
"""Column by column: (x, y, z) -> (x, z, -y)."""


@dataclass(frozen=True)
class GlbLens:
    """A camera of a glTF file."""

    name: str
    T_world_cam: np.ndarray
    """(4, 4) camera-to-world, OpenGL axes, in the world of ``transforms.json``."""
    yfov: float
    """Vertical field of view in radians."""
    aspect: float
    """Width over height."""


class GlbFile:
    """Collects the parts of a scene; :meth:`write` writes them. The same parts give the same bytes."""

    def __init__(self) -> None:
        self._binary = bytearray()
        self._json: dict[str, Any] = {
            "asset": {"version": "2.0", "generator": "easi3r-ns"},
            "extensionsUsed": ["KHR_materials_unlit"],
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"name": "world z up", "matrix": _Y_UP_FROM_Z_UP, "children": []}],
            "meshes": [],
            "accessors": [],
            "bufferViews": [],
            "materials": [
                {
                    "doubleSided": True,
                    "pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 1},
                    "extensions": {"KHR_materials_unlit": {}},
                }
            ],
        }

    def add_mesh(self, name: str, mesh: Mesh) -> None:
        """Add triangles (none, if the mesh is empty: glTF has no empty arrays)."""
        if not len(mesh.triangles):
            return
        attributes = self._vertices(mesh.vertices, mesh.colors)
        attributes["NORMAL"] = self._accessor(mesh.normals.astype("<f4"), "VEC3", _FLOAT, _ARRAY_BUFFER)
        indices = self._accessor(mesh.triangles.astype("<u4").ravel(), "SCALAR", _UINT32, _INDEX_BUFFER)
        self._add(name, {"attributes": attributes, "indices": indices, "mode": _TRIANGLES})

    def add_points(self, name: str, points: np.ndarray, colors: np.ndarray) -> None:
        """Add (N, 3) points with (N, 3) uint8 sRGB colours."""
        if len(points):
            self._add(name, {"attributes": self._vertices(points, colors), "mode": _POINTS})

    def add_lines(self, name: str, points: np.ndarray, color: Sequence[int], *, strip: bool) -> None:
        """Add lines between (N, 3) points: a chain (``strip``), or one for every two points."""
        if len(points) < 2:
            return
        colors = np.tile(np.array(color, dtype=np.uint8), (len(points), 1))
        self._add(name, {"attributes": self._vertices(points, colors), "mode": _LINE_STRIP if strip else _LINES})

    def add_camera(self, lens: GlbLens) -> None:
        """Add a perspective camera: viewers and Blender can look through it."""
        cameras = self._json.setdefault("cameras", [])
        perspective = {"yfov": lens.yfov, "aspectRatio": lens.aspect, "znear": 0.01}
        cameras.append({"name": lens.name, "type": "perspective", "perspective": perspective})
        matrix = np.asarray(lens.T_world_cam, dtype=float).T.ravel().tolist()
        self._node({"name": lens.name, "camera": len(cameras) - 1, "matrix": matrix})

    def write(self, path: Path) -> Path:
        """Write the file atomically and return its path. Raises OutputError."""
        document = {key: value for key, value in self._json.items() if value != []}
        document["nodes"] = [{key: value for key, value in node.items() if value != []} for node in self._json["nodes"]]
        if self._binary:
            document["buffers"] = [{"byteLength": len(self._binary)}]
        text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
        chunks = _chunk(b"JSON", text, b" ") + (_chunk(b"BIN\0", bytes(self._binary), b"\0") if self._binary else b"")
        write_bytes(path, struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)
        return path

    def _add(self, name: str, primitive: dict[str, Any]) -> None:
        self._json["meshes"].append({"name": name, "primitives": [primitive | {"material": 0}]})
        self._node({"name": name, "mesh": len(self._json["meshes"]) - 1})

    def _node(self, node: dict[str, Any]) -> None:
        self._json["nodes"].append(node)
        self._json["nodes"][0]["children"].append(len(self._json["nodes"]) - 1)

    def _vertices(self, points: np.ndarray, colors: np.ndarray) -> dict[str, int]:
        points = points.astype("<f4")
        position = self._accessor(points, "VEC3", _FLOAT, _ARRAY_BUFFER)
        # The format wants the bounds of positions, and exactly those of the stored numbers.
        self._json["accessors"][position] |= {"min": points.min(axis=0).tolist(), "max": points.max(axis=0).tolist()}
        linear = np.full((len(points), 4), 65535, dtype="<u2")
        linear[:, :3] = np.rint(65535 * srgb_to_linear(colors))
        return {"POSITION": position, "COLOR_0": self._accessor(linear, "VEC4", _UINT16, _ARRAY_BUFFER)}

    def _accessor(self, values: np.ndarray, kind: str, component: int, target: int) -> int:
        view = {"buffer": 0, "byteOffset": len(self._binary), "byteLength": values.nbytes, "target": target}
        self._binary += values.tobytes()
        self._binary += bytes(-len(self._binary) % 4)
        self._json["bufferViews"].append(view)
        accessor = {"bufferView": len(self._json["bufferViews"]) - 1, "componentType": component}
        accessor |= {"count": len(values), "type": kind} | ({"normalized": True} if component == _UINT16 else {})
        self._json["accessors"].append(accessor)
        return len(self._json["accessors"]) - 1


def srgb_to_linear(colors: np.ndarray) -> np.ndarray:
    """uint8 sRGB -> linear light in [0, 1] (IEC 61966-2-1)."""
    value = np.asarray(colors) / 255.0
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _chunk(kind: bytes, content: bytes, padding: bytes) -> bytes:
    content += padding * (-len(content) % 4)
    return struct.pack("<I4s", len(content), kind) + content
