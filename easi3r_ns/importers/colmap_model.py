"""The three files of a COLMAP model, binary or text (https://colmap.github.io/format.html).

pycolmap reads them too, and ends the process on some damaged ones; here every count is compared with the size of the
file before anything is allocated.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import InputError, shown
from ..storage.foreign import read_bytes, read_text

FILES = ("cameras", "images", "points3D")
_MODELS = {
    "SIMPLE_PINHOLE": 3,
    "PINHOLE": 4,
    "SIMPLE_RADIAL": 4,
    "RADIAL": 5,
    "OPENCV": 8,
    "OPENCV_FISHEYE": 8,
    "FULL_OPENCV": 12,
    "FOV": 5,
    "SIMPLE_RADIAL_FISHEYE": 4,
    "RADIAL_FISHEYE": 5,
    "THIN_PRISM_FISHEYE": 12,
    "RAD_TAN_THIN_PRISM_FISHEYE": 16,
}
"""Camera models by their numbers in binary files, with their numbers of parameters."""
_FISHEYE = ("SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "OPENCV_FISHEYE")
SUPPORTED = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", *_FISHEYE)
_NO_POINT = (1 << 64) - 1


@dataclass(frozen=True)
class Camera:
    """One camera in pixels of its images, the first centre at 0.5."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, float, float, float]
    """(k1, k2, p1, p2) of OpenCV, or (k1, k2, k3, k4) of its fisheye."""
    fisheye: bool = False


@dataclass(frozen=True)
class Image:
    """One registered image."""

    name: str
    """Its path relative to the folder of images, with ``/``; bytes that are not UTF-8 are kept as in Python's names."""
    camera: int
    quaternion: tuple[float, float, float, float]
    """w x y z of the world-to-camera rotation."""
    translation: tuple[float, float, float]
    pixels: np.ndarray
    """(K, 2) float64 observations."""
    points: np.ndarray
    """(K,) uint64 ids of the points that they show; all bits set: none."""


@dataclass(frozen=True)
class Model:
    """A sparse model."""

    cameras: dict[int, Camera]
    images: dict[int, Image]
    ids: np.ndarray
    """(N,) uint64 of the points, increasing."""
    points: np.ndarray
    """(N, 3) float64."""
    colors: np.ndarray
    """(N, 3) uint8."""
    errors: np.ndarray
    """(N,) float64 pixels."""


def suffix_of(folder: Path) -> str | None:
    """'.bin' or '.txt' where the folder holds cameras and images of a model, else None."""
    for suffix in (".bin", ".txt"):
        if all((folder / f"{name}{suffix}").is_file() for name in FILES[:2]):
            return suffix
    return None


def read_model(folder: Path) -> Model:
    """The model in a folder with :func:`suffix_of`; points may be missing. Raises InputError with the file."""
    suffix = suffix_of(folder)
    readers = _BINARY if suffix == ".bin" else _TEXT
    parts: dict[str, Any] = {}
    for name in FILES:
        path = folder / f"{name}{suffix}"
        try:
            parts[name] = readers[name](path) if path.is_file() or name != "points3D" else _no_points()
        except (OSError, ValueError, LookupError, struct.error, OverflowError) as error:
            raise InputError(f"{path} cannot be read: {error}") from error
    model = Model(parts["cameras"], parts["images"], *parts["points3D"])
    for image in model.images.values():
        if image.camera not in model.cameras:
            raise InputError(f"{folder}: {shown(image.name)} was taken by camera {image.camera}, which is not there")
    return model


def _camera(model: str, width: int, height: int, params: tuple[float, ...]) -> Camera:
    if model not in SUPPORTED:
        raise ValueError(
            f"camera model {model} is not read, only {', '.join(SUPPORTED)}: `colmap image_undistorter` makes pictures "
            "and a model without distortion"
        )
    if len(params) != _MODELS[model]:
        raise ValueError(f"{model} has {_MODELS[model]} parameters, not {len(params)}")
    if not (0 < width <= 1 << 16 and 0 < height <= 1 << 16) or not np.isfinite(params).all():
        raise ValueError(f"a camera of {width}x{height} pixels with the parameters {shown(params)}")
    single = model.startswith(("SIMPLE_", "RADIAL"))
    fx, fy, cx, cy = (params[0], params[0], *params[1:3]) if single else params[:4]
    if min(fx, fy) <= 0:
        raise ValueError(f"a focal length of {min(fx, fy):g} pixels is not positive")
    lens = [*params[3 if single else 4 :], 0.0, 0.0, 0.0, 0.0][:4]
    return Camera(width, height, fx, fy, cx, cy, (lens[0], lens[1], lens[2], lens[3]), model in _FISHEYE)


class _Cursor:
    """A place in the content of a binary file."""

    def __init__(self, path: Path) -> None:
        self._content, self._at = read_bytes(path), 0

    def take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(form, self._content, self._at)
        self._at += struct.calcsize(form)
        return values

    def count(self, least_bytes: int) -> int:
        """A count of entries, each of which has at least so many bytes."""
        (number,) = self.take("<Q")
        if number * least_bytes > len(self._content) - self._at:
            raise ValueError(f"it announces {number} entries, the file has {len(self._content)} bytes")
        return int(number)

    def rows(self, dtype: np.dtype[Any], number: int) -> np.ndarray:
        if number * dtype.itemsize > len(self._content) - self._at:
            raise ValueError(f"it announces {number} entries, the file has {len(self._content)} bytes")
        values = np.frombuffer(self._content, dtype, number, self._at)
        self._at += number * dtype.itemsize
        return values

    def name(self) -> bytes:
        end = self._content.index(b"\0", self._at)
        text, self._at = self._content[self._at : end], end + 1
        return text

    def finish(self) -> None:
        if self._at != len(self._content):
            raise ValueError(f"{len(self._content) - self._at} bytes follow the last entry")


