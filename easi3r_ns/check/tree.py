"""A folder as programs find it: names relative to it, sizes of images, JSON, COLMAP models."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from ..core.errors import InputError, shortened
from ..storage.foreign import open_regular, read_json
from .model import ColmapFiles, read_model

MOST_FILES = 2_000_000
"""A folder with more is not that of one clip."""


@dataclass(frozen=True)
class Tree:
    """A folder with everything below it. Nothing in it is changed."""

    root: Path
    sample: int | None = None
    """Frames of which every pixel is read, where a program's loader does so; None: all."""
    _sizes: dict[str, tuple[int, int]] = field(default_factory=dict, repr=False)
    _models: dict[str, ColmapFiles] = field(default_factory=dict, repr=False)
    _jsons: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)

    @cached_property
    def files(self) -> frozenset[str]:
        """All files, with ``/``. Raises InputError for a folder that holds too many to be one clip."""
        found: set[str] = set()
        for folder, _, names in os.walk(self.root):
            inner = Path(folder).relative_to(self.root).as_posix()
            found.update(name if inner == "." else f"{inner}/{name}" for name in names)
            if len(found) > MOST_FILES:
                raise InputError(f"{self.root} holds more than {MOST_FILES} files: give the folder of one dataset")
        return frozenset(found)

    def has(self, file: str) -> bool:
        """Whether there is such a file."""
        return file in self.files

    def find(self, file: str) -> str | None:
        """A name without ``.`` and ``..`` for a file, which may lie outside of the folder; None where there is none."""
        path = os.path.normpath(file).replace(os.sep, "/")
        outside = path.startswith(("../", "/"))
        return path if self.has(path) or (outside and (self.root / path).is_file()) else None

    def inside(self, folder: str) -> list[str]:
        """The files below a folder, sorted."""
        return sorted(file for file in self.files if file.startswith(f"{folder}/"))

    def image_size(self, file: str) -> tuple[int, int]:
        """(width, height). Raises InputError for a file that is no image."""
        if file not in self._sizes:
            self._sizes[file] = self._header(file)[0]
        return self._sizes[file]

    def image_mode(self, file: str) -> str:
        """Pillow's name of the pixel format. Raises InputError for a file that is no image."""
        return self._header(file)[1]

    @cached_property
    def models(self) -> list[str]:
        """Folders that hold a COLMAP model, sorted; ``.`` is the root."""
        found = []
        for folder in {PurePosixPath(file).parent for file in self.files}:
            if any(self._both(folder, suffix) for suffix in ("bin", "txt")):
                found.append(folder.as_posix())
        return sorted(found)

    def model(self, folder: str) -> ColmapFiles:
        """A COLMAP model. Raises InputError when it is damaged."""
        if folder not in self._models:
            self._models[folder] = read_model(self.root / folder)
        return self._models[folder]

    def first_model(self, *folders: str) -> str | None:
        """The first of some folders that holds a model."""
        return next((folder for folder in folders if folder in self.models), None)

    def json(self, file: str) -> dict[str, Any]:
        """A JSON object with a list of ``frames``, each with a text as ``file_path``. Raises InputError otherwise."""
        if file not in self._jsons:
            self._jsons[file] = self._read_json(file)
        return self._jsons[file]

    def writable(self, folder: str) -> bool:
        """Whether files can be written into a folder."""
        return os.access(self.root / folder, os.W_OK)

    def _header(self, file: str) -> tuple[tuple[int, int], str]:
        """Size and pixel format of an image, of which only the front is read."""
        try:
            with warnings.catch_warnings(), open_regular(self.root / file) as content:
                warnings.simplefilter("ignore")  # a large image is no problem here
                with Image.open(content) as image:
                    return image.size, image.mode
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise InputError(f"{file} cannot be read as an image: {shortened(str(error))}") from error

    def _both(self, folder: PurePosixPath, suffix: str) -> bool:
        return all((folder / f"{name}.{suffix}").as_posix() in self.files for name in ("cameras", "images"))

    def _read_json(self, file: str) -> dict[str, Any]:
        try:
            meta = read_json(self.root / file)
        except (OSError, ValueError) as error:
            raise InputError(f"{file} is no JSON ({error})") from error
        frames = meta.get("frames") if isinstance(meta, dict) else None
        if not isinstance(frames, list) or not frames:
            raise InputError(f"{file} has no list of frames")
        for frame in frames:
            if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
                raise InputError(f"{file} has a frame without file_path")
        return meta
