"""DyCheck (iPhone) as Shape of Motion processed it: ``NAME/rgb/1x``, ``splits``, ``camera`` and aligned disparity."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ...core.errors import InputError
from .layout import Layout, TrueClip, TrueFrame, every, need, with_rigid

NAMES = tuple(
    "apple backpack block creeper handwavy haru-sit mochi-high-five paper-windmill pillow spin sriracha-tree "
    "teddy".split()
)
STEP = 10
DISPARITY = "flow3d_preprocessed/aligned_depth_anything_colmap/1x"
CAMERAS = "camera"


def read_depth(path: Path) -> np.ndarray:
    """(H, W) float32 depth of a file of disparity; 0 where that is 0. Raises InputError."""
    try:
        disparity = np.load(path, allow_pickle=False).squeeze()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error})") from error
    return np.where(disparity > 1e-6, 1 / np.maximum(disparity, 1e-6), 0.0).astype(np.float32)


def _camera(path: Path) -> tuple[np.ndarray, float]:
    """(4, 4) camera-to-world and focal length; ``orientation`` turns the world into the camera."""
    try:
        content = json.loads(need(path).read_text(encoding="utf-8"))
        R_cam_world, centre = np.array(content["orientation"], dtype=float), np.array(content["position"], dtype=float)
        return with_rigid(np.column_stack([R_cam_world.T, centre])), float(content["focal_length"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no camera file ({error})") from error


def _read(folder: Path, name: str) -> TrueClip:
    place = need(folder / name)
    try:
        names = json.loads(need(place / "splits" / "train.json").read_text(encoding="utf-8"))["frame_names"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{place / 'splits' / 'train.json'} is damaged ({error})") from error
    frames, focal = [], None
    for frame in sorted(names)[::STEP]:
        T_world_cam, length = _camera(place / CAMERAS / f"{frame}.json")
        focal = focal or (length, length)
        depth = place / DISPARITY / f"{frame}.npy"
        image = need(place / "rgb" / "1x" / f"{frame}.png")
        frames.append(TrueFrame(image, image.name, T_world_cam, depth=depth if depth.exists() else None))
    return every(frames, 1, TrueClip(name, (), focal, read_depth))


def _folder(root: Path) -> Path | None:
    places = (root, root / "iphone")
    return next((place for place in places if any((place / name).is_dir() for name in NAMES)), None)


LAYOUTS = {
    "dycheck": Layout(
        title="DyCheck",
        source="https://github.com/vye16/shape-of-motion (the iPhone set that it links)",
        protocol=f"every {STEP}th frame of the split train",
        folder=_folder,
        wanted="a folder such as apple/",
        sequences=lambda folder: NAMES,
        read=_read,
    )
}
