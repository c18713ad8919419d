"""Aria Digital Twin, as the minival split of TAPVid-3D: one ``.npz`` a clip, with JPEG images and w2c matrices."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import InputError
from .layout import Layout, TrueClip, TrueFrame, every, with_rigid

STEP = 5
IMAGES, LENS, CAMERAS = "images_jpeg_bytes", "fx_fy_cx_cy", "extrinsics_w2c"
_HARMLESS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
}


class _OnlyArrays(pickle.Unpickler):
    """Reads arrays of bytes, and executes nothing that a file names."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")
        return super().find_class(module, name)


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        content = io.BytesIO(file.read())
    read: Any = np.lib.format
    version = read.read_magic(content)
    _, _, dtype = read.read_array_header_1_0(content) if version == (1, 0) else read.read_array_header_2_0(content)
    if dtype.hasobject:
        return np.asarray(_OnlyArrays(content).load())
    content.seek(0)
    array: np.ndarray = read.read_array(content, allow_pickle=False)
    return array


def _clips(folder: Path) -> Sequence[str]:
    return sorted(path.stem for path in folder.glob("*.npz"))


def _read(folder: Path, name: str) -> TrueClip:
    path = folder / f"{name}.npz"
    try:
        with zipfile.ZipFile(path) as archive:
            images, lens, T_cam_world = (_array(archive, key) for key in (IMAGES, LENS, CAMERAS))
        cameras = [np.linalg.inv(with_rigid(T)) for T in T_cam_world]
        fx, fy = (float(value) for value in np.asarray(lens, dtype=float).reshape(-1)[:2])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError, np.linalg.LinAlgError) as error:
        raise InputError(f"{path} is no clip of TAPVid-3D with {IMAGES}, {LENS} and {CAMERAS} ({error})") from error
    frames = [TrueFrame(bytes(image), f"{k:05d}.jpg", T) for k, (image, T) in enumerate(zip(images, cameras))]
    return every(frames, STEP, TrueClip(name, (), (fx, fy)))


def _folder(root: Path) -> Path | None:
    return next((place for place in (root, root / "adt", root / "minival" / "adt") if list(place.glob("*.npz"))), None)


LAYOUTS = {
    "adt": Layout(
        title="ADT",
        source="https://github.com/google-deepmind/tapnet/tree/main/tapnet/tapvid3d (minival, adt)",
        protocol=f"every {STEP}th frame",
        folder=_folder,
        wanted="a folder adt/ with .npz files",
        sequences=_clips,
        read=_read,
    )
}
