"""Semi-global smoothing of plane scores (Hirschmueller, PAMI 2008): neighbours lie on neighbouring planes, as a rule.

Written once for NumPy and torch, see :mod:`.arrays`.
"""

from __future__ import annotations

from dataclasses import dataclass

from .arrays import Array, Operations


@dataclass(frozen=True)
class Smoothness:
    """What leaving a plane costs, in units of the score (0 to 1)."""

    step: float = 0.04
    """To the next plane: a slanted surface."""
    jump: float = 0.3
    """To any other, between two pixels of the same grey."""
    least_jump: float = 0.1
    """The same across a strong edge of the picture."""
    edge: float = 0.03
    """Grey difference, of [0, 1], that halves the cost of a jump."""


def smoothed(ops: Operations, scores: Array, image: Array, smoothness: Smoothness) -> Array:
    """(D, H, W) scores plus those of the best path to each pixel along eight directions, divided by eight.

    ``image``: (H, W) grey values, whose edges make jumps cheap.
    """
    cost = 1.0 - scores
    total = ops.xp.zeros_like(cost)
    rows, rows_total = (x.swapaxes(0, 1) for x in (cost, total))
    columns, columns_total = (x.swapaxes(0, 2).swapaxes(1, 2) for x in (cost, total))
    for back in (False, True):
        _down(ops, rows, image, smoothness, rows_total, back=back, diagonals=True)
        _down(ops, columns, image.T, smoothness, columns_total, back=back, diagonals=False)
    return 1.0 - total / 8


def _down(
    ops: Operations, cost: Array, grey: Array, smoothness: Smoothness, total: Array, *, back: bool, diagonals: bool
) -> None:
    """Add to ``total`` the path costs of one sweep over the lines of (lines, D, n) costs, in place."""
    xp = ops.xp
    lines = list(range(len(cost)))[:: -1 if back else 1]
    path = xp.stack([cost[lines[0]]] * (3 if diagonals else 1))
    total[lines[0]] += path.sum(0)
    for last, line in zip(lines, lines[1:]):
        old = _shifted(ops, xp.stack([grey[last]] * len(path))[:, None])
        jump = smoothness.jump / (1 + xp.abs(grey[line] - old) / smoothness.edge)
        jump = xp.clip(jump, smoothness.least_jump, smoothness.jump)
        path = cost[line][None] + _best_step(ops, _shifted(ops, path), jump, smoothness.step)
        total[line] += path.sum(0)


def _shifted(ops: Operations, before: Array) -> Array:
    """(paths, D, n): straight, from the left, from the right; 0 where a path begins at the border."""
    if len(before) == 1:
        return before
    moved = ops.xp.zeros_like(before)
    moved[0] = before[0]
    moved[1, :, 1:] = before[1, :, :-1]
    moved[2, :, :-1] = before[2, :, 1:]
    return moved


def _best_step(ops: Operations, before: Array, jump: Array, step: float) -> Array:
    """(paths, D, n) cheapest way from the pixel before to each plane; the cheapest of all counts as 0."""
    xp = ops.xp
    least = xp.amin(before, 1)[:, None]
    relative = before - least
    best = xp.minimum(relative, jump)
    near = relative + step
    best[:, 1:] = xp.minimum(best[:, 1:], near[:, :-1])
    best[:, :-1] = xp.minimum(best[:, :-1], near[:, 1:])
    return best
