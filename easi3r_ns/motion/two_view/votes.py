"""The vote of a clip's superpixels on what moves: residuals come in pair by pair, and one score a pixel comes out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ...frames.near import Shot
from .plan import PairPlan
from .regions import FULL_TRUST, Region, RegionTable
from .residual import PairMotion, Pictures
from .superpixels import Superpixels, vote
from .tokens import token_means

FEWEST_NEIGHBOURS, MOST_NEIGHBOURS = 8, 30
"""Regions that look alike and vote for each other: one per frame that takes part, within these bounds."""


class ClipRegions:
    """The superpixels of the frames and of their witnesses, filled pair by pair.

    A frame's maps are in memory from its first pair to its last; of a frame that is done its labels stay, of a witness
    the numbers of its superpixels.
    """

    def __init__(
        self,
        shape: Sequence[int],
        shot: Shot,
        plan: PairPlan,
        pictures: Pictures,
        patch_size: int,
        usual_pairs: int,
    ) -> None:
        """``shape``: (F, H, W) of the frames; ``usual_pairs``: half the pairs of a frame in the middle of a clip."""
        self._usual_pairs = usual_pairs
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
        self.followed = np.zeros(shape, dtype=bool)
        """(F, H, W) superpixels whose own residual counts fully; known after :meth:`score`."""
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
        self.followed = superpixels.paint(trust) >= FULL_TRUST
        neighbours = int(np.clip(len(self._voters), FEWEST_NEIGHBOURS, MOST_NEIGHBOURS))
        return superpixels.paint(vote(superpixels, own, trust, links, neighbours))

    def _region(self, place: int) -> Region | None:
        if place not in self._voters:
            return None
        if place not in self._open:
            # A single pair is no strong evidence, however well flow follows it.
            pairs = max(self._pairs_of.get(place, 0), self._usual_pairs)
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
