"""Normal equations of the alignment, one frame at a time, with the frame's depths eliminated in closed form.

Every residual depends on the depth of one pixel only, and on the motions of few cameras and pairs against the camera of
its frame. A frame is therefore linearised in these relative motions, its local unknowns, where the Jacobians are short.
With q a pair's point in the camera of the frame, a the pixel's point on its ray and r = q - a the residual, a
similarity (v, w, s) of the pair changes r by v + w x q + s q, a relative step of the depth by -a. The Schur complement
then eliminates the depths, and a sparse matrix of adjoints carries the rest over to the numbered global unknowns.

The length |r| has the gradient r/|r|. Its second derivative is modelled by (I - t r r'/|r|^2) / |r|: t = 1 is the exact
one (Newton's method: fast near the minimum), t = 0 that of iteratively re-weighted least squares (slow but safe). The
flow term takes value, slope and curvature from :data:`..residuals.FLOW_LOSS`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from ...core.config import AlignConfig
from ..problem import Problem
from ..residuals import dot
from .frontal import Clique
from .observations import (
    LEAST_LENGTH,
    FrameObservations,
    RayPoints,
    TermWeights,
    curvature_and_direction,
    pointmap_weight,
    points_at,
    reproject,
    seen_points,
    unit_rays,
)
from .unknowns import CAMERA, PAIR, Numbering, Unknowns

BLOCK_NUMBERS = 1 << 18
"""Local unknowns times pixels of a block: the largest matrix of a block should fit the processor's cache."""


@dataclass
class Local:
    """Normal equations of one frame over its L local unknowns and P relative depths."""

    H: torch.Tensor
    """(L, L)."""
    g: torch.Tensor
    """(L,)."""
    V: torch.Tensor
    """(L, P) coupling with the depths."""
    h: torch.Tensor
    """(P,) second derivative of each depth."""
    d: torch.Tensor
    """(P,) gradient of each depth."""


def jacobian_transpose(points: torch.Tensor, vectors: torch.Tensor, size: int) -> torch.Tensor:
    """(N, size, P) product J' x: J the derivative of ``points`` (N, 3, P) by a similarity (v, w, s), x ``vectors``.

    ``vectors``: (N, 3, P) or (3, P); ``size``: 7, or 6 for a rigid motion (v, w).
    """
    out = points.new_empty(len(points), size, points.shape[-1])
    (x, y, z), (a, b, c) = points.unbind(1), vectors.unbind(-2)
    out[:, :3] = vectors
    torch.sub(y * c, z * b, out=out[:, 3])
    torch.sub(z * a, x * c, out=out[:, 4])
    torch.sub(x * b, y * a, out=out[:, 5])
    if size == PAIR:
        out[:, 6] = dot(points, vectors)
    return out


