"""From cross-attention to a dynamic score per token (Easi3R, arXiv:2503.24391, section 3.2): pure functions.

Letters in shapes: F frames, h x w tokens, C = layers * heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...core.score import MAPS, ScoreFormula
from ...core.types import AttentionStats, PairGraph

EPS = 1e-6
MOST_NEW_SLOTS = 16
"""Most frames for which memory is added at a time."""


class AttentionAccumulator:
    """Mean and deviation over the pairs of every frame (Welford, Chan): memory grows with F, not with E.

    ``centred``: see :class:`ScoreFormula`.
    """

    def __init__(self, num_frames: int, centred: bool = False) -> None:
        self._num_frames, self._centred = num_frames, centred
        self._src, self._ref = RunningMoments(), RunningMoments()

    def add(self, edge: tuple[int, int], on_j: Tensor, on_i: Tensor) -> None:
        """Take in pair (i, j): ``on_j`` (h, w, C) from decoder 1, ``on_i`` (h, w, C) from decoder 2."""
        self.add_pairs(np.array([edge]), on_j[None], on_i[None])

    def add_pairs(self, edges: np.ndarray, on_j: Tensor, on_i: Tensor) -> None:
        """See :class:`~easi3r_ns.network.inference.AttentionSink`."""
        i, j = edges.T.tolist()
        src = self._src.merged(j, prepare_maps(on_j, self._centred))
        ref = self._ref.merged(i, prepare_maps(on_i, self._centred))
        self._src.keep(src)
        self._ref.keep(ref)

    def finish(self) -> AttentionStats:
        """The statistics of all pairs so far; every frame must have been first and second view at least once."""
        moments = []
        for side in (self._src, self._ref):
            without = [f for f in range(self._num_frames) if not side.count(f)]
            if without:
                raise ValueError(f"frames without a pair: {without}")
            per_frame = [side.take(f) for f in range(self._num_frames)]
            moments += [torch.stack(maps).cpu().numpy() for maps in zip(*per_frame)]
        return AttentionStats(*moments)


@dataclass(frozen=True)
class MapSummary:
    """What the score needs of one of the four maps (F, h, w, C)."""

    mean: np.ndarray
    """(F, h, w) mean over the channels."""
    low: float
    high: float
    """Range over the whole clip and all channels."""

    def fused(self) -> np.ndarray:
        """(F, h, w) in [0, 1]: as :func:`fuse`; stretching a map before or after the mean over channels is the same."""
        return _min_max((self.mean - self.low) / (self.high - self.low + EPS))


class SummaryAccumulator:
    """The statistics of a clip, of which only what the score needs is kept: memory grows neither with E nor with F * C.

    A frame's moments are reduced to their summary as soon as its last pair has come, so that in a graph of near frames,
    taken in order, only the moments of a few frames are held at a time.
    """

    def __init__(self, graph: PairGraph, formula: ScoreFormula) -> None:
        self._formula, self._num_frames = formula, graph.num_frames
        self._sides = {"src": RunningMoments(), "ref": RunningMoments()}
        counts = (np.bincount(graph.edges[:, column], minlength=graph.num_frames) for column in (1, 0))
        self._expected = dict(zip(self._sides, counts))
        self._done: dict[str, dict[int, tuple[Tensor, Tensor]]] = {name: {} for name in MAPS}

    def add_pairs(self, edges: np.ndarray, on_j: Tensor, on_i: Tensor) -> None:
        """See :class:`~easi3r_ns.network.inference.AttentionSink`."""
        i, j = edges.T.tolist()
        merged = {}
        for side, frames, maps in (("src", j, on_j), ("ref", i, on_i)):
            channels = maps[..., self._formula.first_channel :]
            merged[side] = self._sides[side].merged(frames, prepare_maps(channels, self._formula.centred))
        for side, new in merged.items():
            self._sides[side].keep(new)
            for frame in new.slots:
                if self._sides[side].count(frame) == self._expected[side][frame]:
                    self._close(side, frame)

    def open_frames(self) -> int:
        """Frames whose statistics are held at present, as first and as second view."""
        return sum(len(moments) for moments in self._sides.values())

    def finish(self) -> dict[str, MapSummary]:
        """The four maps by name; all pairs of the graph must have come."""
        missing = {f for done in self._done.values() for f in range(self._num_frames) if f not in done}
        if missing:
            raise ValueError(f"frames without all of their pairs: {sorted(missing)}")
        summaries = {}
        for name, done in self._done.items():
            means, ranges = (torch.stack(values).cpu().numpy() for values in zip(*(done[f] for f in sorted(done))))
            summaries[name] = MapSummary(means, float(ranges[:, 0].min()), float(ranges[:, 1].max()))
        return summaries

    def _close(self, side: str, frame: int) -> None:
        for kind, values in zip(("mean", "std"), self._sides[side].take(frame)):
            if kind == "std" and self._formula.log_std:
                values = (values + EPS).log()
            self._done[f"{kind}_{side}"][frame] = (values.mean(dim=-1), torch.stack(values.aminmax()))


def fuse(maps: np.ndarray) -> np.ndarray:
    """(F, h, w, C) -> (F, h, w) in [0, 1]: min-max over the whole clip, mean over channels, min-max again."""
    return _min_max(_min_max(maps).mean(axis=-1))


def fused_maps(stats: AttentionStats, formula: ScoreFormula | None = None) -> dict[str, np.ndarray]:
    """The four maps (F, h, w) of which the score is made, by the names of :class:`ScoreFormula`."""
    return {name: fuse(maps) for name, maps in maps_of(stats, formula or ScoreFormula()).items()}


def maps_of(stats: AttentionStats, formula: ScoreFormula) -> dict[str, np.ndarray]:
    """The four maps (F, h, w, C) in those channels and in that scale which the formula asks for."""
    maps = {name: getattr(stats, name)[..., formula.first_channel :] for name in MAPS}
    deviations = [name for name in MAPS if formula.log_std and name.startswith("std")]
    return maps | {name: np.log(maps[name] + EPS) for name in deviations}


def dynamic_score(stats: AttentionStats, formula: ScoreFormula | None = None) -> np.ndarray:
    """(F, h, w) float32 in [0, 1], high where tokens break epipolar geometry (Easi3R, equation 7).

    Raises:
        ValueError: the formula asks for more than attention; see :func:`score_of`.
    """
    formula = formula or ScoreFormula()
    return score_of(fused_maps(stats, formula), formula)


def score_of(fused: Mapping[str, np.ndarray], formula: ScoreFormula) -> np.ndarray:
    """:func:`dynamic_score` from fused maps (F, h, w)."""
    return min_max_per_frame(formula.combine(fused))


def min_max_per_frame(maps: np.ndarray) -> np.ndarray:
    """(F, ...) -> same shape, every frame stretched to [0, 1]."""
    axes = tuple(range(1, maps.ndim))
    low, high = maps.min(axis=axes, keepdims=True), maps.max(axis=axes, keepdims=True)
    return ((maps - low) / (high - low + EPS)).astype(np.float32)


class Merged(NamedTuple):
    """Moments of some frames with a batch taken in (K frames, M numbers in a map)."""

    slots: dict[int, int]
    """Row of each frame in the running moments."""
    rows: Tensor
    """(K,) int64 these rows, on the device."""
    counts: dict[int, int]
    mean: Tensor
    """(K, M)."""
    m2: Tensor
    """(K, M)."""


class RunningMoments:
    """Mean and sum of squared deviations per frame, batch by batch (Chan, Golub, LeVeque 1979), on the device of the
    values; a frame may occur several times in a batch.
    """

    def __init__(self) -> None:
        self._slots: dict[int, int] = {}
        self._counts: dict[int, int] = {}
        self._free: list[int] = []
        self._mean: Tensor | None = None
        self._m2: Tensor | None = None
        self._shape = torch.Size()

    def __len__(self) -> int:
        """Frames that have been added and not taken."""
        return len(self._slots)

    def count(self, frame: int) -> int:
        """Maps of a frame since it was last taken."""
        return self._counts.get(frame, 0)

    def merged(self, frames: list[int], values: Tensor) -> Merged:
        """What :meth:`keep` takes in of ``values`` (B, ...) float32, one per entry of ``frames``.

        No moment changes yet, and everything that takes memory is done here.
        """
        distinct = sorted(set(frames))
        # One copy to the device for both: who belongs to a frame, and how many maps it has had.
        table = [[*(frame == f for frame in frames), self.count(f)] for f in distinct]
        member, old = torch.tensor(table, dtype=values.dtype).to(values.device).split([len(frames), 1], dim=1)
        new = member.sum(dim=1, keepdim=True)
        flat = values.flatten(1)
        # Products with a 0-1 matrix: unlike scattered additions they give the same sums every time on a GPU.
        batch_mean = member @ flat / new
        batch_m2 = member @ (flat - member.T @ batch_mean).square()
        slots = self._slots_of(distinct, values)
        assert self._mean is not None and self._m2 is not None
        rows = torch.tensor(slots).to(values.device)
        # The rows of frames that were taken hold their old values.
        old_mean, old_m2 = (torch.where(old > 0, kept[rows], 0.0) for kept in (self._mean, self._m2))
        delta = batch_mean - old_mean
        mean = old_mean + delta * (new / (old + new))
        m2 = old_m2 + batch_m2 + delta.square() * (old * new / (old + new))
        counts = {frame: self.count(frame) + frames.count(frame) for frame in distinct}
        self._shape = values.shape[1:]
        return Merged(dict(zip(distinct, slots)), rows, counts, mean, m2)

    def keep(self, merged: Merged) -> None:
        """Take in a batch."""
        assert self._mean is not None and self._m2 is not None
        self._mean.index_copy_(0, merged.rows, merged.mean)
        self._m2.index_copy_(0, merged.rows, merged.m2)
        self._counts |= merged.counts

    def take(self, frame: int) -> tuple[Tensor, Tensor]:
        """Mean and unbiased deviation of a frame, which is then forgotten; the deviation of a single map is 0."""
        assert self._mean is not None and self._m2 is not None
        slot, count = self._slots.pop(frame), self._counts.pop(frame)
        self._free.append(slot)
        deviation = (self._m2[slot] / max(count - 1, 1)).sqrt()
        return self._mean[slot].reshape(self._shape).clone(), deviation.reshape(self._shape)

    def _slots_of(self, frames: list[int], like: Tensor) -> list[int]:
        unknown = [frame for frame in frames if frame not in self._slots]
        size = 0 if self._mean is None else len(self._mean)
        if len(unknown) > len(self._free):
            more = max(len(unknown) - len(self._free), min(size, MOST_NEW_SLOTS))
            added = like.new_zeros(more, like[0].numel())
            grown = [added.clone() if old is None else torch.cat([old, added]) for old in (self._mean, self._m2)]
            self._mean, self._m2 = grown
            self._free += range(size, size + more)
        for frame in unknown:
            self._slots[frame] = self._free.pop()
        return [self._slots[frame] for frame in frames]


def prepare_maps(maps: Tensor, centred: bool) -> Tensor:
    """(B, h, w, C) float32 without the sink and, if ``centred``, without the mean over the tokens, per channel."""
    maps = without_sink(maps.float())
    return maps - maps.mean(dim=(1, 2), keepdim=True) if centred else maps


def without_sink(maps: Tensor) -> Tensor:
    """(B, h, w, C): the top-left token attracts attention whatever it shows (an attention sink); its value is
    replaced by the mean of its right and lower neighbours.
    """
    height, width = maps.shape[1:3]
    neighbours = [maps[:, 0, 1]] if width > 1 else []
    neighbours += [maps[:, 1, 0]] if height > 1 else []
    if not neighbours:
        return maps
    maps = maps.clone()
    maps[:, 0, 0] = torch.stack(neighbours).mean(dim=0)
    return maps


def _min_max(maps: np.ndarray) -> np.ndarray:
    low, high = maps.min(), maps.max()
    return (maps - low) / (high - low + EPS)
