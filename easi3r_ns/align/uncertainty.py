"""How far the cameras may be off: a cluster-robust covariance of the alignment at its solution.

At the solution the gradients of all pairs sum to zero. If the gradient of one pair changed a little, the cameras would
move by that change times the inverse of the normal equations, depths and pair similarities included (Schur complement).
The spread of the pairs' gradients therefore gives the covariance of the cameras: a sandwich estimate whose clusters are
the pairs of images, both orders together. Within a cluster the errors of pixels may be correlated in any way, as those
of a network are. Pairs that share an image have correlated errors too; the dyadic estimate allows for that (Fafchamps
and Gubert 2007; Aronow, Samii and Assenova 2015), and the larger of both estimates is taken. Errors that all pairs have
in common show in neither estimate, and what optical flow contributes is not counted.
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
from .solvers.frontal import Clique, NotPositiveDefinite, last_uses, solve_frontal
from .solvers.normal import Local, eliminate_depths, jacobian_transpose, local_to_global, moments, unknowns_of
from .solvers.observations import (
    FrameObservations,
    TermWeights,
    frame_points,
    observations_by_frame,
    pointmap_weight,
    seen_points,
)
from .solvers.project import LARGEST_FRONT, front_width
from .solvers.unknowns import CAMERA, PAIR, Numbering, Unknowns
from .state import Decoded

PIXELS = 1024
"""Pixels per frame that take part; the errors of neighbouring pixels are nearly equal, so more of them add nothing."""
CURVATURE_FLOOR = 1.0
"""Residuals count as at least this long in their curvature, in units of the frame's median residual: the length of a
residual has no curvature at 0."""
GRADIENT_FLOOR = 0.2
"""The same for their gradient, whose direction is arbitrary near 0."""
FEWEST = 6
"""Fewer pairs of images do not show their spread: then every quarter of a pointmap is a cluster of its own."""
LARGEST = 1 << 26
"""Most numbers in the largest matrix; beyond it nothing is estimated."""


@dataclass(frozen=True)
class _LinearisedFrame:
    """Normal equations and gradients of one frame, without its depths."""

    index: torch.Tensor
    """(C,) numbers of the unknowns that it depends on."""
    matrix: torch.Tensor
    """(C, C) normal equations."""
    gradients: torch.Tensor
    """(C, m) gradient of each of its m groups of pixels."""
    cluster: torch.Tensor
    """(m,) the cluster that each group belongs to."""


def camera_uncertainty(
    problem: Problem, decoded: Decoded, focals: int, weak: Sequence[int], log: RunLog
) -> CameraUncertainty | None:
    """Standard deviations at the solution ``decoded``; None when the clip is too long, or the cameras undetermined.

    ``focals``: how many focal lengths were solved for (0: known, 1: shared, F). ``weak``: frames without trusted pairs,
    whose deviations are infinite.
    """
    residual = relative_residuals(problem, decoded, weak)
    frames, numbering = problem.num_frames, Numbering(problem.num_frames, len(problem.edges), focals)
    if numbering.size * (CAMERA * frames + focals) > LARGEST or front_width(problem, focals) > LARGEST_FRONT:
        log.detail(f"uncertainty: not estimated, {frames} frames with {len(problem.edges)} pairs are too many for it")
        return None
    try:
        response, related = influence(_thinned(problem, decoded), numbering)
    except NotPositiveDefinite:
        response = related = torch.full((1, 1), torch.nan)
    if not bool(torch.isfinite(response).all()):
        log.detail("uncertainty: not estimated, the pointmaps do not determine the cameras")
        return None
    strong = np.setdiff1d(np.arange(frames), weak)
    # The dyadic estimate is unbiased too where pairs err independently, but can by chance be small or even negative.
    estimates = [_variances(covariance, decoded, strong) for covariance in (_gram(response), _gram(response, related))]
    cameras, focal = (torch.maximum(*values).sqrt().numpy() for values in zip(*estimates))
    centre, turn = cameras.T.copy()
    turn[list(weak)] = centre[list(weak)] = np.inf
    focal = decoded.focal.cpu().double().numpy() * (focal if focals else 0.0)
    return CameraUncertainty(rotation_deg=np.degrees(turn), centre=centre, focal=focal, residual=residual)


def influence(thinned: tuple[Problem, Unknowns], numbering: Numbering) -> tuple[torch.Tensor, torch.Tensor]:
    """How the gradient of each of K clusters moves the solution.

    ``thinned``: the problem and its solution, float64 on the CPU. The first camera and the mean log-scale of the pairs
    are fixed. Returns (6 F + focals, K) changes of the cameras, (v, w) in their own axes, and of the log focal lengths;
    and (K, K) numbers, 1 for two clusters that share an image, else 0.
    """
    problem, u = thinned
    wanted = torch.cat([torch.arange(CAMERA * numbering.frames), torch.arange(numbering.size)[-numbering.focals :]])
    wanted = wanted if numbering.focals else wanted[: CAMERA * numbering.frames]
    right = u.R.new_zeros(numbering.size, len(wanted) + 1)
    right[wanted, torch.arange(len(wanted))] = 1
    right[numbering.scales, -1] = 1
    seen = observations_by_frame(problem)
    last = last_uses([unknowns_of(observed, numbering, False) for observed in seen], numbering.size)
    cluster = Clusters.of(problem)
    frames = partial(_linearised_frames, problem, u, seen, numbering, cluster)
    solved = solve_frontal(
        (Clique(f.index.cpu(), f.matrix, f.gradients.sum(dim=1)) for f in frames()), last, 0.0, right
    )[:, 1:]
    free, along, gauge = solved[:, :-1], solved[:, -1:], right[:, -1:]
    free = free - along @ (gauge.T @ free) / (gauge.T @ along)
    response = free.new_zeros(len(wanted), cluster.count)
    for frame in frames():
        response.index_add_(1, frame.cluster.to(response.device), free[frame.index].T @ frame.gradients)
    return response * (cluster.count / max(1, cluster.count - 1)) ** 0.5, cluster.related.to(response)


@dataclass(frozen=True)
class Clusters:
    """Pixels with correlated errors: those of a pair of images, or of a quarter of a pointmap where pairs are few."""

    number: torch.Tensor
    """(2E, Q) number of the cluster of every pointmap and each of Q parts of the image."""
    part: torch.Tensor
    """(Q, P) bool: which pixels belong to a part."""
    related: torch.Tensor
    """(K, K) bool: which clusters share an image; the identity where clusters are quarters of pointmaps."""

    @property
    def count(self) -> int:
        """K, the count of clusters."""
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
    """(F,) median distance between a frame's points and those of its pairs, in percent of the depth; NaN: unknown."""
    thin, u = _thinned(problem, decoded)
    found = np.full(problem.num_frames, np.nan)
    for observed in observations_by_frame(thin):
        off = (
            lengths(seen_points(u, thin, observed) - frame_points(u, thin, observed.frame).point)
            / u.depth[observed.frame]
        )
        known = thin.confidence[observed.rows] > 0
        if observed.frame not in weak and bool(known.any()):
            found[observed.frame] = 100 * float(off[known].median())
    return found


