"""Normal equations of the alignment, one frame at a time, with the frame's depths eliminated in closed form.

Every residual depends on the depth of one pixel only, and on the motions between its frame's camera and few others.
So a frame is linearised in those local motions, where the Jacobians are short: with q a pair's point in the camera of
the frame, a the pixel's point on its ray and r = q - a, a similarity (v, w, s) of the pair gives v + w x q + s q, a
relative step of the depth gives -a. Its depths then drop out (Schur complement), and a sparse matrix of adjoints
carries the rest over to the numbered unknowns.

The length |r| has the gradient r/|r|. For its second derivative (I - t r r'/|r|^2) / |r| is taken: t = 1 is the true
one (Newton's method: fast near the end), t = 0 that of iteratively re-weighted least squares (slow and safe).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from ...core.config import AlignConfig
from ..problem import Problem
from ..residuals import dot
from .frontal import Clique
from .unknowns import CAMERA, PAIR, Numbering, Unknowns
from .views import (
    SHORTEST,
    Rays,
    View,
    Weights,
    land,
    pointmap_weight,
    rays_at,
    seen_points,
    stiffness,
    unit_rays,
)

BLOCK_NUMBERS = 1 << 18
"""Local unknowns times pixels of a block: its largest matrix should fit the cache."""


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


def pulled(points: torch.Tensor, vectors: torch.Tensor, size: int) -> torch.Tensor:
    """(N, size, P): ``vectors`` times the derivative of ``points`` (N, 3, P) by a similarity (v, w, s); 6: a motion."""
    out = points.new_empty(len(points), size, points.shape[-1])
    (x, y, z), (a, b, c) = points.unbind(1), vectors.unbind(-2)
    out[:, :3] = vectors
    torch.sub(y * c, z * b, out=out[:, 3])
    torch.sub(z * a, x * c, out=out[:, 4])
    torch.sub(x * b, y * a, out=out[:, 5])
    if size == PAIR:
        out[:, 6] = dot(points, vectors)
    return out


def _pulled_sum(weighted: torch.Tensor, vectors: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(n, 7) sum over pixels of weight times :func:`pulled` of points and ``vectors`` (3, P).

    ``weighted``: (n, 3, P) points times their weights.
    """
    M = weighted @ vectors.T
    turn = torch.stack([M[:, 1, 2] - M[:, 2, 1], M[:, 2, 0] - M[:, 0, 2], M[:, 0, 1] - M[:, 1, 0]], dim=1)
    return torch.cat([weight @ vectors.T, turn, M.diagonal(dim1=1, dim2=2).sum(-1, keepdim=True)], dim=1)


def moments(points: torch.Tensor, stiffness: torch.Tensor) -> torch.Tensor:
    """(n, 7, 7) sums over pixels of stiffness J'J for the derivative J of points (n, 3, P) by a similarity."""
    x, y, z = points.unbind(1)
    ones = torch.ones_like(x)
    basis = torch.stack([ones, x, y, z], dim=1)
    M = (basis * stiffness.unsqueeze(1)) @ basis.transpose(1, 2)
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
    """(N, 3) -> (N, 3, 3) with skew(v) x = v x x."""
    x, y, z = v.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], dim=-1).view(*v.shape[:-1], 3, 3)


def linearise(u: Unknowns, problem: Problem, view: View, weights: Weights, off: torch.Tensor | None) -> Local:
    """Local unknowns: n similarities (7), m relative motions (6), the frame's log focal, m log focals of the targets,
    the offset of the depth prior. ``off``: (P,) distance of the log-depths from the prior with its best offset."""
    depth, m = u.depth[view.frame, view.pixels], len(view.targets)
    count = _focal_slot(view) + 1 + m + 1
    zeros = depth.new_zeros
    out = Local(zeros(count, count), zeros(count), zeros(count, len(depth)), zeros(len(depth)), zeros(len(depth)))
    ray = rays_at(unit_rays(u, problem, view.frame, pixels=view.pixels), depth)
    _add_pointmaps(out, problem, view, weights, (ray, seen_points(u, problem, view)))
    if weights.flow and m:
        _add_flow(out, u, problem, view, weights, ray)
    if off is not None:
        out.h += 2 * weights.prior
        out.d += 2 * weights.prior * off
        out.V[-1] -= 2 * weights.prior
        out.H[-1, -1] += 2 * weights.prior * len(off)
    return out


