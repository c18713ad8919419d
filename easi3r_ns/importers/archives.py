"""Finding and reading the ``.npz`` files in which other programs keep a whole clip."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..core.errors import InputError
from ..storage.foreign import Archive, open_npz
from .recording import files_of

_PLACES = (".", "outputs_cvd", "exports/npz", "exports/mini_npz", "npz", "mini_npz")
"""Where the programs put them, relative to the folder that is given."""
_MOST = 50
"""Archives that are looked into."""


def archives_with(place: Path, names: Iterable[str]) -> list[Path]:
    """The ``.npz`` files that hold arrays of all these names: ``place`` itself, or those in a folder."""
    if place.suffix == ".npz" and place.is_file():
        candidates = [place]
    else:
        candidates = [file for folder in _PLACES for file in files_of(place / folder, r".*\.npz")]
    return [file for file in candidates[:_MOST] if set(names) <= _names(file)]


def the_only(found: list[Path], place: Path) -> Path:
    """Raises InputError where a folder holds several clips."""
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:5])
        raise InputError(f"{place} holds {len(found)} clips ({names}): give the path of one of the files")
    return found[0]


def numbers(archive: Archive, name: str, axes: int) -> np.ndarray:
    """An array of numbers, without leading axes of length 1 beyond ``axes``. Raises ValueError or KeyError."""
    values = archive[name]
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{name} holds values of type {values.dtype}")
    while values.ndim > axes and values.shape[0] == 1:
        values = values[0]
    if values.ndim != axes:
        raise ValueError(f"{name} has the shape {values.shape}, not one of {axes} axes")
    return values


def homogeneous(poses: np.ndarray) -> np.ndarray:
    """(F, 3, 4) or (F, 4, 4) -> (F, 4, 4) float64. Raises ValueError."""
    if poses.ndim != 3 or poses.shape[1:] not in ((3, 4), (4, 4)):
        raise ValueError(f"camera poses of the shape {poses.shape}")
    full = np.tile(np.eye(4), (len(poses), 1, 1))
    full[:, : poses.shape[1]] = poses
    return full


def rgb(images: np.ndarray) -> np.ndarray:
    """(F, H, W, 3) uint8 of colours in 0 to 255 or 0 to 1, channels first or last. Raises ValueError."""
    if images.ndim == 4 and images.shape[-1] != 3 and images.shape[1] == 3:
        images = np.moveaxis(images, 1, -1)
    if images.ndim != 4 or images.shape[-1] != 3 or not len(images):
        raise ValueError(f"images of the shape {images.shape}, not (F, H, W, 3)")
    if images.dtype.kind == "f":
        if not np.isfinite(images).all():
            raise ValueError("images hold a number that is not finite")
        images = np.rint(np.clip(images * (255 if images.max() <= 1 else 1), 0, 255))
    return np.ascontiguousarray(images.astype(np.uint8))


def _names(file: Path) -> set[str]:
    try:
        with open_npz(file) as archive:
            return set(archive)
    except (OSError, ValueError):
        return set()