def _jacobian_transpose_sum(weighted: torch.Tensor, vectors: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(n, 7) sum over pixels of weight (n, P) times :func:`jacobian_transpose` of points and ``vectors`` (3, P).

    ``weighted``: (n, 3, P) points times their weights.
    """
    M = weighted @ vectors.T
    turn = torch.stack([M[:, 1, 2] - M[:, 2, 1], M[:, 2, 0] - M[:, 0, 2], M[:, 0, 1] - M[:, 1, 0]], dim=1)
    return torch.cat([weight @ vectors.T, turn, M.diagonal(dim1=1, dim2=2).sum(-1, keepdim=True)], dim=1)


def moments(points: torch.Tensor, curvature: torch.Tensor) -> torch.Tensor:
    """(n, 7, 7) sums over pixels of curvature J'J: J the derivative of points (n, 3, P) by a similarity (v, w, s).

    ``curvature``: (n, P).
    """
    x, y, z = points.unbind(1)
    ones = torch.ones_like(x)
    basis = torch.stack([ones, x, y, z], dim=1)
    M = (basis * curvature.unsqueeze(1)) @ basis.transpose(1, 2)
    mass, first, second = M[:, 0, 0], M[:, 0, 1:], M[:, 1:, 1:]
    eye = torch.eye(3, dtype=points.dtype, device=points.device)
    square = second.diagonal(dim1=1, dim2=2).sum(-1)
    H = points.new_zeros(len(points), PAIR, PAIR)
    H[:, :3, :3] = mass[:, None, None] * eye
    H[:, :3, 3:6] = -skew(first)
    H[:, 3:6, :3] = skew(first)
    H[:, :3, 6] = H[:, 6, :3] = first
    H[:, 3:6, 3:6] = square[:, None, None] * eye - second
    H[:, 6, 6] = square
    return H


def skew(v: torch.Tensor) -> torch.Tensor:
    """(N, 3) -> (N, 3, 3) matrices of the cross product: skew(v) a = v x a."""
    x, y, z = v.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], dim=-1).view(*v.shape[:-1], 3, 3)


def linearise(
    u: Unknowns, problem: Problem, observed: FrameObservations, weights: TermWeights, off: torch.Tensor | None
) -> Local:
    """Normal equations of one frame at ``u``.

    Local unknowns, in order: a similarity (7) for each of n pointmaps, a relative motion (6) for each of m flow
    targets, the frame's log focal length, m log focal lengths of the targets, the offset of the depth prior.
    ``off``: (P,) distance of the log-depths from the prior with its best offset; None without the prior.
    """
    depth, m = u.depth[observed.frame, observed.pixels], len(observed.targets)
    count = _focal_slot(observed) + 1 + m + 1
    zeros = depth.new_zeros
    out = Local(zeros(count, count), zeros(count), zeros(count, len(depth)), zeros(len(depth)), zeros(len(depth)))
    ray = points_at(unit_rays(u, problem, observed.frame, pixels=observed.pixels), depth)
    _add_pointmaps(out, problem, observed, weights, (ray, seen_points(u, problem, observed)))
    if weights.flow and m:
        _add_flow(out, u, problem, observed, weights, ray)
    if off is not None:
        out.h += 2 * weights.prior
        out.d += 2 * weights.prior * off
        out.V[-1] -= 2 * weights.prior
        out.H[-1, -1] += 2 * weights.prior * len(off)
    return out


def _add_pointmaps(
    out: Local,
    problem: Problem,
    observed: FrameObservations,
    weights: TermWeights,
    points: tuple[RayPoints, torch.Tensor],
) -> None:
    n, focal, t = len(observed.rows), _focal_slot(observed), weights.newton
    ray, q = points
    w = pointmap_weight(problem, observed, weights)
    curvature, unit = curvature_and_direction(q - ray.point, w, ray.point[2])
    along, along_focal = dot(unit, ray.point), dot(unit, ray.by_focal)
    by_pair = jacobian_transpose(q, unit, PAIR)
    block = moments(q, curvature)
    block.baddbmm_(by_pair * curvature.unsqueeze(1), by_pair.transpose(1, 2), alpha=-t)
    own = torch.arange(n * PAIR, device=w.device).view(n, PAIR)
    out.H[own[:, :, None], own[:, None, :]] += block
    out.g[: n * PAIR] += (by_pair @ w.unsqueeze(-1)).flatten()
    # Depth: its derivative of the residual is -point.
    coupling = jacobian_transpose(q, ray.point, PAIR).addcmul_(by_pair, along.unsqueeze(1), value=-t)
    out.V[: n * PAIR] += coupling.mul_(-curvature.unsqueeze(1)).view(n * PAIR, -1)
    out.h += (curvature * (dot(ray.point, ray.point) - t * along.square())).sum(dim=0)
    out.d -= (w * along).sum(dim=0)
    # Focal length of the frame.
    side = _jacobian_transpose_sum(q * curvature.unsqueeze(1), ray.by_focal, curvature)
    side = (side - t * (by_pair @ (curvature * along_focal).unsqueeze(-1)).squeeze(-1)).flatten()
    out.H[: n * PAIR, focal] += side
    out.H[focal, : n * PAIR] += side
    out.H[focal, focal] += (curvature * (dot(ray.by_focal, ray.by_focal) - t * along_focal.square())).sum()
    out.g[focal] += (w * along_focal).sum()
    out.V[focal] -= (curvature * (dot(ray.point, ray.by_focal) - t * along * along_focal)).sum(dim=0)


def _focal_slot(observed: FrameObservations) -> int:
    """Number of the frame's log focal length among the local unknowns."""
    return PAIR * len(observed.rows) + CAMERA * len(observed.targets)


def _add_flow(
    out: Local, u: Unknowns, problem: Problem, observed: FrameObservations, weights: TermWeights, ray: RayPoints
) -> None:
    m, focal = len(observed.targets), _focal_slot(observed)
    seen = reproject(u, problem, observed, ray)
    factor = seen.factors(weights, observed)
    slopes, curvatures = factor * seen.slope(), factor * seen.curvature()
    by_depth, by_focal = seen.by(seen.R @ ray.point), -seen.by(seen.R @ ray.by_focal)
    slots = torch.arange(m, device=factor.device)
    own = torch.full_like(slots, focal)
    motion = PAIR * len(observed.rows) + CAMERA * slots[:, None] + torch.arange(CAMERA, device=factor.device)
    where = torch.cat([motion, own[:, None], (own + 1 + slots)[:, None]], dim=1)
    for axis in (0, 1):
        row = torch.zeros_like(seen.point)
        row[:, axis] = seen.focal[:, None] / seen.point[:, 2]
        row[:, 2] = -row[:, axis] * seen.point[:, axis] / seen.point[:, 2]
        used = seen.used[:, axis]
        image = torch.where(used, seen.image[:, axis], 0.0)
        # One row of the Jacobian per pixel and target: relative motion (6), own log focal, the target's log focal.
        motions = jacobian_transpose(seen.point, torch.where(used.unsqueeze(1), row, 0.0), CAMERA)
        J = torch.cat([motions, by_focal[:, axis, None], image[:, None]], dim=1)
        curvature, slope, depth = curvatures[:, axis], slopes[:, axis], by_depth[:, axis]
        weighted = J * curvature.unsqueeze(1)
        out.H.index_put_((where[:, :, None], where[:, None, :]), weighted @ J.transpose(1, 2), accumulate=True)
        out.g.index_put_((where,), (J @ slope.unsqueeze(-1)).squeeze(-1), accumulate=True)
        out.V.index_add_(0, where.flatten(), (weighted * depth.unsqueeze(1)).flatten(0, 1))
        out.h += (curvature * depth.square()).sum(dim=0)
        out.d += (slope * depth).sum(dim=0)


def adjoint(R: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """(N, 7, 7) matrices that express a similarity (v, w, s) of one camera's coordinates X in another's, X' = R X + t.

    ``R``: (N, 3, 3); ``t``: (N, 3).
    """
    out = R.new_zeros(len(R), PAIR, PAIR)
    out[:, :3, :3] = out[:, 3:6, 3:6] = R
    out[:, :3, 3:6] = skew(t) @ R
    out[:, :3, 6] = -t
    out[:, 6, 6] = 1
    return out


def unknowns_of(observed: FrameObservations, numbering: Numbering, smooth: bool) -> torch.Tensor:
    """(C,) sorted numbers of the unknowns that the terms of one frame may depend on.

    All those of :func:`local_to_global` with flow, and with ``smooth`` the camera before, whose smoothness term the
    frame carries. Without those of the first camera, which is fixed.
    """
    before = torch.arange(max(0, observed.frame - 1) if smooth else observed.frame, observed.frame)
    cameras = torch.cat([torch.tensor([observed.frame]), observed.references, observed.targets, before])
    numbers = [numbering.camera(cameras).flatten(), numbering.pair(observed.pairs).flatten()]
    if numbering.focals:
        numbers.append(numbering.focal(cameras))
    index: torch.Tensor = torch.cat(numbers).unique()  # sorted
    return index[index >= CAMERA]


@dataclass(frozen=True)
class _Pattern:
    """Positions of the entries of :func:`local_to_global`'s matrix; the same at every step."""

    index: torch.Tensor
    """(C,) numbers of the unknowns."""
    rows: torch.Tensor
    """(K,) rows of the entries that are kept."""
    columns: torch.Tensor
    """(K,) their columns."""
    keep: torch.Tensor
    """(all entries,) bool: those of the first camera are left out."""


def local_to_global(
    u: Unknowns, observed: FrameObservations, numbering: Numbering, with_flow: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(C,) numbers of the unknowns that one frame depends on, and (L, C) the derivative of its local unknowns by them.

    The first camera is fixed: this removes the free motion of the whole world.
    """
    own, frame = observed.references == observed.frame, observed.frame
    others, target = observed.references[~own], observed.targets
    pattern = observed.patterns.get((numbering, with_flow))
    if pattern is None:
        pattern = observed.patterns[numbering, with_flow] = _pattern(observed, numbering, with_flow, u.R.device)
    eye, count = torch.eye(PAIR, dtype=u.R.dtype, device=u.R.device), len(others)
    R = u.R[frame].T @ u.R[others]
    ad = adjoint(R, (u.centre[others] - u.centre[frame]) @ u.R[frame])
    # In the order of _places: own pairs, others' pairs, their reference cameras, the frame's camera.
    values = [eye.expand(len(own) - count, PAIR, PAIR), ad, ad[:, :, :CAMERA]]
    values.append(-eye[:, :CAMERA].expand(count, PAIR, CAMERA))
    if with_flow:
        Rt = u.R[target].transpose(1, 2)
        t = (Rt @ (u.centre[frame] - u.centre[target]).unsqueeze(-1)).squeeze(-1)
        values.append(adjoint(Rt @ u.R[frame], t)[:, :CAMERA, :CAMERA])
        values.append(-eye[:CAMERA, :CAMERA].expand(len(target), CAMERA, CAMERA))
    if numbering.focals:
        values.append(eye.new_ones(1 + len(target) * with_flow))
    flat = torch.cat([v.reshape(-1) for v in values])[pattern.keep]
    G = u.R.new_zeros(_focal_slot(observed) + 2 + len(target), len(pattern.index))
    return pattern.index, G.index_put_((pattern.rows, pattern.columns), flat, accumulate=True)


def _pattern(observed: FrameObservations, numbering: Numbering, with_flow: bool, device: torch.device) -> _Pattern:
    places = _places(observed, numbering, with_flow)
    shapes = [(len(rows), rows.shape[1], columns.shape[1]) for rows, columns in places]
    rows = torch.cat([r[:, :, None].expand(shape).reshape(-1) for (r, _), shape in zip(places, shapes)])
    columns = torch.cat([c[:, None, :].expand(shape).reshape(-1) for (_, c), shape in zip(places, shapes)])
    keep = columns >= CAMERA
    index, position = torch.unique(columns[keep], return_inverse=True)
    return _Pattern(index, rows[keep].to(device), position.to(device), keep.to(device))


def _places(
    observed: FrameObservations, numbering: Numbering, with_flow: bool
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Blocks of :func:`local_to_global`: per block (k, a) local unknowns and (k, b) numbers of global ones."""
    n, m, frame = len(observed.rows), len(observed.targets) if with_flow else 0, torch.tensor([observed.frame])
    own = observed.references == observed.frame
    similarity = torch.arange(PAIR * n).view(n, PAIR)
    there, pairs, camera = similarity[~own], numbering.pair(observed.pairs), numbering.camera(frame)
    places = [(similarity[own], pairs[own]), (there, pairs[~own])]
    places += [(there, numbering.camera(observed.references[~own])), (there, camera.expand(len(there), -1))]
    if m:
        motion = PAIR * n + torch.arange(CAMERA * m).view(m, CAMERA)
        places += [(motion, camera.expand(m, -1)), (motion, numbering.camera(observed.targets))]
    if numbering.focals:
        slots = _focal_slot(observed) + torch.arange(1 + m)
        places.append((slots[:, None], numbering.focal(torch.cat([frame, observed.targets[:m]]))[:, None]))
    return places


def eliminate_depths(local: Local) -> tuple[torch.Tensor, torch.Tensor]:
    """(L, L) matrix and (L,) gradient of the local normal equations after the Schur complement of the depths."""
    inverse = torch.where(local.h > 0, local.h, torch.inf).reciprocal()
    scaled = local.V * inverse
    return local.H - scaled @ local.V.T, local.g - scaled @ local.d


def clique(
    u: Unknowns,
    problem: Problem,
    observed: FrameObservations,
    weights: TermWeights,
    numbering: Numbering,
    prior: torch.Tensor | None,
) -> Clique:
    """What one frame adds to the normal equations. ``prior``: (P,) log-depths of the depth prior, or None.

    Pixels are independent of each other given the cameras, so they are handled in blocks, which bounds the memory.
    """
    index, G = local_to_global(u, observed, numbering, bool(weights.flow))
    pixels = u.depth.shape[1]
    edges = np.linspace(0, pixels, 1 + -(-pixels * len(G) // BLOCK_NUMBERS)).astype(int).tolist()
    off = None if prior is None else u.depth[observed.frame].log() - prior
    off = None if off is None else off - off.mean()
    H, g = G.new_zeros(len(G), len(G)), G.new_zeros(len(G))
    for start, end in zip(edges[:-1], edges[1:]):
        part = replace(observed, pixels=slice(start, end))
        own = linearise(u, problem, part, weights, None if off is None else off[part.pixels])
        block = eliminate_depths(own)
        H, g = H + block[0], g + block[1]
    if off is not None:
        pivot = H[-1, -1].clamp_min(1e-12 * 2 * weights.prior * pixels)
        H, g = H - torch.outer(H[:, -1], H[-1]) / pivot, g - H[:, -1] * (g[-1] / pivot)
    return Clique(index, G.T @ (H @ G), G.T @ g)


def smoothness_clique(u: Unknowns, frame: int, config: AlignConfig, numbering: Numbering) -> Clique:
    """What the smoothness between ``frame - 1`` and ``frame`` (>= 1) adds, by re-weighted least squares."""
    a, b = frame - 1, frame
    R, t = u.R[a].T @ u.R[b], u.R[a].T @ (u.centre[b] - u.centre[a])
    H, g = (x[0] for x in smoothness_matrices(R[None], t[None], config))
    index = numbering.camera(torch.tensor([a, b])).flatten()
    keep = index >= CAMERA
    kept = keep.to(R.device)
    return Clique(index[keep], H[kept][:, kept], g[kept])


def smoothness_matrices(R: torch.Tensor, t: torch.Tensor, config: AlignConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """(K, 12, 12) equations and (K, 12) gradients of the smoothness over the motions of both of K pairs of cameras.

    ``R`` (K, 3, 3), ``t`` (K, 3): the second camera of each pair in the coordinates of the first.
    """
    eye = torch.eye(3, dtype=R.dtype, device=R.device)
    basis = skew(eye)
    # Motions (v, w) of the cameras in their own coordinates: dR = -[w_a] R + R [w_b], dt = -w_a x t - v_a + R v_b.
    dR, dt = R.new_zeros(len(R), 9, 2 * CAMERA), R.new_zeros(len(R), 3, 2 * CAMERA)
    dR[:, :, 3:6] = -(basis @ R.unsqueeze(1)).flatten(2).transpose(1, 2)
    dR[:, :, 9:] = (R.unsqueeze(1) @ basis).flatten(2).transpose(1, 2)
    dt[:, :, :3], dt[:, :, 3:6], dt[:, :, 6:9] = -eye, skew(t), R
    H, g = R.new_zeros(len(R), 2 * CAMERA, 2 * CAMERA), R.new_zeros(len(R), 2 * CAMERA)
    for J, r, weight in ((dR, (R - eye).flatten(1), 1.0), (dt, t, config.smooth_translation_weight)):
        factor = config.smooth_weight * weight / r.norm(dim=1).clamp_min(LEAST_LENGTH)
        slope = factor[:, None, None] * J.transpose(1, 2)
        H, g = H + slope @ J, g + (slope @ r.unsqueeze(-1)).squeeze(-1)
    return H, g


def joined(a: Clique, b: Clique) -> Clique:
    """The sum of two cliques, over the union of their unknowns."""
    index, place = torch.unique(torch.cat([a.index, b.index]), return_inverse=True)
    matrix, gradient = a.matrix.new_zeros(len(index), len(index)), a.gradient.new_zeros(len(index))
    for part, where in ((a, place[: len(a.index)]), (b, place[len(a.index) :])):
        where = where.to(matrix.device)
        matrix[where[:, None], where] += part.matrix
        gradient[where] += part.gradient
    return Clique(index, matrix, gradient)
