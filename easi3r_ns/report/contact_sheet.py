"""``contact_sheet.png``: the frames of a clip with what moves tinted, on one picture."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ..core.scene import Scene
from ..storage.files import write_png
from ..view.colors import several_objects
from .pictures import outlined, panel_size, photo

NAME = "contact_sheet.png"
MOST = 60
"""Frames on a sheet; of longer clips as many, evenly spaced."""
COLUMNS, TILE, GAP = 6, 240, 4
"""Pictures in a row, their width, and the pixels between them."""
_PAPER, _INK = 250, (60, 64, 70)


def write_contact_sheet(scene: Scene, path: Path) -> Path:
    """Write the sheet, atomically, and return its path; frames are numbered from 1, as the files of their masks are.

    Raises OutputError.
    """
    rows = np.unique(np.linspace(0, len(scene) - 1, min(len(scene), MOST)).round().astype(int)).tolist()
    width, height = panel_size(scene, TILE)
    line = 16
    columns = min(COLUMNS, len(rows))
    count = -(-len(rows) // columns)
    sheet = np.full((GAP + count * (height + line + GAP), GAP + columns * (width + GAP), 3), _PAPER, dtype=np.uint8)
    for place, frame in enumerate(rows):
        top = GAP + place // columns * (height + line + GAP)
        left = GAP + place % columns * (width + GAP)
        picture = outlined(
            photo(scene, frame, (width, height)), scene.dynamic.masks[frame], several_objects(scene, frame)
        )
        sheet[top : top + height, left : left + width] = picture
        share = 100 * float(scene.dynamic.masks[frame].mean())
        text = f"{frame + 1}: {share:.0f} % moves"
        at = (left + 2, top + height + line - 4)
        cv2.putText(sheet, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.4, _INK, 1, cv2.LINE_AA)
    write_png(path, sheet)
    return path
