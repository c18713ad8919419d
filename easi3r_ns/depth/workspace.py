"""A dense workspace as COLMAP's PatchMatch stereo reads it, and the depth maps that it leaves there.

Layout: ``images/`` without distortion, ``sparse/`` with the cameras and points as text, ``stereo/patch-match.cfg`` with
the frames and what each is compared with, ``stereo/depth_maps/NAME.geometric.bin``. A map is a line of text
``width&height&channels&`` and then little-endian float32, row by row (https://colmap.github.io/format.html). COLMAP
puts the centre of the first pixel at (0.5, 0.5).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from ..core.errors import InputError, shown
from ..core.geometry import transform
from ..core.scene import SparsePoints
from ..storage.files import write_png, write_text

GEOMETRIC = "geometric"
"""Kind of the maps that PatchMatch writes last, when other frames have confirmed them."""
_HEADER = re.compile(rb"(\d{1,6})&(\d{1,6})&(\d{1,2})&")


@dataclass(frozen=True)
class DenseFrame:
    """One frame of a workspace."""

    image: np.ndarray
    """(H, W) uint8 grey values, or (H, W, 3) RGB, of a lens without distortion."""
    K: np.ndarray
    """(3, 3), integer pixel centres."""
    T_cam_world: np.ndarray
    """(4, 4)."""
    neighbours: tuple[int, ...]
    """Frames that it is compared with."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.image.shape[:2]
        return int(height), int(width)


def write_workspace(folder: Path, frames: Mapping[int, DenseFrame], points: SparsePoints) -> None:
    """Write a workspace into an empty folder.

    Args:
        frames: by their number; the neighbours of each are among them.
        points: ``frame_index`` holds these numbers; observations in other frames are left out.
    """
    for part in ("images", "sparse", "stereo/depth_maps", "stereo/normal_maps", "stereo/consistency_graphs"):
        (folder / part).mkdir(parents=True)
    numbers = sorted(frames)
    for number in numbers:
        image = frames[number].image
        write_png(folder / "images" / name_of(number), image if image.ndim == 3 else np.stack([image] * 3, axis=-1))
    seen = np.isin(points.frame_index, numbers)
    rows = _observations(frames, points, seen)
    write_text(folder / "sparse" / "cameras.txt", "".join(_camera(k, frames[k]) for k in numbers))
    write_text(folder / "sparse" / "images.txt", "".join(_image(k, frames[k], rows[k]) for k in numbers))
    write_text(folder / "sparse" / "points3D.txt", _points(points, rows))
    pairs = (f"{name_of(k)}\n{', '.join(name_of(n) for n in frames[k].neighbours)}\n" for k in numbers)
    write_text(folder / "stereo" / "patch-match.cfg", "".join(pairs))


def name_of(number: int) -> str:
    """Name of the image of a frame; its id in the model is ``number + 1``."""
    return f"frame_{number + 1:05d}.png"


def read_depth_map(folder: Path, number: int, size: tuple[int, int]) -> np.ndarray:
    """(H, W) float32 z-depth of a frame, 0 where unknown. Raises InputError: see :func:`read_map`."""
    path = folder / "stereo" / "depth_maps" / f"{name_of(number)}.{GEOMETRIC}.bin"
    depth = read_map(path)
    if depth.shape != (*size, 1):
        raise InputError(f"{path.name} has the shape {depth.shape}, its image {size}")
    depth = depth[..., 0]
    return np.where(np.isfinite(depth) & (depth > 0), depth, 0).astype(np.float32)


def read_map(path: Path) -> np.ndarray:
    """(H, W, C) float32 of a depth map (C = 1) or a normal map (C = 3).

    Raises:
        InputError: the file is not there, or not such a map of that size.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path.name} cannot be read ({error.strerror})") from error
    header = _HEADER.match(content)
    if header is None:
        raise InputError(f"{path.name} does not begin with width&height&channels& but with {shown(content[:20])}")
    width, height, channels = (int(value) for value in header.groups())
    wanted = width * height * channels * 4
    if len(content) - header.end() != wanted:
        raise InputError(
            f"{path.name} holds {len(content) - header.end()} bytes of values, not {wanted} for {width} x {height} x "
            f"{channels}"
        )
    values = np.frombuffer(content, dtype="<f4", offset=header.end())
    return np.moveaxis(values.reshape(channels, height, width), 0, -1).astype(np.float32)


def write_map(path: Path, values: np.ndarray) -> None:
    """The inverse of :func:`read_map`."""
    height, width, channels = values.shape
    header = f"{width}&{height}&{channels}&".encode()
    path.write_bytes(header + np.ascontiguousarray(np.moveaxis(values, -1, 0), dtype="<f4").tobytes())


def _camera(number: int, frame: DenseFrame) -> str:
    height, width = frame.image.shape[:2]
    K = frame.K
    return f"{number + 1} PINHOLE {width} {height} {_row([K[0, 0], K[1, 1], K[0, 2] + 0.5, K[1, 2] + 0.5])}\n"


def _image(number: int, frame: DenseFrame, rows: Sequence[tuple[int, float, float]]) -> str:
    x, y, z, w = Rotation.from_matrix(frame.T_cam_world[:3, :3]).as_quat()
    pose = _row([w, x, y, z, *frame.T_cam_world[:3, 3]])
    observed = " ".join(f"{_row([x, y])} {point + 1}" for point, x, y in rows)
    return f"{number + 1} {pose} {number + 1} {name_of(number)}\n{observed}\n"


def _points(points: SparsePoints, rows: Mapping[int, Sequence[tuple[int, float, float]]]) -> str:
    tracks: dict[int, list[str]] = {}
    for number, observed in rows.items():
        for position, (point, _, _) in enumerate(observed):
            tracks.setdefault(point, []).append(f"{number + 1} {position}")
    return "".join(f"{k + 1} {_row(points.points[k])} 128 128 128 1 {' '.join(tracks[k])}\n" for k in sorted(tracks))


def _observations(
    frames: Mapping[int, DenseFrame], points: SparsePoints, seen: np.ndarray
) -> dict[int, list[tuple[int, float, float]]]:
    """Per frame (point, x, y) of the points that it sees and that lie in front of it."""
    rows: dict[int, list[tuple[int, float, float]]] = {}
    for number, frame in frames.items():
        own = np.unique(points.point_index[seen & (points.frame_index == number)])
        local = transform(frame.T_cam_world, points.points[own])
        own, local = own[local[:, 2] > 0], local[local[:, 2] > 0]
        xy = (local / local[:, 2:]) @ frame.K.T
        rows[number] = [(int(k), x + 0.5, y + 0.5) for k, (x, y, _) in zip(own, xy.tolist(), strict=True)]
    return rows


def _row(values: Sequence[float] | np.ndarray) -> str:
    return " ".join(repr(float(value)) for value in values)
