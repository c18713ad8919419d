"""Terms of the alignment's objective; each is a function of decoded unknowns and constants, differentiable by autograd.

The gradients of the two terms over pixels are written out by hand: value and gradient come from one pass over blocks of
pairs, so that nothing of the size (pairs x pixels) is kept for the backward pass. The tests compare them with autograd.

Sources: DUSt3R (arXiv:2312.14132) section 3.4, MonST3R (arXiv:2410.03825) section 3.3, Easi3R (arXiv:2503.24391).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch

from . import residuals
from .problem import FlowObservations, Problem
from .residuals import lengths
from .state import Decoded

BLOCK_NUMBERS = 1 << 19
"""Numbers in each temporary of a block: it should fit the processor's cache, and it bounds the memory for any count of
pairs."""
EPS = 1e-6
"""Keeps depths, projections and the mean flow loss from dividing by zero; the value of the reference implementation."""


def pairwise_term(decoded: Decoded, points: torch.Tensor, weight: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Weighted distance between the world points of the frames and those of the pairs (scalar, units of the scene).

    The sum over both views of a pair, averaged over pairs and pixels. ``points``: (2E, 3, P) in the cameras of the
    reference views, ``weight``: (2E, P) log confidence, ``edges``: (E, 2).
    """
    value: torch.Tensor = _Pairwise.apply(decoded.world_points(), decoded.pair_A, decoded.pair_b, points, weight, edges)
    return value


def flow_term(
    decoded: Decoded, xy: torch.Tensor, principal_point: torch.Tensor, flow: FlowObservations
) -> torch.Tensor:
    """Mean of :data:`.residuals.FLOW_LOSS` between the flow that the cameras and depths induce and the observed flow.

    In pixels: the sum over all pairs, divided by the count of coordinates in use, times the weight of the set. ``xy``:
    (2, P) pixels; ``principal_point``: (F, 2) pixels.
    """
    K = intrinsics(decoded.focal, principal_point)
    source, target = flow.source, flow.target
    R_target_source = decoded.R[target].transpose(1, 2) @ decoded.R[source]
    turn = K[target] @ R_target_source @ torch.linalg.inv(K[source])
    offset = decoded.R[target].transpose(1, 2) @ (decoded.centre[source] - decoded.centre[target]).unsqueeze(-1)
    shift = (K[target] @ offset).squeeze(-1)
    inverse_depth = 1 / (decoded.depth + EPS)
    mean: torch.Tensor = _Flow.apply(turn, shift, inverse_depth, xy, source, flow.landing, flow.used)
    return flow.weight * mean


def flow_value(decoded: Decoded, problem: Problem) -> torch.Tensor:
    """Sum of the flow terms of all sets of flow observations (scalar, pixels), without the weight of the term."""
    xy, pp = problem.sample.xy, problem.principal_point
    return torch.stack([flow_term(decoded, xy, pp, flow) for flow in problem.flows]).sum()


class Cameras(Protocol):
    """Whatever has the cameras of F frames."""

    @property
    def R(self) -> torch.Tensor:
        """(F, 3, 3) camera-to-world rotations."""

    @property
    def centre(self) -> torch.Tensor:
        """(F, 3) camera centres in the world."""


def smoothness_term(cameras: Cameras, translation_weight: float) -> torch.Tensor:
    """Sum over neighbouring frames of ||R_rel - I||_F + w ||t_rel|| (scalar); w is ``translation_weight``."""
    R, centre = cameras.R, cameras.centre
    R_rel = R[:-1].transpose(1, 2) @ R[1:]
    t_rel = R[:-1].transpose(1, 2) @ (centre[1:] - centre[:-1]).unsqueeze(-1)
    turn = torch.linalg.vector_norm(R_rel - torch.eye(3, device=R.device, dtype=R.dtype), dim=(1, 2))
    each: torch.Tensor = turn + translation_weight * torch.linalg.vector_norm(t_rel, dim=(1, 2))
    return each.sum()


