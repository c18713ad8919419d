"""Folders of the demo of CUT3R.

::

    camera/000000.npz   'pose' (4, 4) camera-to-world with OpenCV axes, 'intrinsics' (3, 3) in pixels
    depth/000000.npy    z-depth
    conf/000000.npy     confidence (may be missing)
    color/000000.png    colour image

The method finds no masks of what moves: everything counts as static.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..core.errors import InputError
from ..storage.foreign import open_npz
from .recording import Importer, ImportOptions, Recording, numbered, read_all, read_map, same_numbers, stacked


def is_cut3r(folder: Path) -> bool:
    """Whether ``folder`` looks like one of these."""
    return bool(numbered(folder / "camera", r"(\d+)\.npz"))


def read_cut3r(folder: Path, options: ImportOptions) -> Recording:
    """Read such a folder. Raises InputError, with the file, when something is missing or damaged."""
    images = numbered(folder / "color", r"(\d+)\.png")
    if not images:
        raise InputError(f"{folder / 'color'} holds no 000000.png, ...")
    cameras = same_numbers(images, numbered(folder / "camera", r"(\d+)\.npz"), "camera (camera/NUMBER.npz)")
    depths = same_numbers(images, numbered(folder / "depth", r"(\d+)\.npy"), "depth map (depth/NUMBER.npy)")
    confidences = numbered(folder / "conf", r"(\d+)\.npy")
    poses, intrinsics = zip(*read_all(cameras, _read_camera))
    return Recording(
        layout="CUT3R demo",
        why="camera/*.npz",
        images=tuple(images.values()),
        T_world_cam=np.stack(poses),
        K=np.stack(intrinsics),
        depth=stacked(depths, read_map),
        confidence=stacked(same_numbers(images, confidences, "confidence"), read_map) if confidences else None,
        masks=None,
    )


def _read_camera(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with open_npz(path) as archive:
        pose, intrinsics = (archive[name].squeeze().astype(float) for name in ("pose", "intrinsics"))
    if pose.shape != (4, 4) or intrinsics.shape != (3, 3):
        raise ValueError(f"pose {pose.shape} and intrinsics {intrinsics.shape}, not (4, 4) and (3, 3)")
    return pose, intrinsics


IMPORTER = Importer("camera/*.npz", is_cut3r, read_cut3r)
