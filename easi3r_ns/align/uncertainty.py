"""How far the cameras may be off: covariance of the alignment at its solution.

The solution is where the pull of all pairs on the cameras cancels. Were one pair to pull a little differently, the
cameras would follow by the inverse of the normal equations, depths and pair similarities included (Schur complement).
So the spread of the pairs' pulls is what the cameras are uncertain by: a sandwich estimate whose cluster is the pair of
images, in both orders. The pixels of a pair may then err together in any way, as those of a network do. Pairs that
share an image err together too, which the dyadic estimate allows for (Fafchamps and Gubert 2007; Aronow, Samii and
Assenova 2015): the larger of both is taken. What all pairs get wrong alike shows in neither, and neither does what
optical flow adds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from ..core.runlog import RunLog
from ..core.scene import CameraUncertainty
from .problem import Problem
from .residuals import dot, lengths
from .solvers.frontal import Clique, NotPositiveDefinite, last_uses, solve
from .solvers.normal import Local, carried, eliminate_depths, moments, named, pulled
from .solvers.project import LARGEST_FRONT, front_width
from .solvers.unknowns import CAMERA, PAIR, Numbering, Unknowns
from .solvers.views import View, Weights, pointmap_weight, rays, seen_points, views
from .state import Decoded

PIXELS = 1024
"""Pixels per frame that take part: neighbouring ones err alike, so more of them tell nothing new."""
LEAST_CURVED = 1.0
"""For their stiffness, residuals count as at least this long, in units of the frame's median: near 0 the length of a
residual has a kink instead of a curvature."""
LEAST_PULLING = 0.2
"""The same for their pull, whose direction means nothing near 0."""
FEWEST = 6
"""Fewer pairs of images than this tell too little about their spread: then every quarter of a pointmap counts as
independent of the others."""
LARGEST = 1 << 26
"""Numbers in the largest matrix, beyond which nothing is estimated."""


@dataclass(frozen=True)
class _Frame:
    """One frame, linearised."""

    index: torch.Tensor
    """(C,) numbers of the unknowns that it feels."""
    matrix: torch.Tensor
    """(C, C) normal equations."""
    pulls: torch.Tensor
    """(C, m) gradient of each of its m clusters of pixels."""
    cluster: torch.Tensor
    """(m,) which ones."""


def camera_uncertainty(
    problem: Problem, decoded: Decoded, focals: int, weak: Sequence[int], log: RunLog
) -> CameraUncertainty | None:
    """Standard deviations at the solution ``decoded``; None when the clip is too long for it, or without curvature.

    ``focals``: how many focal lengths were solved for (0: known, 1: shared, F). ``weak``: frames that nothing holds:
    theirs is infinite.
    """
    residual = relative_residuals(problem, decoded, weak)
    frames, numbering = problem.num_frames, Numbering(problem.num_frames, len(problem.edges), focals)
    if numbering.size * (CAMERA * frames + focals) > LARGEST or front_width(problem, focals) > LARGEST_FRONT:
        log.info(f"uncertainty: not estimated for {frames} frames and {len(problem.edges)} pairs at once")
        return None
    try:
        follows, related = influence(_thinned(problem, decoded), numbering)
    except NotPositiveDefinite:
        follows = related = torch.full((1, 1), torch.nan)
    if not bool(torch.isfinite(follows).all()):
        log.info("uncertainty: not estimated, the pointmaps do not determine the cameras")
        return None
    strong = np.setdiff1d(np.arange(frames), weak)
    # The second is unbiased too where pairs err independently, but may then be small, or even negative, by chance.
    estimates = [_variances(covariance, decoded, strong) for covariance in (_gram(follows), _gram(follows, related))]
    cameras, focal = (torch.maximum(*values).sqrt().numpy() for values in zip(*estimates))
    centre, turn = cameras.T.copy()
    turn[list(weak)] = centre[list(weak)] = np.inf
    focal = decoded.focal.cpu().double().numpy() * (focal if focals else 0.0)
    return CameraUncertainty(rotation_deg=np.degrees(turn), centre=centre, focal=focal, residual=residual)


def influence(thinned: tuple[Problem, Unknowns], numbering: Numbering) -> tuple[torch.Tensor, torch.Tensor]:
    """(6 F + focals, K) how far each of the K clusters moves the cameras (v, w in their own axes) and log focals, and
    (K, K) which clusters show a common image.

    The first camera stays, and so does the mean log-scale of the pairs.
    """
    problem, u = thinned
    wanted = torch.cat([torch.arange(CAMERA * numbering.frames), torch.arange(numbering.size)[-numbering.focals :]])
    wanted = wanted if numbering.focals else wanted[: CAMERA * numbering.frames]
    right = u.R.new_zeros(numbering.size, len(wanted) + 1)
    right[wanted, torch.arange(len(wanted))] = 1
    right[numbering.scales, -1] = 1
    seen = views(problem)
    last = last_uses([named(view, numbering, False) for view in seen], numbering.size)
    cluster = Clusters.of(problem)
    frames = partial(_frames, problem, u, seen, numbering, cluster)
    solved = solve((Clique(f.index.cpu(), f.matrix, f.pulls.sum(dim=1)) for f in frames()), last, 0.0, right)[:, 1:]
    free, along, gauge = solved[:, :-1], solved[:, -1:], right[:, -1:]
    free = free - along @ (gauge.T @ free) / (gauge.T @ along)
    follows = free.new_zeros(len(wanted), cluster.count)
    for frame in frames():
        follows.index_add_(1, frame.cluster.to(follows.device), free[frame.index].T @ frame.pulls)
    return follows * (cluster.count / max(1, cluster.count - 1)) ** 0.5, cluster.related.to(follows)


@dataclass(frozen=True)
class Clusters:
    """Which pixels err together: those of a pair of images, or of a quarter of a pointmap where pairs are few."""

    number: torch.Tensor
    """(2E, Q) number of the cluster of every pointmap and part of the image."""
    part: torch.Tensor
    """(Q, P) bool: which pixels belong to a part."""
    related: torch.Tensor
    """(K, K) bool: which clusters show a common image; the identity where quarters stand for pairs."""

    @property
    def count(self) -> int:
        """K."""
        return len(self.related)

    @staticmethod
    def of(problem: Problem) -> Clusters:
        """The clusters of a problem."""
        ordered = problem.edges.cpu().sort(dim=1).values
        unique, number = torch.unique(ordered, dim=0, return_inverse=True)
        xy = problem.sample.xy
        if len(unique) >= FEWEST:
            shows = torch.zeros(len(unique), problem.num_frames).scatter_(1, unique, 1.0)
            return Clusters(number.repeat(2)[:, None], torch.ones_like(xy[:1], dtype=torch.bool), shows @ shows.T > 0)
        right, low = xy > xy.median(dim=1, keepdim=True).values
        part = torch.stack([~right & ~low, right & ~low, ~right & low, right & low])
        count = 2 * len(problem.edges) * len(part)
        return Clusters(torch.arange(count).view(-1, len(part)), part, torch.eye(count, dtype=torch.bool))


def relative_residuals(problem: Problem, decoded: Decoded, weak: Sequence[int]) -> np.ndarray:
    """(F,) median distance between a frame's points and those of its pairs, in percent of their depth; NaN: unknown."""
    thin, u = _thinned(problem, decoded)
    found = np.full(problem.num_frames, np.nan)
    for view in views(thin):
        off = lengths(seen_points(u, thin, view) - rays(u, thin, view.frame).point) / u.depth[view.frame]
        known = thin.confidence[view.rows] > 0
        if view.frame not in weak and bool(known.any()):
            found[view.frame] = 100 * float(off[known].median())
    return found


