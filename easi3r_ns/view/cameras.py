"""Cameras of a scene as the viewer draws them, and the viewpoints from which it looks at the scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.geometry import Z_UP_FROM_OPENCV_WORLD, transform
from ..core.scene import Scene
from .colors import overlay, several_objects

THUMBNAIL_WIDTH = 240
"""Pixels of the images on the cameras."""
FOV_DEGREES = 50.0
"""Vertical field of view from which the viewer and the turntable look at the scene."""
ASPECT = 16 / 9
"""Width over height of the picture for which the first viewpoint is chosen."""

_ELEVATION_DEGREES = (18.0, 60.0)
"""Least and greatest elevation of the first viewpoint above what it looks at."""
_STEP_BACK = (1.6, 3.2)
"""Least and greatest distance of the first viewpoint from what it looks at, relative to that of the cameras."""
_MARGIN = 0.85
"""All cameras lie within this share of the width and height of the first view."""


@dataclass(frozen=True)
class Viewpoint:
    """A position and a direction to look from, in the z-up world."""

    position: np.ndarray
    """(3,) scene units."""
    look_at: np.ndarray
    """(3,) scene units."""

    @property
    def T_world_cam(self) -> np.ndarray:
        """(4, 4) camera-to-world, OpenCV axes, level (no roll)."""
        forward = self.look_at - self.position
        forward = forward / np.linalg.norm(forward)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        if np.linalg.norm(right) < 1e-6:
            right = np.array([1.0, 0.0, 0.0])
        right = right / np.linalg.norm(right)
        T = np.eye(4)
        T[:3] = np.stack([right, np.cross(forward, right), forward, self.position], axis=1)
        return T


@dataclass(frozen=True)
class CameraTrack:
    """The F cameras of a clip in the z-up world, OpenCV axes."""

    T_world_cam: np.ndarray
    """(F, 4, 4) float64 camera-to-world."""
    fov_y: np.ndarray
    """(F,) vertical field of view in radians."""
    aspect: float
    """Width over height."""
    sources: tuple[str, ...]
    """Where each camera comes from, see :attr:`easi3r_ns.core.scene.Scene.pose_sources`."""
    size: float
    """Length of the drawn cameras in scene units."""
    home: Viewpoint
    """The first viewpoint: behind and above the cameras, towards what they look at."""

    def __len__(self) -> int:
        return len(self.T_world_cam)

    def corners(self, frame: int) -> np.ndarray:
        """(4, 3) corners of the drawn image of a camera in the world, from the top left, clockwise."""
        half = self.size * np.tan(self.fov_y[frame] / 2)
        signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        local = np.column_stack([signs * [half * self.aspect, half], np.full(4, self.size)])
        return transform(self.T_world_cam[frame], local)


def camera_track(scene: Scene) -> CameraTrack:
    """The cameras of a scene; their drawn size and the first viewpoint follow from the scene's depth."""
    poses = Z_UP_FROM_OPENCV_WORLD @ scene.T_world_cam
    width, height = scene.pixel_map.network_wh
    reach = _reach(scene)
    return CameraTrack(
        T_world_cam=poses,
        fov_y=2 * np.arctan(height / (2 * scene.focals_xy[:, 1])),
        aspect=width / height * scene.pixel_map.pixel_aspect,
        sources=scene.pose_sources or ("network",) * len(scene),
        size=0.08 * reach,
        home=_home(poses, reach),
    )


def thumbnails(scene: Scene, masks: bool) -> list[np.ndarray]:
    """F RGB images of at most :data:`THUMBNAIL_WIDTH` for the cameras; with ``masks`` what moves is tinted."""
    import cv2

    width, height = scene.pixel_map.network_wh
    scale = min(1.0, THUMBNAIL_WIDTH / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    shown = (
        overlay(image, scene.dynamic.masks[frame], several_objects(scene, frame)) if masks else image
        for frame, image in enumerate(scene.images)
    )
    return [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in shown]


def orbit(home: Viewpoint, arc: float, num: int) -> list[Viewpoint]:
    """``num`` viewpoints around the vertical through ``home.look_at`` that make a seamless loop.

    ``arc`` degrees from side to side and back, or, for 360, once around.
    """
    phase = 2 * np.pi * np.arange(num) / num
    angles = phase if arc >= 360 else np.radians(arc) / 2 * np.sin(phase)
    offset = home.position - home.look_at
    views = []
    for cos, sin in zip(np.cos(angles), np.sin(angles)):
        turned = np.array([cos * offset[0] - sin * offset[1], sin * offset[0] + cos * offset[1], offset[2]])
        views.append(Viewpoint(home.look_at + turned, home.look_at))
    return views


def _reach(scene: Scene) -> float:
    """Typical distance in scene units from the cameras to what they see."""
    known = scene.depth[scene.depth > 0]
    if len(known):
        return float(np.median(known))
    if scene.sparse is not None and len(scene.sparse):
        centres = scene.T_world_cam[scene.sparse.frame_index, :3, 3]
        return float(np.median(np.linalg.norm(scene.sparse.points[scene.sparse.point_index] - centres, axis=1)))
    if scene.stays:
        return 1.0  # nothing has a size
    return max(4 * float(np.linalg.norm(np.ptp(scene.T_world_cam[:, :3, 3], axis=0))), 1e-3)


def _home(poses: np.ndarray, reach: float) -> Viewpoint:
    focus = np.median(poses[:, :3, 3] + 0.8 * reach * poses[:, :3, 2], axis=0)
    offset = poses[:, :3, 3].mean(axis=0) - focus
    distance = max(float(np.linalg.norm(offset)), 0.3 * reach)
    horizontal = float(np.hypot(offset[0], offset[1]))
    azimuth = np.arctan2(offset[1], offset[0]) if horizontal > 1e-6 * distance else -np.pi / 2
    low, high = np.radians(_ELEVATION_DEGREES)
    elevation = np.clip(np.arctan2(offset[2], horizontal) + low, low, high)
    direction = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    for back in np.linspace(*_STEP_BACK, 17):
        view = Viewpoint(focus + back * distance * direction, focus)
        if _sees(view, poses[:, :3, 3]):
            break
    return view


def _sees(view: Viewpoint, points: np.ndarray) -> bool:
    x, y, z = transform(np.linalg.inv(view.T_world_cam), points).T
    half = _MARGIN * np.tan(np.radians(FOV_DEGREES) / 2)
    return bool(((z > 0) & (np.abs(y) < half * z) & (np.abs(x) < ASPECT * half * z)).all())
