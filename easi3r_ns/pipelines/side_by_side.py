"""Two datasets of one clip compared: how far cameras and masks of one are from those of the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.scene import Scene
from ..core.shared_frames import rows_by_frame
from ..core.similarity import align_cameras
from ..dataset.scene_folder import find_scene


@dataclass(frozen=True)
class CameraChange:
    """The cameras and masks of a dataset against those of another one of the same clip."""

    frames: int
    """Number of frames that both have."""
    only_old: int
    only_new: int
    """Frames that only one of them has."""
    old: np.ndarray
    """(N, 4, 4) camera-to-world, OpenCV axes, of the frames that both have."""
    new: np.ndarray
    """(N, 4, 4) of the same, in the world of the old ones."""
    distance: np.ndarray
    """(N,) between the places of a camera, in % of the length of the old path; NaN where the old camera stays."""
    rotation_deg: np.ndarray
    """(N,) degrees between its orientations."""
    moving_old: float
    moving_new: float
    """Share of the pixels of the frames that both have that move, on the network's grid, before they are grown."""

    def __str__(self) -> str:
        """One line for a terminal."""
        cameras = (
            f"cameras moved by {np.median(self.distance):.2g} % of the path (at most {self.distance.max():.2g} %) and "
            f"turned by {np.median(self.rotation_deg):.2g} degrees (at most {self.rotation_deg.max():.2g})"
            if self.frames
            else "no frame in common"
        )
        if self.frames and np.isnan(self.distance).any():
            cameras = f"cameras turned by {np.median(self.rotation_deg):.2g} degrees"
        return (
            f"{cameras}; {100 * self.moving_old:.1f} % of the picture moved before, {100 * self.moving_new:.1f} % now"
        )


def compare_cameras(old: Path | Scene, new: Path | Scene) -> CameraChange:
    """Cameras and masks of a dataset before and after, in the world of the first one (Sim(3)).

    Raises:
        InputError: one of them is no dataset.
    """
    before, after = (scene if isinstance(scene, Scene) else find_scene(scene) for scene in (old, new))
    rows_old, rows_new = rows_by_frame(before), rows_by_frame(after)
    common = [key for key in rows_old if key in rows_new]
    a, b = [rows_old[key] for key in common], [rows_new[key] for key in common]
    T_old, T_new = before.T_world_cam[a], after.T_world_cam[b]
    if len(common) > 1:
        T_new = align_cameras(T_new, T_old).cameras(T_new)
    path = float(np.linalg.norm(np.diff(before.T_world_cam[:, :3, 3], axis=0), axis=1).sum())
    apart = np.linalg.norm(T_new[:, :3, 3] - T_old[:, :3, 3], axis=1)
    turn = np.trace(T_old[:, :3, :3].transpose(0, 2, 1) @ T_new[:, :3, :3], axis1=1, axis2=2)
    return CameraChange(
        frames=len(common),
        only_old=len(rows_old) - len(common),
        only_new=len(rows_new) - len(common),
        old=T_old,
        new=T_new,
        distance=100 * apart / path if path > 0 else np.full(len(common), np.nan),
        rotation_deg=np.degrees(np.arccos(np.clip((turn - 1) / 2, -1, 1))),
        moving_old=float(before.dynamic.masks[a].mean()) if a else 0.0,
        moving_new=float(after.dynamic.masks[b].mean()) if b else 0.0,
    )