def _thinned(problem: Problem, decoded: Decoded) -> tuple[Problem, Unknowns]:
    """Fewer pixels, float64, on the CPU: not every device has double precision, and little is left."""
    count = problem.points.shape[-1]
    pick = torch.linspace(0, count - 1, min(PIXELS, count), device=problem.points.device).round().long()
    thin = replace(problem, flows=()).columns(pick)
    plain = (decoded.R, decoded.centre, decoded.focal.log(), decoded.pair_A, decoded.pair_b, decoded.depth[:, pick])
    return thin.to("cpu"), Unknowns(*(x.cpu().double() for x in plain))


def _frames(
    problem: Problem, u: Unknowns, seen: list[View], numbering: Numbering, clusters: Clusters
) -> Iterator[_Frame]:
    for view in seen:
        index, G = carried(u, view, numbering, False)
        local, pulls = _linearise(u, problem, view, clusters.part.to(u.depth))
        H, _ = eliminate_depths(local)
        yield _Frame(index, G.T @ (H @ G), G.T @ pulls, clusters.number[view.rows.cpu()].flatten())


def _linearise(u: Unknowns, problem: Problem, view: View, part: torch.Tensor) -> tuple[Local, torch.Tensor]:
    """Re-weighted least squares of one frame, and the gradient (L, n Q) of each part (Q, P) of its n pointmaps, without
    the depths."""
    n, pixels = len(view.rows), u.depth.shape[1]
    focal, size = PAIR * n, PAIR * n + 2
    zeros = u.depth.new_zeros
    ray, q = rays(u, problem, view.frame), seen_points(u, problem, view)
    weight = pointmap_weight(problem, view, Weights(1.0))
    residual = q - ray.point
    distance = lengths(residual)
    usual = distance[weight > 0].median() if bool((weight > 0).any()) else distance.new_ones(())
    stiff = weight / distance.clamp_min(LEAST_CURVED * usual.clamp_min(1e-9))
    by_depth, by_focal = pulled(q, ray.point, PAIR), pulled(q, ray.by_focal, PAIR)
    H, V = zeros(size, size), zeros(size, pixels)
    own = torch.arange(focal, device=H.device).view(n, PAIR)
    H[own[:, :, None], own[:, None, :]] = moments(q, stiff)
    side = (by_focal @ stiff.unsqueeze(-1)).flatten()
    H[:focal, focal] = H[focal, :focal] = side
    H[focal, focal] = (stiff * dot(ray.by_focal, ray.by_focal)).sum()
    V[:focal] = -(by_depth * stiff.unsqueeze(1)).view(focal, pixels)
    V[focal] = -(stiff * dot(ray.point, ray.by_focal)).sum(dim=0)
    h = (stiff * dot(ray.point, ray.point)).sum(dim=0)
    pull = (weight / distance.clamp_min(LEAST_PULLING * usual.clamp_min(1e-9))).unsqueeze(1) * residual
    by_pair, by_pixel = pulled(q, pull, PAIR) @ part.T, -dot(pull, ray.point)
    inverse = torch.where(h > 0, h, torch.inf).reciprocal()
    pulls = zeros(size, n, len(part))
    pulls[own, torch.arange(n, device=H.device)[:, None]] = by_pair
    pulls[focal] = dot(pull, ray.by_focal) @ part.T
    pulls -= torch.einsum("lp,np,qp->lnq", V * inverse, by_pixel, part)
    pulls = pulls.flatten(1)
    return Local(H, pulls.sum(dim=1), V, h, by_pixel.sum(dim=0)), pulls


