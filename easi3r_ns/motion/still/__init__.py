"""Cameras that stand still or only turn: what shows them, and the turn that they make."""

from .detect import CameraMotion, as_turning, detect_camera_motion
from .turning import PinholeLens

__all__ = ["CameraMotion", "PinholeLens", "as_turning", "detect_camera_motion"]
