"""Matches that are held out of mapping, and which cameras they confirm."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .features import MATCH_ERROR, MIN_MATCHES
from .model import Correspondences, SparseModel
from .score import HELD_OUT, MIN_HELD_OUT, agreement, hold_out, without_keypoints

MIN_AGREEMENT = 0.5
"""Share of a frame's held-out matches that its camera must explain to hold."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out matches of a clip."""

    static: Correspondences
    """Between keypoints away from what moves."""
    other: Correspondences | None = None
    """Between all keypoints, where they were matched: they judge the frames that masks leave with hardly any."""

    @classmethod
    def of(cls, found: Correspondences, seed: int) -> HeldOut:
        """A share of the matches away from what moves, by whole tracks."""
        return cls(hold_out(found, HELD_OUT, seed)[1])

    def with_other(self, everything: Correspondences, seed: int) -> HeldOut:
        """The same, and a share of the matches of all keypoints; these decide alone where too few others do."""
        other = hold_out(without_keypoints(everything, self.static), HELD_OUT, seed)[1]
        few = self.static.num_matches < MIN_HELD_OUT
        return HeldOut(other) if few else replace(self, other=other)

    def taken_from(self, found: Correspondences) -> Correspondences:
        """The matches that touch no keypoint of the held-out ones."""
        seen = without_keypoints(found, self.static)
        return seen if self.other is None else without_keypoints(seen, self.other)

    def confirmed(self, model: SparseModel) -> np.ndarray:
        """(F,) bool: registered frames that explain :data:`MIN_AGREEMENT` of at least ``MIN_MATCHES`` of the matches.

        Matches with frames that are not registered do not count. The static ones decide where there are enough.
        """
        share, count = _share(model, self.static), _count(model, self.static)
        if self.other is not None:
            few = count < MIN_MATCHES
            share = np.where(few, _share(model, self.other), share)
            count = np.where(few, _count(model, self.other), count)
        return model.registered & (count >= MIN_MATCHES) & (share >= MIN_AGREEMENT)


def between(found: Correspondences, frames: np.ndarray) -> Correspondences:
    """The matches between (F,) bool ``frames``."""
    rows = np.flatnonzero(frames[found.pairs].all(axis=1))
    return Correspondences(found.keypoints, found.pairs[rows], tuple(found.matches[k] for k in rows))


def _share(model: SparseModel, held: Correspondences) -> np.ndarray:
    return agreement(model.T_world_cam, model.optics, held, model.registered, MATCH_ERROR)


def _count(model: SparseModel, held: Correspondences) -> np.ndarray:
    known = between(held, model.registered)
    count = np.zeros(held.num_frames, dtype=np.int64)
    for pair, rows in zip(known.pairs, known.matches):
        count[pair] += len(rows)
    return count
