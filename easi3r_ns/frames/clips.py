"""Several clips of one scene: which they are, how many frames each gives, and which were filmed with one camera."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..core.config import FrameConfig
from ..core.errors import InputError
from ..core.runlog import RunLog
from ..core.types import Frames, PixelMap
from ..storage.files import natural_key
from .images import HEIF_SUFFIXES, SUFFIXES
from .loader import load_frames, preview_source
from .preprocess import ImageGeometry
from .recorded import Recorded, recorded_of
from .select import inside_range
from .sequence import matches
from .source import open_selected, open_source

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mts", ".m2ts", ".3gp", ".mpg", ".mpeg", ".wmv")
"""Names of files that a folder or a pattern may hold as clips; a single file may have any."""
LEAST = 5
"""Frames that every clip gives, however short it is, as far as it and --num-frames-target have them."""
_SAME_MM = 1e-3
"""Relative difference of two equivalent focal lengths up to which they are one number."""


@dataclass(frozen=True)
class SourceClip:
    """One of several clips."""

    path: Path
    name: str
    """That of the file, with that of its folder where two clips have the same; unique."""
    frames: Frames
    recorded: Recorded
    camera: int
    """Number of its camera; clips that their files say were filmed with one have the same."""


def clips_of(data: Path) -> tuple[Path, ...]:
    """The clips that one value of ``--data`` means: itself, or the videos of a folder or pattern that has no image.

    Videos are in natural order of their names. Hidden files do not count.
    """
    if data.is_dir():
        found = [path for path in data.iterdir() if path.is_file() and not path.name.startswith(".")]
    elif data.exists():
        return (data,)
    else:
        found = matches(data) or []
    if any(path.suffix.lower() in SUFFIXES + HEIF_SUFFIXES for path in found):
        return (data,)
    videos = [path for path in found if path.suffix.lower() in VIDEO_SUFFIXES]
    return tuple(sorted(videos, key=lambda path: [natural_key(part) for part in path.parts])) or (data,)


def in_order(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The clips in the order in which they were filmed, where all their files tell; else as they are given.

    Raises:
        InputError: a clip cannot be used, or is given twice.
    """
    twice = [path for path, count in Counter(path.resolve() for path in paths).items() if count > 1]
    if twice:
        raise InputError(f"{twice[0]} is given twice: each clip of a scene is given once")
    created = [recorded_of(open_source(path)).created for path in paths]
    known = [instant for instant in created if instant is not None]
    if len(known) < len(paths) or len({instant.tzinfo is None for instant in known}) > 1:
        return tuple(paths)
    return tuple(path for _, path in sorted(zip(known, paths), key=lambda pair: pair[0]))


def shares(paths: Sequence[Path], select: FrameConfig) -> tuple[int, ...]:
    """``--num-frames-target`` of each clip, by its duration (images: by their number); no more than it has frames.

    Raises:
        InputError: a clip cannot be used.
    """
    if select.num_frames_target == 0 or select.fps is not None:
        return (select.num_frames_target,) * len(paths)
    sources = [open_selected(path, select) for path in paths]
    times = [source.times(select, RunLog()) for source in sources]
    times = [stamps[inside_range(stamps, select)] for stamps in times]
    counts = [len(stamps) for stamps in times]
    timed = all(source.unit == "s" for source in sources)
    sizes = [float(stamps[-1] - stamps[0]) for stamps in times] if timed and all(counts) else counts
    return divided(select.num_frames_target, sizes, counts)


def divided(total: int, sizes: Sequence[float], most: Sequence[int]) -> tuple[int, ...]:
    """``total`` in whole parts in proportion to ``sizes``, the part k at most ``most[k]`` and at least :data:`LEAST`.

    Where that is not possible, the least is smaller, but not below 2: less is no clip.
    """
    least = np.minimum(max(2, min(LEAST, total // len(sizes))), np.maximum(most, 2))
    limits, weights = np.maximum(most, least), np.maximum(np.asarray(sizes, dtype=float), 1e-9)
    parts = least.copy()
    while parts.sum() < min(total, limits.sum()):
        # One by one to the clip that has least of what is due to it (Adams, Webster: 0.5 rounds to the nearest).
        due = np.where(parts < limits, weights / (parts + 0.5), -np.inf)
        parts[int(due.argmax())] += 1
    return tuple(int(part) for part in parts)


def load_clips(
    paths: Sequence[Path], store: Path, *, select: FrameConfig, geometry: ImageGeometry, log: RunLog
) -> tuple[SourceClip, ...]:
    """The frames of all clips, each with its own time, size and name; arguments as for :func:`.loader.load_frames`.

    Raises:
        InputError: a clip cannot be used; the message names it.
        OutputError: ``store`` cannot be written.
    """
    clips: list[SourceClip] = []
    for path, name, count in zip(paths, unique_names(paths), shares(paths, select), strict=True):
        log.info(f"clip {len(clips) + 1} of {len(paths)}: {name}")
        folder = store / f"clip_{len(clips) + 1}"
        try:
            own = replace(select, num_frames_target=count)
            frames = load_frames(path, folder, select=own, geometry=geometry, log=log)
        except InputError as error:
            raise error if str(path) in str(error) else InputError(f"{path}: {error}") from error
        recorded = recorded_of(open_source(path))
        bare = set(frames.names) == {path.name}
        frames = replace(frames, names=tuple(name if bare else f"{name}/{own_name}" for own_name in frames.names))
        camera = next((clip.camera for clip in clips if _one_camera(clip, frames, recorded)), len(clips))
        clips.append(SourceClip(path, name, frames, recorded, camera))
    numbers = {camera: number for number, camera in enumerate(dict.fromkeys(clip.camera for clip in clips))}
    return tuple(replace(clip, camera=numbers[clip.camera]) for clip in clips)


def preview_clips(
    paths: Sequence[Path], select: FrameConfig, geometry: ImageGeometry, log: RunLog
) -> tuple[int, PixelMap]:
    """How many frames :func:`load_clips` would use, and the largest of their sizes; decodes one of each clip.

    Raises:
        InputError: as :func:`load_clips`.
    """
    if len(paths) == 1:
        return preview_source(paths[0], select, geometry, log)
    counts = shares(paths, select)
    found = [
        preview_source(path, replace(select, num_frames_target=count), geometry, log)
        for path, count in zip(paths, counts, strict=True)
    ]
    largest = max((pixel_map for _, pixel_map in found), key=lambda m: m.source_wh[0] * m.source_wh[1])
    return sum(count for count, _ in found), largest


def unique_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """File names, each with as many of the folders above it as it takes to tell them apart."""
    names = [path.name for path in paths]
    for depth in range(2, max(len(path.absolute().parts) for path in paths) + 1):
        counts = Counter(names)
        if max(counts.values()) == 1:
            break
        names = [n if counts[n] == 1 else "/".join(p.absolute().parts[-depth:]) for n, p in zip(names, paths)]
    return tuple(names)


def _one_camera(clip: SourceClip, frames: Frames, recorded: Recorded) -> bool:
    """Whether the files say that both were filmed with one camera and the same focal length."""
    one, other = clip.frames.recorded_focal, frames.recorded_focal
    if one is None or other is None or recorded.device is None or recorded.device != clip.recorded.device:
        return False
    same_focal = abs(one.equivalent_mm - other.equivalent_mm) <= _SAME_MM * one.equivalent_mm
    return clip.frames.pixel_map == frames.pixel_map and one.origin == other.origin and same_focal
