"""What a published set offers: its sequences with their frames and truth, wherever they lie in its own layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ...core.errors import InputError, shortened
from ...storage.files import jsonable, link_or_copy, make_folder, write_bytes, write_json, writing

SMOKE = 3
"""Sequences of a quick look at a set."""
_MOST_NAMED = 4
_STAMP = "made_from.json"


@dataclass(frozen=True)
class TrueFrame:
    """One frame of a sequence and what is known of it."""

    image: Path | bytes
    """The file, or the content of a JPEG file."""
    name: str
    """Of the file that it becomes; frames come in the order of their names."""
    T_world_cam: np.ndarray | None = None
    """(4, 4) camera-to-world, OpenCV axes."""
    mask: Path | None = None
    """What moves, above 0."""
    depth: Path | None = None
    """File that :attr:`TrueClip.read_depth` reads."""


@dataclass(frozen=True)
class TrueClip:
    """One sequence, with the frames that the protocol takes."""

    name: str
    frames: tuple[TrueFrame, ...]
    fl_xy: tuple[float, float] | None = None
    """True focal lengths in pixels of the images."""
    read_depth: Callable[[Path], np.ndarray] | None = None
    """(H, W) float32 z-depth in the unit of the cameras, 0 where unknown."""
    centre_xy: tuple[float, float] | None = None
    """True principal point in pixels of the images, first pixel centre at 0.5; None: unknown."""
    remark: str = ""
    """What a reader of the scores should know of this truth."""


@dataclass(frozen=True)
class Layout:
    """A set under one protocol."""

    title: str
    source: str
    """Where the set comes from, for people who do not have it."""
    protocol: str
    """Which frames are taken."""
    folder: Callable[[Path], Path | None]
    """The folder of the set, from the one that the user names; None: it is not there."""
    wanted: str
    """What :attr:`folder` looks for, in words."""
    sequences: Callable[[Path], Sequence[str]]
    """Names of all sequences of the protocol, whether they are there or not."""
    read: Callable[[Path, str], TrueClip]
    """A sequence. Raises InputError, which names the file, where something is missing or damaged."""


def first_folder(*inside: str, holds: Sequence[str]) -> Callable[[Path], Path | None]:
    """Looks for a folder that holds these files or folders: the root itself, or one of those ``inside`` it."""

    def find(root: Path) -> Path | None:
        places = (root, *(root / name for name in inside))
        return next((place for place in places if all((place / name).exists() for name in holds)), None)

    return find


def clips_of_set(layout: Layout, root: Path, names: Sequence[str] = (), *, smoke: bool = False) -> list[TrueClip]:
    """The sequences of a set, all that its protocol has, or those that are named, or the first three.

    Raises:
        InputError: in one line, what is missing, and where the set comes from.
    """
    folder = layout.folder(root)
    if folder is None:
        raise InputError(
            f"{root} does not hold {layout.title}: {layout.wanted} is missing. It comes from {layout.source}"
        )
    known = list(layout.sequences(folder))
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"{unknown[0]} is no sequence of {layout.title}: there are {', '.join(known)}")
    chosen = list(names) or known[: SMOKE if smoke else None]
    clips: list[TrueClip] = []
    failed: list[tuple[str, InputError]] = []
    for name in chosen:
        try:
            clips.append(layout.read(folder, name))
        except InputError as error:
            failed.append((name, error))
        except (OSError, ValueError, IndexError, KeyError, np.linalg.LinAlgError) as error:
            failed.append((name, InputError(f"{name} is damaged ({shortened(str(error), 120)})")))
    if failed:
        named = ", ".join(name for name, _ in failed[:_MOST_NAMED]) + (", ..." if len(failed) > _MOST_NAMED else "")
        raise InputError(
            f"{len(failed)} of {len(chosen)} sequences of {layout.title} cannot be read ({named}): {failed[0][1]}. "
            f"The set comes from {layout.source}; --sequences names those that you have"
        )
    return clips


def write_capture(clip: TrueClip, folder: Path) -> Path:
    """Write a sequence as a capture that :func:`~..datasets.find_captures` reads; images are links where possible.

    One that is there already, from the same files, stays as it is. Raises InputError, OutputError.
    """
    stamp = jsonable(
        {"name": clip.name, "frames": [_stamp(frame) for frame in clip.frames], "lens": [clip.fl_xy, clip.centre_xy]}
    )
    if _read_json(folder / _STAMP) == json.loads(json.dumps(stamp)):
        return folder
    if (folder / _STAMP).is_file():  # what we wrote of other files, or of more frames, would be read as well
        for kind in ("images", "masks", "depth"):
            shutil.rmtree(folder / kind, ignore_errors=True)
    make_folder(folder / "images")
    for frame in clip.frames:
        target = folder / "images" / frame.name
        if isinstance(frame.image, bytes):
            write_bytes(target, frame.image)
        else:
            link_or_copy(frame.image, target)
    _write_truth(clip, folder)
    write_json(folder / _STAMP, stamp)
    return folder


def _write_truth(clip: TrueClip, folder: Path) -> None:
    for frame in clip.frames:
        stem = Path(frame.name).stem
        if frame.mask is not None:
            make_folder(folder / "masks")
            link_or_copy(frame.mask, folder / "masks" / f"{stem}{frame.mask.suffix}")
        if frame.depth is not None and clip.read_depth is not None:
            make_folder(folder / "depth")
            with writing(folder / "depth" / f"{stem}.npy"):
                np.save(folder / "depth" / f"{stem}.npy", clip.read_depth(frame.depth).astype(np.float32))
    posed = [frame for frame in clip.frames if frame.T_world_cam is not None]
    if not posed:
        return
    cameras: dict[str, object] = {"frames": [{"file": f.name, "c2w": jsonable(f.T_world_cam)} for f in posed]}
    if clip.fl_xy is not None:
        with Image.open(folder / "images" / clip.frames[0].name) as image:
            width, height = image.size
        lens = {"w": width, "h": height, "fl_x": clip.fl_xy[0], "fl_y": clip.fl_xy[1]}
        if clip.centre_xy is not None:
            lens |= {"cx": clip.centre_xy[0], "cy": clip.centre_xy[1]}
        cameras["intrinsics"] = lens
    write_json(folder / "gt_cameras.json", cameras)


def with_rigid(T: np.ndarray) -> np.ndarray:
    """A (4, 4) or (3, 4) matrix of rounded numbers as (4, 4) with the nearest rotation."""
    result = np.eye(4)
    result[:3] = np.asarray(T, dtype=float)[:3]
    U, _, Vt = np.linalg.svd(result[:3, :3])
    result[:3, :3] = U @ Vt
    return result


def need(path: Path) -> Path:
    """The path, which must exist. Raises InputError."""
    if not path.exists():
        raise InputError(f"{path} is missing")
    return path


def every(frames: Sequence[TrueFrame], step: int, clip: TrueClip, most: int | None = None) -> TrueClip:
    """The clip with every ``step``-th of the frames, of the first ``most``. Raises InputError where none is left."""
    chosen = tuple(frames[:most][::step])
    if not chosen:
        raise InputError(f"{clip.name} has no frame")
    return replace(clip, frames=chosen)


def _stamp(frame: TrueFrame) -> list[object]:
    files = [path for path in (frame.image, frame.mask, frame.depth) if isinstance(path, Path)]
    stats = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    pose = None if frame.T_world_cam is None else np.round(frame.T_world_cam, 9).tolist()
    size = len(frame.image) if isinstance(frame.image, bytes) else 0
    return [frame.name, stats, pose, size]


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
