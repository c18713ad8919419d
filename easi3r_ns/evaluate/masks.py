"""Motion masks against the truth: the Jaccard index J of each frame, its mean JM, and the share JR of frames above 0.5.

Two protocols. Paper (arXiv:2503.24391, Table 1): at network resolution, the truth nearest-resized and cropped, pooled
over all frames of all sequences. Standard (DAVIS toolkit, unsupervised): at source resolution, mean per sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..core.geometry import source_to_network
from ..core.types import PixelMap

RECALLED = 0.5
"""A frame is recalled when its J is strictly above."""


@dataclass(frozen=True)
class MaskScore:
    """Mean and recall over a set of frames (paper) or of sequences (standard)."""

    jm: float
    """Mean J in [0, 1]."""
    jr: float
    """Share of frames with J > 0.5."""
    num_frames: int


def jaccard(predicted: Sequence[np.ndarray | None], truth: Sequence[np.ndarray]) -> np.ndarray:
    """(F,) intersection over union of F masks of (H, W) bool, True where something moves.

    A missing prediction (None) counts as an empty mask; where both masks are empty, J is 1.
    """
    if len(predicted) != len(truth):
        raise ValueError(f"{len(predicted)} masks for {len(truth)} true ones")
    values = np.empty(len(truth))
    for k, (ours, true) in enumerate(zip(predicted, truth, strict=True)):
        ours = np.zeros_like(true) if ours is None else ours
        if ours.shape != true.shape or ours.dtype != bool or true.dtype != bool:
            raise ValueError(f"frame {k}: {ours.dtype} {ours.shape} against {true.dtype} {true.shape}")
        union = np.count_nonzero(ours | true)
        values[k] = np.count_nonzero(ours & true) / union if union else 1.0
    return values


def pooled(per_sequence: Sequence[np.ndarray | Sequence[float]]) -> MaskScore:
    """Paper mode: (F_s,) values of J of each sequence -> one score over all frames of all sequences."""
    values = np.concatenate([np.empty(0), *(np.asarray(v, dtype=float) for v in per_sequence)])
    if not len(values):
        raise ValueError("no frame to score")
    return MaskScore(float(values.mean()), float((values > RECALLED).mean()), len(values))


def mean_of_sequences(per_sequence: Sequence[np.ndarray | Sequence[float]]) -> MaskScore:
    """Standard mode: JM and JR of each sequence, then their means."""
    scores = [pooled([values]) for values in per_sequence]
    if not scores:
        raise ValueError("no sequence to score")
    jm, jr = (float(np.mean([getattr(s, name) for s in scores])) for name in ("jm", "jr"))
    return MaskScore(jm, jr, sum(s.num_frames for s in scores))


def truth_on_network(mask: np.ndarray, pixel_map: PixelMap) -> np.ndarray:
    """(h, w) bool at source size -> (H, W) bool on the network grid: nearest resize, then the crop."""
    if mask.shape[::-1] != pixel_map.source_wh:
        raise ValueError(f"a mask of {mask.shape[1]}x{mask.shape[0]} for frames of {pixel_map.source_wh}")
    resized = Image.fromarray(mask.astype(np.uint8)).resize(pixel_map.resized_wh, Image.Resampling.NEAREST)
    left, top, right, bottom = pixel_map.crop_box
    return np.asarray(resized)[top:bottom, left:right] > 0


def prediction_at_source(mask: np.ndarray, pixel_map: PixelMap) -> np.ndarray:
    """(H, W) bool on the network grid -> (h, w) bool at source size (nearest); nothing moves outside the crop."""
    width, height = pixel_map.source_wh
    long = max(width, height)
    xy = source_to_network(np.stack([np.arange(long) + 0.5] * 2, axis=-1), pixel_map)
    column, row = np.rint(xy[:width, 0]).astype(int), np.rint(xy[:height, 1]).astype(int)
    inside_x, inside_y = (column >= 0) & (column < mask.shape[1]), (row >= 0) & (row < mask.shape[0])
    picked = mask[np.clip(row, 0, mask.shape[0] - 1)][:, np.clip(column, 0, mask.shape[1] - 1)]
    return picked & inside_y[:, None] & inside_x[None]
