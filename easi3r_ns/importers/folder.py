"""A folder of a known layout -> Scene."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..core.errors import InputError
from ..core.scene import Scene
from . import IMPORTERS
from .recording import Importer, ImportOptions, Recording, pictures_of, to_scene

__all__ = ["ImportOptions", "import_folder", "read_recording"]


def read_recording(folder: Path, options: ImportOptions = ImportOptions()) -> Recording:
    """The content of a folder of one of the layouts of :data:`easi3r_ns.importers.IMPORTERS`, or of one of its files.

    Raises InputError when the folder is none of these, incomplete or damaged.
    """
    if not folder.exists():
        raise InputError(f"{folder} does not exist: give the output folder of another program")
    if (importer := importer_of(folder)) is not None:
        return importer.read(folder, options)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give the output folder of another program")
    signs = [f"{entry.load('IMPORTER').sign} ({entry.summary})" for entry in IMPORTERS]
    raise InputError(f"{folder} is no known layout: it has neither {' nor '.join(signs)}")


def importer_of(folder: Path) -> Importer | None:
    """The importer of the layout of a folder that exists; None: it is of none."""
    importers: Iterable[Importer] = (entry.load("IMPORTER") for entry in IMPORTERS)
    return next((importer for importer in importers if importer.recognises(folder)), None)


def import_folder(folder: Path, options: ImportOptions = ImportOptions()) -> Scene:
    """The Scene in a folder whose images are files of the size of its depth maps, with the masks that it has.

    In the frame of the first camera, and in units in which the median static depth is 4. What is missing elsewhere is
    found by :func:`easi3r_ns.pipelines.imported.import_dataset`.

    Raises InputError as :func:`read_recording`.
    """
    recording = read_recording(folder, options)
    return to_scene(recording, pictures_of(recording), folder, options)