def _cameras_bin(path: Path) -> dict[int, Camera]:
    cursor, cameras = _Cursor(path), {}
    names = list(_MODELS)
    for _ in range(cursor.count(24)):
        number, model, width, height = cursor.take("<IiQQ")
        if not 0 <= model < len(names):
            raise ValueError(
                f"camera model number {model} is not read, only {', '.join(SUPPORTED)}: `colmap image_undistorter` "
                "makes pictures and a model without distortion"
            )
        params = cursor.take(f"<{_MODELS[names[model]]}d")
        cameras[number] = _camera(names[model], width, height, params)
    cursor.finish()
    return cameras


def _images_bin(path: Path) -> dict[int, Image]:
    cursor, images = _Cursor(path), {}
    observation = np.dtype([("xy", "<f8", 2), ("point", "<u8")])
    for _ in range(cursor.count(73)):
        number, *pose, camera = cursor.take("<I7dI")
        name = _file_name(cursor.name())
        rows = cursor.rows(observation, cursor.count(observation.itemsize))
        images[number] = Image(name, camera, tuple(pose[:4]), tuple(pose[4:]), rows["xy"], rows["point"])
    cursor.finish()
    return images


def _points_bin(path: Path) -> tuple[np.ndarray, ...]:
    cursor = _Cursor(path)
    head = np.dtype([("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8")])
    rows = np.empty(cursor.count(head.itemsize + 8), dtype=head)
    for row in range(len(rows)):
        rows[row] = cursor.rows(head, 1)[0]
        cursor.rows(np.dtype("<u4"), 2 * cursor.count(8))
    cursor.finish()
    return _sorted(rows["id"], rows["xyz"], rows["rgb"], rows["error"])


def _lines(path: Path) -> Iterator[list[str]]:
    for line in read_text(path).splitlines():
        if not line.startswith("#"):
            yield line.split()


def _cameras_txt(path: Path) -> dict[int, Camera]:
    cameras = {}
    for words in filter(None, _lines(path)):
        number, model, width, height, *params = words
        cameras[int(number)] = _camera(model, int(width), int(height), tuple(map(float, params)))
    return cameras


def _images_txt(path: Path) -> dict[int, Image]:
    images: dict[int, Image] = {}
    lines = [line for line in read_text(path).splitlines() if not line.startswith("#")]
    while lines and not lines[0].strip():
        lines.pop(0)
    for first, second in zip(lines[::2], [*lines[1::2], ""]):
        words = first.split(maxsplit=9)
        if len(words) != 10:
            raise ValueError(f"{shown(first)} is not the line of an image")
        observed = np.array([float(word) for word in second.split()], dtype=float)
        if len(observed) % 3:
            raise ValueError(f"the observations of {shown(words[9])} are not triples")
        rows = observed.reshape(-1, 3)
        points = np.where(rows[:, 2] < 0, 0, rows[:, 2]).astype(np.uint64)
        points[rows[:, 2] < 0] = _NO_POINT
        pose = [float(word) for word in words[1:8]]
        name = _file_name(words[9].strip().encode())
        quaternion, shift = (pose[0], pose[1], pose[2], pose[3]), (pose[4], pose[5], pose[6])
        images[int(words[0])] = Image(name, int(words[8]), quaternion, shift, rows[:, :2], points)
    return images


def _points_txt(path: Path) -> tuple[np.ndarray, ...]:
    rows = [[float(word) for word in words[:8]] for words in filter(None, _lines(path))]
    values = np.array(rows, dtype=float).reshape(-1, 8)
    ids = np.array([int(words[0]) for words in filter(None, _lines(path))], dtype=np.uint64)
    if not ((values[:, 4:7] >= 0) & (values[:, 4:7] <= 255)).all():
        raise ValueError("a colour is not in 0 to 255")
    return _sorted(ids, values[:, 1:4], values[:, 4:7].astype(np.uint8), values[:, 7])


def _file_name(name: bytes) -> str:
    return os.fsdecode(name).replace("\\", "/")


def _no_points() -> tuple[np.ndarray, ...]:
    return _sorted(np.empty(0, np.uint64), np.empty((0, 3)), np.empty((0, 3), np.uint8), np.empty(0))


def _sorted(ids: np.ndarray, points: np.ndarray, colors: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, ...]:
    if not np.isfinite(points).all():
        raise ValueError("a point is not finite")
    order = np.argsort(ids)
    return tuple(np.ascontiguousarray(values[order]) for values in (ids, points, colors, errors))


_BINARY = {"cameras": _cameras_bin, "images": _images_bin, "points3D": _points_bin}
_TEXT = {"cameras": _cameras_txt, "images": _images_txt, "points3D": _points_txt}
