"""Where corrections are kept: what a session needs of it, and the folder beside the dataset."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from ..core.errors import OutputError
from ..core.scene import Scene
from ..core.types import on_side, upright_again
from ..dataset.listing import positions_by_stem
from ..storage.corrections import FILE, FOLDER, Corrections, frame_sources, read_corrections, write_corrections
from .marks import AS_FOUND, no_marks


@dataclass(frozen=True)
class KeptCorrections:
    """The corrections of a dataset."""

    marks: Mapping[int, np.ndarray] = field(default_factory=dict)
    """Frame -> (H, W) uint8, see :mod:`.marks`; frames without any may be left out."""
    strokes: Sequence[Any] = ()
    """The history as JSON, see :mod:`.history`; empty: there is none."""
    excluded: frozenset[int] = frozenset()
    keyframes: frozenset[int] = frozenset()


class Store(Protocol):
    """Corrections on a disk. Each file is whole or as it was, whenever the process ends."""

    def load(self) -> KeptCorrections:
        """What was kept. Raises InputError where it cannot be read."""
        ...

    def write_record(self, strokes: Sequence[Any], excluded: frozenset[int], keyframes: frozenset[int]) -> None:
        """Keep everything but marks. Raises OutputError."""
        ...

    def write_marks(self, marks: Mapping[int, np.ndarray]) -> None:
        """Keep the marks (H, W) uint8 of some frames. Raises OutputError."""
        ...

    def left_out(self) -> tuple[str, ...]:
        """Frames, in words, that were excluded before the dataset was made: it lacks them."""
        ...

    def take_back(self) -> None:
        """Exclude these frames no longer. Raises OutputError."""
        ...


class FolderStore:
    """``corrections`` beside a dataset, as :mod:`..storage.corrections` has it.

    Marks are written in the size to which the network's pictures were scaled before they were cropped, so that a pixel
    is a pixel; what was cropped away stays as found.
    """

    def __init__(self, dataset: Path, scene: Scene) -> None:
        self._folder, self._scene = dataset / FOLDER, scene
        self._stems = {k: stem for stem, k in positions_by_stem(scene).items() if k is not None}
        self._rows = {stem: k for k, stem in self._stems.items()}
        self._stamp: frozenset[tuple[str, int, int]] = frozenset()
        self._unwritten: set[str] = set()  # images that the disk has refused
        self._kept = Corrections(scene.pixel_map.source_wh, sources=frame_sources(dataset))

    def load(self) -> KeptCorrections:
        """What was kept; nothing where there is no folder. What is said of frames that the scene lacks stays."""
        if (self._folder / FILE).is_file() or any(self._folder.glob("*.png")):
            found = read_corrections(self._folder)
            self._kept = replace(found, sources={**self._kept.sources, **found.sources})
        self._stamp = self._stamp_now()
        known = {self._rows[stem]: image for stem, image in self._kept.marks.items() if stem in self._rows}
        marks = {k: self._on_grid(k, image) for k, image in known.items()}
        return KeptCorrections(
            marks, self._kept.strokes, self._known(self._kept.excluded), self._known(self._kept.keyframes)
        )

    def write_record(self, strokes: Sequence[Any], excluded: frozenset[int], keyframes: frozenset[int]) -> None:
        """Write ``corrections.json``."""
        self._kept = replace(
            self._kept,
            strokes=tuple(strokes),
            excluded=self._named(self._kept.excluded, excluded),
            keyframes=self._named(self._kept.keyframes, keyframes),
        )
        self._write(self._kept, set())

    def write_marks(self, marks: Mapping[int, np.ndarray]) -> None:
        """Write the images of some frames; those without marks are deleted."""
        if not marks:
            return
        new = {self._stems[k]: self._as_image(k, own) for k, own in marks.items()}
        left = {s: m for s, m in {**self._kept.marks, **new}.items() if (m != AS_FOUND).any()}
        self._kept = replace(self._kept, marks=left)
        self._unwritten |= set(new)
        self._write(self._kept, self._unwritten)
        self._unwritten = set()

    def left_out(self) -> tuple[str, ...]:
        """See :class:`Store`."""
        words = []
        for stem in self._kept.excluded:
            if stem not in self._rows:
                source = self._kept.sources.get(stem)
                words.append(stem if source is None else f"{source[0]}, frame {source[1]}")
        return tuple(words)

    def take_back(self) -> None:
        """See :class:`Store`; what was said about their masks stays."""
        here = tuple(stem for stem in self._kept.excluded if stem in self._rows)
        kept = replace(self._kept, excluded=here)
        self._write(kept, set())
        self._kept = kept

    def _write(self, corrections: Corrections, changed: set[str]) -> None:
        """Raises OutputError where another editor has written meanwhile: its corrections would be lost."""
        if self._stamp_now() != self._stamp:
            changed_there = sorted({name for name, *_ in self._stamp ^ self._stamp_now()})
            raise OutputError(
                f"{self._folder / changed_there[0]} was changed by another program: start the editor again"
            )
        write_corrections(self._folder, corrections, changed=changed)
        self._stamp = self._stamp_now()

    def _stamp_now(self) -> frozenset[tuple[str, int, int]]:
        """What tells versions of ``corrections.json`` and of the images: name, time and size."""
        stamps = []
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name == FILE or entry.name.endswith(".png"):
                    status = entry.stat()
                    stamps.append((entry.name, status.st_mtime_ns, status.st_size))
        return frozenset(stamps)

    def _known(self, stems: tuple[str, ...]) -> frozenset[int]:
        return frozenset(self._rows[stem] for stem in stems if stem in self._rows)

    def _named(self, before: tuple[str, ...], rows: frozenset[int]) -> tuple[str, ...]:
        """Names of frames, after those that the scene lacks."""
        return (*(stem for stem in before if stem not in self._rows), *(self._stems[k] for k in sorted(rows)))

    def _as_image(self, frame: int, marks: np.ndarray) -> np.ndarray:
        """(H, W) on the network grid -> the whole picture, upright."""
        width, height = self._scene.pixel_map.resized_wh
        left, top, right, bottom = self._scene.pixel_map.crop_box
        whole = no_marks((height, width))
        whole[top:bottom, left:right] = marks
        return upright_again(whole) if self._lies(frame) else whole

    def _on_grid(self, frame: int, image: np.ndarray) -> np.ndarray:
        """The whole picture, upright, of any size -> (H, W) on the network grid."""
        whole = on_side(image) if self._lies(frame) else image
        left, top, right, bottom = self._scene.pixel_map.crop_box
        size = self._scene.pixel_map.resized_wh
        if (whole.shape[1], whole.shape[0]) != size:
            whole = cv2.resize(whole, size, interpolation=cv2.INTER_NEAREST)
        return np.ascontiguousarray(whole[top:bottom, left:right])

    def _lies(self, frame: int) -> bool:
        return self._scene.turned is not None and bool(self._scene.turned[frame])
