"""``--drop-objects`` and ``--keep-objects``: corrections by the ids of ``masks_objects``."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..core.errors import InputError
from ..core.scene import PNP
from ..dataset.nerfstudio import TRANSFORMS
from ..storage.corrections import AS_FOUND, FOLDER, STILL, Corrections, frame_sources, write_corrections
from ..storage.files import decode_image
from .by_hand import all_corrections

MOST_IDS = 1000


def object_ids(text: str, option: str) -> tuple[int, ...]:
    """'2,5' -> (2, 5). Raises InputError."""
    words = re.split(r"[,\s]+", text.strip())
    if not all(re.fullmatch(r"[1-9]\d{0,4}", word) for word in words) or len(words) > MOST_IDS:
        raise InputError(f"{option} {text}: give ids as in masks_objects, such as 2,5")
    return tuple(sorted({int(word) for word in words}))


def drop_objects(out: Path, *, drop: Collection[int] = (), keep: Collection[int] = ()) -> tuple[int, ...]:
    """Correct by hand, in ``out/corrections``, that objects of the dataset in ``out`` stand still.

    What is there already stays, but for the pixels of these objects; the editor cannot undo what came before.

    Args:
        drop: their ids in ``masks_objects``.
        keep: or those of the only objects that move.

    Returns:
        The ids that stand still now.

    Raises:
        InputError: there is no dataset with objects, or no object of an id.
        OutputError: the disk refuses.
    """
    frames = {Path(frame["file_path"]).stem: frame for frame in _frames(out) if "object_mask_path" in frame}
    numbers = {name: _objects(out / str(frame["object_mask_path"])) for name, frame in frames.items()}
    there = set(np.unique(np.concatenate([np.unique(own) for own in numbers.values()])).tolist()) if numbers else set()
    there -= {0}
    if unknown := sorted({*drop, *keep} - there):
        named = ", ".join(map(str, sorted(there))) or "none"
        raise InputError(f"{out} has no object {unknown[0]}: the ids in masks_objects are {named}")
    gone = tuple(sorted(set(drop) | (there - set(keep) if keep else set())))
    found = all_corrections(out)
    marks = _without(numbers, gone, {} if found is None else found.marks)
    size = next(iter(numbers.values())).shape[::-1]
    own = found or Corrections((size[0], size[1]))
    sources = {**frame_sources(out), **own.sources}
    named_frames = {name: sources[name] for name in {*own.names, *marks} if name in sources}
    write_corrections(out / FOLDER, replace(own, marks={**own.marks, **marks}, strokes=(), sources=named_frames))
    return gone


def _without(
    numbers: Mapping[str, np.ndarray], gone: Collection[int], before: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The marks of the frames that show one of these objects."""
    marks = {}
    for name, own in numbers.items():
        region = np.isin(own, list(gone))
        if region.any():
            image = before.get(name, np.full(own.shape, AS_FOUND, dtype=np.uint8))
            if image.shape != own.shape:
                image = cv2.resize(image, own.shape[::-1], interpolation=cv2.INTER_NEAREST)
            marks[name] = np.where(region, np.uint8(STILL), image)
    return marks


def _frames(out: Path) -> list[dict[str, Any]]:
    try:
        frames = json.loads((out / TRANSFORMS).read_text(encoding="utf-8"))["frames"]
        # The others are those of the run; what is between them cannot be corrected.
        return [dict(frame) for frame in frames if frame.get("pose_source") != PNP]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{out} holds no dataset that tells objects apart: make it first (easi3r run)") from error


def _objects(file: Path) -> np.ndarray:
    try:
        return np.asarray(decode_image(file, cv2.IMREAD_UNCHANGED))
    except OSError as error:
        raise InputError(f"{file} cannot be read: make the dataset again") from error
