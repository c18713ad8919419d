"""Triangle meshes as plain arrays: their order and their normals."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...core.geometry import transform


@dataclass(frozen=True)
class Mesh:
    """Triangles with a colour and a normal per vertex; counter-clockwise when seen from outside."""

    vertices: np.ndarray
    """(N, 3) float32."""
    triangles: np.ndarray
    """(M, 3) int32."""
    colors: np.ndarray
    """(N, 3) uint8 RGB (sRGB, as in the images)."""
    normals: np.ndarray
    """(N, 3) float32, unit length (0 for a vertex without area)."""

    @classmethod
    def empty(cls) -> Mesh:
        """No triangles."""
        floats = np.zeros((0, 3), dtype=np.float32)
        return cls(floats, np.zeros((0, 3), dtype=np.int32), np.zeros((0, 3), dtype=np.uint8), floats)

    def moved(self, T: np.ndarray) -> Mesh:
        """The mesh under a rigid (4, 4) transform."""
        vertices = transform(T, self.vertices.astype(float)).astype(np.float32)
        return replace(self, vertices=vertices, normals=(self.normals @ T[:3, :3].T).astype(np.float32))


def canonical(vertices: np.ndarray, triangles: np.ndarray, colors: np.ndarray) -> Mesh:
    """A mesh whose order depends on its geometry only: threads may find its parts in any order.

    Vertices at the same place become one; they are sorted by x, y, z, those of no triangle left out. Every triangle
    begins with its first vertex, and triangles are sorted; those without area are left out. Normals are computed.
    """
    corners = vertices[triangles].astype(float)
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    triangles = triangles[area > 0]
    used = np.unique(triangles)
    order = used[np.lexsort((*colors[used].T[::-1], *vertices[used].T[::-1]))]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (vertices[order[1:]] != vertices[order[:-1]]).any(axis=1)
    rank = np.zeros(len(vertices), dtype=np.int32)
    rank[order] = np.cumsum(new) - 1
    triangles, order = rank[triangles], order[new]
    first = triangles.argmin(axis=1)[:, None]
    triangles = np.take_along_axis(triangles, (first + np.arange(3)) % 3, axis=1)
    triangles = triangles[np.lexsort(triangles.T[::-1])].astype(np.int32)
    vertices = np.ascontiguousarray(vertices[order], dtype=np.float32)
    return Mesh(vertices, triangles, np.ascontiguousarray(colors[order]), vertex_normals(vertices, triangles))


def vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """(N, 3) float32 unit normals: those of the triangles around each vertex, weighted by their area."""
    a, b, c = (vertices[triangles[:, k]].astype(float) for k in range(3))
    faces = np.cross(b - a, c - a)
    axes = [np.bincount(triangles.ravel(), np.repeat(faces[:, k], 3), len(vertices)) for k in range(3)]
    normals = np.stack(axes, axis=-1).astype(float)
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.divide(normals, lengths, out=np.zeros_like(normals), where=lengths > 0).astype(np.float32)
