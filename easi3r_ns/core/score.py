"""Which maps make the dynamic score of a network: a value that its weights carry and the masks obey."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

NUM_CLUSTERS = 64
"""Of the tokens of a clip, as published."""
MAPS = ("mean_src", "std_src", "mean_ref", "std_ref")
"""The four attention maps of Easi3R, as :class:`~easi3r_ns.core.types.AttentionStats` names them."""
FLOW_RESIDUAL = "flow_residual"
"""The map that is not attention: see :class:`ScoreFormula`."""
MOST_CLUSTERS, MOST_CLUSTERINGS = 1024, 64
"""That a card may ask for."""


@dataclass(frozen=True)
class ScoreFormula:
    """Which attention maps make the dynamic score, a product: 1 takes the map x, -1 takes (1 - x), 0 leaves it out; and
    over which clusters of tokens it is averaged.

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
    log_std: bool = False
    """Average the logarithms of the deviations over the channels, so that one loud channel does not drown the rest."""
    flow_residual: bool = False
    """Times how much optical flow breaks the camera's motion (:func:`~easi3r_ns.motion.two_view.flow_residual`): for
    networks too small for their attention to tell alone."""
    num_clusters: int = NUM_CLUSTERS
    """Clusters of tokens whose members share their mean score (k-means on encoder features)."""
    clusterings: int = 1
    """Times the tokens are clustered, each time from another start; their scores are averaged. A single k-means ends in
    one of many local minima, and masks differ with it."""

    @classmethod
    def from_card(cls, values: object, num_channels: int) -> ScoreFormula:
        """The formula that a card of weights gives as JSON: a sign for each of :data:`MAPS`, and any other fields, with
        0 and 1 or false and true for the flags.

        Args:
            num_channels: layers times heads of the network's decoders.

        Raises:
            ValueError: something is missing, unknown or out of range; the message says what is possible.
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
        complete = isinstance(values, dict) and set(MAPS) <= set(values) <= set(allowed)
        kinds = {**dict.fromkeys(MAPS, (int,)), **dict.fromkeys(options, (int, bool))}
        if not complete or not all(type(v) in kinds[name] and v in allowed[name] for name, v in values.items()):
            ranges = ", ".join(f"{numbers[0]} to {numbers[-1]} for {name}" for name, numbers in options.items())
            raise ValueError(f"{values!r} must give -1, 0 or 1 for each of {', '.join(MAPS)}, and may give {ranges}")
        flags = {name: bool(values[name]) for name in ("centred", "log_std", "flow_residual") if name in values}
        return cls(**(values | flags))

    def __post_init__(self) -> None:
        signs = self.signs
        if not set(signs.values()) <= {-1, 0, 1} or not any(signs.values()):
            raise ValueError(f"score formula {signs}: signs are -1, 0 or 1, and not all 0")
        if self.first_channel < 0:
            raise ValueError(f"score formula: first channel {self.first_channel} is negative")
        if min(self.num_clusters, self.clusterings) < 1:
            raise ValueError(f"score formula: {self.clusterings} clusterings of {self.num_clusters}; both at least 1")

    @property
    def signs(self) -> dict[str, int]:
        """Map -> -1, 0 or 1."""
        return {name: getattr(self, name) for name in MAPS}

    def __str__(self) -> str:
        """For example 'std_src * (1 - std_ref), maps centred, 8 x 16 clusters'."""
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
        """The product over fused maps (F, h, w), the flow residual being one of them where it is asked for; not yet
        stretched per frame."""
        factors = [fused[name] if sign > 0 else 1 - fused[name] for name, sign in self.signs.items() if sign]
        if self.flow_residual:
            if FLOW_RESIDUAL not in fused:
                raise ValueError(f"the score {self} needs the map {FLOW_RESIDUAL}, which is not attention")
            factors.append(fused[FLOW_RESIDUAL])
        return np.prod(factors, axis=0, dtype=np.float32)
