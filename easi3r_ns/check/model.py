"""Reader of COLMAP models, binary and text (https://colmap.github.io/format.html): what a check of files needs of them.

Written for files of strangers: counts are compared with the size of the file before anything is read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.errors import InputError, shortened
from ..storage.foreign import read_bytes, read_text

CAMERA_MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
    11: ("RAD_TAN_THIN_PRISM_FISHEYE", 16),
}
"""Number -> name and number of parameters."""
MOST_PIXELS = 1 << 32
"""No side of an image has as many."""
_OBSERVATION = np.dtype([("xy", "<f8", 2), ("point", "<i8")])


@dataclass(frozen=True)
class ModelCamera:
    """A lens."""

    model: str
    width: int
    height: int
    params: tuple[float, ...]


@dataclass(frozen=True)
class ModelImage:
    """An image of a model."""

    name: str
    camera: int
    """Number of its camera."""
    observed: int
    """Observations that belong to a point."""


@dataclass(frozen=True)
class ColmapFiles:
    """What a model names."""

    cameras: dict[int, ModelCamera]
    images: tuple[ModelImage, ...]
    num_points: int
    """0 where there is no file of points."""

    @property
    def names(self) -> list[str]:
        """Names of the images."""
        return [image.name for image in self.images]

    @property
    def kinds(self) -> list[str]:
        """Names of the camera models, sorted."""
        return sorted({camera.model for camera in self.cameras.values()})


def read_model(folder: Path) -> ColmapFiles:
    """The model in a folder, binary where both are there. Raises InputError when it is damaged."""
    suffix = "bin" if all((folder / f"{name}.bin").exists() for name in ("cameras", "images")) else "txt"
    cameras, images, points = (folder / f"{name}.{suffix}" for name in ("cameras", "images", "points3D"))
    try:
        if suffix == "bin":
            found = dict(_binary_cameras(cameras)), tuple(_binary_images(images)), _binary_points(points)
        else:
            found = dict(_text_cameras(cameras)), tuple(_text_images(images)), _text_points(points)
    except (OSError, ValueError, IndexError, struct.error, OverflowError) as error:
        raise InputError(f"{folder} holds no COLMAP model that can be read: {shortened(str(error))}") from error
    model = ColmapFiles(*found)
    lost = [image.name for image in model.images if image.camera not in model.cameras]
    if lost:
        raise InputError(f"{folder}: {lost[0]} has a camera that is not there")
    if not model.images:
        raise InputError(f"{folder}: the model has no images")
    return model


class _Bytes:
    """A file that is read from front to back; ValueError where it ends too early."""

    def __init__(self, path: Path) -> None:
        self.name, self.content, self.at = path.name, read_bytes(path), 0

    def take(self, count: int) -> bytes:
        if count < 0 or self.at + count > len(self.content):
            raise ValueError(f"{self.name} ends too early")
        self.at += count
        return self.content[self.at - count : self.at]

    def unpack(self, layout: str) -> tuple:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def text(self) -> str:
        end = self.content.find(b"\0", self.at)
        if end < 0:
            raise ValueError(f"{self.name} ends in a name")
        return self.take(end + 1 - self.at)[:-1].decode("utf-8")


def _binary_cameras(path: Path) -> Iterator[tuple[int, ModelCamera]]:
    file = _Bytes(path)
    for _ in range(_count(file, 24)):
        number, kind, width, height = file.unpack("<IiQQ")
        if kind not in CAMERA_MODELS:
            raise ValueError(f"{path.name} has a camera model with the number {kind}")
        name, count = CAMERA_MODELS[kind]
        yield number, _camera(name, width, height, file.unpack(f"<{count}d"))


def _camera(model: str, width: int, height: int, params: tuple[float, ...]) -> ModelCamera:
    if not 0 < min(width, height) <= max(width, height) < MOST_PIXELS:
        raise ValueError(f"a camera has images of {width}x{height} pixels")
    wanted = dict(CAMERA_MODELS.values()).get(model, len(params))
    if len(params) != wanted:
        raise ValueError(f"a camera {model} has {len(params)} parameters, not {wanted}")
    return ModelCamera(model, width, height, params)


def _binary_images(path: Path) -> Iterator[ModelImage]:
    file = _Bytes(path)
    for _ in range(_count(file, 73)):
        camera = file.unpack("<I7dI")[-1]
        name = file.text()
        rows = np.frombuffer(file.take(_OBSERVATION.itemsize * file.unpack("<Q")[0]), _OBSERVATION)
        yield ModelImage(name, camera, int((rows["point"] >= 0).sum()))


def _binary_points(path: Path) -> int:
    return _count(_Bytes(path), 51) if path.is_file() else 0


def _count(file: _Bytes, least: int) -> int:
    """The number at the front of a file, of entries with so many bytes each at least."""
    (count,) = file.unpack("<Q")
    if count * least > len(file.content):
        raise ValueError(f"{file.name} says that it has {count} entries, and is too short for them")
    return count


def _lines(path: Path) -> list[str]:
    return [line for line in read_text(path).splitlines() if not line.startswith("#")]


def _text_cameras(path: Path) -> Iterator[tuple[int, ModelCamera]]:
    for line in filter(None, map(str.split, _lines(path))):
        yield int(line[0]), _camera(line[1], int(line[2]), int(line[3]), tuple(map(float, line[4:])))


def _text_images(path: Path) -> Iterator[ModelImage]:
    lines = _lines(path)
    while lines and not lines[0].strip():
        lines.pop(0)
    # Every image has two lines; the second, of its observations, may be empty, and at the end missing.
    for head, observations in zip(lines[::2], [*lines[1::2], ""]):
        if head.strip():
            words = head.split(maxsplit=9)
            seen = sum(int(point) >= 0 for point in observations.split()[2::3])
            yield ModelImage(words[9].strip(), int(words[8]), seen)


def _text_points(path: Path) -> int:
    return sum(1 for line in _lines(path) if line.strip()) if path.is_file() else 0
