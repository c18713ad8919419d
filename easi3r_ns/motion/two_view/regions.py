"""What the superpixels of a frame know of its motion, and which superpixels of other frames they flow to."""

from __future__ import annotations

import numpy as np

from .residual import Moments
from .superpixels import segment

DEVIATION_WEIGHT = 0.5
"""Deviations over the pairs that are subtracted from the mean residual: one that varies is less certain."""
SURE_TEXTURE_PX = 0.5
"""Deviation of flow for want of texture up to which a pixel counts fully; above, in inverse proportion. Flow that is
smoother than the picture is confirmed by flow in the other direction, however wrong it is: agreement alone proves
nothing there."""
FULL_TRUST = 0.5
"""Trust of a superpixel from which on its residual counts fully; below, in proportion."""


class Region:
    """The superpixels of one frame while its pairs come in."""

    def __init__(self, image: np.ndarray, texture: np.ndarray, pairs: int, first: int) -> None:
        """``texture``: (H, W) pixels; ``pairs``: of the frame, followed or not; ``first``: number of superpixel 0."""
        own, self.features, self.centres = segment(image)
        self.labels = (own + first).astype(np.int32)
        """(H, W) numbers within the clip."""
        self.moments = Moments(own.shape)
        self.followed = False
        self.links = np.full((len(self.features), 2), -1, dtype=np.int64)
        """(n, 2) superpixel in a frame before and in one after; -1 where there is none."""
        self.first, self._pairs, self._texture = first, pairs, texture
        self._link_gap = [np.inf, np.inf]

    def __len__(self) -> int:
        return len(self.features)

    def add(self, residual: np.ndarray, consistent: np.ndarray) -> None:
        """Take in a pair that flow can follow: (H, W) residual, and where both directions of the flow agree."""
        sure = np.minimum(1, SURE_TEXTURE_PX / np.maximum(self._texture, 1e-3))
        self.moments.add(residual, np.where(consistent, sure, 0).astype(np.float32))
        self.followed = True

    def link(self, side: int, gap: int, flow: np.ndarray, consistent: np.ndarray, other: Region) -> None:
        """Link the superpixels to those of another frame that their centres flow to; of all frames the nearest counts.

        Args:
            side: 0: the other frame is earlier, 1: it is later.
        """
        if gap >= self._link_gap[side]:
            return
        self._link_gap[side] = gap
        height, width = consistent.shape
        at = np.rint(self.centres).astype(int)
        landing = np.rint(self.centres + flow[at[:, 1], at[:, 0]]).astype(int)
        inside = ((landing >= 0) & (landing < [width, height])).all(axis=1) & consistent[at[:, 1], at[:, 0]]
        self.links[:, side] = -1
        self.links[inside, side] = other.labels[landing[inside, 1], landing[inside, 0]]

    def verdict(self) -> tuple[np.ndarray, np.ndarray]:
        """(n,) own score and (n,) trust of the superpixels, both in [0, 1]."""
        weight = self.moments.weight
        evidence = np.maximum(self.moments.mean - DEVIATION_WEIGHT * self.moments.deviation, 0)
        flat = (self.labels - self.first).ravel()
        size, weights, sums = (
            np.bincount(flat, weights=values, minlength=len(self))
            for values in (None, weight.ravel(), (evidence * weight).ravel())
        )
        trust = weights / np.maximum(size, 1) / self._pairs
        return sums / np.maximum(weights, 1e-9) * np.minimum(1, trust / FULL_TRUST), trust


class RegionTable:
    """The superpixels of all frames of a clip, numbered in the order in which frames are opened."""

    def __init__(self, num_frames: int) -> None:
        self._num_frames = num_frames
        self._count = 0
        self._closed: dict[int, tuple[np.ndarray, ...]] = {}

    def open(self, image: np.ndarray, texture: np.ndarray, pairs: int) -> Region:
        """The superpixels of a frame; arguments as for :class:`Region`."""
        region = Region(image, texture, pairs, self._count)
        self._count += len(region)
        return region

    def close(self, region: Region) -> None:
        """Keep what the vote needs of a frame whose pairs are all done."""
        own, trust = region.verdict()
        self._closed[region.first] = own, trust, region.links, region.features

    def columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(N,) own score, (N,) trust, (N, 2) links and (N, 10) features of all superpixels."""
        assert len(self._closed) == self._num_frames, "a frame is still open"
        rows = [self._closed[first] for first in sorted(self._closed)]
        own, trust, links, features = (np.concatenate(column) for column in zip(*rows, strict=True))
        return own, trust, links, features