def _thinned(problem: Problem, decoded: Decoded) -> tuple[Problem, Unknowns]:
    """The problem on :data:`PIXELS` pixels and its solution in float64, on the CPU: not every device has float64."""
    count = problem.points.shape[-1]
    pick = torch.linspace(0, count - 1, min(PIXELS, count), device=problem.points.device).round().long()
    thin = replace(problem, flows=()).columns(pick)
    plain = (decoded.R, decoded.centre, decoded.focal.log(), decoded.pair_A, decoded.pair_b, decoded.depth[:, pick])
    return thin.to("cpu"), Unknowns(*(x.cpu().double() for x in plain))


def _linearised_frames(
    problem: Problem, u: Unknowns, seen: list[FrameObservations], numbering: Numbering, clusters: Clusters
) -> Iterator[_LinearisedFrame]:
    for observed in seen:
        index, G = local_to_global(u, observed, numbering, False)
        local, gradients = _linearise(u, problem, observed, clusters.part.to(u.depth))
        H, _ = eliminate_depths(local)
        yield _LinearisedFrame(index, G.T @ (H @ G), G.T @ gradients, clusters.number[observed.rows.cpu()].flatten())


def _linearise(
    u: Unknowns, problem: Problem, observed: FrameObservations, part: torch.Tensor
) -> tuple[Local, torch.Tensor]:
    """Re-weighted least squares of one frame, and the gradient (L, n Q) of each ``part`` (Q, P) of its n pointmaps.

    The gradients are those after the Schur complement of the depths.
    """
    n, pixels = len(observed.rows), u.depth.shape[1]
    focal, size = PAIR * n, PAIR * n + 2
    zeros = u.depth.new_zeros
    ray, q = frame_points(u, problem, observed.frame), seen_points(u, problem, observed)
    weight = pointmap_weight(problem, observed, TermWeights(1.0))
    residual = q - ray.point
    distance = lengths(residual)
    usual = distance[weight > 0].median() if bool((weight > 0).any()) else distance.new_ones(())
    curvature = weight / distance.clamp_min(CURVATURE_FLOOR * usual.clamp_min(1e-9))
    by_depth, by_focal = jacobian_transpose(q, ray.point, PAIR), jacobian_transpose(q, ray.by_focal, PAIR)
    H, V = zeros(size, size), zeros(size, pixels)
    own = torch.arange(focal, device=H.device).view(n, PAIR)
    H[own[:, :, None], own[:, None, :]] = moments(q, curvature)
    side = (by_focal @ curvature.unsqueeze(-1)).flatten()
    H[:focal, focal] = H[focal, :focal] = side
    H[focal, focal] = (curvature * dot(ray.by_focal, ray.by_focal)).sum()
    V[:focal] = -(by_depth * curvature.unsqueeze(1)).view(focal, pixels)
    V[focal] = -(curvature * dot(ray.point, ray.by_focal)).sum(dim=0)
    h = (curvature * dot(ray.point, ray.point)).sum(dim=0)
    slope = (weight / distance.clamp_min(GRADIENT_FLOOR * usual.clamp_min(1e-9))).unsqueeze(1) * residual
    by_pair, by_pixel = jacobian_transpose(q, slope, PAIR) @ part.T, -dot(slope, ray.point)
    inverse = torch.where(h > 0, h, torch.inf).reciprocal()
    gradients = zeros(size, n, len(part))
    gradients[own, torch.arange(n, device=H.device)[:, None]] = by_pair
    gradients[focal] = dot(slope, ray.by_focal) @ part.T
    gradients -= torch.einsum("lp,np,qp->lnq", V * inverse, by_pixel, part)
    gradients = gradients.flatten(1)
    return Local(H, gradients.sum(dim=1), V, h, by_pixel.sum(dim=0)), gradients


