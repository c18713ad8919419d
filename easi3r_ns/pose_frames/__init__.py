"""Cameras and masks for the frames that were sampled away (``--pose-all-frames``)."""

from .poser import INTERPOLATED, PNP, interpolate_pose, pose_between, without_camera

__all__ = ["INTERPOLATED", "PNP", "interpolate_pose", "pose_between", "without_camera"]
