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
from ..core.types import Frames, PixelMap, on_side
from ..storage.files import make_folder, natural_key, read_png, write_png
from ..storage.kinds import HEIF_SUFFIXES, SUFFIXES
from .images import ImageFolder
from .loader import load_frames, preview_source
from .preprocess import ImageGeometry, plan_preprocessing, resize_and_crop
from .recorded import Recorded, recorded_of
from .select import inside_range
from .sequence import matches
from .shapes import as_text
from .source import open_selected, open_source
from .store import frame_file, near_file

VIDEO_SUFFIXES = (
    *(".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mts", ".m2ts", ".ts", ".3gp", ".3g2", ".mpg", ".mpeg"),
    *(".wmv", ".mxf", ".flv", ".ogv", ".vob", ".insv"),
)
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
    turned: bool = False
    """Whether its pictures lie on their side here, because they are portrait and most are landscape, or the other way
    round."""


def clips_of(data: Path) -> tuple[Path, ...]:
    """The clips that one value of ``--data`` means: itself, or the videos of a folder or pattern without images.

    A single image beside videos, such as a cover, is not one. Videos are in natural order of their names. Hidden files
    do not count.
    """
    if data.is_dir():
        found = [path for path in data.iterdir() if path.is_file() and not path.name.startswith(".")]
    elif data.exists():
        return (data,)
    else:
        found = matches(data) or []
    if sum(path.suffix.lower() in SUFFIXES + HEIF_SUFFIXES for path in found) > 1:
        return (data,)
    videos = [path for path in found if path.suffix.lower() in VIDEO_SUFFIXES]
    return tuple(sorted(videos, key=lambda path: [natural_key(part) for part in path.parts])) or (data,)


def only_clip(data: Path, option: str) -> Path:
    """The one clip that a value of ``option`` means, by the rules of :func:`clips_of`.

    Raises:
        InputError: it means several.
    """
    clips = clips_of(data)
    if len(clips) > 1:
        names = ", ".join(path.name for path in clips[:3]) + (", ..." if len(clips) > 3 else "")
        raise InputError(f"{option} {data} holds {len(clips)} videos ({names}), and {option} means one: name it")
    return clips[0]


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


@dataclass(frozen=True)
class ClipPart:
    """A clip, or the images of one size of a folder that holds several."""

    path: Path
    select: FrameConfig
    """How its frames are chosen."""
    of_size: str = ""
    """WIDTHxHEIGHT where it is part of a folder."""


def parts_of(paths: Sequence[Path], select: FrameConfig, log: RunLog | None = None) -> tuple[ClipPart, ...]:
    """The clips; images of several sizes or orientations count as one clip for each that two images have.

    Where ``--image-size`` names one, there is no other. Photos of several sizes are no film, so cuts are not looked
    for among them. ``log`` is told what is left out.

    Raises:
        InputError: a clip cannot be used.
    """
    parts: list[ClipPart] = []
    for path in paths:
        source = open_selected(path, select)
        sizes = source.sizes() if isinstance(source, ImageFolder) and select.image_wh is None else []
        # Whoever reads an image without a size says what is wrong with it.
        counts = Counter(size for size in sizes if size is not None and None not in sizes)
        groups = [size for size, count in counts.items() if count > 1]
        if len(counts) < 2 or not groups:
            parts.append(ClipPart(path, select))
            continue
        single = [as_text(size) for size, count in counts.items() if count == 1]
        if single and log is not None:
            log.warn(f"{path}: left out are images of a size that no other has: {', '.join(single[:5])}")
        own = replace(select, on_cut="ignore")
        parts += [ClipPart(path, replace(own, image_size=as_text(size)), as_text(size)) for size in groups]
    return tuple(parts)


def has_several_sizes(data: Path, select: FrameConfig) -> bool:
    """Whether a source is a folder of images of several sizes or orientations, which are all to be used."""
    return len(parts_of((data,), select)) > 1


