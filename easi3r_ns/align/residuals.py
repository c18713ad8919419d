"""The robust loss of an optical-flow residual, and the lengths of vectors, written once for every user.

The first-order loop (:mod:`.terms`) reads the value and the slope of :data:`FLOW_LOSS`, the second-order solver
(:mod:`.solvers`) reads the curvature too, and the diagnostics report the mean value. Replace the object, or edit its
class, and all of them follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


class RobustLoss(Protocol):
    """A loss of one coordinate of a residual; every method maps a tensor of any shape to one of the same shape."""

    @property
    def cutoff(self) -> float:
        """A coordinate whose value reaches this is a mismatch: it takes no part, neither in sums nor in counts."""

    def value(self, error: torch.Tensor) -> torch.Tensor:
        """The loss, >= 0."""

    def slope(self, error: torch.Tensor) -> torch.Tensor:
        """Its derivative."""

    def curvature(self, error: torch.Tensor) -> torch.Tensor:
        """The curvature that the second-order solver works with, > 0: slope / error, so that the parabola with this
        curvature touches the loss at ``error`` and lies above it (re-weighted least squares). Its limit at 0."""


@dataclass(frozen=True)
class SmoothL1:
    """Huber's loss with its transition at 1 pixel: e^2 / 2 for |e| <= 1, |e| - 1/2 beyond."""

    cutoff: float = 50.0

    def value(self, error: torch.Tensor) -> torch.Tensor:
        """See :class:`RobustLoss`."""
        slope = self.slope(error)
        return slope * (error - 0.5 * slope)  # both cases in one expression

    def slope(self, error: torch.Tensor) -> torch.Tensor:
        """See :class:`RobustLoss`."""
        return error.clamp(-1.0, 1.0)

    def curvature(self, error: torch.Tensor) -> torch.Tensor:
        """See :class:`RobustLoss`."""
        return error.abs().clamp_min(1.0).reciprocal()


FLOW_LOSS: RobustLoss = SmoothL1()
"""Loss of the distance in pixels, per image coordinate, between the flow that cameras and depths induce and the
observed flow. Users read it as ``residuals.FLOW_LOSS`` when they need it, so that it can be replaced in one place."""


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(..., 3, P) times (..., 3, P) -> (..., P).

    The sum is written out: on the CPU a reduction over a short, strided axis is ten to twenty times slower.
    """
    (ax, ay, az), (bx, by, bz) = a.unbind(-2), b.unbind(-2)
    return torch.addcmul(ax * bx, ay, by).addcmul_(az, bz)


def lengths(vectors: torch.Tensor) -> torch.Tensor:
    """(N, D, P) -> (N, P) Euclidean lengths; the sum is written out as in :func:`dot`."""
    total = vectors[:, 0].square()
    for axis in range(1, vectors.shape[1]):
        total.addcmul_(vectors[:, axis], vectors[:, axis])
    return total.sqrt_()
