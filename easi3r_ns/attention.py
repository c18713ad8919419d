"""From cross-attention to a dynamic score per token (Easi3R, arXiv:2503.24391, section 3.2): pure functions.

Letters in shapes: F frames, h x w tokens, C = layers * heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .types import AttentionStats

EPS = 1e-6
MAPS = ("mean_src", "std_src", "mean_ref", "std_ref")
"""The four attention maps of Easi3R, as :class:`~easi3r_ns.types.AttentionStats` names them."""


@dataclass(frozen=True)
class ScoreFormula:
    """Which attention maps make the dynamic score, a product: 1 takes the map x, -1 takes (1 - x), 0 leaves it out.

    The default is the paper's (equation 7), which belongs to the published weights; the card of a checkpoint may name
    its own.
    """

    mean_src: int = -1
    std_src: int = 1
    mean_ref: int = 1
    std_ref: int = -1
    centred: bool = False
    """Take the mean over a view's tokens off every map of every pair first. Softmax does not see what all keys of a
    query have in common; in a small network it varies from pair to pair more than what moves does."""
    first_channel: int = 0
    """Leave out the channels before this one. Channels are layers times heads, layer by layer: the early layers of the
    decoders have not seen much of the other view yet."""

    def __post_init__(self) -> None:
        signs = self.signs
        if not set(signs.values()) <= {-1, 0, 1} or not any(signs.values()):
            raise ValueError(f"score formula {signs}: signs are -1, 0 or 1, and not all 0")
        if self.first_channel < 0:
            raise ValueError(f"score formula: first channel {self.first_channel} is negative")

    @property
    def signs(self) -> dict[str, int]:
        """Map -> -1, 0 or 1."""
        return {name: getattr(self, name) for name in MAPS}

    def __str__(self) -> str:
        """For example 'std_src * (1 - std_ref), maps centred'."""
        product = " * ".join(name if sign > 0 else f"(1 - {name})" for name, sign in self.signs.items() if sign)
        channels = f", channels from {self.first_channel} on" if self.first_channel else ""
        return product + ", maps centred" * bool(self.centred) + channels

    def combine(self, fused: Mapping[str, np.ndarray]) -> np.ndarray:
        """The product over fused maps (F, h, w); not yet stretched per frame."""
        factors = [fused[name] if sign > 0 else 1 - fused[name] for name, sign in self.signs.items() if sign]
        return np.prod(factors, axis=0, dtype=np.float32)


class AttentionAccumulator:
    """Mean and deviation over the pairs of every frame, pair by pair (Welford): memory grows with F, not with E.

    ``centred``: see :class:`ScoreFormula`.
    """

    def __init__(self, num_frames: int, centred: bool = False) -> None:
        self._prepare = _centred if centred else _without_sink
        self._src = _RunningMoments(num_frames)
        self._ref = _RunningMoments(num_frames)

    def add(self, edge: tuple[int, int], on_j: Tensor, on_i: Tensor) -> None:
        """Take in pair (i, j): ``on_j`` (h, w, C) from decoder 1, ``on_i`` (h, w, C) from decoder 2."""
        i, j = edge
        self._src.add(j, self._prepare(on_j.cpu().numpy()))
        self._ref.add(i, self._prepare(on_i.cpu().numpy()))

    def finish(self) -> AttentionStats:
        """The statistics of all pairs so far; every frame must have been first and second view at least once."""
        mean_src, std_src = self._src.finish()
        mean_ref, std_ref = self._ref.finish()
        return AttentionStats(mean_src, std_src, mean_ref, std_ref)


def attention_stats_naive(edges: np.ndarray, on_j: np.ndarray, on_i: np.ndarray, num_frames: int) -> AttentionStats:
    """All maps (E, h, w, C) at once: the slow twin of :class:`AttentionAccumulator`."""
    on_j, on_i = np.stack([_without_sink(m) for m in on_j]), np.stack([_without_sink(m) for m in on_i])
    groups_src = [on_j[edges[:, 1] == f] for f in range(num_frames)]
    groups_ref = [on_i[edges[:, 0] == f] for f in range(num_frames)]

    def deviation(group: np.ndarray) -> np.ndarray:
        return group.std(axis=0, ddof=1) if len(group) > 1 else np.zeros_like(group[0])

    return AttentionStats(
        np.stack([g.mean(axis=0) for g in groups_src]),
        np.stack([deviation(g) for g in groups_src]),
        np.stack([g.mean(axis=0) for g in groups_ref]),
        np.stack([deviation(g) for g in groups_ref]),
    )


def fuse(maps: np.ndarray) -> np.ndarray:
    """(F, h, w, C) -> (F, h, w) in [0, 1]: min-max over the whole clip, mean over channels, min-max again."""
    return _min_max(_min_max(maps).mean(axis=-1))


def fused_maps(stats: AttentionStats, first_channel: int = 0) -> dict[str, np.ndarray]:
    """The four maps (F, h, w) of which the score is made, by the names of :class:`ScoreFormula`."""
    return {name: fuse(getattr(stats, name)[..., first_channel:]) for name in MAPS}


def dynamic_score(stats: AttentionStats, formula: ScoreFormula | None = None) -> np.ndarray:
    """(F, h, w) float32 in [0, 1], high where tokens break epipolar geometry (Easi3R, equation 7)."""
    formula = formula or ScoreFormula()
    return min_max_per_frame(formula.combine(fused_maps(stats, formula.first_channel)))


def min_max_per_frame(maps: np.ndarray) -> np.ndarray:
    """(F, ...) -> same shape, every frame stretched to [0, 1]."""
    axes = tuple(range(1, maps.ndim))
    low, high = maps.min(axis=axes, keepdims=True), maps.max(axis=axes, keepdims=True)
    return ((maps - low) / (high - low + EPS)).astype(np.float32)


class _RunningMoments:
    def __init__(self, num_frames: int) -> None:
        self._count = np.zeros(num_frames, dtype=np.int64)
        self._mean: np.ndarray | None = None
        self._m2: np.ndarray | None = None

    def add(self, frame: int, value: np.ndarray) -> None:
        if self._mean is None or self._m2 is None:
            self._mean = np.zeros((len(self._count), *value.shape), dtype=np.float32)
            self._m2 = np.zeros_like(self._mean)
        self._count[frame] += 1
        delta = value - self._mean[frame]
        self._mean[frame] += delta / self._count[frame]
        self._m2[frame] += delta * (value - self._mean[frame])

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        if self._mean is None or self._m2 is None or (self._count == 0).any():
            raise ValueError(f"frames without a pair: {np.flatnonzero(self._count == 0).tolist()}")
        degrees = np.maximum(self._count - 1, 1).reshape(-1, 1, 1, 1)
        return self._mean, np.sqrt(self._m2 / degrees).astype(np.float32)


def _without_sink(attention: np.ndarray) -> np.ndarray:
    """The top-left token gathers attention whatever it shows: the mean of its right and lower neighbour instead."""
    height, width = attention.shape[:2]
    neighbours = [attention[0, 1]] if width > 1 else []
    neighbours += [attention[1, 0]] if height > 1 else []
    if not neighbours:
        return attention
    attention = attention.copy()
    attention[0, 0] = sum(neighbours) / len(neighbours)
    return attention


def _centred(attention: np.ndarray) -> np.ndarray:
    """(h, w, C) without the sink and without the mean over the tokens, per channel."""
    attention = _without_sink(attention)
    return attention - attention.mean(axis=(0, 1))


def _min_max(maps: np.ndarray) -> np.ndarray:
    low, high = maps.min(), maps.max()
    return (maps - low) / (high - low + EPS)
