"""What MegaSaM leaves behind (arXiv:2412.04463).

::

    outputs_cvd/NAME_sgd_cvd_hr.npz         images (F, H, W, 3) uint8, depths (F, H, W) z-depth, intrinsic (3, 3) in
                                            pixels of these images, cam_c2w (F, 4, 4) with OpenCV axes
    reconstructions/NAME/motion_prob.npy    (F, h, w): how likely what is there moves (may be missing)

The archive may be given itself, or a folder with one of them. Pixels have integer centres.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ..core.errors import InputError
from ..storage.foreign import open_npz, read_npy
from .archives import archives_with, homogeneous, numbers, rgb, the_only
from .recording import Importer, ImportOptions, Recording, readable

_NAMES = ("images", "depths", "intrinsic", "cam_c2w")
_SUFFIX = "_sgd_cvd_hr"
_MOVES = 0.5
"""Probability from which on something counts as moving."""


def is_megasam(place: Path) -> bool:
    """Whether this is one of these archives, or a folder with one."""
    return bool(archives_with(place, _NAMES))


def read_megasam(place: Path, options: ImportOptions) -> Recording:
    """Read such an archive. Raises InputError, with the file, when something is missing or damaged."""
    file = the_only(archives_with(place, _NAMES), place)
    try:
        with open_npz(file) as archive:
            images = rgb(numbers(archive, "images", 4))
            depth = numbers(archive, "depths", 3).astype(np.float32)
            K, poses = numbers(archive, "intrinsic", 2).astype(float), homogeneous(numbers(archive, "cam_c2w", 3))
        if K.shape != (3, 3):
            raise ValueError(f"intrinsic has the shape {K.shape}, not (3, 3)")
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    name = file.stem.removesuffix(_SUFFIX)
    probability = _probability(file, name)
    masks = None if probability is None else _masks(*probability, images.shape[:3])
    return Recording(
        layout="MegaSaM",
        why=f"{file.name} with {', '.join(_NAMES)}",
        images=images,
        T_world_cam=poses,
        K=np.tile(K, (len(poses), 1, 1)),
        depth=depth,
        confidence=None,
        masks=masks,
        names=(readable(name),) * len(images),
        remarks=() if masks is not None else ("there is no motion_prob.npy: what moves is found anew",),
    )


def _probability(file: Path, name: str) -> tuple[Path, np.ndarray] | None:
    parents = (file.parent / "reconstructions" / name, file.parent.parent / "reconstructions" / name, file.parent)
    path = next((folder / "motion_prob.npy" for folder in parents if (folder / "motion_prob.npy").is_file()), None)
    if path is None:
        return None
    try:
        values = read_npy(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    return path, values


def _masks(path: Path, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(F, H, W) bool from a smaller (F, h, w)."""
    count, height, width = shape
    if values.ndim != 3 or len(values) != count or values.dtype.kind != "f" or not min(values.shape):
        raise InputError(f"{path} has the shape {values.shape}, {count} images need ({count}, h, w) of probabilities")
    if not ((values >= 0) & (values <= 1)).all():
        raise InputError(f"{path} holds values outside of 0 to 1")
    grown = [cv2.resize(v.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) for v in values]
    return np.stack(grown) > _MOVES


IMPORTER = Importer("NAME_sgd_cvd_hr.npz", is_megasam, read_megasam)
