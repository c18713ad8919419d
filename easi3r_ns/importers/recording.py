"""What all these folders have in common: frames, cameras, depth, confidence, masks; and how a Scene is made of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from .. import __version__
from ..core.bounds import check_bounds
from ..core.config import CONFIDENCES, RATES
from ..core.errors import InputError
from ..core.geometry import FisheyeDistortion, is_rigid, source_to_network
from ..core.scene import Scene, SparsePoints, choose_scale, rescale_scene
from ..core.types import DynamicMasks, PixelMap
from ..storage.files import decode_image, natural_key
from ..storage.foreign import read_npy, refuse_larger_than_memory, require_regular
from ..storage.marks import read_marks

MOST_PIXELS = 1 << 28
"""Largest picture that is read."""
_MAX_ASPECT = 0.02
"""Relative difference of the two focal lengths up to which pixels count as square."""
_MAX_SHIFT = 0.5
"""Pixels by which the principal points of the frames may differ."""
_MAX_DISTORTION = 1e-4
"""Difference of the coefficients of distortion of the frames up to which their lenses count as one."""
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
    images: Path | None = None
    """Folder of the pictures, for layouts that keep them elsewhere."""

    def __post_init__(self) -> None:
        check_bounds("--fps", self.fps, *RATES)
        check_bounds("--min-confidence", self.min_confidence, *CONFIDENCES)


@dataclass(frozen=True)
class Film:
    """Frames of a video file."""

    path: Path
    frames: np.ndarray
    """(F,) int64 which of its frames, increasing."""


@dataclass(frozen=True)
class Recording:
    """A folder's content as it stands there, checked one by one but not yet against each other."""

    layout: str
    """Who writes such folders."""
    images: tuple[Path, ...] | np.ndarray | Film
    """F colour images, in order: files, (F, H, W, 3) uint8 RGB, or frames of a video."""
    T_world_cam: np.ndarray
    """(F, 4, 4) float64 camera-to-world, OpenCV axes, any world and scale."""
    K: np.ndarray
    """(F, 3, 3) float64 intrinsics in pixels of the depth maps, or of the images where there are none; integer pixel
    centres."""
    depth: np.ndarray | None
    """(F, H, W) float32 z-depth, or None where the folder has none."""
    confidence: np.ndarray | None
    """(F, H, W) float32, or None where the folder has none."""
    masks: np.ndarray | None
    """(F, H, W) bool, True where something moves, or None where the folder has none."""
    distortion: np.ndarray | None = None
    """(F, 4) float64 k1, k2, p1, p2 of OpenCV, or k1 to k4 of a fisheye; None: the lens has none."""
    fisheye: bool = False
    """Whether the lens is OpenCV's fisheye."""
    sparse: SparsePoints | None = None
    """Triangulated points in the world of the cameras, observed in pixels of the images (first centre at 0.5)."""
    indices: np.ndarray | None = None
    """(F,) int64 which frames of the source these are; None: all, in a row."""
    num_source: int | None = None
    """How many frames the source has; None: as many as there are here."""
    names: tuple[str, ...] | None = None
    """F names of the images; None: those of the files."""
    pose_source: str | None = None
    """Where the cameras come from, see :attr:`easi3r_ns.core.scene.Scene.pose_sources`."""
    why: str = ""
    """What the folder was recognised by, in words."""
    remarks: tuple[str, ...] = ()
    """What the user should know: what was left out, and what is missing."""

    def __len__(self) -> int:
        return len(self.T_world_cam)


@dataclass(frozen=True)
class Importer:
    """One layout of folders. Its module holds one under the name ``IMPORTER``."""

    sign: str
    """What such a folder is recognised by, for messages."""
    recognises: Callable[[Path], bool]
    """Whether a folder that exists looks like one of these."""
    read: Callable[[Path, ImportOptions], Recording]
    """The content of such a folder. Raises InputError, with the file, when something is missing or damaged."""


@dataclass(frozen=True)
class ImagesOnGrid:
    """The images of a recording on the grid of a Scene."""

    images: np.ndarray
    """(F, H, W, 3) uint8 RGB."""
    paths: tuple[Path, ...]
    """F images at source resolution."""
    pixel_map: PixelMap


