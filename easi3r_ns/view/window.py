"""Point clouds, cameras and meshes of a scene in a window of Open3D."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import InputError
from ..core.optional import load_open3d
from ..storage.names import plain_name
from .cameras import CameraTrack
from .look import ACCENT, Look, Painter, camera_color, frames_shown

if TYPE_CHECKING:
    import open3d

KEYS = "left and right: other frames, space: play, M: mesh, S: static points, C: cameras, Q: close"
_LEFT, _RIGHT, _SPACE = 263, 262, 32
"""Key codes of GLFW."""
_FPS = 10.0
_ZOOM = 0.5
_REST_SECONDS = 0.005
"""Pause between two readings of keyboard and mouse."""


def require_window() -> None:
    """Raises MissingExtraError where Open3D does not load, then InputError where there is no display."""
    load_open3d()
    require_display()


def require_display() -> None:
    """Raises InputError where there is no display for a window."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise InputError(
            "--open3d needs a display, and neither DISPLAY nor WAYLAND_DISPLAY is set: leave --open3d out to look at "
            "the scene in a browser, or log in with ssh -X"
        )


@dataclass
class _Shown:
    look: Look
    mesh: bool
    playing: bool = False
    stale: bool = True


def open_window(painter: Painter, track: CameraTrack, look: Look, meshes: Sequence[Path]) -> None:
    """Show the scene until the window is closed; see :data:`KEYS`. With meshes the static points are hidden at first.

    Raises InputError when no window can open or a mesh cannot be read, MissingExtraError when Open3D does not load.
    """
    require_window()
    o3d = load_open3d()
    loaded = [read_mesh(path) for path in meshes]
    shown = _Shown(replace(look, static=look.static and not loaded), bool(loaded))
    window = o3d.visualization.VisualizerWithKeyCallback()
    if not window.create_window("easi3r", 1280, 720):
        raise InputError("--open3d: no window could be opened on this display; leave --open3d out to use a browser")
    try:
        _connect_keys(window, shown, len(track))
        first, last_step = True, 0.0
        while window.poll_events():
            if shown.playing and time.monotonic() - last_step > 1 / _FPS:
                last_step = time.monotonic()
                shown.look, shown.stale = replace(shown.look, frame=(shown.look.frame + 1) % len(track)), True
            if shown.stale:
                shown.stale = False
                window.clear_geometries()
                for geometry in [*geometries(painter, track, shown.look), *(loaded if shown.mesh else ())]:
                    window.add_geometry(geometry, reset_bounding_box=first)
                if first:
                    _look_from_home(window, track)
                first = False
            window.update_renderer()
            time.sleep(_REST_SECONDS)
    finally:
        window.destroy_window()


def geometries(painter: Painter, track: CameraTrack, look: Look) -> list[open3d.geometry.Geometry]:
    """What is shown with some display settings, as Open3D's point clouds and line sets in the z-up world."""
    o3d = load_open3d()
    parts = [painter.static(look)] if look.static else []
    parts += [painter.moving(frame, look) for frame in frames_shown(look)]
    found: list[Any] = []
    for cloud, colors, _ in parts:
        if len(cloud):
            points = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(cloud.points.astype(np.float64)))
            points.colors = o3d.utility.Vector3dVector(colors / 255.0)
            found.append(points)
    drawn = {"none": [], "current": [look.frame], "all": range(len(track))}[look.cameras]
    for frame in drawn:
        corners = track.corners(frame)
        edges = [(0, corner) for corner in (1, 2, 3, 4)] + [(1, 2), (2, 3), (3, 4), (4, 1)]
        color = ACCENT if frame == look.frame else camera_color(track, frame)
        found.append(_lines(np.concatenate([track.T_world_cam[frame, None, :3, 3], corners]), edges, color))
    if look.trajectory and len(track) > 1:
        found.append(_lines(track.T_world_cam[:, :3, 3], [(k, k + 1) for k in range(len(track) - 1)], ACCENT))
    return found


def read_mesh(path: Path) -> open3d.geometry.TriangleMesh:
    """A mesh with normals. Raises InputError when the file holds none."""
    with plain_name(path) as file:
        mesh = load_open3d().io.read_triangle_mesh(str(file))
    if not len(mesh.triangles):
        raise InputError(f"{path} holds no mesh that Open3D can read: export it again, or move it away")
    mesh.compute_vertex_normals()
    return mesh


def _lines(points: np.ndarray, edges: list[tuple[int, int]], color: tuple[int, int, int]) -> open3d.geometry.LineSet:
    o3d = load_open3d()
    lines = o3d.geometry.LineSet(o3d.utility.Vector3dVector(points), o3d.utility.Vector2iVector(np.array(edges)))
    lines.paint_uniform_color(np.array(color) / 255)
    return lines


def _connect_keys(window: Any, shown: _Shown, count: int) -> None:
    def on(key: int, act: Any) -> None:
        def pressed(_: Any) -> bool:
            act()
            shown.stale = True
            return False

        window.register_key_callback(key, pressed)

    def step(by: int) -> None:
        shown.look = replace(shown.look, frame=(shown.look.frame + by) % count)

    def play() -> None:
        shown.playing = not shown.playing and count > 1

    def mesh() -> None:
        shown.mesh = not shown.mesh

    def static() -> None:
        shown.look = replace(shown.look, static=not shown.look.static)

    def cameras() -> None:
        following = {"current": "all", "all": "none", "none": "current"}
        shown.look = replace(shown.look, cameras=following[shown.look.cameras])

    for key, act in ((_LEFT, lambda: step(-1)), (_RIGHT, lambda: step(1)), (_SPACE, play)):
        on(key, act)
    for letter, act in (("M", mesh), ("S", static), ("C", cameras)):
        on(ord(letter), act)


def _look_from_home(window: Any, track: CameraTrack) -> None:
    home = track.home
    offset = home.position - home.look_at
    control = window.get_view_control()
    control.set_lookat(home.look_at)
    control.set_front(offset / np.linalg.norm(offset))
    control.set_up([0.0, 0.0, 1.0])
    control.set_zoom(_ZOOM)
