"""The nodes of a viser scene, updated to display settings: data is sent when it changed, else visibility only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .cameras import CameraTrack
from .clouds import Cloud
from .look import ACCENT, TRAIL_LEVELS, Look, Painter, camera_color, frames_shown, trail_level

if TYPE_CHECKING:
    import viser

_MOVING = ("moving", "trail")
_LINE_WIDTH = 3.0
"""Pixels."""
_JPEG_QUALITY = 80


class SceneNodes:
    """The nodes that a browser has, and the settings with which each was sent.

    Scrubbing through time only changes which nodes are visible. A setting that changes the data of nodes resends the
    visible ones at once; :meth:`catch_up` sends the hidden ones in small portions.
    """

    def __init__(
        self,
        scene: viser.SceneApi,
        painter: Painter,
        track: CameraTrack,
        images: Callable[[bool], list[np.ndarray]],
    ) -> None:
        """``images(masks)`` gives the F images on the cameras; with ``masks`` what moves is tinted."""
        self._scene, self._painter, self._track, self._images = scene, painter, track, images
        self._handles: dict[str, Any] = {}
        self._sent: dict[str, tuple] = {}
        self._shown: set[str] = set()

    def show(self, look: Look) -> None:
        """Make the scene look as the settings say: send the nodes that are missing or stale, then change visibility."""
        wanted = self._wanted(look)
        for name in wanted:
            self._bring_up_to_date(name, look)
        for name in self._shown - wanted:
            self._handles[name].visible = False
        for name in wanted - self._shown:
            self._handles[name].visible = True
        self._shown = wanted

    def catch_up(self, look: Look, max_nodes: int) -> bool:
        """Send up to ``max_nodes`` hidden nodes that are missing or stale; returns whether more are left."""
        stale = [name for name in self._preloaded(look) if self._sent.get(name) != self._settings(name, look)]
        for name in stale[:max_nodes]:
            self._bring_up_to_date(name, look)
        return len(stale) > max_nodes

    def _wanted(self, look: Look) -> set[str]:
        names = {_moving(frame, trail_level(look, frame)) for frame in frames_shown(look)}
        if look.static:
            names.add("/static")
        if look.trajectory and len(self._track) > 1:
            names.add("/trajectory")
        if look.cameras != "none":
            names.add(_camera(look.frame))
        if look.cameras == "all":
            names |= {_plain_camera(frame) for frame in range(len(self._track)) if frame != look.frame}
        return {name for name in names if not self._is_empty(name)}

    def _preloaded(self, look: Look) -> list[str]:
        """Nodes that scrubbing may show, the frames after the chosen one first: playback needs those next."""
        count = len(self._track)
        order = [(look.frame + step) % count for step in range(count)]
        names = [_moving(frame) for frame in order]
        if look.cameras != "none":
            names += [_camera(frame) for frame in order]
        if look.cameras == "all":
            names += [_plain_camera(frame) for frame in order]
        return [name for name in names if not self._is_empty(name)]

    def _is_empty(self, name: str) -> bool:
        kind, frame, _ = _parse(name)
        clouds = self._painter.clouds
        return (kind == "static" and not len(clouds.static)) or (kind in _MOVING and not len(clouds.moving[frame]))

    def _settings(self, name: str, look: Look) -> tuple:
        """The settings that the data of a node depends on."""
        kind = _parse(name)[0]
        if kind == "static" or kind in _MOVING:
            return look.min_confidence, look.point_size, look.color
        return (look.masks,) if kind == "camera" else ()

    def _bring_up_to_date(self, name: str, look: Look) -> None:
        settings = self._settings(name, look)
        if self._sent.get(name) == settings:
            return
        kind, frame, level = _parse(name)
        visible = name in self._shown
        if kind == "static":
            handle = self._send_cloud(name, self._painter.static(look), visible)
        elif kind in _MOVING:
            # Settings under which the frame is faded to this level.
            then = replace(look, frame=frame + level, trail=TRAIL_LEVELS)
            handle = self._send_cloud(name, self._painter.moving(frame, then), visible)
        elif kind == "trajectory":
            centres = self._track.T_world_cam[:, :3, 3]
            handle = self._scene.add_spline_catmull_rom(
                name, centres, line_width=_LINE_WIDTH, color=ACCENT, segments=4 * len(centres), visible=visible
            )
        else:
            handle = self._send_camera(name, kind, frame, look, visible)
        self._handles[name], self._sent[name] = handle, settings

    def _send_cloud(self, name: str, painted: tuple[Cloud, np.ndarray, float], visible: bool) -> Any:
        cloud, colors, size = painted
        return self._scene.add_point_cloud(
            name, cloud.points, colors, point_size=size, point_shape="circle", visible=visible
        )

    def _send_camera(self, name: str, kind: str, frame: int, look: Look, visible: bool) -> Any:
        from viser.transforms import SO3

        T, chosen = self._track.T_world_cam[frame], kind == "camera"
        half, aspect = float(np.tan(self._track.fov_y[frame] / 2)), float(self._track.aspect)
        return self._scene.add_camera_frustum(
            name,
            fov=float(self._track.fov_y[frame]),
            aspect=aspect,
            # viser's scale is the edge length of a cube with the volume of the frustum.
            scale=self._track.size * (half**2 * aspect / 3) ** (1 / 3),
            color=ACCENT if chosen else camera_color(self._track, frame),
            image=self._images(look.masks)[frame] if chosen else None,
            jpeg_quality=_JPEG_QUALITY,
            wxyz=SO3.from_matrix(T[:3, :3]).wxyz,
            position=T[:3, 3],
            visible=visible,
        )


def _moving(frame: int, level: int = 0) -> str:
    """Every frame has a node for each level of fading, sent when it is first visible: scrubbing resends none."""
    return f"/trail/{frame:05d}_{level}" if level else f"/moving/{frame:05d}"


def _camera(frame: int) -> str:
    return f"/camera/{frame:05d}"


def _plain_camera(frame: int) -> str:
    return f"/cameras/{frame:05d}"


def _parse(name: str) -> tuple[str, int, int]:
    """Kind, frame (-1 without one) and level of fading of a node."""
    kind, _, rest = name[1:].partition("/")
    frame, _, level = rest.partition("_")
    return kind, int(frame) if frame else -1, int(level or 0)
