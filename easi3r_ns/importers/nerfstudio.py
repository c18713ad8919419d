"""Datasets in nerfstudio's format that other programs wrote.

::

    transforms.json    fl_x fl_y cx cy w h k1 k2 p1 p2 at the top or per frame (or camera_angle_x), and frames with
                       file_path, transform_matrix and, where there are some, mask_path and depth_file_path;
                       camera_model OPENCV_FISHEYE, or instant-ngp's is_fisheye, with k1 k2 k3 k4

Poses are camera-to-world with OpenGL axes; the first pixel centre is at (0.5, 0.5). Masks are black where something
moves. Depth maps hold whole thousandths of a unit. All paths lie inside the folder.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from ..core.errors import InputError, shown
from ..core.geometry import opencv_to_opengl
from ..storage.files import decode_image
from ..storage.foreign import read_json
from .grid import on_grid, reduced, resized
from .recording import Importer, ImportOptions, Recording, one_kind, picture_size, read_all, read_mask, readable

FILE = "transforms.json"
_OWN = "easi3r"
"""Key that our own datasets have."""
_FISHEYE = "OPENCV_FISHEYE"
_LENSES = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE", _FISHEYE)
_DEPTH_STEP = 0.001
_SUFFIXES = ("", ".png", ".jpg", ".jpeg")
"""D-NeRF's files name pictures without them."""


def is_nerfstudio(folder: Path) -> bool:
    """Whether ``folder`` looks like one of these."""
    return (folder / FILE).is_file()


def read_nerfstudio(folder: Path, options: ImportOptions) -> Recording:
    """Read such a folder. Raises InputError, with the file, when something is missing or damaged."""
    path = folder / FILE
    try:
        meta = read_json(path)
        frames = _frames(meta)
        if _OWN in meta:
            raise InputError(
                f"{folder} is a dataset of easi3r already: `easi3r export`, `report` and `view` read it, `easi3r redo` "
                "makes it anew"
            )
        images = tuple(_inside(folder, frame["file_path"]) for frame in frames)
        poses = np.array([_numbers(frame["transform_matrix"], (4, 4)) for frame in frames])
        sizes = [picture_size(image) for image in images]
        lenses = [_lens(meta | frame, size) for frame, size in zip(frames, sizes)]
        fisheye = one_kind(_is_fisheye(meta | frame) for frame in frames)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise InputError(f"{path} cannot be read: {_words(error)}") from error
    K = np.array([matrix for matrix, _ in lenses])
    depth = masks = None
    depths = _paths(folder, frames, "depth_file_path")
    if depths is not None and len(set(sizes)) == 1:
        maps = [reduced(values) for values in read_all(depths, _depth)]
        if len({values.shape for values in maps}) != 1:
            raise InputError(f"{folder}: the depth maps differ in size")
        depth = np.stack(maps)
        K = on_grid(K, np.array(depth.shape[:0:-1]) / np.array(sizes[0]))
        masked = _paths(folder, frames, "mask_path")
        if masked is not None:
            masks = np.stack([resized(~mask, depth.shape[1:]) for mask in read_all(masked, read_mask)])
    remarks = []
    if depth is None:
        without = (
            "there are no depth maps" if depths is None else "depth maps of pictures of several sizes are not read"
        )
        remarks.append(f"{without}, and there are no points with tracks: no depth is measured")
    if masks is None and any("mask_path" in frame for frame in frames):
        remarks.append("masks without depth maps are not read: they are found anew, or give --masks")
    return Recording(
        layout="nerfstudio's format",
        why=FILE,
        images=images,
        T_world_cam=opencv_to_opengl(poses),
        K=K,
        depth=depth,
        confidence=None,
        masks=masks,
        distortion=np.array([distortion for _, distortion in lenses]),
        fisheye=fisheye,
        names=tuple(readable(image.relative_to(folder).as_posix()) for image in images),
        remarks=tuple(remarks),
    )


def _frames(meta: Any) -> list[dict[str, Any]]:
    frames = meta["frames"] if isinstance(meta, dict) else None
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise ValueError("it holds no list of frames")
    return sorted(frames, key=_order(frames))


def _order(frames: list[dict[str, Any]]) -> Callable[[dict[str, Any]], Any]:
    """By time where all frames have one, else as they stand."""
    timed = all(type(frame.get("time")) in (int, float) and abs(frame["time"]) < 1e12 for frame in frames)
    return (lambda frame: frame["time"]) if timed else (lambda frame: 0)


def _inside(folder: Path, name: Any) -> Path:
    """The file of this name. Raises ValueError where it leads out of the folder, or is not there."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"{shown(name)} is no name of a file")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{shown(name)} leads out of the folder")
    for suffix in _SUFFIXES:
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    raise ValueError(f"{shown(name)} is not there")


def _paths(folder: Path, frames: list[dict[str, Any]], key: str) -> tuple[Path, ...] | None:
    """The files of all frames; None where not all have one. Raises InputError."""
    if not all(key in frame for frame in frames):
        return None
    try:
        return tuple(_inside(folder, frame[key]) for frame in frames)
    except ValueError as error:
        raise InputError(f"{folder / FILE}: {key} {error}") from error


def _numbers(value: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = np.array(value, dtype=float)
    if array.shape == (3, 4) and shape == (4, 4):
        array = np.vstack([array, [0, 0, 0, 1]])
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{shown(value)} is not {'x'.join(map(str, shape))} finite numbers")
    return array


def _lens(values: dict[str, Any], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Intrinsics in pixels of the picture, integer centres, and k1, k2, p1, p2, or k1 to k4 of a fisheye."""
    model = values.get("camera_model", "OPENCV")
    if model not in _LENSES:
        raise ValueError(f"camera_model {shown(model)} is not read, only {', '.join(_LENSES)}")
    names = ("k1", "k2", "k3", "k4") if _is_fisheye(values) else ("k1", "k2", "p1", "p2")
    if any(float(values.get(name) or 0) for name in {"k3", "k4"} - set(names)):
        raise ValueError("k3 and k4 are not read: undistort the pictures first")
    width, height = float(values.get("w") or size[0]), float(values.get("h") or size[1])
    if not (width > 0 and height > 0 and abs(size[0] * height / (size[1] * width) - 1) < 0.02):
        raise ValueError(f"a picture is {size[0]}x{size[1]}, its camera {width:g}x{height:g} pixels")
    if "fl_x" in values:
        fx = float(values["fl_x"])
    else:
        fx = 0.5 * width / float(np.tan(0.5 * float(values["camera_angle_x"])))
    fy = float(values.get("fl_y", fx))
    cx, cy = float(values.get("cx", width / 2)), float(values.get("cy", height / 2))
    sx, sy = size[0] / width, size[1] / height
    matrix = np.array([[fx * sx, 0, cx * sx - 0.5], [0, fy * sy, cy * sy - 0.5], [0, 0, 1]])
    return matrix, np.array([float(values.get(name) or 0) for name in names])


def _is_fisheye(values: dict[str, Any]) -> bool:
    return values.get("camera_model") == _FISHEYE or bool(values.get("is_fisheye"))


def _depth(path: Path) -> np.ndarray:
    picture_size(path)
    values = decode_image(path, cv2.IMREAD_UNCHANGED)
    if values.ndim != 2 or values.dtype != np.uint16:
        raise ValueError("no depth map of 16 bits")
    return values.astype(np.float32) * np.float32(_DEPTH_STEP)


def _words(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


IMPORTER = Importer(FILE, is_nerfstudio, read_nerfstudio)
