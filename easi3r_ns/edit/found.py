"""Masks as they were found, for a dataset whose own masks have the corrections in them.

They are kept among the intermediate results while the dataset was made without corrections: ``masks_found.npz`` with
``bits`` ((F, H, ceil(W / 8)) uint8, of ``numpy.packbits``), ``shape`` (H, W), and ``frames``, one JSON text that names
the source, the index and the view of each.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ..core.scene import Scene
from ..storage.files import write_npz
from ..storage.foreign import open_npz

FILE = "masks_found.npz"
_DAMAGED = (OSError, ValueError, KeyError, TypeError, RecursionError)


def keep_found(folder: Path, scene: Scene) -> None:
    """Write the masks of a scene into ``folder``; where there is no such folder nothing is kept.

    Raises OutputError.
    """
    if folder.is_dir():
        masks, frames = scene.dynamic.masks, json.dumps(_frames(scene)).encode()
        shape = np.array(masks.shape[1:])
        bits = np.packbits(masks, axis=-1)
        write_npz(folder / FILE, {"bits": bits, "shape": shape, "frames": np.frombuffer(frames, np.uint8)})


def kept_found(folder: Path, scene: Scene) -> dict[int, np.ndarray]:
    """Frame of a scene -> (H, W) bool mask that :func:`keep_found` kept of it; empty where there are none that fit."""
    if not (folder / FILE).is_file():
        return {}
    try:
        with open_npz(folder / FILE) as arrays:
            frames = json.loads(arrays["frames"].tobytes())
            height, width = (int(side) for side in arrays["shape"])
            masks = np.unpackbits(arrays["bits"], axis=-1, count=width).astype(bool)
        if (height, width) != scene.images.shape[1:3] or masks.shape != (len(frames), height, width):
            return {}
        rows = {tuple(frame): row for row, frame in enumerate(frames)}
    except _DAMAGED:
        return {}
    return {k: masks[rows[own]] for k, own in enumerate(map(tuple, _frames(scene))) if own in rows}


def _frames(scene: Scene) -> list[list[object]]:
    views = [None] * len(scene) if scene.rig is None else scene.rig.view.tolist()
    return [list(frame) for frame in zip(scene.names, scene.indices.tolist(), views, strict=True)]
