"""A picture of the dynamic score: clips beside their frozen twins, scores beside the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...core.score import ScoreFormula
from .motion import Observation, ScoreCandidate

COLUMNS = ("frame", "what moves (truth)", "score", "mask", "objects at rest: score")


def draw_scores(
    path: Path,
    images: list[np.ndarray],
    clips: list[Observation],
    twins: list[Observation],
    formula: ScoreFormula,
    patch: int,
) -> None:
    """Write one row per clip: the middle frame, its truth, score and mask, and the score of the frozen twin.

    ``images``: (F, H, W, 3) uint8 of every clip.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 * len(COLUMNS), 1.72 * len(clips) + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(clips), len(COLUMNS), squeeze=False)
    for row, pictures, seen, twin in zip(axes, images, clips, twins, strict=True):
        middle = len(pictures) // 2
        moving, still = (ScoreCandidate.of(formula).segment(s, patch) for s in (seen, twin))
        shown = (
            pictures[middle],
            red(pictures[middle], seen.pixels[middle]),
            moving.score[middle],
            red(pictures[middle], moving.masks[middle]),
            still.score[middle],
        )
        for axis, title, picture in zip(row, COLUMNS, shown, strict=True):
            axis.imshow(picture, cmap="inferno", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
            if row is axes[0]:
                axis.set_title(title, fontsize=9)
    figure.savefig(path, dpi=100)


def red(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 with the pixels of (H, W) bool tinted."""
    result = image.copy()
    result[mask] = (0.45 * image[mask] + 0.55 * np.array([230, 40, 60])).astype(np.uint8)
    return result
