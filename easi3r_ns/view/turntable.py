"""Pictures and videos of a scene without a browser: points, cameras and trajectory from any viewpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from ..storage.video import write_video
from .cameras import FOV_DEGREES, CameraTrack, Viewpoint, orbit
from .config import TurntableConfig
from .look import ACCENT, Look, Painter, camera_color, frames_shown
from .splat import Pinhole, splat

BACKGROUND = (255, 255, 255)
_OVERSAMPLING = 2
"""Rendered pixels per pixel of the picture in x and y, for smooth edges."""
_LINE_PIXELS = 2.0
_THIN_LINE_PIXELS = 1.2
"""Width of the lines of the chosen camera and of the others, in pixels of the picture."""

Points = tuple[np.ndarray, np.ndarray, np.ndarray]
"""(N, 3) positions, (N, 3) uint8 colours, (N,) diameters in scene units."""


def picture(
    painter: Painter, track: CameraTrack, images: list[np.ndarray], look: Look, view: Viewpoint, size: tuple[int, int]
) -> np.ndarray:
    """(H, W, 3) uint8 picture of a scene with some display settings from a viewpoint; ``size`` is (W, H) in pixels.

    ``images`` are those on the cameras (see :func:`easi3r_ns.view.cameras.thumbnails`).
    """
    return _render([_static(painter, look), *_frame_parts(painter, track, images, look, view, size[1])], view, size)


def turntable_frames(
    painter: Painter,
    track: CameraTrack,
    images: list[np.ndarray],
    look: Look,
    config: TurntableConfig,
    home: Viewpoint | None = None,
) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 frames of a video in which the camera swings around the scene while the clip plays.

    The clip plays once, from its first frame to its last; ``home`` is the middle of the swing.
    """
    size = config.width, config.height
    views = orbit(home or track.home, config.arc, num_turntable_frames(config))
    static = _static(painter, look)
    for number, view in enumerate(views):
        now = replace(look, frame=number * len(track) // len(views))
        yield _render([static, *_frame_parts(painter, track, images, now, view, size[1])], view, size)


def write_turntable(
    path: Path, frames: Iterator[np.ndarray], config: TurntableConfig, advance: Callable[[int], None] = lambda n: None
) -> Path:
    """Encode frames as an H.264 mp4 that browsers play, atomically. Raises OutputError when the disk refuses."""
    return write_video(path, frames, Fraction(config.fps), advance)


def num_turntable_frames(config: TurntableConfig) -> int:
    """How many frames :func:`turntable_frames` gives."""
    return max(2, round(config.seconds * config.fps))


def _static(painter: Painter, look: Look) -> Points:
    if not look.static:
        return _points(np.zeros((0, 3)), np.zeros((0, 3), np.uint8), 0.0)
    cloud, colors, size = painter.static(look)
    return _points(cloud.points, colors, size)


def _frame_parts(
    painter: Painter, track: CameraTrack, images: list[np.ndarray], look: Look, view: Viewpoint, height: int
) -> list[Points]:
    """What depends on the frame or the viewpoint: moving points, cameras, trajectory."""
    parts = []
    for frame in frames_shown(look):
        cloud, colors, size = painter.moving(frame, look)
        parts.append(_points(cloud.points, colors, size))
    pixel = 2 * np.tan(np.radians(FOV_DEGREES) / 2) / height
    if look.trajectory and len(track) > 1:
        centres = track.T_world_cam[:, :3, 3]
        parts.append(_lines(np.stack([centres[:-1], centres[1:]], axis=1), ACCENT, view, _LINE_PIXELS * pixel))
    drawn = {"none": [], "current": [look.frame], "all": range(len(track))}[look.cameras]
    for frame in drawn:
        plane = track.corners(frame)
        edges = _edges(track.T_world_cam[frame, :3, 3], plane)
        if frame == look.frame:
            parts += [_lines(edges, ACCENT, view, _LINE_PIXELS * pixel), _image_points(images[frame], plane)]
        else:
            parts.append(_lines(edges, camera_color(track, frame), view, _THIN_LINE_PIXELS * pixel))
    return parts


def _render(parts: list[Points], view: Viewpoint, size: tuple[int, int]) -> np.ndarray:
    points, colors, sizes = (np.concatenate(columns) for columns in zip(*parts))
    width, height = size
    camera = Pinhole(view.T_world_cam, np.radians(FOV_DEGREES), _OVERSAMPLING * width, _OVERSAMPLING * height)
    return cv2.resize(splat(points, colors, sizes, camera, BACKGROUND), size, interpolation=cv2.INTER_AREA)


def _points(points: np.ndarray, colors: np.ndarray, size: float) -> Points:
    return points.astype(np.float32), colors, np.full(len(points), size, np.float32)


def _lines(segments: np.ndarray, color: tuple[int, int, int], view: Viewpoint, angle: float) -> Points:
    """(S, 2, 3) segments as dense rows of points, each ``angle`` radians wide from the viewpoint."""
    rows = []
    for start, end in segments:
        nearest = min(np.linalg.norm(start - view.position), np.linalg.norm(end - view.position))
        count = np.linalg.norm(end - start) / max(0.5 * angle * nearest, 1e-9)
        rows.append(start + np.linspace(0, 1, int(np.clip(count, 1, 2000)) + 1)[:, None] * (end - start))
    points = np.concatenate(rows)
    widths = angle * np.linalg.norm(points - view.position, axis=1)
    return points.astype(np.float32), np.tile(np.array(color, np.uint8), (len(points), 1)), widths.astype(np.float32)


def _edges(centre: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """(8, 2, 3) edges of the pyramid with its apex at ``centre`` and its base at the (4, 3) corners ``plane``."""
    sides = np.stack([np.tile(centre, (4, 1)), plane], axis=1)
    return np.concatenate([sides, np.stack([plane, np.roll(plane, -1, axis=0)], axis=1)])


def _image_points(image: np.ndarray, plane: np.ndarray) -> Points:
    """An image as points on the parallelogram whose corners are ``plane``, two points per pixel in x and y."""
    height, width = (2 * side for side in image.shape[:2])
    u, v = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    points = plane[0] + u[..., None] * (plane[1] - plane[0]) + v[..., None] * (plane[3] - plane[0])
    colors = image.repeat(2, axis=0).repeat(2, axis=1)
    step = float(np.linalg.norm(plane[1] - plane[0])) / width
    return _points(points.reshape(-1, 3), colors.reshape(-1, 3), 1.5 * step)
