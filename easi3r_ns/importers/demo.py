"""Folders of the demos of MonST3R, Easi3R and VGGT4D.

::

    pred_traj.txt                   a line per frame: timestamp x y z qw qx qy qz (the real part FIRST, unlike TUM)
    pred_intrinsics.txt             a line per frame: the nine numbers of the 3 x 3 matrix, row by row
    frame_0000.png, frame_0000.npy  colour image and z-depth
    conf_0.npy                      confidence (may be missing)
    dynamic_mask_0.png              white where something moves; or enlarged_dynamic_mask_0.png (may be missing)

Poses are camera-to-world with OpenCV axes; pixels have integer centres. Numbers may be padded with zeros or not.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from ..core.errors import InputError
from ..storage.foreign import read_text
from .recording import Importer, ImportOptions, Recording, numbered, read_map, read_mask, same_numbers, stacked

TRAJECTORY = "pred_traj.txt"
INTRINSICS = "pred_intrinsics.txt"


def is_demo(folder: Path) -> bool:
    """Whether ``folder`` looks like one of these."""
    return (folder / TRAJECTORY).is_file()


def read_demo(folder: Path, options: ImportOptions) -> Recording:
    """Read such a folder. Raises InputError, with the file, when something is missing or damaged."""
    frames = numbered(folder, r"frame_(\d+)\.png")
    if not frames:
        raise InputError(f"{folder} holds no frame_0000.png, ...")
    depths = same_numbers(frames, numbered(folder, r"frame_(\d+)\.npy"), "depth map (.npy)")
    confidences = numbered(folder, r"conf_(\d+)\.npy")
    masks = numbered(folder, r"dynamic_mask_(\d+)\.png") or numbered(folder, r"enlarged_dynamic_mask_(\d+)\.png")
    return Recording(
        layout="MonST3R, Easi3R or VGGT4D demo",
        why=TRAJECTORY,
        images=tuple(frames.values()),
        T_world_cam=read_poses(folder / TRAJECTORY),
        K=read_table(folder / INTRINSICS, 9).reshape(-1, 3, 3),
        depth=stacked(depths, read_map),
        confidence=stacked(same_numbers(frames, confidences, "confidence"), read_map) if confidences else None,
        masks=stacked(same_numbers(frames, masks, "mask"), read_mask) if masks else None,
    )


def read_poses(path: Path) -> np.ndarray:
    """(F, 4, 4) camera-to-world of lines ``timestamp x y z qw qx qy qz``. Raises InputError."""
    rows = read_table(path, 8)
    lengths = np.linalg.norm(rows[:, 4:], axis=1)
    if (np.abs(lengths - 1) > 0.01).any():
        worst = int(np.abs(lengths - 1).argmax())
        raise InputError(f"{path}: the quaternion of line {worst + 1} has length {lengths[worst]:g}, not 1")
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3, :3] = Rotation.from_quat(np.roll(rows[:, 4:], -1, axis=1)).as_matrix()
    poses[:, :3, 3] = rows[:, 1:4]
    return poses


def read_table(path: Path, columns: int) -> np.ndarray:
    """(N, columns) float64 of a text file, '#' starting a comment. Raises InputError."""
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            row = [float(word) for word in words]
        except ValueError:
            raise InputError(f"{path}, line {number}: {line.strip()!r} is not a line of numbers") from None
        if len(row) != columns:
            raise InputError(f"{path}, line {number}: {len(row)} numbers, not {columns}")
        rows.append(row)
    if not rows:
        raise InputError(f"{path} is empty")
    return np.array(rows)


IMPORTER = Importer(TRAJECTORY, is_demo, read_demo)