def depth_term(log_depth: torch.Tensor, log_depth_prior: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    """Mean squared distance of log-depths (F, P) from those of the prior, without the mean difference of each frame.

    ``weight``: (F, P), added to 1 per pixel, or None.
    """
    difference = log_depth - log_depth_prior
    centred = difference - difference.mean(dim=1, keepdim=True)
    factor = 1.0 if weight is None else 1.0 + weight
    return (factor * centred.square()).mean(dim=1).mean()


def intrinsics(focal: torch.Tensor, principal_point: torch.Tensor) -> torch.Tensor:
    """(F,) focal lengths and (F, 2) principal points, in pixels -> (F, 3, 3)."""
    zero, one = torch.zeros_like(focal), torch.ones_like(focal)
    rows = [focal, zero, principal_point[:, 0], zero, focal, principal_point[:, 1], zero, zero, one]
    return torch.stack(rows, dim=-1).view(-1, 3, 3)


def induced_flow(
    turn: torch.Tensor, shift: torch.Tensor, inverse_depth: torch.Tensor, xy: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the pixels xy (2, P) of the sources are seen in the targets, by cameras and depths alone.

    ``turn``: (D, 3, 3) K_target R K_source^-1; ``shift``: (D, 3) K_target t; ``inverse_depth``: (D, P). Returns the
    pixels (D, 2, P), and 1/z (D, 1, P) with z in the target's camera in units of the source's depth.
    """
    h = torch.baddbmm(turn[:, :, 2:3], turn[:, :, :2], xy.expand(len(turn), 2, -1))
    h += shift.unsqueeze(-1) * inverse_depth.unsqueeze(1)
    z = h[:, 2:] + EPS
    # A point in the plane of the target's camera has no image; keep the number finite, its error is ignored anyway.
    reciprocal = torch.where(z.abs() < EPS, torch.full_like(z, 1 / EPS), z.reciprocal())
    return h[:, :2] * reciprocal, reciprocal


def _blocks(count: int, numbers_each: int) -> Iterator[slice]:
    step = max(1, BLOCK_NUMBERS // max(1, numbers_each))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


class _Pairwise(torch.autograd.Function):
    """sum w |X_f - (A_e x + b_e)| / (E P) with its gradient for X, A and b."""

    @staticmethod
    def forward(
        ctx: Any,
        world: torch.Tensor,
        A: torch.Tensor,
        b: torch.Tensor,
        points: torch.Tensor,
        weight: torch.Tensor,
        edges: torch.Tensor,
    ) -> torch.Tensor:
        frame = torch.cat([edges[:, 0], edges[:, 1]])
        pair = torch.arange(len(edges), device=edges.device).repeat(2)
        grad_world, grad_A, grad_b = torch.zeros_like(world), torch.zeros_like(A), torch.zeros_like(b)
        total = world.new_zeros(())
        for rows in _blocks(len(points), points[0].numel()):
            f, e, x, w = frame[rows], pair[rows], points[rows], weight[rows]
            residual = world[f]
            residual -= torch.baddbmm(b[e].unsqueeze(-1), A[e], x)
            distance = lengths(residual)
            total += torch.dot(distance.flatten(), w.flatten())
            residual *= (w / distance.clamp_min_(1e-12)).unsqueeze(1)
            grad_world.index_add_(0, f, residual)
            grad_A.index_add_(0, e, residual @ x.transpose(1, 2), alpha=-1)
            grad_b.index_add_(0, e, residual.sum(dim=-1), alpha=-1)
        area = len(edges) * points.shape[-1]
        ctx.save_for_backward(grad_world.div_(area), grad_A.div_(area), grad_b.div_(area))
        return total / area

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_world, grad_A, grad_b = ctx.saved_tensors
        return grad * grad_world, grad * grad_A, grad * grad_b, None, None, None


class _Flow(torch.autograd.Function):
    """Mean flow loss of the coordinates in use, with its gradient for turn, shift and inverse depth."""

    @staticmethod
    def forward(
        ctx: Any,
        turn: torch.Tensor,
        shift: torch.Tensor,
        inverse_depth: torch.Tensor,
        xy: torch.Tensor,
        source: torch.Tensor,
        landing: torch.Tensor,
        used: torch.Tensor,
    ) -> torch.Tensor:
        grad_turn, grad_shift = torch.zeros_like(turn), torch.zeros_like(shift)
        grad_disp = torch.zeros_like(inverse_depth)
        total, count, kernel = xy.new_zeros(()), xy.new_zeros(()), residuals.FLOW_LOSS
        for rows in _blocks(len(source), 3 * xy.shape[1]):
            disp = inverse_depth[source[rows]]
            seen, reciprocal = induced_flow(turn[rows], shift[rows], disp, xy)
            error = seen - landing[rows]
            loss = kernel.value(error)
            keep = (loss < kernel.cutoff) & used[rows].unsqueeze(1)
            total += torch.where(keep, loss, 0.0).sum()
            count += keep.sum()
            grad_xy = torch.where(keep, kernel.slope(error), 0.0).mul_(reciprocal)
            grad_z = (grad_xy * seen).sum(dim=1, keepdim=True).neg_()
            grad_h = torch.cat([grad_xy, grad_z], dim=1)
            grad_turn[rows, :, :2] = grad_h @ xy.T
            grad_turn[rows, :, 2] = grad_h.sum(dim=-1)
            grad_shift[rows] = (grad_h @ disp.unsqueeze(-1)).squeeze(-1)
            grad_disp.index_add_(0, source[rows], (shift[rows].unsqueeze(1) @ grad_h).squeeze(1))
        area = count + EPS
        ctx.save_for_backward(grad_turn.div_(area), grad_shift.div_(area), grad_disp.div_(area))
        return total / area

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_turn, grad_shift, grad_disp = ctx.saved_tensors
        return grad * grad_turn, grad * grad_shift, grad * grad_disp, None, None, None, None
