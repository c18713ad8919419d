"""The score formula and the pair graph of a checkpoint, chosen by code on clips of their own.

The clips belong to the family ``selection``: other seeds and other textures than those on which anything is reported.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ...core.score import MAPS, ScoreFormula
from ...evaluate.masks import jaccard
from .motion import Observation, ScoreCandidate, Variant
from .numbers import Estimate, area_under_curve, mean_over_clips

GRAPHS = ("swin-3-noncyclic", "swin-5-noncyclic", "logwin-4-noncyclic")
"""Graphs that grow with the length of a clip, not with its square."""
FLOW_WEIGHTS = (0.01, 0.1, 0.3, 1.0)
"""Weights of the alignment's flow term, the paper's first. Flow errors count in pixels, of which a small network has
few; and the poorer its pointmaps, the more the cameras gain from flow."""
CLUSTERS = (8, 16, 32, 64)
"""The paper's number last: of a few thousand tokens it leaves small clusters, whose means are uncertain."""
FIRST_CLUSTERS = 32
"""Number of clusters with which the product of maps is chosen; the number is chosen after it."""
CLUSTERINGS = 8
LEAST_GAP = 0.2
"""Least difference between the AUC of a formula on clips and on their frozen twins: with less, a score shows objects,
not motion."""
SHORTLIST = 10
"""Formulas with the highest AUC whose masks are compared."""
FLOW_ALONE = ScoreFormula(0, 0, 0, 0, flow_residual=True, num_clusters=FIRST_CLUSTERS, clusterings=CLUSTERINGS)
"""The formula without attention, always compared: it is the same for all networks."""
TOLERANCE = 0.02
"""A graph whose masks are worse than the best by more than this is not considered, however good its camera paths."""


@dataclass(frozen=True)
class Gain:
    """What the masks of a formula gain over those of one with fewer factors."""

    formula: ScoreFormula
    simpler: ScoreFormula
    jm: Estimate
    """Mean over the clips of the difference in Jaccard index."""

    @property
    def exceeds_noise(self) -> bool:
        """Whether the 95 % interval of the gain, over clips, lies above 0."""
        return self.jm.low > 0


@dataclass(frozen=True)
class Choice:
    """A formula and what it reached on the selection clips."""

    formula: ScoreFormula
    auc: float
    auc_twin: float
    jm: float = float("nan")
    """Mean Jaccard index of its masks; NaN where they were not compared."""
    by_clip: tuple[float, ...] = ()
    """The same of each clip."""
    gains: tuple[Gain, ...] = ()
    """Comparisons with simpler formulas by which it was chosen."""

    @property
    def gap(self) -> float:
        """The part of the AUC that is motion. An AUC of the twin below chance counts as chance."""
        return self.auc - max(0.5, self.auc_twin)


def formulas(variants: Iterable[Variant]) -> list[ScoreFormula]:
    """Every product of maps, for every variant, without and with the residual of optical flow; and that alone."""
    return [FLOW_ALONE] + [
        ScoreFormula(*signs, *variant, flow_residual=flow, num_clusters=FIRST_CLUSTERS, clusterings=CLUSTERINGS)
        for flow in (False, True)
        for variant in variants
        for signs in itertools.product((0, 1, -1), repeat=len(MAPS))
        if any(signs)
    ]


