"""Cameras and masks for the frames that were not selected for the reconstruction (``--pose-all-frames``)."""

from .poser import interpolate_pose, pose_between, without_camera

__all__ = ["interpolate_pose", "pose_between", "without_camera"]
