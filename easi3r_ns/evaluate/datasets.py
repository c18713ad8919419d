"""Finds clips with their ground truth, and the true camera, mask and depth of each frame.

A capture is a folder with ONE video, or with images in it or in ``images/``, ``color/`` or ``rgb/``; beside them, each
optional: ``gt_cameras.json``, ``masks/`` (what is above 0 moves; 0 moves where a ``transforms.json`` beside it names
the masks), ``depth/`` (16-bit PNG or PGM, millimetres, or .npy in the
unit of the cameras; z-depth, 0 = unknown). Truth belongs to an image of the same
stem, or, for a video, to the frame of the same number (natural order). A folder of videos holds one capture each. DAVIS
layout: ``JPEGImages/480p/NAME``, ``Annotations/480p/NAME``.

``gt_cameras.json``: ``{intrinsics {w h fl_x fl_y cx cy}, frames [{file, c2w 4x4}]}``, c2w with OpenCV axes. The
``truth.json`` of ``examples/clip`` is read in its place: ``{width height fx fy, frames [{T_world_cam 4x4}]}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..core.errors import InputError
from ..core.geometry import is_rigid
from ..storage.files import natural_key
from ..storage.marks import read_marks
from ..storage.mask_record import masks_of_dataset

IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
VIDEOS = {".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm"}
MAPS = {".png", ".pgm", ".tif", ".tiff"}
ARRAY = ".npy"
"""Depth in the unit of the cameras, without the limits of 16 bits."""
IMAGE_FOLDERS = ("images", "color", "rgb")
CAMERAS = ("gt_cameras.json", "truth.json")
DEPTH_UNIT = 0.001


@dataclass(frozen=True)
class TrueIntrinsics:
    """True size and focal lengths in pixels of the source image."""

    width: int
    height: int
    fl_x: float
    fl_y: float
    cx: float | None = None
    """Principal point, first pixel centre at 0.5; None: the middle of the image."""
    cy: float | None = None


@dataclass(frozen=True)
class Capture:
    """One clip and its ground truth; mappings are keyed by :meth:`key`."""

    name: str
    data: Path
    """A video file or a folder of images."""
    T_world_cam: Mapping[str, np.ndarray] = field(default_factory=dict)
    """(4, 4) camera-to-world, OpenCV axes, in the unit of the truth."""
    intrinsics: TrueIntrinsics | None = None
    masks: Mapping[str, Path] = field(default_factory=dict)
    depth: Mapping[str, Path] = field(default_factory=dict)
    fixed_camera: bool = False
    """Whether the camera stood still, so that all true poses are equal."""
    graph: str = ""
    """Pair graph that the protocol of a published set asks for; empty: the one of the weights."""
    remark: str = ""
    """What a reader of the scores should know of this truth."""

    @property
    def is_video(self) -> bool:
        """Whether ``data`` is a video file."""
        return self.data.is_file()

    def key(self, name: str, index: int) -> str:
        """The key of a frame in the mappings: the stem of its file, or its number in a video."""
        return str(int(index)) if self.is_video else Path(name).stem

    def keys(self, names: Sequence[str], indices: Sequence[int]) -> list[str]:
        """The keys of frames with these file names and indices in the source."""
        return [self.key(name, index) for name, index in zip(names, indices, strict=True)]

    def truth_files(self) -> list[Path]:
        """Files on which the scores depend."""
        cameras = _camera_file(self.data) if self.data.is_dir() else None
        cameras = cameras or _camera_file(self.data.parent)
        return [*([cameras] if cameras else []), *self.masks.values(), *self.depth.values()]


def find_captures(roots: Sequence[Path], names: Iterable[str] = (), fixed: Iterable[str] = ()) -> list[Capture]:
    """The captures of the folders ``roots`` and of the folders directly inside them, in natural order of their names.

    ``names`` picks some (and their order); ``fixed`` names those that were filmed from a tripod.

    Raises:
        InputError: no capture, a name that is not there or appears twice, truth that cannot be read or belongs to none
            of the frames.
    """
    captures = [capture for root in roots for capture in _below(root)]
    by_name = {capture.name: capture for capture in captures}
    if len(by_name) < len(captures):
        twice = next(c.name for c in captures if [o.name for o in captures].count(c.name) > 1)
        raise InputError(f"two captures are called {twice}; rename one")
    names, fixed = list(names), set(fixed)
    for name in [*names, *sorted(fixed)]:
        if name not in by_name:
            raise InputError(f"no capture {name} in {', '.join(map(str, roots))}: there are {', '.join(by_name)}")
    chosen = [by_name[name] for name in names] if names else sorted(captures, key=lambda c: natural_key(c.name))
    return [replace(c, fixed_camera=True) if c.name in fixed else c for c in chosen]


def read_mask(path: Path) -> np.ndarray:
    """(h, w) bool, True where the file is above 0 (any object of a palette mask); see
    :func:`~easi3r_ns.storage.marks.read_marks`. In the masks of a dataset, white stands still. Raises InputError.
    """
    marked = read_marks(path, above=0).marked
    return marked if masks_of_dataset(path.parent) is None else ~marked


def read_depth(path: Path) -> np.ndarray:
    """(h, w) float32 metres, 0 where unknown, of a one-channel image in millimetres; a ``.npy`` holds the depth itself.

    Raises InputError.
    """
    if path.suffix == ARRAY:
        return _read_array(path)
    values = _read_pixels(path)
    if values.ndim != 2 or values.dtype.kind not in "iu" or values.min() < 0:
        raise InputError(f"{path}: a depth map is a one-channel 16-bit image, not {values.dtype} {values.shape}")
    return values.astype(np.float32) * DEPTH_UNIT


def read_cameras(path: Path) -> tuple[dict[str, np.ndarray], TrueIntrinsics | None]:
    """File stem -> (4, 4) camera-to-world (in the file's order), and the intrinsics when it has them.

    Raises InputError for a file that is not of the format in this module's docstring.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        frames, matrix = content["frames"], "T_world_cam" if "fx" in content else "c2w"
        poses = {
            Path(str(frame.get("file", k))).stem: np.array(frame[matrix], dtype=float) for k, frame in enumerate(frames)
        }
        lens = _intrinsics(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a camera file ({type(error).__name__}: {error})") from error
    if len(poses) < len(frames):
        raise InputError(f"{path}: two frames have the same file name")
    for name, pose in poses.items():
        if pose.shape != (4, 4) or not is_rigid(pose, tolerance=1e-2):
            raise InputError(f"{path}: c2w of {name} is not a rigid 4x4 camera-to-world matrix")
    return poses, lens


def _intrinsics(content: Mapping[str, Any]) -> TrueIntrinsics | None:
    if "fx" in content:
        return TrueIntrinsics(
            *(int(content[k]) for k in ("width", "height")), *(float(content[k]) for k in ("fx", "fy"))
        )
    lens = content.get("intrinsics")
    if lens is None:
        return None
    centre = [float(lens[k]) if k in lens else None for k in ("cx", "cy")]
    return TrueIntrinsics(*(int(lens[k]) for k in ("w", "h")), *(float(lens[k]) for k in ("fl_x", "fl_y")), *centre)


def _camera_file(folder: Path) -> Path | None:
    return next((folder / name for name in CAMERAS if (folder / name).is_file()), None)


def _below(root: Path) -> list[Capture]:
    if not root.is_dir():
        raise InputError(f"{root}: not a folder")
    captures = _captures_of(root, root.resolve().name)
    if not captures:
        folders = sorted((p for p in root.iterdir() if p.is_dir()), key=lambda p: natural_key(p.name))
        captures = [capture for folder in folders for capture in _captures_of(folder, folder.name)]
    if not captures:
        raise InputError(f"{root}: no video, no folder of images and no DAVIS layout in it or one level below")
    return captures


def _captures_of(folder: Path, name: str) -> list[Capture]:
    if (folder / "JPEGImages" / "480p").is_dir():
        sequences = sorted((folder / "JPEGImages" / "480p").iterdir(), key=lambda p: natural_key(p.name))
        return [_davis(folder, sequence) for sequence in sequences if sequence.is_dir()]
    videos = _files(folder, VIDEOS)
    if len(videos) > 1:
        return [Capture(video.stem, video) for video in videos]
    if videos:
        return [_with_truth(Capture(name if _has_truth(folder) else videos[0].stem, videos[0]), folder)]
    for images in (folder, *(folder / sub for sub in IMAGE_FOLDERS)):
        if images.is_dir() and len(_files(images, IMAGES)) > 1:
            return [_with_truth(Capture(name, images), folder)]
    return []


def _davis(root: Path, images: Path) -> Capture:
    masks = root / "Annotations" / "480p" / images.name
    capture = Capture(images.name, images)
    return replace(capture, masks=_by_key(capture, masks)) if masks.is_dir() else capture


def _has_truth(folder: Path) -> bool:
    return _camera_file(folder) is not None or (folder / "masks").is_dir() or (folder / "depth").is_dir()


def _with_truth(capture: Capture, folder: Path) -> Capture:
    masks, depth = (_by_key(capture, folder / kind) if (folder / kind).is_dir() else {} for kind in ("masks", "depth"))
    capture = replace(capture, masks=masks, depth=depth)
    cameras = _camera_file(folder)
    if cameras is None:
        return capture
    poses, lens = read_cameras(cameras)
    if capture.is_video:
        poses = {str(k): pose for k, pose in enumerate(poses.values())}
    else:
        _require_common_names(capture, poses, cameras)
    return replace(capture, T_world_cam=poses, intrinsics=lens)


def _by_key(capture: Capture, folder: Path) -> dict[str, Path]:
    files = _files(folder, MAPS | {ARRAY} if folder.name == "depth" else MAPS)
    if capture.is_video:
        return {str(k): file for k, file in enumerate(files)}
    found = {file.stem: file for file in files}
    _require_common_names(capture, found, folder)
    return found


def _require_common_names(capture: Capture, found: Mapping[str, Any], where: Path) -> None:
    stems = {file.stem for file in _files(capture.data, IMAGES)}
    if not stems & set(found):
        raise InputError(f"{where} names none of the images of {capture.data}: file names (without suffix) must agree")


def _files(folder: Path, suffixes: set[str]) -> list[Path]:
    files = (p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith("."))
    return sorted((p for p in files if p.is_file()), key=lambda p: natural_key(p.name))


def _read_array(path: Path) -> np.ndarray:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error})") from error
    if values.ndim != 2 or values.dtype.kind != "f":
        raise InputError(
            f"{path}: a depth map is one array of floats (height, width), not {values.dtype} {values.shape}"
        )
    return np.where(np.isfinite(values) & (values > 0), values, 0).astype(np.float32)


def _read_pixels(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as an image ({error})") from error
