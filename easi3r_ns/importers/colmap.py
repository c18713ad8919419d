"""Folders with a COLMAP model, whoever made them.

::

    sparse/0/{cameras,images,points3D}.bin    or .txt; or in sparse, in colmap/sparse/0, or in the folder itself
    images/...                                the pictures, by the names of the model; or in any other folder

Of several models the one with the most pictures is taken. Pictures that are not registered are left out. Poses are
world-to-camera with OpenCV axes; the first pixel centre is at (0.5, 0.5).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from scipy.spatial.transform import Rotation

from ..core.errors import InputError, shown
from ..core.scene import FEWEST_OBSERVATIONS, SparsePoints
from ..storage.files import natural_key
from ..storage.kinds import SUFFIXES
from .colmap_model import Image, Model, read_model, suffix_of
from .recording import Importer, ImportOptions, Recording, one_kind, picture_size

LAYOUT = "COLMAP"
_PLACES = ("sparse/0", "sparse", "colmap/sparse/0", "colmap/sparse", "model", "0", ".")
"""Where a model may lie, relative to the folder."""
_DEEPEST = 3
"""Levels of folders below the given one in which the pictures are looked for."""
_SCALE_TOLERANCE = 0.01
"""Relative difference up to which pictures count as an enlarged or reduced copy of the camera's."""


def is_colmap(folder: Path) -> bool:
    """Whether ``folder`` looks like one of these."""
    return bool(_models(folder))


def read_colmap(folder: Path, options: ImportOptions) -> Recording:
    """Read such a folder. Raises InputError, with the file, when something is missing or damaged."""
    models = [(place, read_model(place)) for place in _models(folder)]
    place, model = max(models, key=lambda pair: len(pair[1].images))
    if not model.images:
        raise InputError(f"{place} registers no picture")
    images = dict(sorted(model.images.items(), key=lambda pair: natural_key(pair[1].name)))
    names = [image.name for image in images.values()]
    root = _root_of(folder, options.images, names)
    paths = tuple(root / name for name in names)
    listed = _all_pictures(root)
    position = {path: number for number, path in enumerate(listed)}
    others = [f"{_relative(place, folder)} with {len(other.images)}" for place, other in models if other is not model]
    remarks = (
        [f"of {len(models)} models the largest is taken; left out: {', '.join(others)} pictures"] if others else []
    )
    if len(listed) > len(paths):
        remarks.append(f"{len(listed) - len(paths)} of {len(listed)} pictures have no camera and are left out")
    if not len(model.points):
        remarks.append("the model has no points: no depth can be measured, and no mesh made")
    return Recording(
        layout=LAYOUT,
        why=f"{_relative(place, folder)}/cameras{suffix_of(place)}, pictures in {_relative(root, folder)}",
        images=paths,
        T_world_cam=np.stack([pose_of(image, place) for image in images.values()]),
        K=np.stack([_matrix(model, image, path) for image, path in zip(images.values(), paths)]),
        distortion=np.array([model.cameras[image.camera].distortion for image in images.values()]),
        fisheye=_is_fisheye(model, place),
        depth=None,
        confidence=None,
        masks=None,
        sparse=_sparse(model, list(images), paths),
        indices=np.array([position.get(path, number) for number, path in enumerate(paths)]),
        num_source=max(len(listed), len(paths)),
        names=tuple(os.fsencode(name).decode("utf-8", "replace") for name in names),
        pose_source="colmap",
        remarks=tuple(remarks),
    )


def _is_fisheye(model: Model, place: Path) -> bool:
    try:
        return one_kind(model.cameras[image.camera].fisheye for image in model.images.values())
    except ValueError as error:
        raise InputError(f"{place}: {error}") from error


def _models(folder: Path) -> list[Path]:
    places = [folder / place for place in _PLACES]
    places += sorted((folder / "sparse").glob("[0-9]*")) if (folder / "sparse").is_dir() else []
    found = {place.resolve(): place for place in places if suffix_of(place) is not None}
    return list(found.values())


