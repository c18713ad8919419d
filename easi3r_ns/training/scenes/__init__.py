"""Rendered scenes with exact geometry: static ones to train on, moving ones to test and to show with.

``render_clip`` is the usual entry point; ``make_scene`` and ``render`` give full control.
"""

from .cameras import focal_from_fov, handheld_path, look_at, training_views
from .clips import Clip, ClipOptions, correspondences, film, flow, render_clip
from .raycast import RenderCameras, Rendering, render
from .scene import Motion, SceneOptions, SyntheticScene, make_scene, object_poses
from .showing import Showing, showing_seeds, shows_motion

__all__ = [
    "RenderCameras",
    "Clip",
    "ClipOptions",
    "Motion",
    "Rendering",
    "SyntheticScene",
    "SceneOptions",
    "Showing",
    "correspondences",
    "film",
    "flow",
    "focal_from_fov",
    "handheld_path",
    "look_at",
    "make_scene",
    "object_poses",
    "render",
    "render_clip",
    "showing_seeds",
    "shows_motion",
    "training_views",
]
