"""Cholesky factorisation frame by frame (a frontal method, Irons 1970) of the cameras' and pairs' normal equations.

A frame couples its own camera, those of its neighbours and its pairs; no unknown outlives the last frame that names it.
So a dense front of the unknowns that are still alive travels along the clip: work and memory grow linearly with the
length of the clip, and by the square and the number of the front's unknowns, which depends on how far pairs reach. A
graph of all pairs gives one dense factorisation, a far pair keeps its unknowns alive between its frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from ...core.errors import AlignmentError

LEAST_PIVOT = 1e-13
"""Added to every pivot, in units of the largest: an unknown that nothing determines stays where it is."""


@dataclass(frozen=True)
class Clique:
    """A summand of the normal equations: dense over a few of the unknowns."""

    index: torch.Tensor
    """(C,) int64 numbers of the unknowns, on the CPU, each once."""
    matrix: torch.Tensor
    """(C, C) float64 symmetric, positive semidefinite."""
    gradient: torch.Tensor
    """(C,) float64."""


class NotPositiveDefinite(AlignmentError):
    """The damped normal equations have a pivot that is not positive: more damping is needed."""


@dataclass(frozen=True)
class _Panel:
    eliminated: torch.Tensor
    """Numbers of the unknowns, and of those in the front that they depend on:"""
    remaining: torch.Tensor
    upper: torch.Tensor
    """(e, e) lower Cholesky factor."""
    lower: torch.Tensor
    """(r, e)."""
    right: torch.Tensor
    """(e, k) right sides, already multiplied by the factor's inverse."""


def last_uses(indices: Iterable[torch.Tensor], size: int) -> torch.Tensor:
    """(N,) number of the last clique that names each unknown; -1 for one that none names."""
    last = torch.full((size,), -1)
    for number, index in enumerate(indices):
        last[index] = number
    return last


def widest(indices: Iterable[torch.Tensor], last: torch.Tensor) -> int:
    """Most unknowns that are alive at once: the side of the largest front. ``last``: (N,) from :func:`last_uses`."""
    alive, most = torch.zeros(len(last), dtype=torch.bool), 0
    for number, index in enumerate(indices):
        alive[index] = True
        most = max(most, int(alive.sum()))
        alive &= last > number
    return most


def solve(cliques: Iterable[Clique], last: torch.Tensor, damping: float, right: torch.Tensor) -> torch.Tensor:
    """Solve (H + damping diag H) X = [-gradient, right] where H and the gradient are the sums of the cliques.

    ``last``: (N,) from :func:`last_uses`; ``right``: (N, k) further right sides. Returns X (N, 1 + k), 0 for unknowns
    that no clique names. Raises :class:`NotPositiveDefinite`.
    """
    size, device = len(last), right.device
    panels = list(_factorise(cliques, last, damping, right))
    X = right.new_zeros(size, 1 + right.shape[1])
    for panel in reversed(panels):
        rest = panel.right - panel.lower.T @ X[panel.remaining.to(device)]
        X[panel.eliminated.to(device)] = torch.linalg.solve_triangular(panel.upper.T, rest, upper=True)
    return X


def _factorise(
    cliques: Iterable[Clique],
    last: torch.Tensor,
    damping: float,
    right: torch.Tensor,
) -> Iterator[_Panel]:
    """Panels of the factor in the order of elimination."""
    diagonal = right.new_zeros(len(last))
    place = torch.full((len(last),), -1)
    active = torch.empty(0, dtype=torch.int64)
    front, sides = right.new_zeros(0, 0), right.new_zeros(0, 1 + right.shape[1])
    for number, clique in enumerate(cliques):
        fresh = clique.index[place[clique.index] < 0]
        active, old = torch.cat([active, fresh]), len(active)
        place[active] = torch.arange(len(active))
        grown, extended = right.new_zeros(len(active), len(active)), right.new_zeros(len(active), sides.shape[1])
        grown[:old, :old], extended[:old] = front, sides
        extended[old:, 1:] = right[fresh.to(right.device)]
        where = place[clique.index].to(right.device)
        grown[where[:, None], where] += clique.matrix
        extended[where, 0] -= clique.gradient
        index = clique.index.to(right.device)
        diagonal[index] += clique.matrix.diagonal()
        done = last[active] <= number
        go, stay = torch.nonzero(done)[:, 0], torch.nonzero(~done)[:, 0]
        panel, front, sides = _eliminate(
            grown, extended, active, (go, stay), damping * diagonal + LEAST_PIVOT * diagonal.max()
        )
        place[active[go]] = -1
        active = active[stay]
        yield panel


def _eliminate(
    front: torch.Tensor,
    sides: torch.Tensor,
    active: torch.Tensor,
    split: tuple[torch.Tensor, torch.Tensor],
    added: torch.Tensor,
) -> tuple[_Panel, torch.Tensor, torch.Tensor]:
    """One partial Cholesky step: the panel of the unknowns that leave, the front and right sides of those that stay."""
    go, stay = (x.to(front.device) for x in split)
    eliminated, remaining = active[split[0]], active[split[1]]
    pivot = front[go[:, None], go] + added[eliminated.to(front.device)].diag()
    factor, failed = torch.linalg.cholesky_ex(pivot)
    if bool(failed) or not bool(torch.isfinite(factor).all()):
        raise NotPositiveDefinite("the normal equations of the alignment are not positive definite")
    lower = torch.linalg.solve_triangular(factor, front[go[:, None], stay], upper=False).T
    right = torch.linalg.solve_triangular(factor, sides[go], upper=False)
    kept = front[stay[:, None], stay] - lower @ lower.T
    return _Panel(eliminated, remaining, factor, lower, right), kept, sides[stay] - lower @ right
