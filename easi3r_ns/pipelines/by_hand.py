"""Corrections by hand beside a dataset: whether it was made with them, and their names when its frames change."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

from ..core.errors import InputError
from ..dataset.nerfstudio import TRANSFORMS
from ..storage.corrections import (
    FILE,
    FOLDER,
    Corrections,
    frame_sources,
    read_corrections,
    write_corrections,
)
from ..storage.files import link_or_copy, natural_key, writing
from .finished import RECORD
from .pipeline import RunConfig

_NEW, _OLD = f".{FOLDER}.new", f".{FOLDER}.old"
"""Names of the folder while it is replaced."""


def own_corrections(out: Path) -> Corrections | None:
    """What ``out/corrections`` says; None: nothing that changes a dataset.

    Raises:
        InputError: as :func:`~easi3r_ns.storage.corrections.read_corrections`.
    """
    found = all_corrections(out)
    return found if found is not None and found.decides else None


def all_corrections(out: Path) -> Corrections | None:
    """What is in ``out/corrections``, if only strokes; None: there is nothing. Raises InputError."""
    folder = out / FOLDER
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return None
    return read_corrections(folder)


def told(corrections: Corrections) -> str:
    """'corrections of 5 frames, 2 frames excluded'."""
    parts = []
    if count := len(corrections.marks):
        parts.append(f"corrections of {count} {'frame' if count == 1 else 'frames'}")
    if count := len(corrections.excluded):
        parts.append(f"{count} {'frame' if count == 1 else 'frames'} excluded")
    return ", ".join(parts) or "no corrections"


def made_with(out: Path) -> str | None:
    """The fingerprint of the corrections that the dataset in ``out`` was made with; None: without any, or unknown."""
    try:
        record = json.loads((out / TRANSFORMS).read_text(encoding="utf-8"))["easi3r"][RECORD]
        found = record["inputs"].get("corrections")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def with_corrections(config: RunConfig, folder: Path | None) -> RunConfig:
    """The options with the corrections in ``folder``."""
    return replace(config, easi3r=replace(config.easi3r, corrections=folder))


def from_elsewhere(config: RunConfig, out: Path) -> Path | None:
    """The folder of the corrections that the dataset in ``out`` was made with, if it is not the one beside it."""
    folder = config.easi3r.corrections
    return None if folder is None or folder.resolve() == (out / FOLDER).resolve() else folder


def changed_by_hand(out: Path, config: RunConfig) -> tuple[str, str] | None:
    """What is other about the corrections of ``config`` than what the dataset in ``out`` was made with.

    Returns:
        A sentence, and the first step (a name of :data:`.kept.GROUPS`) that they decide; None: they are the same.

    Raises:
        InputError: they cannot be read.
    """
    folder = config.easi3r.corrections
    now = None if folder is None else read_corrections(folder)
    before, new = made_with(out), None if now is None else now.fingerprint()
    if before == new:
        return None
    excluded = [value.partition("-")[2] for value in (before or "", new or "")]
    first = "frames" if excluded[0] != excluded[1] else "masks"
    return ("no corrections" if now is None else told(now)), first


def follow_dataset(out: Path) -> None:
    """Give the corrections in ``out`` the names that their frames have in the dataset there now.

    Also ends what a process that was killed in here has begun. What else lies in the folder stays. Does nothing where
    the corrections cannot be read: whoever reads them says so.

    Raises:
        OutputError: the disk refuses.
    """
    folder, new, old = out / FOLDER, out / _NEW, out / _OLD
    with writing(folder):
        if not os.path.lexists(folder):
            for whole in (new, old):  # the new one is whole as soon as the old one is out of its place
                if whole.is_dir() and not os.path.lexists(folder):
                    os.rename(whole, folder)
        for leftover in (new, old):
            if leftover.is_dir():
                shutil.rmtree(leftover)
    names = {source: name for name, source in frame_sources(out).items()}
    with contextlib.suppress(InputError):
        found = read_corrections(folder) if folder.is_dir() and names else None
        renamed = found and found.renamed(names)
        if found is None or renamed is None or renamed.names == found.names:
            return
        write_corrections(new, renamed)
        with writing(folder):
            own = {FILE, *(f"{name}.png" for name in found.names)}
            for entry in sorted(folder.iterdir(), key=lambda entry: natural_key(entry.name)):
                if entry.name not in own and not os.path.lexists(new / entry.name):
                    _carry(entry, new / entry.name)
            os.rename(folder, old)
            os.rename(new, folder)
            shutil.rmtree(old)


def _carry(entry: Path, to: Path) -> None:
    """What a person put beside the corrections, in their new folder as well."""
    if entry.is_symlink():
        os.symlink(os.readlink(entry), to)
    elif entry.is_dir():
        shutil.copytree(entry, to, symlinks=True)
    else:
        link_or_copy(entry, to)


def remember_frames(out: Path) -> None:
    """Note in ``out/corrections`` which frames they are of, before the dataset that tells it is replaced.

    Raises:
        OutputError: the disk refuses.
    """
    folder, dataset = out / FOLDER, frame_sources(out)
    if not dataset or not folder.is_dir():
        return
    with contextlib.suppress(InputError):
        found = read_corrections(folder)
        if not set(found.names) <= _noted(folder):
            write_corrections(folder, found, changed=())


def _noted(folder: Path) -> set[str]:
    """Names whose frames ``corrections.json`` tells."""
    try:
        return set(json.loads((folder / FILE).read_text(encoding="utf-8"))["sources"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()