def _gram(response: torch.Tensor, related: torch.Tensor | None = None) -> torch.Tensor:
    """(C, C) covariance from the (C, K) responses to the clusters, of which ``related`` (K, K) ones are correlated."""
    return response @ (response if related is None else response @ related).T


def _variances(covariance: torch.Tensor, decoded: Decoded, strong: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """(F, 2) variances of centre and rotation, and (0,), (1,) or (F,) of the log focal lengths; at least 0."""
    frames = len(decoded.R)
    cameras, focal = covariance[: CAMERA * frames, : CAMERA * frames], covariance.diagonal()[CAMERA * frames :]
    free = _free_of_gauge(_in_world(cameras, decoded), decoded, strong)
    return free.diagonal().view(frames, 2, 3).sum(dim=2).clamp_min(0), focal.clamp_min(0)


def _in_world(covariance: torch.Tensor, decoded: Decoded) -> torch.Tensor:
    """(6 F, 6 F) covariance of (v, w) in the cameras' own axes -> of (centre, rotation) along the axes of the world."""
    R = decoded.R.cpu().double()
    turned: torch.Tensor = torch.block_diag(*R.repeat_interleave(2, dim=0))
    return turned @ covariance @ turned.T


def _free_of_gauge(covariance: torch.Tensor, decoded: Decoded, strong: np.ndarray) -> torch.Tensor:
    """(6 F, 6 F) covariance without the part that a similarity of the whole path explains.

    Rotations are weighed against centres by the shift that they cause at the median depth.
    """
    centre, depth = decoded.centre.cpu().double(), float(decoded.depth.median())
    P = similarity_free(centre, depth, torch.from_numpy(strong))
    return P @ covariance @ P.T


def similarity_free(centre: torch.Tensor, depth: float, strong: torch.Tensor) -> torch.Tensor:
    """(6 F, 6 F) projection of small errors (shift, turn) of cameras onto the part that no similarity explains.

    ``centre``: (F, 3) camera centres; ``depth``: length that makes a turn in radians comparable to a shift;
    ``strong``: frames that the similarity is fitted to.
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
    explained: torch.Tensor = units @ fit
    return torch.eye(6 * frames, dtype=centre.dtype, device=centre.device) - explained