def choose_formula(clips: list[Observation], twins: list[Observation], patch: int) -> Choice:
    """The formula with the best masks, among those with the highest AUC that show motion; then the number of clusters.

    AUC and masks are means over clips, after clustering. Where none has :data:`LEAST_GAP`, the largest gap counts.
    Factors without a gain are rejected, see :func:`simplest`.
    """

    def mean_auc(group: list[Observation], formula: ScoreFormula) -> float:
        return float(np.nanmean([area_under_curve(seen.clustered(formula), seen.truth) for seen in group]))

    def tried(formula: ScoreFormula) -> Choice:
        return Choice(formula, mean_auc(clips, formula), mean_auc(twins, formula))

    def with_masks(choice: Choice) -> Choice:
        candidate = ScoreCandidate.of(choice.formula)
        overlap = [float(jaccard(list(candidate.masks(seen, patch)), list(seen.pixels)).mean()) for seen in clips]
        return replace(choice, jm=float(np.mean(overlap)), by_clip=tuple(overlap))

    every = [tried(formula) for formula in formulas(clips[0].fused)]
    moving = [choice for choice in every if choice.gap >= LEAST_GAP]
    shortlist = sorted(moving, key=lambda choice: choice.auc)[-SHORTLIST:] or [max(every, key=lambda c: c.gap)]
    product = max(map(with_masks, shortlist), key=lambda choice: choice.jm)
    rivals = [with_masks(choice) for choice in moving if choice.formula in simpler_than(product.formula)]
    simple = simplest(product, rivals)
    by_clusters = [tried(replace(simple.formula, num_clusters=count)) for count in CLUSTERS]
    best = max(map(with_masks, by_clusters), key=lambda choice: choice.jm)
    return replace(best, gains=simple.gains)


def simpler_than(formula: ScoreFormula) -> list[ScoreFormula]:
    """The formulas with some, not all, of the factors of a formula, and flow alone where it has fewer factors."""
    found = [] if formula.num_factors == 1 else [FLOW_ALONE]
    kept = itertools.product(*((0, sign) if sign else (0,) for sign in formula.signs.values()))
    for signs, flow in itertools.product(kept, sorted({False, formula.flow_residual})):
        if any(signs):
            found.append(replace(formula, **dict(zip(MAPS, signs, strict=True)), flow_residual=flow))
    return [other for other in found if other.num_factors < formula.num_factors]


def simplest(product: Choice, rivals: Sequence[Choice]) -> Choice:
    """Of the rivals over which the product gains no more than noise, one with the fewest factors; else the product.

    Every factor can be fitted to the clips on which it is chosen, so it has to show its gain. Of rivals with equally
    many factors, the one with the highest JM is taken.

    Args:
        product, rivals: with masks, on the same clips; the rivals have fewer factors.
    """
    gains = {rival.formula: _gain(product, rival) for rival in rivals}
    equal = [rival for rival in rivals if not gains[rival.formula].exceeds_noise]
    best = min(equal, key=lambda rival: (rival.formula.num_factors, -rival.jm), default=product)
    return replace(best, gains=tuple(gains.values()))


def _gain(product: Choice, rival: Choice) -> Gain:
    difference = [ours - theirs for ours, theirs in zip(product.by_clip, rival.by_clip, strict=True)]
    return Gain(product.formula, rival.formula, mean_over_clips(difference))


def choose_flow_weight(path_error: Callable[[float], float]) -> tuple[float, dict[str, float]]:
    """The weight with the best camera paths, and the mean ATE of each for the card."""
    errors = {weight: path_error(weight) for weight in FLOW_WEIGHTS}
    return min(FLOW_WEIGHTS, key=lambda weight: errors[weight]), {f"{w:g}": round(e, 4) for w, e in errors.items()}


def choose_graph(choices: Mapping[str, Choice], path_error: Callable[[str], float]) -> tuple[str, dict[str, Any]]:
    """The graph with the best camera paths among those whose masks are about as good as the best.

    ``path_error`` reconstructs the selection clips on a graph and returns their mean ATE as a share of the path. Also
    returns the record for the card.
    """
    best = max(choice.jm for choice in choices.values())
    errors = {g: path_error(g) for g, choice in choices.items() if choice.jm >= best - TOLERANCE}
    graph = min(errors, key=lambda g: errors[g])
    record = {
        g: {
            "formula": asdict(choice.formula),
            "auc": round(choice.auc, 3),
            "auc_twin": round(choice.auc_twin, 3),
            "jm": round(choice.jm, 3),
            "ate": round(errors[g], 4) if g in errors else None,
            "gains": [_recorded(gain) for gain in choice.gains],
        }
        for g, choice in choices.items()
    }
    return graph, record


def _recorded(gain: Gain) -> dict[str, Any]:
    formulas_of = {"formula": asdict(gain.formula), "simpler": asdict(gain.simpler)}
    return formulas_of | {"jm": gain.jm.to_json(3), "exceeds_noise": gain.exceeds_noise}
