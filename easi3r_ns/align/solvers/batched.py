"""The second-order solver's work on all frames at once, for devices on which every call costs time (GPUs).

The mathematics is that of :mod:`.normal` and :mod:`.project`, which go frame by frame in blocks that fit the cache of a
CPU. Here frames are padded to the same number of pointmaps and flow targets; what is padded has no weight. Pixels are
computed in single precision; their normal equations are carried over to the unknowns, added up and solved in double
precision. The host waits for the device once, for the terms of the objective (:meth:`Batches.project`).

Letters in shapes: B frames, n pointmaps and m flow targets of a frame, P pixels, L local and C global unknowns of a
frame, N unknowns in all; see :class:`.frame_batch.FrameBatch`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ...core.config import AlignConfig
from ...network.compute import free_memory
from .. import terms
from ..problem import Problem
from .batched_depths import best_depths, frame_points, line_of, pairwise_sum, unit_depth_rays
from .batched_flow import factors, flow_equations, reproject, target_cameras
from .frame_batch import FrameBatch, make_batch
from .frontal import LEAST_PIVOT, Clique, solve_frontal
from .normal import adjoint, joined, skew, smoothness_clique, smoothness_matrices
from .observations import LEAST_LENGTH, FrameObservations, TermWeights
from .unknowns import CAMERA, PAIR, Numbering, Unknowns

PRECISION = torch.float32
"""Of the normal equations of single frames. tests/align/test_batched.py compares the result with double precision."""
LARGEST_DENSE = 8192
"""Most unknowns that are factorised as one dense matrix, half a gigabyte; more are solved for on the CPU, by
:mod:`.frontal`: the time of a dense factorisation grows with their cube."""
MEMORY_SHARE = 0.4
"""Share of the device's free memory that the temporaries of a batch may take."""
NUMBERS_PER_ROW = 8.0
"""Temporaries of the normal equations, in multiples of the local unknowns times the pixels: 6.5 were measured, with the
flow term, and 5.3 without it."""