def _add_pointmaps(
    out: Local, problem: Problem, view: View, weights: Weights, points: tuple[Rays, torch.Tensor]
) -> None:
    n, focal, t = len(view.rows), _focal_slot(view), weights.newton
    ray, q = points
    w = pointmap_weight(problem, view, weights)
    stiff, unit = stiffness(q - ray.point, w, ray.point[2])
    along, turned = dot(unit, ray.point), dot(unit, ray.by_focal)
    pull = pulled(q, unit, PAIR)
    block = moments(q, stiff).baddbmm_(pull * stiff.unsqueeze(1), pull.transpose(1, 2), alpha=-t)
    own = torch.arange(n * PAIR, device=w.device).view(n, PAIR)
    out.H[own[:, :, None], own[:, None, :]] += block
    out.g[: n * PAIR] += (pull @ w.unsqueeze(-1)).flatten()
    # Depth: its derivative of the residual is -point.
    coupling = pulled(q, ray.point, PAIR).addcmul_(pull, along.unsqueeze(1), value=-t).mul_(-stiff.unsqueeze(1))
    out.V[: n * PAIR] += coupling.view(n * PAIR, -1)
    out.h += (stiff * (dot(ray.point, ray.point) - t * along.square())).sum(dim=0)
    out.d -= (w * along).sum(dim=0)
    # Focal length of the frame.
    side = _pulled_sum(q * stiff.unsqueeze(1), ray.by_focal, stiff)
    side = (side - t * (pull @ (stiff * turned).unsqueeze(-1)).squeeze(-1)).flatten()
    out.H[: n * PAIR, focal] += side
    out.H[focal, : n * PAIR] += side
    out.H[focal, focal] += (stiff * (dot(ray.by_focal, ray.by_focal) - t * turned.square())).sum()
    out.g[focal] += (w * turned).sum()
    out.V[focal] -= (stiff * (dot(ray.point, ray.by_focal) - t * along * turned)).sum(dim=0)


def _focal_slot(view: View) -> int:
    return PAIR * len(view.rows) + CAMERA * len(view.targets)


def _add_flow(out: Local, u: Unknowns, problem: Problem, view: View, weights: Weights, ray: Rays) -> None:
    m, focal = len(view.targets), _focal_slot(view)
    seen = land(u, problem, view, ray)
    factor = seen.factors(weights.flow, view)
    slopes, curvatures = factor * seen.slope(), factor * seen.curvature()
    by_depth, by_focal = seen.by(seen.R @ ray.point), -seen.by(seen.R @ ray.by_focal)
    slots = torch.arange(m, device=factor.device)
    own = torch.full_like(slots, focal)
    motion = PAIR * len(view.rows) + CAMERA * slots[:, None] + torch.arange(CAMERA, device=factor.device)
    where = torch.cat([motion, own[:, None], (own + 1 + slots)[:, None]], dim=1)
    for axis in (0, 1):
        row = torch.zeros_like(seen.point)
        row[:, axis] = seen.focal[:, None] / seen.point[:, 2]
        row[:, 2] = -row[:, axis] * seen.point[:, axis] / seen.point[:, 2]
        used = seen.used[:, axis].unsqueeze(1)
        image = torch.where(used[:, 0], seen.image[:, axis], 0.0)
        # One row of the Jacobian per pixel and target: relative motion (6), own log focal, the target's log focal.
        motions = pulled(seen.point, torch.where(used, row, 0.0), CAMERA)
        J = torch.cat([motions, by_focal[:, axis, None], image[:, None]], dim=1)
        k, slope, depth = curvatures[:, axis], slopes[:, axis], by_depth[:, axis]
        weighted = J * k.unsqueeze(1)
        out.H.index_put_((where[:, :, None], where[:, None, :]), weighted @ J.transpose(1, 2), accumulate=True)
        out.g.index_put_((where,), (J @ slope.unsqueeze(-1)).squeeze(-1), accumulate=True)
        out.V.index_add_(0, where.flatten(), (weighted * depth.unsqueeze(1)).flatten(0, 1))
        out.h += (k * depth.square()).sum(dim=0)
        out.d += (slope * depth).sum(dim=0)