def pictures_of(recording: Recording) -> ImagesOnGrid:
    """Images that are files and have the size of the depth maps. Raises InputError when one cannot be read."""
    assert isinstance(recording.images, tuple)
    images = stacked(recording.images, read_picture)
    height, width = images.shape[1:3]
    return ImagesOnGrid(images, recording.images, PixelMap((width, height), (width, height), (0, 0, width, height)))


def to_scene(recording: Recording, pictures: ImagesOnGrid, folder: Path, options: ImportOptions) -> Scene:
    """The Scene of a recording: in the frame of its first camera, in the units of our datasets.

    Depth that is not finite or not positive counts as unknown. Raises InputError when the parts do not fit together.
    """
    count, height, width = pictures.images.shape[:3]
    check_parts(recording, count, (height, width), folder)
    focals, principal_point, distortion = _lens(recording, pictures.pixel_map, folder)
    if recording.depth is None:
        depth = np.zeros((count, height, width), dtype=np.float32)
    else:
        depth = np.where(np.isfinite(recording.depth) & (recording.depth > 0), recording.depth, 0).astype(np.float32)
        if not depth.any():
            raise InputError(f"{folder}: no depth map holds a positive number")
    confidence = np.ones_like(depth) if recording.confidence is None else recording.confidence
    confidence = np.where(np.isfinite(confidence) & (depth > 0), np.maximum(confidence, 0), 0).astype(np.float32)
    masks = np.zeros(depth.shape, dtype=bool) if recording.masks is None else recording.masks
    score = np.zeros((count, max(height // _TOKENS, 1), max(width // _TOKENS, 1)), dtype=np.float32)
    indices = np.arange(count) if recording.indices is None else recording.indices
    into_first = np.linalg.inv(recording.T_world_cam[0])
    sparse = recording.sparse
    if sparse is not None:
        sparse = replace(sparse, points=sparse.points @ into_first[:3, :3].T + into_first[:3, 3])
    scene = Scene(
        images=pictures.images,
        T_world_cam=into_first @ recording.T_world_cam,
        focals=focals,
        principal_point=principal_point,
        depth=depth,
        confidence=confidence,
        dynamic=DynamicMasks(masks, score, float("nan"), source="none" if recording.masks is None else "user"),
        pixel_map=pictures.pixel_map,
        times=indices / options.fps,
        indices=indices,
        names=recording.names or tuple(path.name for path in pictures.paths),
        source_paths=pictures.paths,
        min_confidence=options.min_confidence,
        distortion=distortion,
        sparse=sparse,
        pose_sources=None if recording.pose_source is None else (recording.pose_source,) * count,
        provenance={"version": __version__, "imported": recording.layout, "source": readable(folder.resolve().name)},
    )
    return rescale_scene(scene, choose_scale(scene))


def readable(name: str) -> str:
    """A file name as text that every program can write: bytes that are not UTF-8 become question marks."""
    return name.encode("utf-8", "replace").decode("utf-8")


def one_kind(fisheye: Iterable[bool]) -> bool:
    """Whether the lenses are fisheye ones. Raises ValueError where some are and some are not."""
    kinds = set(fisheye)
    if len(kinds) > 1:
        raise ValueError("some pictures were taken through a fisheye lens and some were not: undistort them first")
    return True in kinds


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
        except (OSError, ValueError, KeyError) as error:
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
    """(H, W) float32 of an ``.npy`` file; axes of length 1 are dropped. Raises ValueError or OSError."""
    values = read_npy(path)
    if values.squeeze().ndim != 2 or values.dtype.kind not in "fiu":
        raise ValueError("not an array (H, W) of numbers")
    return values.squeeze().astype(np.float32)


def read_mask(path: Path) -> np.ndarray:
    """(H, W) bool of an image, True where it is marked: :func:`~easi3r_ns.storage.marks.read_marks`.

    Raises InputError, ValueError or OSError.
    """
    _refuse_large(path)
    return read_marks(path).marked


def read_picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image file, as its pixels lie there: cameras belong to pictures that were not turned.

    Raises ValueError or OSError when it is none.
    """
    _refuse_large(path)
    try:
        image = decode_image(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except (OSError, cv2.error) as error:
        raise ValueError("not a readable image") from error
    return np.ascontiguousarray(image[..., ::-1])


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image file by its header. Raises InputError."""
    try:
        return _refuse_large(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _refuse_large(path: Path) -> tuple[int, int]:
    """(width, height) by the header. Raises ValueError or OSError for what is no image, or too large a one."""
    from PIL import Image, UnidentifiedImageError

    require_regular(path)
    try:
        with Image.open(path) as image:
            width, height = image.size
    except UnidentifiedImageError:
        raise ValueError("not an image") from None
    except (SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error
    if width * height > MOST_PIXELS:
        raise ValueError(f"it announces {width}x{height} pixels")
    refuse_larger_than_memory(4 * width * height)
    return width, height


def files_of(folder: Path, pattern: str) -> list[Path]:
    """The regular files of a folder whose whole name matches ``pattern``, in natural order; none where it is none."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if re.fullmatch(pattern, path.name) and path.is_file()]
    return sorted(found, key=lambda path: natural_key(path.name))


def check_parts(recording: Recording, count: int, size: tuple[int, int], folder: Path) -> None:
    """Raises InputError where the parts do not fit ``count`` images on a grid of (height, width)."""
    height, width = size
    if min(size) < 2:
        raise InputError(f"{folder}: images of {width}x{height} pixels are too small")
    for what in ("depth", "confidence", "masks"):
        values = getattr(recording, what)
        if values is not None and values.shape[1:] != size:
            raise InputError(
                f"{folder}: the images are {width}x{height}, the {what} {values.shape[2]}x{values.shape[1]} pixels"
            )
        if values is not None and len(values) != count:
            raise InputError(f"{folder}: {len(values)} maps of {what} for {count} images")
    for what, values in (("camera poses", recording.T_world_cam), ("intrinsics", recording.K)):
        if len(values) != count:
            raise InputError(f"{folder}: {len(values)} {what} for {count} images")
        if not np.isfinite(values).all():
            raise InputError(f"{folder}: the {what} hold a number that is not finite")
    if not is_rigid(recording.T_world_cam, 1e-3):
        raise InputError(f"{folder}: a camera pose is not a rotation and a translation")
    focals = recording.K[:, [0, 1], [0, 1]]
    if not (focals > 0).all():
        raise InputError(f"{folder}: a focal length is not positive ({focals.min():g})")


def _lens(
    recording: Recording, pixel_map: PixelMap, folder: Path
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float, float]]:
    """(F,) focal lengths and the common (2,) principal point on the grid, and the common distortion."""
    if reason := different_lenses(recording):
        raise InputError(f"{folder}: {reason}")
    K, centre = recording.K, np.median(recording.K[:, :2, 2], axis=0)
    scales = np.array(pixel_map.scale_xy if recording.depth is None else (1.0, 1.0))
    # Without depth maps the intrinsics are those of the images at their own size.
    focals = np.sqrt(K[:, 0, 0] * K[:, 1, 1]) * scales[0]
    if recording.depth is None:
        centre = source_to_network(centre + 0.5, pixel_map)
    elif pixel_map.pixel_aspect != 1:
        focals = K[:, 0, 0].astype(float)
    k = np.zeros(4) if recording.distortion is None else np.median(recording.distortion, axis=0)
    distortion = (float(k[0]), float(k[1]), float(k[2]), float(k[3]))
    return focals, centre, FisheyeDistortion(distortion) if recording.fisheye else distortion


def different_lenses(recording: Recording) -> str | None:
    """Why the frames cannot share one lens with square pixels; None: they can."""
    fx, fy, centres = recording.K[:, 0, 0], recording.K[:, 1, 1], recording.K[:, :2, 2]
    if np.abs(fx / fy - 1).max() > _MAX_ASPECT:
        worst = int(np.abs(fx / fy - 1).argmax())
        return (
            f"frame {worst} has focal lengths of {fx[worst]:g} and {fy[worst]:g} pixels: pixels that are not square "
            "cannot be imported"
        )
    if np.ptp(centres, axis=0).max() > _MAX_SHIFT:
        return f"the principal point moves by {np.ptp(centres, axis=0).max():g} pixels in the clip"
    if recording.distortion is not None and np.ptp(recording.distortion, axis=0).max() > _MAX_DISTORTION:
        return "the pictures were taken through lenses of different distortion"
    return None
