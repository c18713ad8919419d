"""How the dynamic score of a network is computed from its attention maps; a checkpoint's card may state it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .errors import shown

NUM_CLUSTERS = 64
"""Clusters of the tokens of a clip, as in the published method."""
MAPS = ("mean_src", "std_src", "mean_ref", "std_ref")
"""The four attention maps of Easi3R, as :class:`~easi3r_ns.core.types.AttentionStats` names them."""
FLOW_RESIDUAL = "flow_residual"
"""Name of the one map that does not come from attention: see :attr:`ScoreFormula.flow_residual`."""
MOST_CLUSTERS, MOST_CLUSTERINGS = 1024, 64
"""Largest number of clusters, and of clusterings, that a card may ask for."""


@dataclass(frozen=True)
class ScoreFormula:
    """The dynamic score as a product of attention maps, and the clusters of tokens over which it is averaged.

    The sign of a map x with values in [0, 1] selects its factor: 1 means x, -1 means (1 - x), 0 leaves the map out.
    Without any attention map the score is the flow residual alone, and 0 in frames that flow cannot follow.
    The default is equation 7 of Easi3R (arXiv:2503.24391), which suits the published weights; the card of a checkpoint
    may name another formula.
    """

    mean_src: int = -1
    std_src: int = 1
    mean_ref: int = 1
    std_ref: int = -1
    centred: bool = False
    """Subtract from every map of every pair its mean over the view's tokens. The softmax is invariant to an offset that
    all keys of a query share; in a small network this offset varies more between pairs than the signal of motion."""
    first_channel: int = 0
    """Channels before this one are left out. Channels are counted layer by layer, and within a layer head by head; the
    early layers of the decoders have received little information from the other view."""
    log_std: bool = False
    """Average the logarithms of the standard deviations over the channels, so that one channel with large values does
    not dominate the mean."""
    flow_residual: bool = False
    """Multiply the score by the residual of optical flow against the motion that the camera explains
    (:func:`~easi3r_ns.motion.two_view.tokens.flow_residual`); for networks whose attention alone separates moving and
    static tokens poorly."""
    num_clusters: int = NUM_CLUSTERS
    """Number of clusters (k-means on encoder features); the score of a token is the mean over its cluster."""
    clusterings: int = 1
    """Number of clusterings with different random initialisations, whose scores are averaged. A single k-means ends in
    one of many local minima, and the masks depend on which one."""

    @classmethod
    def from_card(cls, values: object, num_channels: int) -> ScoreFormula:
        """Read the formula from the JSON object in a checkpoint's card.

        Args:
            values: a sign for each of :data:`MAPS`, and optionally other fields; flags are 0 or 1, or false or true.
            num_channels: layers times heads of the network's decoders.

        Raises:
            ValueError: a field is missing, unknown or out of range; the message lists the allowed values.
        """
        options = {
            "centred": range(2),
            "first_channel": range(num_channels),
            "log_std": range(2),
            "flow_residual": range(2),
            "num_clusters": range(1, MOST_CLUSTERS + 1),
            "clusterings": range(1, MOST_CLUSTERINGS + 1),
        }
        allowed = {**dict.fromkeys(MAPS, range(-1, 2)), **options}
        kinds = {**dict.fromkeys(MAPS, (int,)), **dict.fromkeys(options, (int, bool))}
        fields = values if isinstance(values, dict) else {}
        complete = set(MAPS) <= set(fields) <= set(allowed)
        if not complete or not all(type(v) in kinds[name] and v in allowed[name] for name, v in fields.items()):
            ranges = ", ".join(f"{numbers[0]} to {numbers[-1]} for {name}" for name, numbers in options.items())
            raise ValueError(
                f"{shown(values)} must give -1, 0 or 1 for each of {', '.join(MAPS)}, and may give {ranges}"
            )
        flags = {name: bool(fields[name]) for name in ("centred", "log_std", "flow_residual") if name in fields}
        return cls(**{**fields, **flags})

    def __post_init__(self) -> None:
        signs = self.signs
        if not set(signs.values()) <= {-1, 0, 1} or not self.num_factors:
            raise ValueError(
                f"score formula {signs}: each sign must be -1, 0 or 1, and without {FLOW_RESIDUAL} one must not be 0"
            )
        if self.first_channel < 0:
            raise ValueError(f"score formula: first_channel {self.first_channel} is negative; give 0 or more")
        if min(self.num_clusters, self.clusterings) < 1:
            raise ValueError(
                f"score formula: num_clusters {self.num_clusters} and clusterings {self.clusterings} must be at least 1"
            )

    @property
    def signs(self) -> dict[str, int]:
        """The sign (-1, 0 or 1) of each map, by its name."""
        return {name: getattr(self, name) for name in MAPS}

    @property
    def has_attention(self) -> bool:
        """Whether any attention map is a factor."""
        return any(self.signs.values())

    @property
    def num_factors(self) -> int:
        """Number of maps that are multiplied."""
        return sum(map(abs, self.signs.values())) + self.flow_residual

    def __str__(self) -> str:
        """The formula as text, for example 'std_src * (1 - std_ref), maps centred, 8 x 16 clusters'."""
        factors = [name if sign > 0 else f"(1 - {name})" for name, sign in self.signs.items() if sign]
        product = " * ".join([*factors, *([FLOW_RESIDUAL] if self.flow_residual else [])])
        remarks = {
            "maps centred": self.centred,
            f"channels from {self.first_channel} on": self.first_channel,
            "logarithms of deviations": self.log_std,
            f"{self.clusterings} x {self.num_clusters} clusters": (self.clusterings, self.num_clusters)
            != (1, NUM_CLUSTERS),
        }
        return ", ".join([product, *(words for words, holds in remarks.items() if holds)])

    def combine(self, fused: Mapping[str, np.ndarray]) -> np.ndarray:
        """The score (F, h, w), before its normalisation per frame, from fused maps (F, h, w) with values in [0, 1].

        Args:
            fused: maps by name; with :attr:`flow_residual` also the map :data:`FLOW_RESIDUAL`.

        Raises:
            ValueError: the flow residual is part of the formula and not among the maps.
        """
        factors = [fused[name] if sign > 0 else 1 - fused[name] for name, sign in self.signs.items() if sign]
        if self.flow_residual:
            if FLOW_RESIDUAL not in fused:
                raise ValueError(
                    f"the score {self} needs the map {FLOW_RESIDUAL} beside the attention maps, got {', '.join(fused)}"
                )
            factors.append(fused[FLOW_RESIDUAL] if self.has_attention else _known(fused[FLOW_RESIDUAL]))
        return np.prod(factors, axis=0, dtype=np.float32)


def _known(residual: np.ndarray) -> np.ndarray:
    """(F, h, w) residual of flow with 0 in place of 1 in frames that flow cannot follow, in which it is 1 everywhere.

    1 leaves the decision to the other factors; where there are none, nothing is known to move.
    """
    return np.where((residual == 1).all(axis=(1, 2), keepdims=True), 0, residual)