def adjoint(R: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """(N, 7, 7): a similarity (v, w, s) in one camera's coordinates as seen in another, X' = R X + t."""
    out = R.new_zeros(len(R), PAIR, PAIR)
    out[:, :3, :3] = out[:, 3:6, 3:6] = R
    out[:, :3, 3:6] = skew(t) @ R
    out[:, :3, 6] = -t
    out[:, 6, 6] = 1
    return out


def named(view: View, numbering: Numbering, smooth: bool) -> torch.Tensor:
    """Numbers of the unknowns that a frame may feel: all those of :func:`carried`, and what smoothness adds."""
    before = torch.arange(max(0, view.frame - 1) if smooth else view.frame, view.frame)
    cameras = torch.cat([torch.tensor([view.frame]), view.references, view.targets, before])
    numbers = [numbering.camera(cameras).flatten(), numbering.pair(view.pairs).flatten()]
    if numbering.focals:
        numbers.append(numbering.focal(cameras))
    index = torch.cat(numbers).unique()
    return index[index >= CAMERA]


@dataclass(frozen=True)
class _Pattern:
    """Where the numbers of :func:`carried` stand; the same at every step."""

    index: torch.Tensor
    """(C,) numbers of the unknowns."""
    rows: torch.Tensor
    columns: torch.Tensor
    """(K,) places of those values that are kept, which is said by (all values,) bool:"""
    keep: torch.Tensor


def carried(u: Unknowns, view: View, numbering: Numbering, with_flow: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(C,) numbers of the unknowns that the frame feels and (L, C) its local unknowns by them.

    The first camera does not move: it holds the world still.
    """
    own, frame = view.references == view.frame, view.frame
    others, target = view.references[~own], view.targets
    pattern = view.patterns.get((numbering, with_flow))
    if pattern is None:
        pattern = view.patterns[numbering, with_flow] = _pattern(view, numbering, with_flow, u.R.device)
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
    G = u.R.new_zeros(_focal_slot(view) + 2 + len(target), len(pattern.index))
    return pattern.index, G.index_put_((pattern.rows, pattern.columns), flat, accumulate=True)


def _pattern(view: View, numbering: Numbering, with_flow: bool, device: torch.device) -> _Pattern:
    places = _places(view, numbering, with_flow)
    shapes = [(len(rows), rows.shape[1], columns.shape[1]) for rows, columns in places]
    rows = torch.cat([r[:, :, None].expand(shape).reshape(-1) for (r, _), shape in zip(places, shapes)])
    columns = torch.cat([c[:, None, :].expand(shape).reshape(-1) for (_, c), shape in zip(places, shapes)])
    keep = columns >= CAMERA
    index, position = torch.unique(columns[keep], return_inverse=True)
    return _Pattern(index, rows[keep].to(device), position.to(device), keep.to(device))


def _places(view: View, numbering: Numbering, with_flow: bool) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Blocks of :func:`carried`: (k, a) local unknowns and (k, b) numbered ones each."""
    n, m, frame = len(view.rows), len(view.targets) if with_flow else 0, torch.tensor([view.frame])
    own = view.references == view.frame
    similarity = torch.arange(PAIR * n).view(n, PAIR)
    there, pairs, camera = similarity[~own], numbering.pair(view.pairs), numbering.camera(frame)
    places = [(similarity[own], pairs[own]), (there, pairs[~own])]
    places += [(there, numbering.camera(view.references[~own])), (there, camera.expand(len(there), -1))]
    if m:
        motion = PAIR * n + torch.arange(CAMERA * m).view(m, CAMERA)
        places += [(motion, camera.expand(m, -1)), (motion, numbering.camera(view.targets))]
    if numbering.focals:
        slots = _focal_slot(view) + torch.arange(1 + m)
        places.append((slots[:, None], numbering.focal(torch.cat([frame, view.targets[:m]]))[:, None]))
    return places


def eliminate_depths(local: Local) -> tuple[torch.Tensor, torch.Tensor]:
    """(L, L) and (L,): the local normal equations without the depths."""
    inverse = torch.where(local.h > 0, local.h, torch.inf).reciprocal()
    scaled = local.V * inverse
    return local.H - scaled @ local.V.T, local.g - scaled @ local.d


def clique(
    u: Unknowns, problem: Problem, view: View, weights: Weights, numbering: Numbering, prior: torch.Tensor | None
) -> Clique:
    """What one frame adds to the normal equations. ``prior``: (P,) log-depths of the depth prior, or None.

    Pixels do not feel each other, so they come in blocks: that bounds the memory for any image.
    """
    index, G = carried(u, view, numbering, bool(weights.flow))
    pixels = u.depth.shape[1]
    edges = np.linspace(0, pixels, 1 + -(-pixels * len(G) // BLOCK_NUMBERS)).astype(int).tolist()
    off = None if prior is None else u.depth[view.frame].log() - prior
    off = None if off is None else off - off.mean()
    H, g = G.new_zeros(len(G), len(G)), G.new_zeros(len(G))
    for start, end in zip(edges[:-1], edges[1:]):
        part = replace(view, pixels=slice(start, end))
        own = linearise(u, problem, part, weights, None if off is None else off[part.pixels])
        block = eliminate_depths(own)
        H, g = H + block[0], g + block[1]
    if off is not None:
        pivot = H[-1, -1].clamp_min(1e-12 * 2 * weights.prior * pixels)
        H, g = H - torch.outer(H[:, -1], H[-1]) / pivot, g - H[:, -1] * (g[-1] / pivot)
    return Clique(index, G.T @ (H @ G), G.T @ g)


def smoothness_clique(u: Unknowns, frame: int, config: AlignConfig, numbering: Numbering) -> Clique:
    """What the smoothness between ``frame - 1`` and ``frame`` adds, by re-weighted least squares."""
    a, b = frame - 1, frame
    R, t = u.R[a].T @ u.R[b], u.R[a].T @ (u.centre[b] - u.centre[a])
    eye = torch.eye(3, dtype=R.dtype, device=R.device)
    basis = skew(eye)
    # Motions (v, w) of the cameras in their own coordinates: dR = -[w_a] R + R [w_b], dt = -w_a x t - v_a + R v_b.
    dR, dt = R.new_zeros(9, 2 * CAMERA), R.new_zeros(3, 2 * CAMERA)
    dR[:, 3:6], dR[:, 9:] = -(basis @ R).reshape(3, 9).T, (R @ basis).reshape(3, 9).T
    dt[:, :3], dt[:, 3:6], dt[:, 6:9] = -eye, -(basis @ t).T, R
    H, g = R.new_zeros(2 * CAMERA, 2 * CAMERA), R.new_zeros(2 * CAMERA)
    for J, r, weight in ((dR, (R - eye).flatten(), 1.0), (dt, t, config.smooth_translation_weight)):
        factor = config.smooth_weight * weight / r.norm().clamp_min(SHORTEST)
        H, g = H + factor * J.T @ J, g + factor * J.T @ r
    index = numbering.camera(torch.tensor([a, b])).flatten()
    keep = index >= CAMERA
    kept = keep.to(R.device)
    return Clique(index[keep], H[kept][:, kept], g[kept])


def joined(a: Clique, b: Clique) -> Clique:
    """The sum of two."""
    index, place = torch.unique(torch.cat([a.index, b.index]), return_inverse=True)
    matrix, gradient = a.matrix.new_zeros(len(index), len(index)), a.gradient.new_zeros(len(index))
    for part, where in ((a, place[: len(a.index)]), (b, place[len(a.index) :])):
        where = where.to(matrix.device)
        matrix[where[:, None], where] += part.matrix
        gradient[where] += part.gradient
    return Clique(index, matrix, gradient)