def shares(parts: Sequence[ClipPart]) -> tuple[int, ...]:
    """``--num-frames-target`` of each clip, by its duration (images: by their number); no more than it has frames.

    Raises:
        InputError: a clip cannot be used.
    """
    select = parts[0].select
    if select.num_frames_target == 0 or select.fps is not None:
        return (select.num_frames_target,) * len(parts)
    sources = [open_selected(part.path, part.select) for part in parts]
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
    parts = parts_of(paths, select, log)
    for part, count in zip(parts, shares(parts), strict=True):
        name = _name(part, paths)
        log.info(f"clip {len(clips) + 1} of {len(parts)}: {name}")
        folder = store / f"clip_{len(clips) + 1}"
        try:
            own = replace(part.select, num_frames_target=count)
            frames = load_frames(part.path, folder, select=own, geometry=geometry, log=log)
        except InputError as error:
            raise error if str(part.path) in str(error) else InputError(f"{part.path}: {error}") from error
        recorded = recorded_of(open_source(part.path))
        frames = replace(frames, names=tuple(_frame_name(n, part, name, len(paths)) for n in frames.names))
        camera = next((clip.camera for clip in clips if _one_camera(clip, frames, recorded)), len(clips))
        clips.append(SourceClip(part.path, name, frames, recorded, camera))
    numbers = {camera: number for number, camera in enumerate(dict.fromkeys(clip.camera for clip in clips))}
    return of_one_orientation([replace(clip, camera=numbers[clip.camera]) for clip in clips], store, geometry, log)


def preview_clips(
    paths: Sequence[Path], select: FrameConfig, geometry: ImageGeometry, log: RunLog
) -> tuple[int, PixelMap]:
    """How many frames :func:`load_clips` would use, and the largest of their sizes; decodes one of each clip.

    Raises:
        InputError: as :func:`load_clips`.
    """
    parts = parts_of(paths, select)
    if len(parts) == 1:
        return preview_source(paths[0], select, geometry, log)
    found = [
        preview_source(part.path, replace(part.select, num_frames_target=count), geometry, log)
        for part, count in zip(parts, shares(parts), strict=True)
    ]
    largest = max((pixel_map for _, pixel_map in found), key=lambda m: m.source_wh[0] * m.source_wh[1])
    return sum(count for count, _ in found), largest


def _name(part: ClipPart, paths: Sequence[Path]) -> str:
    name = dict(zip(paths, unique_names(paths)))[part.path]
    return f"{name} {part.of_size}" if part.of_size else name


def _frame_name(own: str, part: ClipPart, clip: str, count: int) -> str:
    """What a frame is called: by its clip, and by its image where the clip consists of images."""
    if own == part.path.name:
        return clip
    folder = clip.removesuffix(f" {part.of_size}") if part.of_size else clip
    return own if count == 1 else f"{folder}/{own}"


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


def of_one_orientation(
    clips: Sequence[SourceClip], store: Path, geometry: ImageGeometry, log: RunLog
) -> tuple[SourceClip, ...]:
    """The clips, those of the rarer orientation laid on their side; square pictures count for neither.

    Raises:
        OutputError: ``store`` cannot be written.
    """
    lies = [clip.frames.pixel_map.source_wh for clip in clips]
    counts = {
        kind: sum(len(clip.frames) for clip, (width, height) in zip(clips, lies) if (width > height) is kind)
        for kind in (True, False)
        if any((width > height) is kind and width != height for width, height in lies)
    }
    if len(counts) < 2:
        return tuple(clips)
    rarer = min(counts, key=lambda kind: (counts[kind], kind))
    kind = "landscape" if rarer else "portrait"
    log.info(
        f"{counts[rarer]} of {sum(counts.values())} frames are {kind}: they are turned for the work, and upright in "
        "the dataset"
    )
    return tuple(
        replace(clip, frames=_laid(clip.frames, store / f"turned_{number + 1}", geometry), turned=True)
        if width != height and (width > height) is rarer
        else clip
        for number, (clip, (width, height)) in enumerate(zip(clips, lies))
    )


def _laid(frames: Frames, store: Path, geometry: ImageGeometry) -> Frames:
    make_folder(store)
    cut, (width, height) = frames.pixel_map.cut, frames.pixel_map.source_wh
    pixel_map = replace(plan_preprocessing((height, width), geometry), cut=cut and cut.turned())
    images, paths, near = [], [], []
    for k, path in enumerate(frames.source_paths):
        image = on_side(read_png(path))
        paths.append(store / frame_file(k))
        write_png(paths[-1], image)
        images.append(resize_and_crop(image, pixel_map))
    for k, path in enumerate(frames.near.paths if frames.near else ()):
        near.append(store / near_file(k))
        write_png(near[-1], on_side(read_png(path)))
    return replace(
        frames,
        images=np.stack(images),
        pixel_map=pixel_map,
        source_paths=tuple(paths),
        near=frames.near and replace(frames.near, paths=tuple(near)),
    )
