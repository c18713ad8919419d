"""Depth by COLMAP's PatchMatch stereo on a GPU (Schoenberger et al., ECCV 2016), where pycolmap is built with CUDA."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..core.errors import Easi3RError, InputError, MissingExtraError, shortened
from ..core.runlog import RunLog
from ..core.scene import Scene
from .neighbours import Surroundings
from .views import SceneViews
from .workspace import DenseFrame, read_depth_map, write_workspace

PatchMatch = Callable[[Path], None]
"""Fills a workspace (:mod:`.workspace`) with depth maps that other frames have confirmed."""
HIDDEN = 128
"""Grey value of what moves and of what is not known: without texture PatchMatch takes nothing for alike."""


def measure_by_patch_match(
    scene: Scene, around: Sequence[Surroundings | None], views: SceneViews, patch_match: PatchMatch, log: RunLog
) -> list[np.ndarray | None]:
    """Per frame (H, W) float32 inverse depth on its pinhole grid, 0 where unknown or moving; None without neighbours.

    Raises:
        MissingExtraError: PatchMatch fails, or leaves no depth map of a frame.
    """
    frames = _frames(scene, around, views)
    found: list[np.ndarray | None] = [None] * len(around)
    if not frames or scene.sparse is None:
        return found
    with log.stage("stereo by PatchMatch"), tempfile.TemporaryDirectory(prefix="easi3r-") as name:
        folder = Path(name)
        write_workspace(folder, frames, scene.sparse)
        try:
            patch_match(folder)
            depths = {k: read_depth_map(folder, k, frame.size) for k, frame in frames.items()}
        except (InputError, RuntimeError, ValueError) as error:
            if isinstance(error, Easi3RError) and not isinstance(error, InputError):
                raise
            raise MissingExtraError(
                f"PatchMatch of pycolmap failed ({shortened(str(error))}): use --stereo torch or --stereo opencv"
            ) from error
    for k, depth in depths.items():
        known = (depth > 0) & (views.ops.get(views[k].fine.weight) > 0)
        found[k] = np.divide(1.0, depth, out=np.zeros_like(depth), where=known)
    return found


def _frames(scene: Scene, around: Sequence[Surroundings | None], views: SceneViews) -> dict[int, DenseFrame]:
    """The frames that have something to be compared with, which has a depth map itself."""
    near = {k: surrounding.neighbours for k, surrounding in enumerate(around) if surrounding is not None}
    while True:
        near = {k: tuple(n for n in neighbours if n in near) for k, neighbours in near.items()}
        if all(near.values()):
            break
        near = {k: neighbours for k, neighbours in near.items() if neighbours}
    return {k: replace(_frame(scene, k, views), neighbours=neighbours) for k, neighbours in near.items()}


def _frame(scene: Scene, number: int, views: SceneViews) -> DenseFrame:
    view = views[number].fine
    grey = np.rint(255 * np.clip(views.ops.get(view.image), 0, 1)).astype(np.uint8)
    image = np.where(views.ops.get(view.weight) > 0, grey, HIDDEN).astype(np.uint8)
    return DenseFrame(image, view.K, view.T_cam_world, ())
