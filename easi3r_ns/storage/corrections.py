"""What a person says about the masks of a dataset, kept beside it in ``OUT/corrections`` and never written over them.

One grey image for each corrected frame, which any picture program opens, and ``corrections.json`` with everything else:
see :func:`read_corrections`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..core.errors import InputError, OutputError, shortened, shown
from .files import make_folder, natural_key, write_bytes, writing
from .png import encode_png

FOLDER = "corrections"
"""Name of the folder beside the dataset."""
FILE = "corrections.json"
VERSION = 1
MOVES, AS_FOUND, STILL = 0, 128, 255
"""Grey levels of a correction. As in ``masks/``, what moves is black."""
MOST_PIXELS = 2**26
"""Of one image: more than any frame has that is used."""
MOST_BYTES = 2**25
"""Of one file."""
MOST_FRAMES = 100_000
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,79}")
_FRAME = re.compile(r"(clip_\d+_)?frame_\d+(_view\d+)?")
"""Names of images that count although ``corrections.json`` does not name them: they were painted by hand."""
_GREY = 8
"""Levels by which the channels of a grey picture may differ."""
_OFF = 1.0
"""Pixels by which an image may be higher or lower than its shape asks for: rounding."""
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)

FrameSource = tuple[str, int, Optional[int]]
"""A frame wherever it stands in a dataset: name of its source, index in it, and which view of a sphere, from 1."""


@dataclass(frozen=True)
class Corrections:
    """What a person says about the masks of a dataset; frames have the names of their images, without suffix."""

    size: tuple[int, int]
    """Width and height of the dataset's images."""
    marks: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    """Frame -> (h, w) uint8 of the shape of the images, in any size: 0 moves, 255 stands still, 128 stays as found."""
    strokes: Sequence[Any] = ()
    """What the editor writes for undo and redo: any JSON."""
    excluded: tuple[str, ...] = ()
    """Frames that are left out of the dataset."""
    keyframes: tuple[str, ...] = ()
    """Frames that a person has looked at and marked."""
    sources: Mapping[str, FrameSource] = field(default_factory=dict)
    """Which frame each name is: names of a dataset change when it is made again with other frames. What is missing here
    is told by the dataset beside the folder."""

    def __post_init__(self) -> None:
        width, height = self.size
        if not (0 < width and 0 < height and width * height <= MOST_PIXELS):
            raise InputError(f"{FILE}: a size of {width}x{height} pixels cannot be")
        for name, marks in self.marks.items():
            if marks.dtype != np.uint8 or marks.ndim != 2 or not _fits((marks.shape[1], marks.shape[0]), self.size):
                raise InputError(
                    f"the correction of {name} is {'x'.join(map(str, marks.shape[::-1]))}, the images are "
                    f"{width}x{height}: give it their shape, in any size"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """All frames of which something is said."""
        return tuple(sorted({*self.marks, *self.excluded, *self.keyframes}, key=natural_key))

    @property
    def decides(self) -> bool:
        """Whether anything in it changes a dataset."""
        return bool(self.marks or self.excluded)

    def fingerprint(self) -> str:
        """Letters that stand for all that changes a dataset; strokes and keyframes do not. What follows a ``-`` stands
        for the frames that are excluded."""
        digest = hashlib.blake2b(digest_size=8)
        for key, name in sorted((str(self.sources.get(name, name)), name) for name in self.marks):
            digest.update(f"{key} {self.marks[name].shape}".encode())
            digest.update(np.ascontiguousarray(self.marks[name]).data)
        left_out = repr(sorted(str(self.sources.get(name, name)) for name in self.excluded)).encode()
        return digest.hexdigest() + f"-{hashlib.blake2b(left_out, digest_size=4).hexdigest() if self.excluded else ''}"

    def renamed(self, names: Mapping[FrameSource, str]) -> Corrections:
        """The same with the names that the frames have in another dataset; what it lacks gets names of its own."""
        left_out = iter(range(1, MOST_FRAMES))

        def name(old: str) -> str:
            source = self.sources.get(old)
            if source is None:
                return old
            return names.get(source) or f"left_out_{next(left_out):05d}"

        new = {old: name(old) for old in self.names}
        return replace(
            self,
            marks={new[old]: marks for old, marks in self.marks.items()},
            excluded=tuple(new[old] for old in self.excluded),
            keyframes=tuple(new[old] for old in self.keyframes),
            sources={new[old]: source for old, source in self.sources.items() if old in new},
        )


def read_corrections(folder: Path) -> Corrections:
    """The corrections in a folder.

    * ``corrections.json``: ``version`` (1), ``size`` (width and height of the dataset's images), ``frames`` (names of
      the corrected ones), ``strokes`` (any list), ``excluded``, ``keyframes`` (names) and ``sources`` (name -> source,
      index and view). All but the version and the size may be missing.
    * ``frame_00001.png`` for each corrected frame, named as the dataset's image: 8-bit grey of the shape of the images,
      in any size. 0 moves, 255 stands still, 128 is as found; other levels count as the nearest of these, and
      transparent pixels are as found. Images of frames that ``frames`` does not name count too. Without
      ``corrections.json`` the size is that of the first image.

    Raises:
        InputError: one of them is missing, damaged, too large, of another shape or version, a link or no plain file, or
            names a frame that the dataset beside the folder does not have.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise InputError(f"--corrections {folder}: give a folder that the editor or a picture program wrote, no link")
    facts = _facts(folder / FILE)
    listed = _names_in(facts, "frames")
    painted = [file.stem for file in folder.glob("*.png") if _FRAME.fullmatch(file.stem)]
    names = sorted({*listed, *painted}, key=natural_key)
    _check_count(names, folder)
    images = {name: _image(folder / f"{name}.png") for name in names}
    size = _size_in(facts, folder) if facts else next(((i.shape[1], i.shape[0]) for i in images.values()), None)
    if size is None:
        raise InputError(f"--corrections {folder}: there is neither {FILE} nor an image such as frame_00001.png")
    try:
        found = Corrections(
            size,
            {name: image for name, image in images.items() if (image != AS_FOUND).any()},
            tuple(_list_in(facts, "strokes")),
            tuple(_names_in(facts, "excluded")),
            tuple(_names_in(facts, "keyframes")),
            _sources_in(facts),
        )
    except InputError as error:
        raise InputError(f"--corrections {folder}: {error}") from error
    return _known(found, folder)


def write_corrections(folder: Path, corrections: Corrections, *, changed: Collection[str] | None = None) -> None:
    """Write what :func:`read_corrections` reads; every file appears as a whole or not at all.

    Images come before ``corrections.json``: a kill in between loses no image. Those of frames that are corrected no
    longer are deleted in the end, if we wrote them.

    Args:
        changed: the only frames whose images are new, for an editor that saves at every click; None: all may be.

    Raises:
        OutputError: the folder is a link or a file, or the disk refuses.
        InputError: a name that is no frame's, or strokes of more than 32 MB.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OutputError(f"{folder} is no folder of its own: remove it")
    _check_count(corrections.names, folder)
    marks = {name: image for name, image in corrections.marks.items() if (image != AS_FOUND).any()}
    text = _as_text(replace(corrections, marks=marks))
    if len(text) > MOST_BYTES:
        raise InputError(f"the strokes of {folder} take {len(text) >> 20} MB, more than {MOST_BYTES >> 20} MB")
    make_folder(folder)
    before = _listed_before(folder)
    for name, image in marks.items():
        if changed is None or name in changed or not (folder / f"{name}.png").is_file():
            _write_image(folder / f"{name}.png", image)
    write_bytes(folder / FILE, text, durable=True)
    with writing(folder):
        for name in before - set(marks):
            (folder / f"{name}.png").unlink(missing_ok=True)


def frame_sources(out: Path) -> dict[str, FrameSource]:
    """Name of each image of the dataset in ``out``: which frame of which source it is; empty where there is none.

    Frames whose source and index occur twice are left out.
    """
    try:
        frames = json.loads((out / "transforms.json").read_text(encoding="utf-8"))["frames"]
        found = [(Path(f["file_path"]).stem, str(f["source"]), int(f["frame_index"])) for f in frames]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    named = {stem: (source, index, _view(stem)) for stem, source, index in found}
    times = Counter(named.values())
    return {stem: source for stem, source in named.items() if times[source] == 1}


def nearest_level(grey: NDArray[Any]) -> NDArray[np.uint8]:
    """(h, w) grey levels -> the nearest of 0 (moves), 128 (as found) and 255 (stands still)."""
    values = np.asarray(grey)
    levels = np.full(values.shape, AS_FOUND, dtype=np.uint8)
    levels[values <= AS_FOUND // 2] = MOVES
    levels[values > (AS_FOUND + STILL) // 2] = STILL
    return levels


def _known(found: Corrections, folder: Path) -> Corrections:
    """With the sources that the dataset beside the folder tells."""
    dataset = frame_sources(folder.parent)
    sources = {name: found.sources.get(name) or dataset.get(name) for name in found.names}
    unknown = [name for name in found.names if sources[name] is None]
    if dataset and unknown:
        raise InputError(
            f"--corrections {folder}: {folder.parent} has no frame {unknown[0]}"
            f"{f' (nor {len(unknown) - 1} more)' if len(unknown) > 1 else ''}: remove or rename it"
        )
    return replace(found, sources={name: source for name, source in sources.items() if source is not None})


def _view(stem: str) -> int | None:
    match = re.search(r"_view(\d+)$", stem)
    return int(match[1]) if match else None


def _content(file: Path) -> bytes:
    """What a plain file holds. Raises InputError for a link, a device or pipe, one that is too large, or unreadable."""
    try:
        status = os.lstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{file} is no plain file: replace or remove it")
        if status.st_size > MOST_BYTES:
            raise InputError(f"{file} has {status.st_size >> 20} MB, more than {MOST_BYTES >> 20} MB: replace it")
        handle = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
        with open(handle, "rb") as opened:
            return opened.read(MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise InputError(f"{file} is missing: make the correction again, or take its name out of {FILE}") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error


def _image(file: Path) -> NDArray[np.uint8]:
    content = _content(file)
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            if image.width * image.height > MOST_PIXELS:
                raise InputError(f"{file} has {image.width}x{image.height} pixels: make it smaller")
            if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
                raise InputError(f"{file} is no 8-bit picture ({image.mode}): save it as 8-bit grey")
            pixels = np.asarray(image.convert("RGBA"))
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(f"{file} is no readable PNG ({shortened(str(error), 80)}): replace or remove it") from error
    grey, opaque = pixels[..., :3].astype(np.int16), pixels[..., 3] > AS_FOUND
    if (np.ptp(grey, axis=-1)[opaque] > _GREY).any():
        raise InputError(
            f"{file} has colours: paint black what moves, white what stands still, and grey (128) the rest"
        )
    return np.where(opaque, nearest_level(grey[..., 1]), np.uint8(AS_FOUND))


def _facts(file: Path) -> dict[str, Any]:
    """The content of ``corrections.json``; empty where there is none."""
    if not os.path.lexists(file):
        return {}
    content = _content(file)
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is damaged ({shortened(str(error), 80)}): repair it, or remove it") from error
    if not isinstance(facts, dict) or "version" not in facts:
        raise InputError(f"{file} is damaged: it names no version")
    if facts["version"] != VERSION:
        raise InputError(f"{file} is of version {shown(facts['version'])}, this program reads {VERSION}: update it")
    return facts


def _size_in(facts: Mapping[str, Any], folder: Path) -> tuple[int, int]:
    size = facts.get("size")
    if isinstance(size, list) and len(size) == 2 and all(type(value) is int for value in size):
        return size[0], size[1]
    raise InputError(f"{folder / FILE}: size is {shown(size)}, not the width and height of the images")


def _list_in(facts: Mapping[str, Any], key: str) -> list[Any]:
    values = facts.get(key, [])
    if not isinstance(values, list):
        raise InputError(f"{FILE}: {key} is {shown(values)}, not a list")
    return values


def _names_in(facts: Mapping[str, Any], key: str) -> list[str]:
    names = _list_in(facts, key)
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InputError(f"{FILE}: {key} has {shown(name)}, which is no name of a frame")
    return list(dict.fromkeys(names))


def _sources_in(facts: Mapping[str, Any]) -> dict[str, FrameSource]:
    values = facts.get("sources", {})
    try:
        return {str(name): _source(*value) for name, value in values.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{FILE}: sources is {shown(values)}, not a source and an index for each frame") from error


def _source(name: object, index: object, view: object = None) -> FrameSource:
    if not isinstance(name, str) or type(index) is not int or not (view is None or type(view) is int):
        raise TypeError(f"{name!r} {index!r}")
    return name, index, view


def _check_count(names: Collection[str], folder: Path) -> None:
    if len(names) > MOST_FRAMES:
        raise InputError(f"{folder}: {len(names)} frames are more than {MOST_FRAMES}")
    for name in names:
        if not _NAME.fullmatch(name):
            raise InputError(f"{folder}: {shown(name)} is no name of a frame")


def _as_text(corrections: Corrections) -> bytes:
    """JSON with one line for each stroke and each source."""
    lines = {
        "version": json.dumps(VERSION),
        "size": json.dumps(list(corrections.size)),
        "frames": json.dumps(sorted(corrections.marks, key=natural_key)),
        "excluded": json.dumps(list(corrections.excluded)),
        "keyframes": json.dumps(list(corrections.keyframes)),
        "sources": _object(corrections, corrections.names),
        "strokes": _rows("[", "]", (json.dumps(stroke, allow_nan=False) for stroke in corrections.strokes)),
    }
    return ("{\n" + ",\n".join(f'"{key}": {value}' for key, value in lines.items()) + "\n}\n").encode()


def _object(corrections: Corrections, names: Iterable[str]) -> str:
    known = {name: corrections.sources[name] for name in names if name in corrections.sources}
    told = {name: [part for part in source if part is not None] for name, source in known.items()}
    return _rows("{", "}", (f"{json.dumps(name)}: {json.dumps(source)}" for name, source in told.items()))


def _rows(begin: str, end: str, rows: Iterable[str]) -> str:
    text = ",\n".join(f"  {row}" for row in rows)
    return f"{begin}\n{text}\n{end}" if text else begin + end


def _listed_before(folder: Path) -> set[str]:
    with contextlib.suppress(InputError):
        return set(_names_in(_facts(folder / FILE), "frames"))
    return set()


def _write_image(file: Path, image: NDArray[np.uint8]) -> None:
    content = encode_png(nearest_level(image))
    try:
        if not file.is_symlink() and file.read_bytes() == content:
            return
    except OSError:
        pass  # there is none
    write_bytes(file, content)


def _fits(size: tuple[int, int], images: tuple[int, int]) -> bool:
    (columns, rows), (width, height) = size, images
    return abs(rows - columns * height / width) <= _OFF or abs(columns - rows * width / height) <= _OFF
