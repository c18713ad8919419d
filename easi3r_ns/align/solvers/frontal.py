"""Cholesky factorisation frame by frame (a frontal method, Irons 1970) of the cameras' and pairs' normal equations.

A frame couples its own camera, those of the frames it is paired with, and its pairs. Frames are added in order to a
dense matrix, the front, and an unknown is eliminated from it after the last frame that depends on it. Memory is the
square of the largest front, time per frame grows with its cube, and both grow linearly with the length of the clip. The
size of the front depends on how far in time pairs reach: a pair of distant frames keeps its unknowns in the front from
the first to the second frame, and a graph of all pairs gives one dense factorisation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from ...core.errors import AlignmentError

LEAST_PIVOT = 1e-13
"""Added to every pivot, in units of the largest diagonal entry so far: an unknown that nothing determines gets a step
of 0."""


@dataclass(frozen=True)
class Clique:
    """One summand of the normal equations, dense over a few of the unknowns (a clique of their graph)."""

    index: torch.Tensor
    """(C,) int64 numbers of the unknowns, on the CPU, each once."""
    matrix: torch.Tensor
    """(C, C) float64 symmetric, positive semidefinite."""
    gradient: torch.Tensor
    """(C,) float64 gradient of the objective."""


class NotPositiveDefinite(AlignmentError):
    """The damped normal equations have a pivot that is not positive: more damping is needed."""


@dataclass(frozen=True)
class _Panel:
    """The columns of the Cholesky factor that belong to unknowns eliminated together."""

    eliminated: torch.Tensor
    """(e,) numbers of these unknowns."""
    remaining: torch.Tensor
    """(r,) numbers of the unknowns left in the front."""
    diagonal: torch.Tensor
    """(e, e) lower triangular block of the factor."""
    below: torch.Tensor
    """(r, e) block of the factor in the rows of the remaining unknowns."""
    right: torch.Tensor
    """(e, k) right sides, already multiplied by the inverse of ``diagonal``."""


def last_uses(indices: Iterable[torch.Tensor], size: int) -> torch.Tensor:
    """(N,) number of the last clique that depends on each of the N = ``size`` unknowns; -1 where none does.

    ``indices``: per clique the numbers of its unknowns, on the CPU.
    """
    last = torch.full((size,), -1)
    for number, index in enumerate(indices):
        last[index] = number
    return last


def widest(indices: Iterable[torch.Tensor], last: torch.Tensor) -> int:
    """Side of the largest front. ``indices``: as in :func:`last_uses`; ``last``: (N,) its result."""
    active, most = torch.zeros(len(last), dtype=torch.bool), 0
    for number, index in enumerate(indices):
        active[index] = True
        most = max(most, int(active.sum()))
        active &= last > number
    return most


def solve_frontal(cliques: Iterable[Clique], last: torch.Tensor, damping: float, right: torch.Tensor) -> torch.Tensor:
    """Solve (H + damping diag H) X = [-gradient, right] where H and the gradient are the sums of the cliques.

    ``last``: (N,) from :func:`last_uses`; ``right``: (N, k) further right sides, float64. Returns X (N, 1 + k), 0 for
    unknowns of no clique. Raises :class:`NotPositiveDefinite` where a pivot is not positive.
    """
    size, device = len(last), right.device
    panels = list(_factorise(cliques, last, damping, right))
    X = right.new_zeros(size, 1 + right.shape[1])
    for panel in reversed(panels):
        rest = panel.right - panel.below.T @ X[panel.remaining.to(device)]
        X[panel.eliminated.to(device)] = torch.linalg.solve_triangular(panel.diagonal.T, rest, upper=True)
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
        new = clique.index[place[clique.index] < 0]
        active, old = torch.cat([active, new]), len(active)
        place[active] = torch.arange(len(active))
        grown, extended = right.new_zeros(len(active), len(active)), right.new_zeros(len(active), sides.shape[1])
        grown[:old, :old], extended[:old] = front, sides
        extended[old:, 1:] = right[new.to(right.device)]
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
    """One partial Cholesky step on ``front`` (a, a) with right sides ``sides`` (a, 1 + k).

    ``active``: (a,) numbers of the front's unknowns; ``split``: positions of those to eliminate and of the rest;
    ``added``: (N,) addition to the diagonal. Returns the panel, and front and right sides of the rest.
    """
    go, stay = (x.to(front.device) for x in split)
    eliminated, remaining = active[split[0]], active[split[1]]
    pivot = front[go[:, None], go] + added[eliminated.to(front.device)].diag()
    factor, failed = torch.linalg.cholesky_ex(pivot)
    if bool(failed) or not bool(torch.isfinite(factor).all()):
        raise NotPositiveDefinite("the normal equations of the alignment are not positive definite")
    below = torch.linalg.solve_triangular(factor, front[go[:, None], stay], upper=False).T
    right = torch.linalg.solve_triangular(factor, sides[go], upper=False)
    kept = front[stay[:, None], stay] - below @ below.T
    return _Panel(eliminated, remaining, factor, below, right), kept, sides[stay] - below @ right
