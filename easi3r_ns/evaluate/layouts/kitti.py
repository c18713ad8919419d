"""KITTI odometry: ``sequences/NN/image_2``, ``sequences/NN/calib.txt`` and ``poses/NN.txt``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...core.errors import InputError
from .layout import Layout, TrueClip, TrueFrame, every, first_folder, need, with_rigid

NAMES = tuple(f"{number:02d}" for number in range(11))
FRAMES = 110
"""Frames of an excerpt, from the beginning of the sequence."""


def _read(folder: Path, name: str) -> TrueClip:
    images = sorted(need(folder / "sequences" / name / "image_2").glob("*.png"))
    calibration, poses = need(folder / "sequences" / name / "calib.txt"), need(folder / "poses" / f"{name}.txt")
    try:
        rows = {line.split(":")[0]: line.split(":")[1].split() for line in calibration.read_text().splitlines() if line}
        P = np.array(rows["P2"], dtype=float).reshape(3, 4)
        T_world_grey = np.loadtxt(poses, ndmin=2).reshape(-1, 3, 4)
    except (ValueError, KeyError, IndexError) as error:
        raise InputError(f"{poses} or {calibration} is damaged ({error})") from error
    if len(T_world_grey) < min(len(images), FRAMES):
        raise InputError(f"{poses} has {len(T_world_grey)} cameras for {len(images)} images")
    # The poses are those of the left grey camera; the colour camera stands beside it.
    T_grey_colour = np.eye(4)
    T_grey_colour[:3, 3] = -np.linalg.solve(P[:, :3], P[:, 3])
    frames = [TrueFrame(image, image.name, with_rigid(T) @ T_grey_colour) for image, T in zip(images, T_world_grey)]
    return every(frames, 1, TrueClip(name, (), (float(P[0, 0]), float(P[1, 1]))), FRAMES)


LAYOUTS = {
    "kitti": Layout(
        title="KITTI odometry",
        source="https://www.cvlibs.net/datasets/kitti/eval_odometry.php (colour, calibration, poses)",
        protocol=f"the first {FRAMES} frames of sequences 00 to 10",
        folder=first_folder("dataset", holds=("sequences", "poses")),
        wanted="dataset/ with sequences and poses",
        sequences=lambda folder: NAMES,
        read=_read,
    )
}
