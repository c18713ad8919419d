"""Where the user's own masks come from, and which of them belongs to which frame."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ..core.config import FrameConfig
from ..core.errors import InputError
from ..core.runlog import RunLog
from ..core.types import Frames, SkippedFrames
from ..storage.kinds import SYSTEM_FOLDERS
from ..storage.marks import Marks, marks_of_pixels, mask_files, read_marks
from .clips import only_clip
from .images import ImageFolder
from .source import Source, open_source

OPTION = "--masks"
_IMAGE_SUFFIX = re.compile(r"\.(png|jpe?g|webp|bmp|tiff?|avif|heic|heif|hif|gif)$")
_WORD = re.compile(r"(^masks?[ _.-]+)|([ _.-]+masks?$)")
_OWN_NAME = re.compile(r"frame_(\d{5})")
_ALL = FrameConfig(num_frames_target=0, on_cut="ignore")


@dataclass(frozen=True)
class Wanted:
    """Frames that masks are looked for."""

    names: tuple[str, ...]
    """File names, or the same name for all frames of a video."""
    places: np.ndarray
    """(N,) int64 places among all frames of all sources."""
    times: np.ndarray
    """(N,) seconds from the start of their source."""
    num_used: int
    num_source: int
    num_first: int
    """Frames of the first source: the clip, without evaluation views."""
    all_used: bool
    """Whether these are the frames that are used, in order; else frames in between."""
    one_source: bool

    @classmethod
    def of(cls, frames: Frames) -> Wanted:
        """The frames that are used."""
        counts = len(frames), frames.num_source_frames, frames.num_first_source
        return cls(frames.names, frames.places, frames.times, *counts, True, frames.offsets is None)

    @classmethod
    def between(cls, frames: Frames, skipped: SkippedFrames) -> Wanted:
        """Frames in between those of the first source."""
        counts = len(frames), frames.num_source_frames, frames.num_first_source
        return cls(skipped.names, skipped.indices, skipped.times, *counts, False, frames.offsets is None)

    @property
    def has_names(self) -> bool:
        """Whether the frames are told apart by their names."""
        return len(set(self.names)) == len(self.names) > 1


class MaskReader(Protocol):
    """The masks of the user, in some order: images, or frames of a video."""

    def find(self, wanted: Wanted) -> list[int | None]:
        """The mask of every frame; None for a frame without. Raises InputError where that is not clear."""

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, Marks]]:
        """(index, mask) in order; masks that cannot be decoded are left out where the source is a video.

        Raises:
            InputError: an image is no mask.
        """


def open_masks(path: Path, log: RunLog) -> MaskReader:
    """A folder, a pattern or an archive of mask images, or a video of masks.

    Raises:
        InputError: nothing is there, it holds no masks, or it is a single image.
    """
    if path.is_dir():
        files = mask_files(path)
        if not files and (video := only_clip(path, OPTION)) != path:
            return open_masks(video, log)
        if not files:
            raise InputError(f"{OPTION} {path}: no mask image in this folder{_below(path)}")
        return MaskImages(path, files)
    try:
        source = open_source(path)
    except InputError as error:
        raise InputError(f"{OPTION}: {error}") from error
    return MaskImages(path, source.files, source) if isinstance(source, ImageFolder) else MaskFilm(path, source, log)


class MaskImages:
    """One image file per mask."""

    def __init__(self, path: Path, files: Sequence[Path], opened: ImageFolder | None = None) -> None:
        self._path, self._files, self._opened = path, tuple(files), opened

    def find(self, wanted: Wanted) -> list[int | None]:
        """By name where names agree; else in order, one per used frame or one per frame of the source; else by number.

        See :class:`MaskReader`.
        """
        by_name = self._by_name(wanted) if wanted.has_names else None
        if by_name is not None:
            return by_name
        in_order = _in_order(len(self._files), wanted)
        if in_order is not None:
            return in_order
        if not wanted.has_names and wanted.one_source and len(self._files) < wanted.num_source:
            return self._by_number(wanted)
        raise InputError(
            f"{OPTION} {self._path}: {len(self._files)} images for {wanted.num_used} used frames of "
            f"{wanted.num_source}; give one per used frame or one per frame of the source"
            + ("; or give them the names of the images" if wanted.has_names else "")
        )

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, Marks]]:
        """See :class:`MaskReader`."""
        for index in indices:
            try:
                if self._opened is None:
                    yield index, read_marks(self._files[index])
                else:
                    with self._opened.file(index) as path:
                        yield index, read_marks(path)
            except InputError as error:
                raise InputError(f"{OPTION}: {error}") from error

    def _by_name(self, wanted: Wanted) -> list[int | None] | None:
        keys = [_key(file.name) for file in self._files]
        index = {key: k for k, key in enumerate(keys)}
        found = [index.get(_key(name)) for name in wanted.names]
        if not any(k is not None for k in found):
            return None
        twice = next((k for k, key in enumerate(keys) if index[key] != k), None)
        if twice is not None:
            other = self._files[index[keys[twice]]].name
            raise InputError(
                f"{OPTION} {self._path}: {self._files[twice].name} and {other} are masks of the same frame"
            )
        return found

    def _by_number(self, wanted: Wanted) -> list[int | None]:
        stems = [file.stem for file in self._files]
        numbers = [int(n[-1]) if (n := re.findall(r"\d+", stem)) else -1 for stem in stems]
        index = {number: k for k, number in enumerate(numbers)}
        if -1 in index or len(index) < len(numbers):
            raise InputError(f"{OPTION} {self._path}: {len(stems)} images for {wanted.num_used} used frames. {_RENAME}")
        first, last = min(numbers), max(numbers)
        if all(_OWN_NAME.fullmatch(stem) for stem in stems) and first >= 1 and last <= wanted.num_used:
            return [index.get(row + 1) for row in range(wanted.num_used)] if wanted.all_used else _none(wanted)
        if last > wanted.num_source or (first > 0 and last < wanted.num_source):
            raise InputError(
                f"{OPTION} {self._path}: {len(stems)} images, numbered from {first} to {last}, for {wanted.num_used} "
                f"used frames of {wanted.num_source}: these numbers do not tell the frames. {_RENAME}"
            )
        return [index.get(int(place) + (1 if first > 0 else 0)) for place in wanted.places]


_RENAME = (
    "Name each mask as its frame is called in the dataset, frame_00001.png being the first one used; or number them by "
    "frames of the source, with frame 0 among them"
)


class MaskFilm:
    """A video of masks."""

    def __init__(self, path: Path, source: Source, log: RunLog) -> None:
        self._path, self._source, self._log = path, source, log
        self._times = source.times(_ALL, log)

    def find(self, wanted: Wanted) -> list[int | None]:
        """By number where it has as many frames as the source or as are used, else by time. See :class:`MaskReader`."""
        count = len(self._times)
        in_order = _in_order(count, wanted)
        if in_order is not None:
            return in_order
        if wanted.has_names or not wanted.one_source or count < 2:
            raise InputError(
                f"{OPTION} {self._path}: {count} frames for {wanted.num_used} used frames of {wanted.num_source}; give "
                "one per used frame or one per frame of the source"
            )
        nearest = np.abs(self._times[:, None] - wanted.times).argmin(axis=0)
        reach = np.median(np.diff(self._times)) / 2 + 1e-3
        close = np.abs(self._times[nearest] - wanted.times) <= reach
        return [int(k) if near else None for k, near in zip(nearest, close, strict=True)]

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, Marks]]:
        """See :class:`MaskReader`. Compression blurs masks, so what is brighter than the middle is white."""
        for index, pixels in self._source.read(sorted(set(indices)), self._log):
            yield index, marks_of_pixels(pixels, f"{OPTION} {self._path}, frame {index},")


def _in_order(count: int, wanted: Wanted) -> list[int | None] | None:
    if count == wanted.num_source:
        return [int(place) for place in wanted.places]
    if count == wanted.num_used:
        return list(range(count)) if wanted.all_used else _none(wanted)
    # Masks of the clip alone, where it is a video: the evaluation views have none. Images tell by their names.
    clip = wanted.places < wanted.num_first
    if len({name for name, own in zip(wanted.names, clip, strict=True) if own}) > 1:
        return None
    if count == wanted.num_first:
        return [int(place) if own else None for place, own in zip(wanted.places, clip, strict=True)]
    if wanted.all_used and count == clip.sum():
        return [row if own else None for row, own in enumerate(clip)]
    return None


def _none(wanted: Wanted) -> list[int | None]:
    return [None] * len(wanted.names)


def _key(name: str) -> str:
    """What the names of a frame and of its mask have in common: ``A.JPG``, ``a.jpg.png``, ``mask_a.png`` -> ``a``."""
    key = name.casefold()
    while (stem := _IMAGE_SUFFIX.sub("", key)) != key:
        key = stem
    return _WORD.sub("", key) or key


def _below(folder: Path) -> str:
    inside = [f for f in sorted(folder.iterdir()) if f.is_dir() and not f.name.startswith((".", *SYSTEM_FOLDERS))]
    held = [f.name for f in inside if mask_files(f)]
    return f"; there are images in its folder {held[0]}: give that" if held else ""
