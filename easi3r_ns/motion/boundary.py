"""Whether something goes on moving just outside of motion masks: then they are too small all around."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt

from ..core.runlog import RunLog
from ..core.types import Frames
from ..frames import enlarged, resize_and_crop
from ..frames.near import shot
from ..storage.files import read_png
from .flow.provider import FlowProvider
from .two_view.plan import choose_step, plan_pairs
from .two_view.residual import Moments, Pictures, by_two_views, choose_kinds, follow_pairs

LOOKED_AT = 4
"""Frames that are measured."""
SIDE = 512
"""Pixels of the longer side, about, of the images in which flow is followed: in smaller ones it smears further over the
edges of what moves than masks are off."""
SMALLEST = 480
"""Pixels of the longer side of the source, below which nothing is measured."""
GAPS = (1, 2)
_RING, _FAR = (6 / 512, 12 / 512), (40 / 512, 80 / 512)
"""Distances from the mask of what is measured, and of what stands still for comparison, in longer sides."""
_CLEAR = (0.003, 0.9)
"""Share of a frame that moves, outside of which it is not measured."""
_FEWEST = 100
"""Pixels to compare with."""


def moving_outside(masks: np.ndarray, frames: Frames, provider: FlowProvider, log: RunLog) -> float | None:
    """Share of a ring around the masks whose flow is more like that inside than like that far outside.

    Flow is smooth over the edges of what moves, so that part of the ring moves with masks that are right; see
    examples/results/masks.md.

    Args:
        masks: (F, H, W) bool on the network grid, True where something moves.

    Returns:
        The mean over a few frames; None for small sources, and where flow, or a mask of reasonable size, is missing.
    """
    first = frames.first_source
    shares = masks.mean(axis=(1, 2))
    rows = first[(shares[first] > _CLEAR[0]) & (shares[first] < _CLEAR[1])]
    if max(frames.pixel_map.source_wh) < SMALLEST or not len(rows) or len(first) < 2:
        return None
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(LOOKED_AT, len(rows))).round().astype(int))]
    times = max(1, round(SIDE / max(frames.images.shape[1:3])))
    with log.stage("motion outside of the masks"):
        found = [
            _ring_share(residual, masks[row].repeat(times, axis=0).repeat(times, axis=1))
            for row, residual in _residuals(frames, len(first), rows, times, provider).items()
        ]
    known = [share for share in found if share is not None]
    return float(np.mean(known)) if known else None


def _residuals(
    frames: Frames, count: int, rows: np.ndarray, times: int, provider: FlowProvider
) -> dict[int, np.ndarray]:
    """Row -> (H, W) mean residual of its flow, for the rows that flow can follow."""
    larger = enlarged(frames.pixel_map, times)

    def image(row: int) -> np.ndarray:
        return frames.images[row] if times == 1 else resize_and_crop(read_png(frames.source_paths[row]), larger)

    looked = shot(frames, range(count), image, larger).with_frames(rows)
    plan = plan_pairs(looked, GAPS, choose_step(looked, provider))
    pictures = Pictures(looked)
    kinds = choose_kinds(plan, pictures, len(rows), provider)
    row_of = dict(zip(looked.places.tolist(), rows.tolist(), strict=True))
    moments: dict[int, Moments] = {}
    for motion in follow_pairs(plan, pictures, by_two_views(kinds), provider, lambda _: None):
        for side, place in enumerate(motion.pair):
            if place in row_of and motion.residuals is not None:
                own = moments.setdefault(row_of[place], Moments(motion.agree[side].shape))
                own.add(motion.residuals[side], np.where(motion.agree[side], 1.0, 0.1).astype(np.float32))
    return {row: own.mean for row, own in moments.items()}


def _ring_share(residual: np.ndarray, mask: np.ndarray) -> float | None:
    distance = distance_transform_edt(~mask) / max(mask.shape)
    ring, far = ((distance >= low) & (distance < high) for low, high in (_RING, _FAR))
    if min(ring.sum(), far.sum(), mask.sum()) < _FEWEST:
        return None
    middle = (np.median(residual[mask]) + residual[far].mean()) / 2
    return float((residual[ring] > middle).mean())
