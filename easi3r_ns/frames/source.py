"""What a source of frames is, and which kind of source a path means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..core.config import FrameConfig
from ..core.errors import InputError
from ..core.runlog import RunLog
from ..core.types import RecordedFocal
from ..storage.kinds import HEIF_SUFFIXES, SUFFIXES
from .animation import AnimatedImage, is_animated
from .archive import ImageArchive, inside_archive, is_archive
from .cuts import Watch
from .images import ImageFolder
from .sequence import ImageFiles, matches
from .video import Video

GIF_SUFFIXES = (".gif", ".apng")


class Source(Protocol):
    """What a video and a folder of images have in common; see :class:`.video.Video` for the methods."""

    unit: str
    shows_all: bool

    def signature(self) -> dict[str, Any]: ...
    def times(self, select: FrameConfig, log: RunLog) -> np.ndarray: ...
    def recount(self, log: RunLog) -> np.ndarray: ...
    def name(self, index: int) -> str: ...
    def focals(self, indices: Any, source_wh: tuple[int, int]) -> list[RecordedFocal | None]: ...
    def read(self, indices: Any, log: RunLog, watch: Watch | None = None) -> Iterator[tuple[int, np.ndarray]]: ...


def open_source(data: Path) -> Source:
    """The source behind ``data``.

    What exists under this name is taken as it is: a video file, an animated image (GIF, WebP, APNG), a folder of images
    or a ZIP archive of images. Otherwise the name may be a pattern, ``shot_%04d.png`` or ``shots/*.jpg``, or a folder
    inside an archive, ``shots.zip/left``.

    Raises:
        InputError: nothing is there, or it is none of these.
    """
    if not _exists(data):
        return _named_by_pattern(data)
    if data.is_dir():
        return ImageFolder(data)
    if data.stat().st_size == 0:
        raise InputError(f"{data} is empty (0 bytes): give a complete video file")
    if is_archive(data):
        return ImageArchive(data)
    suffix = data.suffix.lower()
    if suffix in SUFFIXES + GIF_SUFFIXES and is_animated(data):
        return AnimatedImage(data)
    if suffix in SUFFIXES + HEIF_SUFFIXES + GIF_SUFFIXES:
        raise InputError(
            f"{data} is a single image: give a video, the folder of the images, or a pattern in quotes such as "
            f"'{data.parent / ('*' + data.suffix)}'"
        )
    return Video(data)


def _exists(data: Path) -> bool:
    try:
        return data.exists()
    except OSError:  # a name that is too long for the file system, say
        return False


def open_selected(data: Path, select: FrameConfig) -> Source:
    """As :func:`open_source`, without the images that ``--image-size`` leaves out. Raises InputError."""
    source = open_source(data)
    if select.image_wh is not None:
        if not isinstance(source, ImageFolder):
            raise InputError(f"--image-size {select.image_size} chooses among images, and {data} is a clip of one size")
        source.keep_size(select.image_wh)
    return source


def selection_of_views(data: Path, select: FrameConfig) -> FrameConfig:
    """How the frames of evaluation views are chosen where ``select`` chooses those of the clip. Raises InputError.

    --start, --end, --on-cut and --pose-all-frames mean the clip. Images have no clock for --fps: all of them are used.
    --image-size chooses among images only.
    """
    select = replace(select, start=0.0, end=None, on_cut="ignore", pose_all_frames=False)
    if not isinstance(open_source(data), ImageFolder):
        return replace(select, image_size=None)
    return select if select.fps is None else replace(select, fps=None, num_frames_target=0)


def readable(source: Source, indices: Iterable[int], log: RunLog) -> Iterator[tuple[int, np.ndarray]]:
    """Those of the frames ``indices`` that can be read, one by one: what is wrong with the others is said elsewhere."""
    wanted = [int(index) for index in indices]
    if source.shows_all:
        # Without any, a video would be decoded to its end.
        yield from source.read(wanted, log) if wanted else ()
        return
    for index in wanted:
        try:
            yield from source.read([index], RunLog())
        except InputError:
            continue


def _named_by_pattern(data: Path) -> Source:
    held = inside_archive(data)
    if held is not None:
        return ImageArchive(*held)
    found = matches(data)
    if found is None:
        raise InputError(
            f"{data} does not exist: give a video file, a folder of images, a .zip of images, or a pattern such as "
            "'shots/*.jpg' or shot_%04d.png"
        )
    images = [path for path in found if path.suffix.lower() in SUFFIXES + HEIF_SUFFIXES]
    if len(found) == 1 and not images:
        return open_source(found[0])
    if not images:
        what = f"{len(found)} files, none of them an image ({found[0].name}, ...)" if found else "no file"
        raise InputError(f"{data} matches {what}: give one video, or a pattern that matches images")
    return ImageFiles(data, images)
