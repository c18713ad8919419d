"""Frames -> DynamicMasks from optical flow and epipolar geometry, without a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from skimage.filters import threshold_multiotsu

from ...core.errors import InputError
from ...core.runlog import RunLog
from ...core.types import DynamicMasks
from ...frames.near import Shot
from ..attention.masks import OTSU_CLASSES
from ..flow.dis import DISFlow
from ..flow.provider import FlowProvider
from .plan import PairPlan, choose_step, plan_pairs
from .regions import Region, RegionTable
from .residual import PairMotion, Pictures, choose_kinds, follow_pairs
from .superpixels import Superpixels, vote
from .tokens import token_means

GAPS = (1, 2, 4)
"""Steps between a frame and those that it is compared with, before and after it; a step is a source frame or two."""
WITNESS_GAPS = (1, 4)
"""Steps to the source frames whose regions take part in the vote: a surface is recognised more surely where it is seen
shortly before and after than in a frame far away."""
METHOD = ("flow to source frames", GAPS, WITNESS_GAPS)
"""What decides these masks, beside the images and the estimator of flow."""
LEAST_SCORE = 0.15
"""No pixel below this score moves, whatever the histogram says: it is what flow does on static surfaces. In the units
of :class:`~easi3r_ns.motion.two_view.residual.PairMotion`: two thirds of a deviation of the flow of
static surfaces, after the vote."""
HISTOGRAM_STEP = 4
"""Only every fourth pixel in x and in y enters the histogram for the threshold."""
FEWEST_NEIGHBOURS, MOST_NEIGHBOURS = 8, 30
"""Regions that look alike and vote for each other: one per frame that takes part, within these bounds."""
_FEW_PAIRS = 0.5


def geometric_masks(
    images: np.ndarray,
    patch_size: int,
    log: RunLog,
    *,
    provider: FlowProvider | None = None,
    shot: Shot | None = None,
) -> DynamicMasks:
    """What moves in a clip, from its images alone.

    Optical flow to source frames before and after each frame, over gaps in which something moves and that flow can
    follow; homography or fundamental matrix of the background; residuals in units of the noise of the flow, mean and
    deviation over the pairs of a frame; a vote among superpixels that look alike or flow into each other; one
    multi-Otsu threshold for the clip, with a floor so that nothing moves in a static clip. What flow does not follow,
    and what has no texture to be followed by, does not count as moving.

    Blind spots: with parallax, what moves along its epipolar lines; a background that moves as a whole (water).

    Args:
        images: (F, H, W, 3) uint8 RGB, F >= 2 frames in the order of time, H and W multiples of ``patch_size``.
        shot: where these frames stand in their source, and the source frames around them; None: they are consecutive.

    Raises:
        InputError: fewer than two frames.
    """
    if len(images) < 2:
        raise InputError(f"{len(images)} frame(s): at least two are needed to see what moves")
    shot, flow = shot or Shot.of(images), provider or DISFlow()
    plan = plan_pairs(shot, GAPS, choose_step(shot, flow), WITNESS_GAPS)
    with log.stage("motion from geometry", len(plan.pairs)) as advance:
        pictures = Pictures(shot)
        kinds = choose_kinds(plan, pictures, len(images), flow)
        regions = _Regions(images.shape[:3], shot, plan, pictures, patch_size)
        for motion in follow_pairs(plan, pictures, kinds, flow, advance):
            regions.add(motion)
        score = regions.score()
    if regions.frames_followed < _FEW_PAIRS * len(images):
        log.warn(
            "optical flow follows few of the frames (they lie too far apart, or show little texture): what moves is "
            "found only in part; use more frames (--num-frames-target, --fps), or give your own --masks"
        )
    threshold = choose_threshold(score)
    tokens = token_means(score, patch_size)
    return DynamicMasks(score > threshold, tokens, threshold, source="geometry", maps=regions.maps)


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


class _Regions:
    """The superpixels of the frames and of their witnesses, filled pair by pair.

    A frame's maps are in memory from its first pair to its last; of a frame that is done its labels stay, of a witness
    the numbers of its superpixels.
    """

    def __init__(self, shape: Sequence[int], shot: Shot, plan: PairPlan, pictures: Pictures, patch_size: int) -> None:
        self._row = {place: row for row, place in enumerate(shot.places.tolist())}
        self._voters = set(self._row) | plan.witnesses
        self._left = Counter(place for pair in plan.pairs for place in pair if place in self._voters)
        self._pairs_of = dict(self._left)
        self._pictures, self._patch_size = pictures, patch_size
        self._open: dict[int, Region] = {}
        self._table = RegionTable(len(self._voters))
        self._labels = np.zeros(shape, dtype=np.int32)
        tokens = (shape[0], shape[1] // patch_size, shape[2] // patch_size)
        self.maps = {name: np.zeros(tokens, dtype=np.float32) for name in ("mean", "deviation")}
        self.frames_followed = 0
        """Frames with at least one pair that flow can follow."""
        for place in self._voters - self._left.keys():
            self._close(place)

    def add(self, motion: PairMotion) -> None:
        """Take in a pair."""
        ends = [self._region(place) for place in motion.pair]
        if motion.residuals is not None:
            for region, residual, consistent in zip(ends, motion.residuals, motion.agree, strict=True):
                if region is not None:
                    region.add(residual, consistent)
        gap = motion.pair[1] - motion.pair[0]
        first, second = ends
        if first is not None and second is not None:
            for side, (own, other) in enumerate(((first, second), (second, first))):
                own.link(1 - side, gap, motion.flows[side], motion.agree[side], other)
        for place in motion.pair:
            if place in self._left:
                self._left[place] -= 1
                if self._left[place] == 0:
                    self._close(place)

    def score(self) -> np.ndarray:
        """(F, H, W) float32 in [0, 1] of the frames."""
        own, trust, links, features = self._table.columns()
        superpixels = Superpixels(self._labels, features, np.zeros((len(features), 2), dtype=np.float32))
        neighbours = int(np.clip(len(self._voters), FEWEST_NEIGHBOURS, MOST_NEIGHBOURS))
        return superpixels.paint(vote(superpixels, own, trust, links, neighbours))

    def _region(self, place: int) -> Region | None:
        if place not in self._voters:
            return None
        if place not in self._open:
            # Half of a frame's pairs at least: a single one is no strong evidence, however well flow follows it.
            pairs = max(self._pairs_of.get(place, 0), len(GAPS))
            image, texture = self._pictures.image(place), self._pictures.texture_noise(place)
            self._open[place] = self._table.open(image, texture, pairs)
        return self._open[place]

    def _close(self, place: int) -> None:
        region = self._region(place)
        assert region is not None
        self._table.close(region)
        del self._open[place]
        row = self._row.get(place)
        if row is not None:
            self._labels[row] = region.labels
            self.frames_followed += region.followed
            for name, values in (("mean", region.moments.mean), ("deviation", region.moments.deviation)):
                self.maps[name][row] = token_means(values[None], self._patch_size)[0]