@dataclass(frozen=True)
class Batches:
    """All frames of a problem in a few batches, one where the memory suffices."""

    batches: tuple[FrameBatch, ...]
    numbering: Numbering
    last: torch.Tensor
    """(N,) as in :class:`.project.System`; on the CPU."""
    prior: torch.Tensor | None
    """(F, P) log-depths of the depth prior, None where it is off."""
    config: AlignConfig

    def project(self, u: Unknowns, weights: TermWeights, rounds: int) -> tuple[Unknowns, np.ndarray]:
        """The unknowns after ``rounds`` of Newton's method in every depth, and the terms of the objective there.

        The terms are (4 + 2 S,): pairwise, smoothness, prior, 0, then of the S sets of flow the loss and how many
        coordinates take part. Only here the host waits for the device.
        """
        depths, pairwise, flow = [], [], []
        for batch in self.batches:
            line = line_of(u, batch, weights, self.prior)
            place, sums = best_depths(u, batch, weights, line, rounds)
            depths.append(place / line.length)
            pairwise.append(pairwise_sum(line, place))
            if sums is not None:
                flow.append(sums)
        there = replace(u, depth=torch.cat(depths).to(u.depth) if len(depths) > 1 else depths[0].to(u.depth))
        smooth = prior = torch.zeros_like(pairwise[0])
        if self.config.smooth_weight > 0:
            smooth = terms.smoothness_term(there, self.config.smooth_translation_weight)
        if self.prior is not None:
            prior = terms.depth_term(there.depth.log(), self.prior, None)
        regular = torch.stack([torch.stack(pairwise).sum(), smooth, prior])
        summed = torch.stack(flow).sum(dim=0).flatten() if flow else regular[:0]
        return there, torch.cat([regular, summed]).cpu().numpy()

    def step(self, u: Unknowns, weights: TermWeights, damping: float) -> torch.Tensor:
        """(N,) as :func:`.newton.step_of`; NaN where the damped normal equations are not positive definite.

        Raises :class:`.frontal.NotPositiveDefinite` instead where they are solved on the CPU.
        """
        gauge = u.R.new_zeros(self.numbering.size)
        first = CAMERA * self.numbering.frames + PAIR - 1
        gauge[first : first + PAIR * self.numbering.pairs : PAIR] = 1.0
        reduced = [self._reduced(u, batch, weights) for batch in self.batches]
        if self.numbering.size <= LARGEST_DENSE:
            X = self._solve_dense(u, reduced, damping, gauge)
        else:
            X = self._solve_on_cpu(u, reduced, damping, gauge)
        free, along = X.unbind(1)
        ratio = gauge @ X
        return free - along * (ratio[0] / ratio[1])

    def _solve_dense(
        self, u: Unknowns, reduced: Sequence[tuple[torch.Tensor, torch.Tensor]], damping: float, gauge: torch.Tensor
    ) -> torch.Tensor:
        """(N, 2) solutions for the negative gradient and for ``gauge``."""
        size = self.numbering.size
        H, sides = u.R.new_zeros(size * size), torch.stack([torch.zeros_like(gauge), gauge], dim=1)
        for batch, (matrix, gradient) in zip(self.batches, reduced, strict=True):
            cells = batch.numbers.unsqueeze(2) * size + batch.numbers.unsqueeze(1)
            H.index_add_(0, cells.flatten(), matrix.flatten())
            sides[:, 0].index_add_(0, batch.numbers.flatten(), gradient.flatten(), alpha=-1)
        H = H.view(size, size)
        if self.config.smooth_weight > 0:
            cameras, matrix, gradient = self._smoothness(u)
            H[:cameras, :cameras] += matrix
            sides[:cameras, 0] -= gradient
        diagonal = H.diagonal()
        diagonal += damping * diagonal + LEAST_PIVOT * diagonal.max()
        factor, failed = torch.linalg.cholesky_ex(H)
        X = torch.cholesky_solve(sides, factor)
        return torch.where(failed > 0, torch.nan, X)

    def _solve_on_cpu(
        self, u: Unknowns, reduced: Sequence[tuple[torch.Tensor, torch.Tensor]], damping: float, gauge: torch.Tensor
    ) -> torch.Tensor:
        """(N, 2) as :meth:`_solve_dense`, frame by frame."""
        cliques = []
        for batch, parts in zip(self.batches, reduced, strict=True):
            numbers, matrix, gradient = (x.cpu() for x in (batch.numbers, *parts))
            for count, *own in zip(batch.counts, numbers, matrix, gradient, strict=True):
                cliques.append(Clique(own[0][:count], own[1][:count, :count], own[2][:count]))
        if self.config.smooth_weight > 0:
            path = replace(u, R=u.R.cpu(), centre=u.centre.cpu())
            smooth = [smoothness_clique(path, f, self.config, self.numbering) for f in range(1, len(cliques))]
            cliques[1:] = [joined(*parts) for parts in zip(cliques[1:], smooth, strict=True)]
        return solve_frontal(cliques, self.last, damping, gauge.cpu()[:, None]).to(u.R)

    def _smoothness(self, u: Unknowns) -> tuple[int, torch.Tensor, torch.Tensor]:
        """Count of the cameras' unknowns, and what the smoothness of the camera path adds to their equations."""
        back = u.R[:-1].transpose(1, 2)
        R, t = back @ u.R[1:], (back @ (u.centre[1:] - u.centre[:-1]).unsqueeze(-1)).squeeze(-1)
        H, g = smoothness_matrices(R, t, self.config)
        count = CAMERA * self.numbering.frames
        matrix, gradient = u.R.new_zeros(count, count), u.R.new_zeros(count)
        index = torch.arange(2 * CAMERA, device=u.R.device) + CAMERA * torch.arange(len(H), device=u.R.device)[:, None]
        cells = index.unsqueeze(2) * count + index.unsqueeze(1)
        matrix.view(-1).index_add_(0, cells.flatten(), H.flatten())
        gradient.index_add_(0, index.flatten(), g.flatten())
        # The first camera is fixed.
        matrix[:CAMERA], matrix[:, :CAMERA], gradient[:CAMERA] = 0.0, 0.0, 0.0
        return count, matrix, gradient

    def _reduced(self, u: Unknowns, batch: FrameBatch, weights: TermWeights) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, C, C) matrices and (B, C) gradients of the frames' normal equations, without their depths."""
        H = equations(u, batch, weights, self.prior)
        G = derivative(u, batch)[:, : H.shape[1]]
        right = G.transpose(1, 2) @ H
        return right[:, :, :-1] @ G, right[:, :, -1]


