"""What all these folders have in common: frames, cameras, depth, confidence, masks; and how a Scene is made of it."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from .. import __version__
from ..core.bounds import check_bounds
from ..core.config import CONFIDENCES, RATES
from ..core.errors import InputError
from ..core.geometry import is_rigid
from ..core.scene import Scene, choose_scale, rescale_scene
from ..core.types import DynamicMasks, PixelMap
from ..storage.files import read_png
from ..storage.marks import read_marks

_MAX_ASPECT = 0.02
"""Relative difference of the two focal lengths up to which pixels count as square."""
_MAX_SHIFT = 0.5
"""Pixels by which the principal points of the frames may differ."""
_TOKENS = 16
"""Pixels per token of the score that a Scene holds (0 everywhere: these folders have none)."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class ImportOptions:
    """What the folders do not tell."""

    fps: float = 24.0
    """Frames per second of the clip, for the time stamps."""
    min_confidence: float = 0.0
    """Pixels below this confidence (in the folder's own units) are not trusted."""

    def __post_init__(self) -> None:
        check_bounds("--fps", self.fps, *RATES)
        check_bounds("--min-confidence", self.min_confidence, *CONFIDENCES)


@dataclass(frozen=True)
class Recording:
    """A folder's content as it stands there, checked one by one but not yet against each other."""

    layout: str
    """Who writes such folders."""
    images: tuple[Path, ...]
    """F colour images, in order."""
    T_world_cam: np.ndarray
    """(F, 4, 4) float64 camera-to-world, OpenCV axes, any world and scale."""
    K: np.ndarray
    """(F, 3, 3) float64 intrinsics in pixels of the images, integer pixel centres."""
    depth: np.ndarray
    """(F, H, W) float32 z-depth."""
    confidence: np.ndarray | None
    """(F, H, W) float32, or None where the folder has none."""
    masks: np.ndarray | None
    """(F, H, W) bool, True where something moves, or None where the folder has none."""


@dataclass(frozen=True)
class Importer:
    """One layout of folders. Its module holds one under the name ``IMPORTER``."""

    sign: str
    """What such a folder is recognised by, for messages."""
    recognises: Callable[[Path], bool]
    """Whether a folder that exists looks like one of these."""
    read: Callable[[Path], Recording]
    """The content of such a folder. Raises InputError, with the file, when something is missing or damaged."""


