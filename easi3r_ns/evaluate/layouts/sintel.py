"""MPI Sintel: ``training/final/NAME``, ``training/camdata_left/NAME`` (w2c) and ``training/depth/NAME``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...core.errors import InputError
from .layout import Layout, TrueClip, TrueFrame, first_folder, need, with_rigid

NAMES = tuple(
    "alley_2 ambush_4 ambush_5 ambush_6 cave_2 cave_4 market_2 market_5 market_6 shaman_3 sleeping_1 sleeping_2 "
    "temple_2 temple_3".split()
)
TAG = 202021.25
"""First number of every file of the set, to tell damaged ones."""
_FAR = 70.0
"""Depths beyond are sky and far hills, which the wider literature leaves out."""


def read_camera(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(3, 3) intrinsics and (4, 4) camera-to-world. Raises InputError."""
    content = need(path).read_bytes()
    if len(content) < 4 + 21 * 8 or not _is_tagged(content):
        raise InputError(f"{path} is no camera file of Sintel")
    values = np.frombuffer(content, "<f8", 21, offset=4)
    return values[:9].reshape(3, 3), np.linalg.inv(with_rigid(values[9:].reshape(3, 4)))


def read_depth(path: Path) -> np.ndarray:
    """(H, W) float32 depth, 0 beyond 70. Raises InputError."""
    content = path.read_bytes()
    width, height = np.frombuffer(content, "<i4", 2, offset=4) if len(content) >= 12 else (0, 0)
    if min(width, height) < 1 or len(content) != 12 + 4 * int(width) * int(height) or not _is_tagged(content):
        raise InputError(f"{path} is no depth file of Sintel")
    depth = np.frombuffer(content, "<f4", offset=12).reshape(height, width)
    return np.where(depth < _FAR, depth, 0.0).astype(np.float32)


def _is_tagged(content: bytes) -> bool:
    return bool(np.frombuffer(content, "<f4", 1)[0] == np.float32(TAG))


def _read(folder: Path, name: str) -> TrueClip:
    images = sorted(need(folder / "final" / name).glob("frame_*.png"))
    if not images:
        raise InputError(f"{folder / 'final' / name} holds no image")
    frames, focal = [], None
    for image in images:
        K, T_world_cam = read_camera(folder / "camdata_left" / name / f"{image.stem}.cam")
        focal = focal or (float(K[0, 0]), float(K[1, 1]))
        depth = folder / "depth" / name / f"{image.stem}.dpt"
        frames.append(TrueFrame(image, image.name, T_world_cam, depth=depth if depth.exists() else None))
    return TrueClip(name, tuple(frames), focal, read_depth)


LAYOUTS = {
    "sintel": Layout(
        title="Sintel",
        source="http://sintel.is.tue.mpg.de/downloads (images, and the archive with depth and camera motion)",
        protocol="the pass `final`, all frames",
        folder=first_folder("training", "MPI-Sintel/training", holds=("final", "camdata_left")),
        wanted="training/ with final and camdata_left",
        sequences=lambda folder: NAMES,
        read=_read,
    )
}