def prepare_batches(
    problem: Problem,
    observed: Sequence[FrameObservations],
    numbering: Numbering,
    last: torch.Tensor,
    options: tuple[AlignConfig, torch.Tensor | None],
) -> Batches:
    """Lay out a problem. ``options``: the config, and (F, P) log-depths of the depth prior or None."""
    pixels, device = problem.points.shape[-1], problem.points.device
    rows = max(PAIR * (len(o.rows) + len(o.targets)) + 2 for o in observed)
    free = free_memory(device)
    most = len(observed)
    if free is not None:
        most = max(1, min(most, int(MEMORY_SHARE * free / (4 * NUMBERS_PER_ROW * rows * pixels))))
    count = -(-len(observed) // most)
    edges = np.linspace(0, len(observed), count + 1).astype(int).tolist()
    batches = tuple(make_batch(problem, observed[a:b], numbering) for a, b in zip(edges[:-1], edges[1:]))
    return Batches(batches, numbering, last, options[1], options[0])


def moved_at_once(u: Unknowns, step: torch.Tensor, edges: torch.Tensor, numbering: Numbering) -> Unknowns:
    """:func:`.unknowns.moved` in a quarter of its launches."""
    reference = edges[:, 0]
    cameras, pairs, focals = step.split([CAMERA * numbering.frames, PAIR * numbering.pairs, numbering.focals])
    cameras, pairs = cameras.view(-1, CAMERA), pairs.view(-1, PAIR)
    turns = _rotations(torch.cat([cameras[:, 3:], pairs[:, 3:6]]))
    away = (u.pair_b - u.centre[reference]).unsqueeze(-1)
    local = u.R[reference].transpose(1, 2) @ torch.cat([u.pair_A, away], dim=2)
    local = (turns[numbering.frames :] * pairs[:, 6].exp()[:, None, None]) @ local
    local[:, :, 3] += pairs[:, :3]
    R = u.R @ turns[: numbering.frames]
    centre = torch.baddbmm(u.centre.unsqueeze(-1), u.R, cameras[:, :3, None]).squeeze(-1)
    there = R[reference] @ local
    log_focal = u.log_focal + focals if numbering.focals else u.log_focal
    pair_b = there[:, :, 3] + centre[reference]
    return replace(u, R=R, centre=centre, log_focal=log_focal, pair_A=there[:, :, :3], pair_b=pair_b)


def _rotations(vectors: torch.Tensor) -> torch.Tensor:
    """(N, 3) rotation vectors -> (N, 3, 3), by Rodrigues' formula."""
    angle = torch.linalg.vector_norm(vectors, dim=1)[:, None, None]
    K = skew(vectors)
    # sin(a) / a and (1 - cos(a)) / a^2, without a division by 0.
    first, second = torch.sinc(angle / torch.pi), 0.5 * torch.sinc(angle / (2 * torch.pi)).square()
    eye = torch.eye(3, dtype=vectors.dtype, device=vectors.device)
    return torch.addcmul(torch.addcmul(eye, first, K), second, K @ K)


def derivative(u: Unknowns, batch: FrameBatch) -> torch.Tensor:
    """(B, L, C) derivative of the local by the global unknowns."""
    frames, (b, n, m) = batch.frames, batch.size
    sources = torch.cat([batch.references, batch.targets], dim=1)
    R, centre = u.R[sources], u.centre[sources]
    own, place = u.R[frames].unsqueeze(1), u.centre[frames].unsqueeze(1)
    back = R.transpose(2, 3)
    # A reference camera's coordinates in those of the frame, and the frame's in those of a target.
    turns = torch.cat([own.transpose(2, 3) @ R[:, :n], back[:, n:] @ own], dim=1)
    seen_from = torch.cat([own.transpose(2, 3).expand(b, n, 3, 3), back[:, n:]], dim=1)
    away = torch.cat([centre[:, :n] - place, place - centre[:, n:]], dim=1)
    shifts = (seen_from @ away.unsqueeze(-1)).squeeze(-1)
    ad = adjoint(turns.flatten(0, 1), shifts.flatten(0, 1)).unflatten(0, (b, n + m))
    values = [ad[:, :n], ad[:, :n, :, :CAMERA], ad[:, n:, :CAMERA, :CAMERA]]
    flat = batch.constant.index_add(0, batch.cells, torch.cat([v.flatten() for v in values]))
    return flat[:-1].view(b, batch.local, -1)


def equations(u: Unknowns, batch: FrameBatch, weights: TermWeights, prior: torch.Tensor | None) -> torch.Tensor:
    """(B, L, L + 1) normal equations over the local unknowns without the depths; the last column is the gradient.

    Without the flow term the unknowns of flow targets, which come last, are left out.
    """
    depth = u.depth[batch.frames].to(PRECISION)
    point = unit_depth_rays(u, batch, PRECISION) * depth.unsqueeze(1)
    q = frame_points(u, batch, PRECISION)
    slots, V, h, d = _pointmaps(q, point, depth, batch, weights)
    b, n, m = batch.size
    flow = None
    if weights.flow and m:
        seen = reproject(target_cameras(u, batch, PRECISION), batch, point)
        flow = flow_equations(seen, factors(batch, weights), point)
        h, d = h + flow.h, d + flow.d
    offset = torch.zeros_like(d).unsqueeze(1)
    if prior is not None:
        off = depth.log() - prior[batch.frames].to(PRECISION)
        off = off - off.mean(dim=1, keepdim=True)
        h, d, offset = h + 2 * weights.prior, d + 2 * weights.prior * off, offset - 2 * weights.prior
    rows = [V[:, :, :PAIR].flatten(1, 2), V[:, :, PAIR].sum(dim=1, keepdim=True), offset]
    if flow is not None:
        rows[1] = rows[1] + flow.V[:, :, CAMERA].sum(dim=1, keepdim=True)
        rows += [flow.V[:, :, :CAMERA].flatten(1, 2), flow.V[:, :, CAMERA + 1]]
    both = torch.cat([*rows, d.unsqueeze(1)], dim=1)
    scaled = both[:, :-1] * torch.where(h > 0, h, torch.inf).reciprocal().unsqueeze(1)
    H = -(scaled @ both.transpose(1, 2)).double()
    cells = batch.slot_cells if flow is None else batch.all_cells
    parts = [slots] if flow is None else [slots, torch.cat([flow.H, flow.g.unsqueeze(-1)], dim=3)]
    # In double precision the order of the additions, which a GPU leaves to chance, does not matter.
    H.view(b, -1).index_add_(1, cells, torch.cat(parts, dim=1).flatten(1).double())
    if prior is not None:
        at = PAIR * n + 1
        H[:, at, at] += 2 * weights.prior * depth.shape[1]
        pivot = H[:, at, at].clamp_min(1e-12 * 2 * weights.prior * depth.shape[1])[:, None, None]
        H = H - H[:, :, at, None] * (H[:, at, None, :] / pivot)
    return H


def _pointmaps(
    q: torch.Tensor, point: torch.Tensor, depth: torch.Tensor, batch: FrameBatch, weights: TermWeights
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of every pointmap (B, n, 8, 9) equations and gradient over (similarity, log focal), and (B, n, 8, P) coupling
    with the depths; of the depths (B, P) second derivative and gradient."""
    t, own = weights.newton, point.unsqueeze(1)
    residual = q - own
    least = (LEAST_LENGTH * depth.mean(dim=1))[:, None, None]
    inverse = torch.linalg.vector_norm(residual, dim=2).clamp_min(least).reciprocal()
    w = batch.weight.to(q) * weights.pairwise
    curvature, unit = w * inverse, residual * inverse.unsqueeze(2)
    by_point = unit * own
    along, along_focal = by_point.sum(dim=2), by_point[:, :, :2].sum(dim=2, keepdim=True)
    by_pair = torch.cat([unit, torch.linalg.cross(q, unit, dim=2), (q * unit).sum(dim=2, keepdim=True), along_focal], 2)
    basis = torch.cat([torch.ones_like(q[:, :, :1]), q, own[:, :, :2].expand(*q.shape[:2], -1, -1)], dim=2)
    products = (basis * curvature.unsqueeze(2)) @ basis.transpose(2, 3)
    H = (products.flatten(2) @ batch.products.to(q)).unflatten(2, (8, 8))
    weighted = by_pair * curvature.unsqueeze(2)
    H = H - t * (weighted @ by_pair.transpose(2, 3))
    slots = torch.cat([H, by_pair @ w.unsqueeze(-1)], dim=3)
    # Depth: its derivative of the residual is -point.
    across = own.expand_as(q)
    planar = point[:, :2].square().sum(dim=1)[:, None, None].expand(-1, q.shape[1], -1, -1)
    coupling = torch.cat([across, torch.linalg.cross(q, across, dim=2), (q * own).sum(dim=2, keepdim=True), planar], 2)
    V = torch.addcmul(t * weighted * along.unsqueeze(2), coupling, curvature.unsqueeze(2), value=-1)
    square = point.square().sum(dim=1, keepdim=True)
    h = (curvature * torch.addcmul(square, along, along, value=-t)).sum(dim=1)
    return slots, V, h, -(w * along).sum(dim=1)
