"""Folders that other methods' demos write -> Scene, so that their results go through our exporters and viewer."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import InputError
from ..core.scene import Scene
from .cut3r import is_cut3r, read_cut3r
from .demo import is_demo, read_demo
from .recording import ImportOptions, to_scene

__all__ = ["ImportOptions", "import_folder"]

_LAYOUTS = ((is_demo, read_demo), (is_cut3r, read_cut3r))


def import_folder(folder: Path, options: ImportOptions = ImportOptions()) -> Scene:
    """The Scene in a folder of the demos of MonST3R, Easi3R, VGGT4D (:mod:`.demo`) or CUT3R (:mod:`.cut3r`).

    In the frame of the first camera, and in units in which the median static depth is 4.

    Raises InputError when the folder is none of these, incomplete or damaged.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give the output folder of a demo")
    for is_layout, read in _LAYOUTS:
        if is_layout(folder):
            return to_scene(read(folder), folder, options)
    raise InputError(
        f"{folder} has neither pred_traj.txt (demos of MonST3R, Easi3R and VGGT4D) nor camera/*.npz (CUT3R)"
    )
