"""DyCheck (iPhone) as Shape of Motion processed it: ``NAME/rgb/1x``, ``splits``, cameras and aligned disparity.

Cameras are the refined ones where they are there: a COLMAP model in ``flow3d_preprocessed/colmap/sparse`` (or in its
``0``), or a JSON file in ``flow3d_preprocessed`` or in its ``colmap`` with w2c matrices, either ``{frame: 4x4}`` or
``{frame_names: [...], w2cs: [4x4, ...], Ks: [3x3, ...]}`` (``Ks`` may be missing). The disparity was aligned to them.
Else those of the phone in ``camera/`` are read, with a remark.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from ...core.errors import InputError
from ...importers.colmap import pose_of
from ...importers.colmap_model import read_model, suffix_of
from .layout import Layout, TrueClip, TrueFrame, every, need, with_rigid

NAMES = tuple(
    "apple backpack block creeper handwavy haru-sit mochi-high-five paper-windmill pillow spin sriracha-tree "
    "teddy".split()
)
STEP = 10
PROCESSED = "flow3d_preprocessed"
DISPARITY = f"{PROCESSED}/aligned_depth_anything_colmap/1x"
MODELS = (f"{PROCESSED}/colmap/sparse", f"{PROCESSED}/colmap/sparse/0")
MATRICES = (PROCESSED, f"{PROCESSED}/colmap")
"""Folders in which a JSON file with refined cameras may lie."""
CAMERAS = "camera"
NOT_REFINED = (
    f"the cameras are those of the phone ({CAMERAS}/), because {PROCESSED}/ holds no refined ones, to which the "
    "disparity was aligned: points cannot be compared with published ones"
)


@dataclass(frozen=True)
class _Camera:
    T_world_cam: np.ndarray
    focal_xy: tuple[float, float] | None = None
    centre_xy: tuple[float, float] | None = None


def read_depth(path: Path) -> np.ndarray:
    """(H, W) float32 depth of a file of disparity; 0 where that is 0. Raises InputError."""
    try:
        disparity = np.load(path, allow_pickle=False).squeeze()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error})") from error
    return np.where(disparity > 1e-6, 1 / np.maximum(disparity, 1e-6), 0.0).astype(np.float32)


def _of_phone(path: Path) -> _Camera:
    """``orientation`` turns the world into the camera."""
    try:
        content = json.loads(need(path).read_text(encoding="utf-8"))
        R_cam_world, centre = np.array(content["orientation"], dtype=float), np.array(content["position"], dtype=float)
        focal, (cx, cy) = float(content["focal_length"]), map(float, content["principal_point"])
        return _Camera(with_rigid(np.column_stack([R_cam_world.T, centre])), (focal, focal), (cx, cy))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no camera file ({error})") from error


def _of_model(folder: Path, image: Path) -> dict[str, _Camera]:
    """The cameras of a COLMAP model by the stems of their images, in pixels of pictures like ``image``."""
    model, found = read_model(folder), {}
    with Image.open(image) as picture:
        width, height = picture.size
    for shot in model.images.values():
        lens = model.cameras[shot.camera]
        across, down = width / lens.width, height / lens.height
        found[PurePosixPath(shot.name).stem] = _Camera(
            pose_of(shot, folder), (lens.fx * across, lens.fy * down), (lens.cx * across, lens.cy * down)
        )
    return found


def _of_matrices(path: Path) -> dict[str, _Camera]:
    """The cameras of a JSON file with w2c matrices; none where it holds something else. Raises InputError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and {"frame_names", "w2cs"} <= content.keys():
            names, matrices, lenses = content["frame_names"], content["w2cs"], content.get("Ks")
        elif isinstance(content, dict) and content and all(map(_is_matrix, content.values())):
            names, matrices, lenses = list(content), list(content.values()), None
        else:
            return {}
        found = {}
        for name, T_cam_world, K in zip(names, matrices, lenses or [None] * len(names), strict=True):
            pose = np.linalg.inv(with_rigid(np.array(T_cam_world, dtype=float)))
            k = None if K is None else np.array(K, dtype=float).reshape(3, 3)
            lens = () if k is None else ((float(k[0, 0]), float(k[1, 1])), (float(k[0, 2]), float(k[1, 2])))
            found[PurePosixPath(name).stem] = _Camera(pose, *lens)
        return found
    except (OSError, ValueError, TypeError, np.linalg.LinAlgError) as error:
        raise InputError(f"{path} is damaged ({error})") from error


def _is_matrix(value: object) -> bool:
    return isinstance(value, list) and [len(row) for row in value if isinstance(row, list)] == [4] * 4


def _refined(place: Path, image: Path) -> dict[str, _Camera]:
    """Stem -> refined camera; empty where there are none."""
    for folder in (place / name for name in MODELS):
        if suffix_of(folder) is not None:
            return _of_model(folder, image)
    for path in (path for name in MATRICES for path in sorted((place / name).glob("*.json"))):
        if found := _of_matrices(path):
            return found
    return {}


def _cameras(place: Path, names: Sequence[str], image: Path) -> tuple[dict[str, _Camera], str]:
    """The camera of each frame that has one, and what is to be said of them."""
    refined = _refined(place, image)
    if not refined:
        return {name: _of_phone(place / CAMERAS / f"{name}.json") for name in names}, NOT_REFINED
    known = {name: refined[name] for name in names if name in refined}
    if not known:
        raise InputError(f"{place}: the refined cameras name none of the frames of the split train")
    if any(camera.focal_xy is None for camera in known.values()):
        lens = _of_phone(place / CAMERAS / f"{names[0]}.json")
        known = {name: _Camera(c.T_world_cam, lens.focal_xy, lens.centre_xy) for name, c in known.items()}
    missing = len(names) - len(known)
    return known, f"{missing} frames have no refined camera and are not scored" if missing else ""


def _read(folder: Path, name: str) -> TrueClip:
    place = need(folder / name)
    try:
        names = json.loads(need(place / "splits" / "train.json").read_text(encoding="utf-8"))["frame_names"]
        names = sorted(names)[::STEP]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{place / 'splits' / 'train.json'} is damaged ({error})") from error
    if not names:
        raise InputError(f"{place / 'splits' / 'train.json'} names no frame")
    images = [need(place / "rgb" / "1x" / f"{frame}.png") for frame in names]
    cameras, remark = _cameras(place, names, images[0])
    frames = []
    for frame, image in zip(names, images, strict=True):
        depth = place / DISPARITY / f"{frame}.npy"
        pose = cameras[frame].T_world_cam if frame in cameras else None
        frames.append(TrueFrame(image, image.name, pose, depth=depth if depth.exists() else None))
    lens = next(iter(cameras.values()))
    return every(frames, 1, TrueClip(name, (), lens.focal_xy, read_depth, lens.centre_xy, remark))


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
