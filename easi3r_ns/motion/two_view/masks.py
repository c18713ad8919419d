"""Frames -> DynamicMasks from optical flow and epipolar geometry, without a network."""

from __future__ import annotations

import numpy as np
from skimage.filters import threshold_multiotsu

from ...core.pairs import make_pairs
from ...core.runlog import RunLog
from ...core.types import DynamicMasks
from ..attention.masks import OTSU_CLASSES
from ..flow.dis import DISFlow
from ..flow.provider import FlowProvider
from .residual import MotionStats, choose_kind, motion_stats
from .superpixels import Superpixels, make_superpixels, vote
from .tokens import token_means

PAIRS = "logwin-3-noncyclic"
"""Every frame with those 1, 2 and 4 frames before and after it."""
DEVIATION_WEIGHT = 0.5
"""Deviations over the pairs that are subtracted from the mean residual: one that varies is less certain."""
LEAST_SCORE = 0.15
"""No pixel below this score moves, whatever the histogram says: it is what flow does on static surfaces. In the units
of :class:`~easi3r_ns.motion.two_view.residual.MotionStats`: two thirds of a deviation of the flow of
static surfaces, after the vote."""
HISTOGRAM_STEP = 4
"""Only every fourth pixel in x and in y enters the histogram for the threshold."""
_FEW_PAIRS = 0.5


def geometric_masks(
    images: np.ndarray, patch_size: int, log: RunLog, *, provider: FlowProvider | None = None
) -> DynamicMasks:
    """What moves in a clip, from its images alone.

    Optical flow over gaps of 1, 2 and 4 frames; homography or fundamental matrix of the background; residuals in units
    of the noise of the flow, mean and deviation over the pairs of a frame; a vote among superpixels that look alike or
    flow into each other; one multi-Otsu threshold for the clip, with a floor so that nothing moves in a static clip.

    Blind spots: with parallax, what moves along its epipolar lines; a background that moves as a whole (water).

    Args:
        images: (F, H, W, 3) uint8 RGB, F >= 2 frames in the order of time, H and W multiples of ``patch_size``.

    Raises:
        InputError: fewer than two frames.
    """
    graph = make_pairs(PAIRS, len(images))
    num_pairs = len(graph) // 2
    with log.stage("motion from geometry", num_pairs) as advance:
        superpixels = make_superpixels(images)
        links, flow = _FlowLinks(superpixels), provider or DISFlow()
        kind = choose_kind(lambda rows: images[rows], graph, flow)
        stats = motion_stats(images, graph, kind, flow, advance, links.add)
        score = _score(stats, superpixels, links.finish())
    if stats.pairs_used < _FEW_PAIRS * (len(images) - 1):
        log.warn(
            "optical flow follows few of the frames (they lie too far apart, or show little texture): what moves is "
            "found only in part; use more frames (--num-frames-target, --fps), or give your own --masks"
        )
    threshold = choose_threshold(score)
    maps = {"mean": token_means(stats.mean, patch_size), "deviation": token_means(stats.deviation, patch_size)}
    tokens = token_means(score, patch_size)
    return DynamicMasks(score > threshold, tokens, threshold, source="geometry", maps=maps)


def choose_threshold(score: np.ndarray) -> float:
    """One threshold for a clip's score (F, H, W): of the cuts of multi-Otsu with 2, 3 and 4 classes, the clearest.

    What moves is often a small share of the clip, and a histogram alone then splits the background. So the contours in
    the image decide between the cuts, see :func:`contour_contrast`. Cuts below LEAST_SCORE are no candidates; when none
    is left, LEAST_SCORE itself.
    """
    counted = score[:, ::HISTOGRAM_STEP, ::HISTOGRAM_STEP]
    values = min(len(np.unique(counted)), max(OTSU_CLASSES))
    cuts = [cut for classes in OTSU_CLASSES if classes <= values for cut in threshold_multiotsu(counted, classes)]
    candidates = [float(cut) for cut in cuts if cut >= LEAST_SCORE] or [LEAST_SCORE]
    return max(candidates, key=lambda cut: contour_contrast(score, cut))


def contour_contrast(score: np.ndarray, threshold: float) -> float:
    """How clearly a threshold parts a score (F, H, W): the sum of the steps across its contours over sqrt(length).

    That is the signal-to-noise ratio of the contours when the score has the same, independent noise everywhere: a
    contour that gains length through flat regions loses, and so does one that leaves clear edges out.
    """
    above = score > threshold
    total, length = 0.0, 0
    for axis in (1, 2):
        crossed = np.diff(above, axis=axis)
        total += float(np.abs(np.diff(score, axis=axis))[crossed].sum())
        length += int(crossed.sum())
    return total / max(length, 1) ** 0.5


def _score(stats: MotionStats, superpixels: Superpixels, links: np.ndarray) -> np.ndarray:
    """(F, H, W) float32 in [0, 1]."""
    own = superpixels.mean(np.maximum(stats.mean - DEVIATION_WEIGHT * stats.deviation, 0))
    return superpixels.paint(vote(superpixels, own, superpixels.mean(stats.trust), links))


class _FlowLinks:
    """Where the centre of every superpixel flows to in the frames next to its own."""

    def __init__(self, superpixels: Superpixels) -> None:
        self._labels, self._centres = superpixels.labels, superpixels.centres
        self._first = np.append(superpixels.labels.min(axis=(1, 2)), len(superpixels))
        self._links = np.full((len(superpixels), 2), -1, dtype=np.int64)

    def add(self, i: int, j: int, flow: np.ndarray) -> None:
        """Take in the flow (H, W, 2) from frame i to frame j."""
        if abs(i - j) != 1:
            return
        height, width = flow.shape[:2]
        own = np.arange(self._first[i], self._first[i + 1])
        at = np.rint(self._centres[own]).astype(int)
        landing = np.rint(self._centres[own] + flow[at[:, 1], at[:, 0]]).astype(int)
        inside = ((landing >= 0) & (landing < [width, height])).all(axis=1)
        target = self._labels[j][landing[inside, 1], landing[inside, 0]]
        self._links[own[inside], int(j > i)] = target

    def finish(self) -> np.ndarray:
        """(N, 2) superpixel in the previous and in the next frame; -1 where there is none."""
        return self._links