def _gram(follows: torch.Tensor, related: torch.Tensor | None = None) -> torch.Tensor:
    return follows @ (follows if related is None else follows @ related).T


def _variances(covariance: torch.Tensor, decoded: Decoded, strong: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """(F, 2) of centre and rotation, and (1,) or (F,) of the log focal length; at least 0."""
    frames = len(decoded.R)
    cameras, focal = covariance[: CAMERA * frames, : CAMERA * frames], covariance.diagonal()[CAMERA * frames :]
    free = _free_of_gauge(_in_world(cameras, decoded), decoded, strong)
    return free.diagonal().view(frames, 2, 3).sum(dim=2).clamp_min(0), focal.clamp_min(0)


def _in_world(covariance: torch.Tensor, decoded: Decoded) -> torch.Tensor:
    """(6 F, 6 F) of motions in the cameras' own axes -> of (centre, rotation) along the axes of the world."""
    R = decoded.R.cpu().double()
    turned = torch.block_diag(*R.repeat_interleave(2, dim=0))
    return turned @ covariance @ turned.T


def _free_of_gauge(covariance: torch.Tensor, decoded: Decoded, strong: np.ndarray) -> torch.Tensor:
    """The same without what a similarity of the whole path changes; rotations count by their shift at median depth."""
    centre, depth = decoded.centre.cpu().double(), float(decoded.depth.median())
    P = similarity_free(centre, depth, torch.from_numpy(strong))
    return P @ covariance @ P.T


def similarity_free(centre: torch.Tensor, depth: float, strong: torch.Tensor) -> torch.Tensor:
    """(6 F, 6 F) projection of small errors (shift, turn) of cameras onto what no similarity of the world explains.

    ``centre``: (F, 3); ``depth``: length that makes a turn count as a shift; ``strong``: frames that take part.
    """
    frames = len(centre)
    middle = centre[strong].mean(dim=0)
    generators = centre.new_zeros(frames, 2, 3, 7)
    eye = torch.eye(3, dtype=centre.dtype, device=centre.device)
    generators[:, 0, :, :3] = eye
    arms = (centre - middle)[:, None].expand(frames, 3, 3)
    generators[:, 0, :, 3:6] = torch.linalg.cross(eye[None].expand(frames, 3, 3), arms).transpose(1, 2)
    generators[:, 1, :, 3:6] = eye
    generators[:, 0, :, 6] = centre - middle
    weight = centre.new_zeros(frames, 2, 3)
    weight[strong, 0], weight[strong, 1] = 1.0, depth
    B, w = generators.reshape(6 * frames, 7), weight.flatten()
    units = B / (w[:, None] * B).norm(dim=0).clamp_min(1e-3 * depth)
    fit = torch.linalg.pinv(w[:, None] * units, rtol=1e-6) * w
    return torch.eye(6 * frames, dtype=centre.dtype, device=centre.device) - units @ fit
