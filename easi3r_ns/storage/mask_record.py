"""Masks of a dataset: those that its record names are white where something stands still."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from .owned import owned_files

_LEVELS = 3
"""Folders between a mask and the record of its dataset, at most."""


def masks_of_dataset(folder: Path) -> str | None:
    """Why the masks of a folder are white where something stands still: the file that says so; None: nothing does.

    The record of a dataset of ours lists its masks; black pixels of those that any ``transforms.json`` names are left
    out of the training by nerfstudio. Exports may be white either way.
    """
    folder = folder.resolve()
    if not re.fullmatch(r"masks(_\d+)?", folder.name):
        return None
    place = folder
    for _ in range(_LEVELS):
        inside, place = folder.relative_to(place.parent).as_posix(), place.parent
        listed = any(file.startswith(f"{inside}/") for file in owned_files(place))
        if listed or _named_by_transforms(place / "transforms.json", folder):
            return str(place / "transforms.json")
        if place.parent == place:
            break
    return None


def _named_by_transforms(file: Path, folder: Path) -> bool:
    try:
        frames = json.loads(file.read_text(encoding="utf-8"))["frames"]
        named = {Path(os.path.normpath(file.parent / str(f["mask_path"]))).parent for f in frames if "mask_path" in f}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    return bool({folder, folder.with_name("masks")} & named)
