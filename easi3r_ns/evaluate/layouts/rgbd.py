"""TUM and Bonn RGB-D: ``rgb.txt``, ``depth.txt`` and ``groundtruth.txt`` beside the images, joined by their times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ...core.errors import InputError
from ...storage.files import decode_image
from .layout import Layout, TrueClip, TrueFrame, every, need, with_rigid

APART = 0.02
"""Seconds between a picture and its depth or camera, at most."""
DEPTH_UNIT = 1 / 5000
TUM = tuple(
    f"rgbd_dataset_freiburg3_{kind}_{way}"
    for kind in ("sitting", "walking")
    for way in ("halfsphere", "rpy", "static", "xyz")
)
BONN = tuple(f"rgbd_bonn_{name}" for name in ("balloon2", "crowd2", "crowd3", "person_tracking2", "synchronous"))
_TUM_FOCAL = (535.4, 539.2)
"""Of freiburg3, as its page states it."""


def _table(path: Path) -> tuple[np.ndarray, list[list[str]]]:
    """Times in seconds, and the other words of each line."""
    lines = [line.split() for line in need(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    rows = [line for line in lines if not line[0].startswith("#")]
    try:
        return np.array([float(row[0]) for row in rows]), [row[1:] for row in rows]
    except (ValueError, IndexError) as error:
        raise InputError(f"{path} is no list of times ({error})") from error


def _nearest(times: np.ndarray, at: float) -> int | None:
    if not len(times):
        return None
    position = int(np.abs(times - at).argmin())
    return position if abs(times[position] - at) <= APART else None


def _pose(words: list[str]) -> np.ndarray:
    x, y, z, qx, qy, qz, qw = map(float, words[:7])
    q = np.array([qw, qx, qy, qz]) / np.linalg.norm([qw, qx, qy, qz])
    w, a, b, c = q
    R = [
        [1 - 2 * (b * b + c * c), 2 * (a * b - c * w), 2 * (a * c + b * w)],
        [2 * (a * b + c * w), 1 - 2 * (a * a + c * c), 2 * (b * c - a * w)],
        [2 * (a * c - b * w), 2 * (b * c + a * w), 1 - 2 * (a * a + b * b)],
    ]
    return with_rigid(np.column_stack([np.array(R), [x, y, z]]))


def read_depth(path: Path) -> np.ndarray:
    """(H, W) float32 metres of a 16-bit PNG."""
    try:
        return decode_image(path, -1).astype(np.float32) * DEPTH_UNIT
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error})") from error


@dataclass(frozen=True)
class _Frames:
    """Which frames of a sequence are taken, and what is known of them."""

    step: int = 1
    skip: int = 0
    most: int | None = None
    """Frames after ``skip`` of which every ``step``-th is taken."""
    poses: bool = True
    """Take frames with a camera only."""
    focal: tuple[float, float] | None = None


def _read(take: _Frames, folder: Path, name: str) -> TrueClip:
    place = need(folder / name)
    times, files = _table(place / "rgb.txt")
    depth_times, depth_files = _table(place / "depth.txt") if (place / "depth.txt").exists() else (np.empty(0), [])
    pose_times, pose_rows = _table(place / "groundtruth.txt") if take.poses else (np.empty(0), [])
    frames: list[TrueFrame] = []
    for time, (file, *_) in zip(times, files, strict=True):
        camera, depth = _nearest(pose_times, time), _nearest(depth_times, time)
        if take.poses and camera is None:
            continue
        frames.append(
            TrueFrame(
                need(place / file),
                f"{len(frames):06d}{Path(file).suffix}",
                None if camera is None else _pose(pose_rows[camera]),
                depth=None if depth is None else need(place / depth_files[depth][0]),
            )
        )
    return every(frames[take.skip :], take.step, TrueClip(name, (), take.focal, read_depth), take.most)


def _holds(names: tuple[str, ...]) -> Callable[[Path], Path | None]:
    return lambda root: root if any((root / name).is_dir() for name in names) else None


def _tum(protocol: str, step: int, most: int | None = None) -> Layout:
    return Layout(
        title="TUM-dynamics",
        source="https://cvg.cit.tum.de/data/datasets/rgbd-dataset/download (freiburg3, sitting and walking)",
        protocol=protocol,
        folder=_holds(TUM),
        wanted=f"a folder such as {TUM[0]}",
        sequences=lambda folder: TUM,
        read=partial(_read, _Frames(step, most=most, focal=_TUM_FOCAL)),
    )


LAYOUTS = {
    "tum-dynamics": _tum("every 30th frame with a camera", step=30),
    "tum-dynamics-90": _tum("the first 90 frames with a camera, every third", step=3, most=90),
    "bonn": Layout(
        title="Bonn",
        source="https://www.ipb.uni-bonn.de/data/rgbd-dynamic-dataset",
        protocol="frames 30 to 139; depth alone, because the true poses are those of markers on the camera",
        folder=_holds(BONN),
        wanted=f"a folder such as {BONN[0]}",
        sequences=lambda folder: BONN,
        read=partial(_read, _Frames(skip=30, most=110, poses=False)),
    ),
}
