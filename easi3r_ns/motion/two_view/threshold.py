"""Above which score something moves: one threshold for a clip, and lower ones for what stands out as clearly."""

from __future__ import annotations

import cv2
import numpy as np
from skimage.filters import threshold_multiotsu

from ..attention.masks import OTSU_CLASSES
from ..cut import over_cut

HISTOGRAM_STEP = 4
"""Only every fourth pixel in x and in y enters the histogram for the threshold."""


def cut_clip(score: np.ndarray, least: float) -> tuple[float, np.ndarray, np.ndarray]:
    """What moves in a clip by its score.

    The threshold of the clip is the clearest of its :func:`candidates`: what moves is often a small share of the clip,
    and a histogram alone then splits the background, so the contours in the image decide, see
    :func:`contour_contrast`. But one threshold loses a slow mover beside a fast one. So at each lower candidate,
    connected parts are added that make the contours of the clip clearer by that measure: those with a mean step of more
    than half of theirs.

    Args:
        score: (F, H, W).
        least: nothing below it moves.

    Returns:
        The clip's threshold; (F, H, W) bool, what moves; (F, H, W) uint8, the score over its cut as
        :func:`easi3r_ns.motion.cut.over_cut` keeps it.
    """
    cuts = candidates(score, least)
    threshold = max(cuts, key=lambda cut: contour_contrast(score, cut))
    above, kept = score > threshold, over_cut(score, threshold)
    total, length = _contours(score, above)
    lower = sorted({cut for cut in (*cuts, least) if cut < threshold}, reverse=True)
    for level in lower if length else ():
        for k in range(len(score)):
            clear = _clear_parts(score[k], level, above[k], total / length / 2)
            above[k] |= clear
            kept[k][clear] = over_cut(score[k][clear], level)
    return threshold, above, kept


def candidates(score: np.ndarray, least: float) -> list[float]:
    """The cuts of multi-Otsu with 2, 3 and 4 classes through a score (F, H, W), from ``least`` on; ``least`` itself if
    there are none."""
    counted = score[:, ::HISTOGRAM_STEP, ::HISTOGRAM_STEP]
    values = min(len(np.unique(counted)), max(OTSU_CLASSES))
    cuts = [cut for classes in OTSU_CLASSES if classes <= values for cut in threshold_multiotsu(counted, classes)]
    return [float(cut) for cut in cuts if cut >= least] or [least]


def contour_contrast(score: np.ndarray, threshold: float) -> float:
    """How clearly a threshold parts a score (F, H, W): the sum of the steps across its contours over sqrt(length).

    That is the signal-to-noise ratio of the contours when the score has the same, independent noise everywhere: a
    contour that gains length through flat regions loses, and so does one that leaves clear edges out.
    """
    total, length = _contours(score, score > threshold)
    return total / max(length, 1) ** 0.5


def _contours(score: np.ndarray, above: np.ndarray) -> tuple[float, int]:
    """The sum of the steps of a score (F, H, W) across the contours of ``above``, and their length in pixels."""
    total, length = 0.0, 0
    for axis in (1, 2):
        crossed = np.diff(above, axis=axis)
        total += float(np.abs(np.diff(score, axis=axis))[crossed].sum())
        length += int(crossed.sum())
    return total, length


def _clear_parts(score: np.ndarray, level: float, moving: np.ndarray, step: float) -> np.ndarray:
    """(H, W) bool: connected parts of a score above ``level`` and outside of ``moving`` that raise the contrast.

    With ``step`` half of the mean step across the contours, a part raises it when the steps that it adds to their sum
    are more than ``step`` for each pixel that it adds to their length: its border with ``moving`` is a contour no more.
    A part that has more of that border than of its own is the edge of something that moves already.
    """
    count, labels = cv2.connectedComponents(((score > level) & ~moving).astype(np.uint8), connectivity=4)
    sums, own, shared = np.zeros(count), np.zeros(count), np.zeros(count)
    for axis in (0, 1):
        (part, other), (there, here) = (
            [np.delete(values, edge, axis) for edge in (0, -1)] for values in (labels, moving)
        )
        crossed = (part > 0) != (other > 0)
        parts, inside = (part + other)[crossed], (there | here)[crossed]
        steps = np.abs(np.diff(score, axis=axis))[crossed]
        sums += np.bincount(parts, np.where(inside, -steps, steps), count)
        own += np.bincount(parts[~inside], minlength=count)
        shared += np.bincount(parts[inside], minlength=count)
    clear = (sums > step * (own - shared)) & (own > shared)
    clear[0] = False
    return clear[labels]
