"""Which files in an output folder are ours: only these are ever replaced or deleted.

A manifest lists, by group (the dataset, and each format of `easi3r export`), every file that we wrote or were about to
write, relative to the folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ..core.errors import OutputError
from .files import make_folder, write_json, writing

MANIFEST = ".easi3r_files.json"
DATASET = "files"
"""The group of the nerfstudio dataset."""


def owned_files(folder: Path, group: str = DATASET) -> set[str]:
    """The files of a group that are ours; none where there is no readable manifest."""
    return _manifest(folder).get(group, set())


def groups_of(folder: Path) -> dict[str, set[str]]:
    """All groups with their files; empty where there is no readable manifest."""
    return _manifest(folder)


def refuse_foreign(folder: Path, files: Iterable[str]) -> None:
    """Raises OutputError when one of ``files`` (relative, with ``/``) is there and not ours, of whatever group.

    So does a folder of that name, and a file where a folder is needed.
    """
    files = set(files)
    parents = {str(parent) for file in files for parent in PurePosixPath(file).parents if parent.name}
    ours = set().union(*_manifest(folder).values())
    foreign = sorted(file for file in files - ours if os.path.lexists(folder / file))
    foreign += sorted(p for p in parents if os.path.lexists(folder / p) and not (folder / p).is_dir())
    if foreign:
        raise OutputError(
            f"{folder / foreign[0]} is in the way and was not written by easi3r"
            f"{f' (nor {len(foreign) - 1} more files)' if len(foreign) > 1 else ''}: choose another --output-dir"
        )


def claim(folder: Path, files: Iterable[str], *, group: str = DATASET, first: str | None = None) -> None:
    """Make ``folder`` ours to write ``files`` (relative, with ``/``) in.

    Files of the group that are not among them are deleted, ``first`` (whose presence says that the rest is complete)
    before all others; so is what a killed run was writing. Raises OutputError, and changes nothing, when a file that is
    not ours is in the way.
    """
    files = set(files)
    manifest = _manifest(folder)
    owned = manifest.get(group, set())
    refuse_foreign(folder, files)
    make_folder(folder)
    _record(folder, manifest | {group: owned | files})
    with writing(folder):
        if first is not None:
            (folder / first).unlink(missing_ok=True)
        _discard_leftovers(folder, owned | files | {MANIFEST})
    settle(folder, files, group=group)


def settle(folder: Path, files: Iterable[str], *, group: str = DATASET) -> None:
    """Record that ``files`` are what we wrote; what was claimed or written before and is not among them goes.

    Raises OutputError.
    """
    manifest = _manifest(folder)
    stale = manifest.get(group, set()) - set(files)
    with writing(folder):
        for file in sorted(stale):
            (folder / file).unlink(missing_ok=True)
    emptied = {folder / parent for file in stale for parent in PurePosixPath(file).parents if parent.name}
    for parent in sorted(emptied, reverse=True):  # the deepest first
        with contextlib.suppress(OSError):  # not empty: somebody else's files lie there
            parent.rmdir()
    _record(folder, manifest | {group: set(files)})


def discard_leftovers(folder: Path) -> None:
    """Delete what killed runs were writing in ``folder`` under the names of files that are ours, of whatever group.

    Raises OutputError.
    """
    with writing(folder):
        _discard_leftovers(folder, set().union(*_manifest(folder).values(), {MANIFEST}))


def leave_if_empty(folder: Path) -> None:
    """Take our list of files out of a folder in which none is left, and the folder itself where it is empty then."""
    if any(_manifest(folder).values()):
        return
    with contextlib.suppress(OSError):
        (folder / MANIFEST).unlink(missing_ok=True)
        folder.rmdir()


def _record(folder: Path, manifest: dict[str, set[str]]) -> None:
    write_json(folder / MANIFEST, {name: sorted(manifest[name]) for name in sorted(manifest)})


def _manifest(folder: Path) -> dict[str, set[str]]:
    try:
        groups = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return {group: {str(file) for file in files if _stays_inside(str(file))} for group, files in groups.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _stays_inside(file: str) -> bool:
    path = PurePosixPath(file)
    return not path.is_absolute() and ".." not in path.parts


def _discard_leftovers(folder: Path, files: Iterable[str]) -> None:
    """Delete what a killed run was writing: see :func:`easi3r_ns.storage.files.replacing` for the names."""
    by_parent: dict[Path, set[str]] = {}
    for file in files:
        by_parent.setdefault((folder / file).parent, set()).add(PurePosixPath(file).name)
    for parent, names in by_parent.items():
        for leftover in parent.glob(".*.tmp*"):
            match = re.fullmatch(r"\.(.+)\.\d+\.\d+\.tmp(\.\w+)?", leftover.name)
            if match and match[1] in names:
                leftover.unlink(missing_ok=True)
