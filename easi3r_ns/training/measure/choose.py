"""The score formula and the pair graph of a checkpoint, chosen by code on clips of their own.

The clips belong to the family ``selection``: other seeds and other textures than those on which anything is reported.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ...attention import MAPS, ScoreFormula
from .motion import Observation, Variant
from .numbers import area_under_curve

GRAPHS = ("swin-3-noncyclic", "swin-5-noncyclic", "logwin-4-noncyclic")
"""Graphs that grow with the length of a clip, not with its square."""
FLOW_WEIGHTS = (0.01, 0.1, 0.3, 1.0)
"""Weights of the alignment's flow term, the paper's first. Flow errors count in pixels, of which a small network has
few; and the poorer its pointmaps, the more the cameras gain from flow."""
CLUSTERS = (8, 16, 32, 64)
"""The paper's number last: of a few thousand tokens it leaves small clusters, whose means are uncertain."""
FIRST_CLUSTERS = 32
"""With which the product is chosen, before the number of clusters is."""
CLUSTERINGS = 8
TOLERANCE = 0.02
"""A graph whose score is worse than the best by more than this is not considered, however good its camera paths."""


@dataclass(frozen=True)
class Choice:
    """A formula and what it reached on the selection clips."""

    formula: ScoreFormula
    auc: float
    auc_twin: float

    @property
    def merit(self) -> float:
        """See :func:`merit`."""
        return merit(self.auc, self.auc_twin)


def merit(auc: float, auc_twin: float) -> float:
    """AUC, less what the frozen twin has above chance: that part shows objects.

    A twin BELOW chance is no merit: it only says that still objects score low.
    """
    return auc - max(0.0, auc_twin - 0.5)


def formulas(variants: Iterable[Variant]) -> list[ScoreFormula]:
    """Every product of maps, for every variant, without and with the residual of optical flow."""
    return [
        ScoreFormula(*signs, *variant, flow_residual=flow, num_clusters=FIRST_CLUSTERS, clusterings=CLUSTERINGS)
        for flow in (False, True)
        for variant in variants
        for signs in itertools.product((0, 1, -1), repeat=len(MAPS))
        if any(signs)
    ]


def choose_formula(clips: list[Observation], twins: list[Observation]) -> Choice:
    """The formula with most merit after clustering, mean over clips; then the number of clusters with most merit."""

    def mean_auc(group: list[Observation], formula: ScoreFormula) -> float:
        return float(np.nanmean([area_under_curve(seen.clustered(formula), seen.truth) for seen in group]))

    def best(candidates: Iterable[ScoreFormula]) -> Choice:
        choices = [Choice(f, mean_auc(clips, f), mean_auc(twins, f)) for f in candidates]
        return max(choices, key=lambda choice: choice.merit)

    product = best(formulas(clips[0].fused)).formula
    return best(replace(product, num_clusters=count) for count in CLUSTERS)


def choose_flow_weight(path_error: Callable[[float], float]) -> tuple[float, dict[str, float]]:
    """The weight with the best camera paths, and the mean ATE of each for the card."""
    errors = {weight: path_error(weight) for weight in FLOW_WEIGHTS}
    return min(FLOW_WEIGHTS, key=lambda weight: errors[weight]), {f"{w:g}": round(e, 4) for w, e in errors.items()}


def choose_graph(choices: Mapping[str, Choice], path_error: Callable[[str], float]) -> tuple[str, dict[str, Any]]:
    """The graph with the best camera paths among those whose score is about as good as the best.

    ``path_error`` reconstructs the selection clips on a graph and returns their mean ATE as a share of the path. Also
    returns the record for the card.
    """
    best = max(choice.merit for choice in choices.values())
    errors = {g: path_error(g) for g, choice in choices.items() if choice.merit >= best - TOLERANCE}
    graph = min(errors, key=lambda g: errors[g])
    record = {
        g: {
            "formula": asdict(choice.formula),
            "auc": round(choice.auc, 3),
            "auc_twin": round(choice.auc_twin, 3),
            "ate": round(errors[g], 4) if g in errors else None,
        }
        for g, choice in choices.items()
    }
    return graph, record