def _root_of(folder: Path, given: Path | None, names: list[str]) -> Path:
    """The folder in which the pictures lie. Raises InputError where they do not."""
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.name or "\0" in name:
            raise InputError(f"{folder}: the model names the picture {shown(name)}, which leads out of its folder")
    best: tuple[int, Path] | None = None
    for candidate in [given] if given is not None else _folders(folder):
        found = sum((candidate / name).is_file() for name in names)
        if found == len(names):
            return candidate
        best = (found, candidate) if best is None or found > best[0] else best
    found, place = best or (0, folder)
    gone = next(name for name in names if not (place / name).is_file())
    raise InputError(
        f"{folder}: {len(names) - found} of the {len(names)} pictures of the model are not there, for example "
        f"{place / gone}: say with --images in which folder they lie"
    )


def _folders(folder: Path) -> Iterator[Path]:
    """``images`` first, then the folder itself and those below it, the shallowest first."""
    yield folder / "images"
    level = [folder]
    for _ in range(_DEEPEST):
        yield from level
        level = sorted(
            entry for parent in level for entry in parent.iterdir() if entry.is_dir() and not entry.is_symlink()
        )


def _all_pictures(root: Path) -> list[Path]:
    files = [path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    return sorted((path for path in files if path.is_file()), key=lambda path: natural_key(str(path.relative_to(root))))


def _relative(path: Path, folder: Path) -> str:
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:
        return str(path)


def pose_of(image: Image, place: Path) -> np.ndarray:
    """(4, 4) camera-to-world of an image of the model in ``place``. Raises InputError."""
    length = float(np.linalg.norm(image.quaternion))
    if not abs(length - 1) < 1e-3 or not np.isfinite(image.translation).all():
        raise InputError(f"{place}: the quaternion of {shown(image.name)} has length {length:g}, not 1")
    w, x, y, z = image.quaternion
    T = np.eye(4)
    T[:3, :3] = Rotation.from_quat([x, y, z, w]).as_matrix().T
    T[:3, 3] = -T[:3, :3] @ image.translation
    return T


def _scales(model: Model, image: Image, path: Path) -> tuple[float, float]:
    """Pixels of the picture per pixel of its camera, in x and y: the pictures may have been made smaller since."""
    camera, (width, height) = model.cameras[image.camera], picture_size(path)
    sx, sy = width / camera.width, height / camera.height
    if abs(sx / sy - 1) > max(_SCALE_TOLERANCE, 2 / min(width, height)):
        raise InputError(
            f"{path} is {width}x{height}, its camera {camera.width}x{camera.height} pixels: the model belongs to other "
            "pictures"
        )
    return sx, sy


def _matrix(model: Model, image: Image, path: Path) -> np.ndarray:
    camera, (sx, sy) = model.cameras[image.camera], _scales(model, image, path)
    # The source counts the first pixel centre as 0.5, a Recording as 0.
    return np.array([[camera.fx * sx, 0, camera.cx * sx - 0.5], [0, camera.fy * sy, camera.cy * sy - 0.5], [0, 0, 1.0]])


def _sparse(model: Model, order: list[int], paths: tuple[Path, ...]) -> SparsePoints | None:
    """The points with their observations; None where no point has two."""
    if not len(model.points):
        return None
    rows, frames, pixels = [], [], []
    for frame, number in enumerate(order):
        image = model.images[number]
        at = np.clip(np.searchsorted(model.ids, image.points), 0, len(model.ids) - 1)
        known = (model.ids[at] == image.points) & np.isfinite(image.pixels).all(axis=1)
        rows.append(at[known])
        frames.append(np.full(int(known.sum()), frame))
        pixels.append(image.pixels[known] * _scales(model, image, paths[frame]))
    index, frame_index = np.concatenate(rows).astype(np.int64), np.concatenate(frames).astype(np.int64)
    sparse = SparsePoints(model.points, model.colors, model.errors, index, frame_index, np.concatenate(pixels))
    sparse = sparse.observed(np.ones(len(index), dtype=bool))
    return sparse if len(sparse) >= FEWEST_OBSERVATIONS else None


IMPORTER = Importer("sparse/0/cameras.bin", is_colmap, read_colmap)
