"""A folder of a known layout -> Scene."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import InputError
from ..core.scene import Scene
from . import IMPORTERS
from .recording import Importer, ImportOptions, to_scene

__all__ = ["ImportOptions", "import_folder"]


def import_folder(folder: Path, options: ImportOptions = ImportOptions()) -> Scene:
    """The Scene in a folder of one of the layouts of :data:`easi3r_ns.importers.IMPORTERS`.

    In the frame of the first camera, and in units in which the median static depth is 4.

    Raises InputError when the folder is none of these, incomplete or damaged.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give the output folder of a demo")
    importers: list[Importer] = [entry.load("IMPORTER") for entry in IMPORTERS]
    for importer in importers:
        if importer.recognises(folder):
            return to_scene(importer.read(folder), folder, options)
    signs = [f"{importer.sign} ({entry.summary})" for importer, entry in zip(importers, IMPORTERS)]
    raise InputError(f"{folder} is no known layout: it has neither {' nor '.join(signs)}")
