"""Cameras that stand still or only turn: what shows them, and the turn that they make."""

from .detect import CameraMotion, as_turning, detect_camera_motion
from .lens import EquidistantLens, PinholeLens

__all__ = ["CameraMotion", "EquidistantLens", "PinholeLens", "as_turning", "detect_camera_motion"]
