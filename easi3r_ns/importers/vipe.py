"""Artefacts of ViPE (https://github.com/nv-tlabs/vipe).

::

    rgb/NAME.mp4             the clip
    pose/NAME.npz            data (F, 4, 4) camera-to-world with OpenCV axes, inds (F,) frames of the video: all or some
    intrinsics/NAME.npz      data (F, 4) fx fy cx cy in pixels of the video, inds (F,)
    intrinsics/NAME_camera.txt    ``0: PINHOLE``, ... (may be missing)
    depth/NAME.zip           00000.exr, ...: z-depth (may be missing)
    mask/NAME.zip            00000.png, ...: numbers of objects that may move, 0 elsewhere (may be missing)

The first pixel centre is at (0.5, 0.5). Pickles among the artefacts are not opened.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from ..core.errors import InputError, shown
from ..storage.foreign import open_npz, open_zip, read_text
from .archives import homogeneous, numbers
from .exr import read_exr
from .grid import on_grid, reduced, resized
from .recording import Film, Importer, ImportOptions, Recording, files_of, readable

_VIDEOS = r"[^.].*\.(mp4|mov|mkv|webm|avi)"


def is_vipe(folder: Path) -> bool:
    """Whether ``folder`` looks like one of these."""
    return bool(files_of(folder / "pose", r"[^.].*\.npz")) and bool(files_of(folder / "intrinsics", r"[^.].*\.npz"))


def read_vipe(folder: Path, options: ImportOptions) -> Recording:
    """Read such a folder. Raises InputError, with the file, when something is missing or damaged."""
    names = [file.stem for file in files_of(folder / "pose", r"[^.].*\.npz")]
    if len(names) > 1:
        raise InputError(f"{folder} holds {len(names)} clips ({', '.join(names[:5])}): give each a folder of its own")
    name = names[0]
    poses, frames = _table(folder / "pose" / f"{name}.npz", 3)
    lenses, lens_frames = _table(folder / "intrinsics" / f"{name}.npz", 2)
    row_of = {frame: row for row, frame in enumerate(lens_frames.tolist())}
    if lenses.shape[1] != 4 or not set(frames.tolist()) <= row_of.keys():
        raise InputError(f"{folder / 'intrinsics' / f'{name}.npz'}: not fx fy cx cy for every frame of pose/{name}.npz")
    _require_pinhole(folder / "intrinsics" / f"{name}_camera.txt")
    video = [file for file in files_of(folder / "rgb", _VIDEOS) if file.stem == name]
    if not video:
        raise InputError(f"{folder / 'rgb'} holds no video {name}.mp4")
    K = np.array([_matrix(lenses[row_of[frame]]) for frame in frames.tolist()])
    depth, scale, remarks = _depths(folder / "depth" / f"{name}.zip", frames)
    masks = None
    if depth is not None:
        K = on_grid(K, scale)
        masks = _masks(folder / "mask" / f"{name}.zip", frames, depth.shape[1:])
    elif (folder / "mask" / f"{name}.zip").is_file():
        remarks = (*remarks, "masks without depth maps are not read: they are found anew, or give --masks")
    return Recording(
        layout="ViPE",
        why=f"pose/{name}.npz and intrinsics/{name}.npz",
        images=Film(video[0], frames),
        T_world_cam=poses,
        K=K,
        depth=depth,
        confidence=None,
        masks=masks,
        indices=frames,
        names=(readable(video[0].name),) * len(frames),
        num_source=int(max(frames[-1], lens_frames.max())) + 1,
        remarks=remarks,
    )


def _table(path: Path, axes: int) -> tuple[np.ndarray, np.ndarray]:
    """``data`` as float64 and ``inds`` of a file, in the order of the frames."""
    try:
        with open_npz(path) as archive:
            data = numbers(archive, "data", axes).astype(float)
            frames = archive["inds"] if "inds" in archive else np.arange(len(data))
        if frames.shape != (len(data),) or frames.dtype.kind not in "iu" or not len(data):
            raise ValueError(f"inds {frames.shape} of type {frames.dtype} for {len(data)} entries")
        frames = frames.astype(np.int64)
        order = np.argsort(frames)
        if frames.min() < 0 or (np.diff(frames[order]) == 0).any():
            raise ValueError("inds are no numbers of frames, each once")
        return (homogeneous(data) if axes == 3 else data)[order], frames[order]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _require_pinhole(path: Path) -> None:
    if not path.is_file():
        return
    try:
        kinds = {line.split(":")[-1].strip() for line in read_text(path).splitlines() if line.strip()}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if others := sorted(kinds - {"PINHOLE"}):
        raise InputError(
            f"{path}: cameras of the type {shown(others[0])} are not read, only PINHOLE: undistort the clip"
        )


def _matrix(lens: np.ndarray) -> list[list[float]]:
    fx, fy, cx, cy = lens.tolist()
    return [[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]]


def _depths(path: Path, frames: np.ndarray) -> tuple[np.ndarray | None, np.ndarray, tuple[str, ...]]:
    """(F, H, W) depth maps, their pixels per pixel of the video, and remarks."""
    if not path.is_file():
        return None, np.ones(2), (f"there is no {path.parent.name}/{path.name}",)
    found: list[np.ndarray | None] = []
    scale, full = np.ones(2), None
    try:
        with open_zip(path) as read:
            for frame in frames.tolist():
                content = read(f"{frame:05d}.exr")
                values = None if content is None else read_exr(content)
                if values is not None and full is not None and values.shape != full:
                    raise ValueError(f"{frame:05d}.exr is {values.shape[1]}x{values.shape[0]}, others {full[::-1]}")
                full = full if values is None else values.shape
                found.append(None if values is None else reduced(values))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    known = [values for values in found if values is not None]
    if not known or full is None:
        raise InputError(f"{path} holds no depth map of a frame with a camera (00000.exr, ...)")
    scale = np.array(known[0].shape[::-1]) / np.array(full[::-1])
    empty = np.zeros_like(known[0])
    missing = len(found) - len(known)
    remarks = (f"{missing} of {len(found)} frames have no depth map",) if missing else ()
    return np.stack([empty if values is None else values for values in found]), scale, remarks


def _masks(path: Path, frames: np.ndarray, size: tuple[int, ...]) -> np.ndarray | None:
    """(F, H, W) bool of the grid of the depth maps; None where there are no masks."""
    if not path.is_file():
        return None
    try:
        with open_zip(path) as read:
            return np.stack([_mask(read, frame, size) for frame in frames.tolist()])
    except (OSError, ValueError, cv2.error) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _mask(read: Callable[[str], bytes | None], frame: int, size: tuple[int, ...]) -> np.ndarray:
    content = read(f"{frame:05d}.png")
    if content is None:
        raise ValueError(f"it holds no {frame:05d}.png")
    image = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_UNCHANGED) if content else None
    if image is None or image.ndim != 2:
        raise ValueError(f"{frame:05d}.png is no image of numbers of objects")
    return resized(image > 0, size)


IMPORTER = Importer("pose/NAME.npz", is_vipe, read_vipe)
