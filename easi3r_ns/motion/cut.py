"""``--mask-threshold``: the score of what moves, kept so that it can be cut elsewhere without being computed again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..core.types import DynamicMasks
from .edges import snap_to_edges

STEPS = 60
"""Of a kept score where the clip's own cut is; 255 is the most, so a cut may be raised 4.25 times."""
KEPT = ("score over cut", STEPS)
"""Names what stages keep."""
_FROM_FLOW = ("geometry", "scene")
"""Sources whose borders are drawn to edges of colour."""


def over_cut(score: np.ndarray, cut: float) -> np.ndarray:
    """A score of any shape over the cut above which something moves, as uint8 in :data:`STEPS`, for
    :attr:`~easi3r_ns.core.types.DynamicMasks.over_cut`."""
    return np.clip(np.floor(score * (STEPS / max(cut, 1e-9))), 0, 255).astype(np.uint8)


def cut_at(dynamic: DynamicMasks, images: np.ndarray, factor: float) -> DynamicMasks:
    """The masks whose cut is ``factor`` times the one that was chosen for the clip, without the kept score.

    With 1 they are the masks that were found. Masks from flow are drawn to the edges of colour in ``images``
    (F, H, W, 3).
    """
    if factor == 1 or dynamic.over_cut is None:
        return replace(dynamic, over_cut=None)
    masks = dynamic.over_cut >= STEPS * factor
    if dynamic.source in _FROM_FLOW:
        masks = snap_to_edges(images, masks)
    return replace(dynamic, masks=masks, threshold=dynamic.threshold * factor, over_cut=None)