def to_scene(recording: Recording, folder: Path, options: ImportOptions) -> Scene:
    """The Scene of a recording: in the frame of its first camera, in the units of our datasets.

    Depth that is not finite or not positive counts as unknown. Raises InputError when the parts do not fit together.
    """
    images = _images(recording.images)
    count, height, width = images.shape[:3]
    _check_shapes(recording, (count, height, width), folder)
    if not is_rigid(recording.T_world_cam, 1e-3):
        raise InputError(f"{folder}: a camera pose is not a rotation and a translation")
    focals, principal_point = _lens(recording.K, folder)
    depth = np.where(np.isfinite(recording.depth) & (recording.depth > 0), recording.depth, 0).astype(np.float32)
    if not depth.any():
        raise InputError(f"{folder}: no depth map holds a positive number")
    confidence = np.ones_like(depth) if recording.confidence is None else recording.confidence
    confidence = np.where(np.isfinite(confidence) & (depth > 0), confidence, 0).astype(np.float32)
    masks = np.zeros(depth.shape, dtype=bool) if recording.masks is None else recording.masks
    score = np.zeros((count, max(height // _TOKENS, 1), max(width // _TOKENS, 1)), dtype=np.float32)
    scene = Scene(
        images=images,
        T_world_cam=np.linalg.inv(recording.T_world_cam[0]) @ recording.T_world_cam,
        focals=focals,
        principal_point=principal_point,
        depth=depth,
        confidence=confidence,
        dynamic=DynamicMasks(masks, score, float("nan"), source="none" if recording.masks is None else "user"),
        pixel_map=PixelMap((width, height), (width, height), (0, 0, width, height)),
        times=np.arange(count) / options.fps,
        indices=np.arange(count),
        names=tuple(path.name for path in recording.images),
        source_paths=recording.images,
        min_confidence=options.min_confidence,
        provenance={"version": __version__, "imported": recording.layout, "source": folder.name},
    )
    return rescale_scene(scene, choose_scale(scene))


def numbered(folder: Path, pattern: str) -> dict[int, Path]:
    """The files of a folder whose whole name matches ``pattern``, by the number that its group holds, in order."""
    if not folder.is_dir():
        return {}
    matches = ((re.fullmatch(pattern, path.name), path) for path in folder.iterdir())
    found = sorted((int(match[1]), path) for match, path in matches if match)
    return dict(found)


def same_numbers(wanted: dict[int, Path], files: dict[int, Path], what: str) -> tuple[Path, ...]:
    """``files`` in the order of ``wanted``. Raises InputError when one is missing."""
    missing = [path for number, path in wanted.items() if number not in files]
    if missing:
        raise InputError(f"{missing[0]} has no {what} ({len(missing)} of {len(wanted)} are missing)")
    return tuple(files[number] for number in wanted)


def read_all(paths: tuple[Path, ...], read: Callable[[Path], Value]) -> list[Value]:
    """``read`` of every path. Raises InputError with the path when one cannot be read."""
    values = []
    for path in paths:
        try:
            values.append(read(path))
        except InputError:
            raise
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{path} cannot be read: {error}") from error
    return values


def stacked(paths: tuple[Path, ...], read: Callable[[Path], np.ndarray]) -> np.ndarray:
    """The arrays of all paths as one. Raises InputError when one cannot be read or their shapes differ."""
    arrays = read_all(paths, read)
    for path, array in zip(paths, arrays):
        if array.shape != arrays[0].shape:
            raise InputError(f"{path} has the shape {array.shape}, {paths[0].name} has {arrays[0].shape}")
    return np.stack(arrays)


def read_map(path: Path) -> np.ndarray:
    """(H, W) float32 of an ``.npy`` file; axes of length 1 are dropped. Raises ValueError for anything else."""
    values = np.load(path, allow_pickle=False)
    if not isinstance(values, np.ndarray) or values.squeeze().ndim != 2 or values.dtype.kind not in "fiu":
        raise ValueError("not an array (H, W) of numbers")
    return values.squeeze().astype(np.float32)


def read_mask(path: Path) -> np.ndarray:
    """(H, W) bool of an image, True where it is marked: :func:`~easi3r_ns.storage.marks.read_marks`. InputError."""
    return read_marks(path).marked


def _images(paths: tuple[Path, ...]) -> np.ndarray:
    return stacked(paths, read_png)


def _check_shapes(recording: Recording, shape: tuple[int, int, int], folder: Path) -> None:
    if min(shape[1:]) < 2:
        raise InputError(f"{folder}: images of {shape[2]}x{shape[1]} pixels are too small")
    for what in ("depth", "confidence", "masks"):
        values = getattr(recording, what)
        if values is not None and values.shape != shape:
            raise InputError(
                f"{folder}: the images are {shape[2]}x{shape[1]}, the {what} {values.shape[2]}x{values.shape[1]} pixels"
            )
    for what, values in (("camera poses", recording.T_world_cam), ("intrinsics", recording.K)):
        if len(values) != shape[0]:
            raise InputError(f"{folder}: {len(values)} {what} for {shape[0]} images")
        if not np.isfinite(values).all():
            raise InputError(f"{folder}: the {what} hold a number that is not finite")


def _lens(K: np.ndarray, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(F,) focal lengths and the common (2,) principal point of (F, 3, 3) intrinsics."""
    fx, fy, centres = K[:, 0, 0], K[:, 1, 1], K[:, :2, 2]
    if not (K[:, [0, 1], [0, 1]] > 0).all():
        raise InputError(f"{folder}: a focal length is not positive ({min(fx.min(), fy.min()):g})")
    if np.abs(fx / fy - 1).max() > _MAX_ASPECT:
        worst = int(np.abs(fx / fy - 1).argmax())
        raise InputError(
            f"{folder}: frame {worst} has focal lengths of {fx[worst]:g} and {fy[worst]:g} pixels: pixels that are not "
            "square cannot be imported"
        )
    if np.ptp(centres, axis=0).max() > _MAX_SHIFT:
        raise InputError(f"{folder}: the principal point moves by {np.ptp(centres, axis=0).max():g} pixels in the clip")
    return np.sqrt(fx * fy), np.median(centres, axis=0)
