"""Start of the optimisation: a spanning tree of the best pairs, focal lengths from pointmaps, missing poses by PnP.

Source: DUSt3R (arXiv:2312.14132) section 3.4 and appendix; focal lengths by Weiszfeld's algorithm.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree

from ..core.errors import AlignmentError
from ..core.runlog import RunLog
from .problem import Problem
from .residuals import lengths
from .state import FOCAL_GAIN, State, scale_normaliser, signed_log1p

WEISZFELD_ROUNDS = 10
PNP_ITERATIONS = 10
"""Of RANSAC; the reference implementation's count."""
PNP_REPROJECTION_PX = 5.0
"""Largest reprojection error of an inlier, network pixels."""
PNP_CONFIDENCE = 2.5
"""Points above this confidence take part in PnP; the upper half where they are too few."""
PNP_INLIER_SHARE = 0.25
"""Least share of inliers with which a pose is accepted."""
FOCAL_RANGE = (0.2, 20.0)
"""Accepted focal lengths in units of the longer image side (136 to 3 degrees of view)."""
REGISTRATION_BLOCK = 32
"""Similarities solved for at once: bounds the memory."""
ROBUST_ROUNDS = 8
"""Rounds of iterative re-weighting."""


@dataclass(frozen=True)
class Placement:
    """Every frame's points in one common coordinate frame, before the optimisation."""

    points: torch.Tensor
    """(F, 3, P) points of each frame, in the common frame and units: the camera of the first pair's reference view."""
    known: torch.Tensor
    """(F, P) bool, False where the pointmap that placed the frame has no finite point."""
    poses: dict[int, torch.Tensor]
    """Frame -> (4, 4) camera-to-world, for frames that are the reference view of a pair that placed them."""
    reference_pair: dict[int, int]
    """Frame -> row of that pair."""
    tree: tuple[tuple[int, int], ...]
    """Tree edges in the order in which they were used; empty where no tree placed the frames."""
    robust: bool = False
    """Whether pairs have to be registered robustly, because many points are wrong."""


@dataclass(frozen=True)
class Initialisation:
    """Start of the optimisation, and how it was found."""

    state: State
    tree: tuple[tuple[int, int], ...]
    """As in :class:`Placement`."""
    registered_by: tuple[str, ...]
    """Per frame: 'tree', 'pnp' or 'similarity' (PnP failed)."""
    focal_estimates: tuple[float, ...]
    """Per frame the focal length in network pixels that its pointmap shows; empty for a known focal length."""


def initialise(
    problem: Problem, focal: float | None, shared_focal: bool, log: RunLog, placement: Placement | None = None
) -> Initialisation:
    """Poses, depths, focals and pair similarities from the pointmaps alone.

    ``focal``: known focal length in network pixels, or None; ``placement``: where the frames lie, None takes the
    spanning tree's. Raises :class:`AlignmentError` when pointmaps are degenerate, when no focal length is plausible, or
    when a frame cannot be placed in front of its camera.
    """
    import roma  # not at the top: it loads torch's compiler, 160 MB that the network stage needs more

    scores = edge_scores(problem)
    placement = placement or place_frames(problem, scores)
    own_focals = frame_focals(problem, placement, scores, focal, log)
    focals = own_focals
    if shared_focal and focal is None:
        focals = (own_focals.median() if placement.robust else own_focals.mean()).repeat(problem.num_frames)
    count, reference = len(problem.edges), problem.edges[:, 0]
    weight = problem.confidence[:count] * placement.known[reference]
    fit = robust_register if placement.robust else register
    scale, R, t = fit(problem.points[:count], placement.points[reference], weight)
    poses, registered_by = _all_poses(problem, placement, focals, scores, (R, t), log)
    log_scale = scale.log()
    shrink = scale_normaliser(log_scale)
    to_camera = torch.linalg.inv(poses)
    depth = torch.baddbmm(to_camera[:, 2:3, 3:], to_camera[:, 2:3, :3], placement.points).squeeze(1) * shrink
    stored = focals.mean()[None] if shared_focal and focal is None else focals
    state = State(
        cam_quat=roma.rotmat_to_unitquat(poses[:, :3, :3]),
        cam_trans=signed_log1p(poses[:, :3, 3] * shrink),
        log_depth=_positive(depth.masked_fill(~placement.known, torch.nan), log).log(),
        focal=FOCAL_GAIN * stored.log(),
        pair_quat=roma.rotmat_to_unitquat(R),
        pair_trans=signed_log1p(t / scale[:, None]),
        pair_log_scale=log_scale,
    )
    estimates = () if focal is not None else tuple(own_focals.tolist())
    return Initialisation(state.map(lambda x: x.float().contiguous()), placement.tree, registered_by, estimates)


def edge_scores(problem: Problem) -> torch.Tensor:
    """(E,) score of every pair: mean confidence of the reference view times that of the other view."""
    mean = problem.confidence.mean(dim=1).double().view(2, -1)
    return mean[0] * mean[1]


def spanning_tree(edges: np.ndarray, scores: np.ndarray, num_frames: int) -> list[tuple[int, int]]:
    """F - 1 pairs with the best total score that connect all frames, best first; (i, j): i is the reference view.

    ``edges``: (E, 2), connected; ``scores``: (E,) > 0.
    """
    graph = coo_array((-scores, (edges[:, 0], edges[:, 1])), shape=(num_frames, num_frames)).tocsr()
    tree = minimum_spanning_tree(graph).tocoo()
    ranked = sorted(zip(-tree.data, tree.row.tolist(), tree.col.tolist()), reverse=True)
    return [(i, j) for _, i, j in ranked]


def place_frames(problem: Problem, scores: torch.Tensor) -> Placement:
    """Chain the pairs of the spanning tree by weighted similarities, from the best pair outwards. ``scores``: (E,)."""
    edges = problem.edges.numpy()
    count = len(edges)
    row_of = {(int(i), int(j)): e for e, (i, j) in enumerate(edges.tolist())}
    queue = deque(spanning_tree(edges, scores.numpy(), problem.num_frames))
    points: dict[int, torch.Tensor] = {}
    known: dict[int, torch.Tensor] = {}
    poses: dict[int, torch.Tensor] = {}
    reference_pair: dict[int, int] = {}
    used = []
    while queue:
        i, j = queue.popleft()
        row = row_of[i, j]
        reference_pair.setdefault(i, row)
        if not points:
            points = {i: problem.points[row], j: problem.points[count + row]}
            known = {i: problem.confidence[row] > 0, j: problem.confidence[count + row] > 0}
            poses[i] = torch.eye(4)
        elif i in points or j in points:
            old, old_row, new, new_row = (i, row, j, count + row) if i in points else (j, count + row, i, row)
            weight = problem.confidence[old_row] * known[old]
            s, R, t = (x[0] for x in register(problem.points[old_row][None], points[old][None], weight[None]))
            points[new] = torch.addmm(t[:, None], s * R, problem.points[new_row])
            known[new] = problem.confidence[new_row] > 0
            poses.setdefault(i, homogeneous(R, t))
        else:
            queue.append((i, j))
            continue
        used.append((i, j))
    stacked, finite = (torch.stack([x[f] for f in range(problem.num_frames)]) for x in (points, known))
    return Placement(stacked, finite, poses, reference_pair, tuple(used))


def register(
    source: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weighted similarities target ~ s R source + t of (N, 3, P) point sets: s (N,), R (N, 3, 3), t (N, 3).

    The least sum of weighted squared distances; ``weight``: (N, P) >= 0. Raises :class:`AlignmentError` where the
    points do not determine a similarity.
    """
    import roma

    parts = []
    for rows in range(0, len(source), REGISTRATION_BLOCK):
        block = slice(rows, rows + REGISTRATION_BLOCK)
        x, y = source[block].transpose(1, 2), target[block].transpose(1, 2)
        R, t, s = roma.rigid_points_registration(x, y, weights=weight[block], compute_scaling=True)
        parts.append((s, R, t))
    s, R, t = (torch.cat(part) for part in zip(*parts))
    good = torch.isfinite(s) & (s > 0) & torch.isfinite(R).all(dim=2).all(dim=1) & torch.isfinite(t).all(dim=1)
    if not bool(good.all()):
        raise AlignmentError(
            f"{int((~good).sum())} of {len(s)} pointmaps cannot be registered onto their frame (scale zero or not "
            "finite): the network's points are degenerate. Use other weights or another part of the clip"
        )
    return s, R, t


def robust_register(
    source: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As :func:`register`, for the least sum of distances instead of squares: a third of the points may be wrong."""
    s, R, t = register(source, target, weight)
    for _ in range(ROBUST_ROUNDS):
        distance = lengths(torch.baddbmm(t.unsqueeze(-1), s[:, None, None] * R, source) - target)
        usual = distance.masked_fill(weight <= 0, torch.nan).nanmedian(dim=1).values
        s, R, t = register(source, target, weight / (distance + 0.1 * usual[:, None] + 1e-9))
    return s, R, t


def weiszfeld_focals(points: torch.Tensor, xy: torch.Tensor, principal_point: torch.Tensor) -> torch.Tensor:
    """Focal lengths (N,) in pixels that minimise sum |pixel - f (x, y) / z|.

    ``points``: (N, 3, P) in the camera's own frame; ``xy``: (2, P) pixels; ``principal_point``: (N, 2) pixels.
    """
    pixels = xy - principal_point.unsqueeze(-1)
    slope = (points[:, :2] / points[:, 2:]).nan_to_num(0.0, posinf=0.0, neginf=0.0)
    dot, square = (slope * pixels).sum(dim=1), slope.square().sum(dim=1)
    focal = dot.mean(dim=1) / square.mean(dim=1)
    for _ in range(WEISZFELD_ROUNDS):
        distance = lengths(pixels - focal[:, None, None] * slope)
        w = distance.clamp_min(1e-8).reciprocal()
        focal = (w * dot).mean(dim=1) / (w * square).mean(dim=1)
    return focal


def frame_focals(
    problem: Problem,
    placement: Placement,
    scores: torch.Tensor,
    focal: float | None,
    log: RunLog,
) -> torch.Tensor:
    """(F,) focal lengths in network pixels: the known one, or each frame's from its best pointmap as a reference view.

    A frame that is the reference view of no pair, or has an implausible value, gets the median of the others. Raises
    :class:`AlignmentError` when no value is plausible.
    """
    if focal is not None:
        return torch.full((problem.num_frames,), float(focal))
    rows = dict(placement.reference_pair)
    for e in torch.argsort(scores, descending=True).tolist():
        rows.setdefault(int(problem.edges[e, 0]), e)
    frames = torch.tensor(sorted(rows))
    chosen = torch.tensor([rows[f] for f in sorted(rows)])
    estimate = weiszfeld_focals(problem.points[chosen], problem.sample.xy, problem.principal_point[frames])
    low, high = (max(problem.sample.size) * factor for factor in FOCAL_RANGE)
    good = (estimate > low) & (estimate < high)
    if not bool(good.any()):
        raise AlignmentError(
            f"no frame has a plausible focal length (estimates {estimate[:5].tolist()} network pixels): "
            "give --focal-length, or use other weights"
        )
    if not bool(good.all()):
        log.warn(f"{int((~good).sum())} frames had no plausible focal length and start from the median of the others")
    focals = estimate[good].median().repeat(problem.num_frames)
    focals[frames[good]] = estimate[good]
    return focals


def pnp(points: np.ndarray, pixels: np.ndarray, focal: float, principal_point: np.ndarray) -> torch.Tensor | None:
    """Camera-to-world pose (4, 4) from (N, 3) world points and their (N, 2) pixels, or None where none is found.

    SQPnP inside RANSAC (OpenCV); None also when fewer than a quarter of the points agree with the pose.
    """
    import cv2

    if len(points) < 6:
        return None
    K = np.array([[focal, 0, principal_point[0]], [0, focal, principal_point[1]], [0, 0, 1]], dtype=np.float64)
    try:
        found, rotation, translation, inliers = cv2.solvePnPRansac(
            points.astype(np.float64),
            pixels.astype(np.float64),
            K,
            np.empty(0),  # no lens distortion
            iterationsCount=PNP_ITERATIONS,
            reprojectionError=PNP_REPROJECTION_PX,
            flags=cv2.SOLVEPNP_SQPNP,
        )
    except cv2.error:
        return None
    if not found or inliers is None or len(inliers) < PNP_INLIER_SHARE * len(points):
        return None
    R = torch.from_numpy(cv2.Rodrigues(rotation)[0])
    t = torch.from_numpy(translation)[:, 0]
    if not bool(torch.isfinite(R).all() and torch.isfinite(t).all()):
        return None
    return homogeneous(R.T, -R.T @ t).float()


def pose_of_points(problem: Problem, row: int, frame: int) -> torch.Tensor | None:
    """(4, 4) pose of the other view of a pair in the camera of its reference view, or None where PnP finds none.

    ``row``: the pair; ``frame``: its other view. The focal length is the one that the reference view's pointmap shows.
    """
    count = len(problem.edges)
    reference = int(problem.edges[row, 0])
    focal = float(weiszfeld_focals(problem.points[row][None], problem.sample.xy, problem.principal_point[[reference]]))
    low, high = (max(problem.sample.size) * factor for factor in FOCAL_RANGE)
    if not low < focal < high:
        return None
    trusted = _trusted(problem.confidence[count + row]).numpy()
    points, pixels = problem.points[count + row].T.numpy()[trusted], problem.sample.xy.T.numpy()[trusted]
    return pnp(points, pixels, focal, problem.principal_point[frame].numpy())


def frame_confidence(problem: Problem) -> torch.Tensor:
    """(F, P) largest confidence that any pair gives a sampled pixel."""
    best = torch.zeros(problem.num_frames, problem.confidence.shape[1])
    index = problem.frame[:, None].expand_as(problem.confidence)
    return best.scatter_reduce_(0, index, problem.confidence, reduce="amax")


def _all_poses(
    problem: Problem,
    placement: Placement,
    focals: torch.Tensor,
    scores: torch.Tensor,
    pair_motion: tuple[torch.Tensor, torch.Tensor],
    log: RunLog,
) -> tuple[torch.Tensor, tuple[str, ...]]:
    """(F, 4, 4) camera-to-world of every frame, and how each was found.

    ``pair_motion``: rotations (E, 3, 3) and translations (E, 3) of the pairs' reference cameras.
    """
    confidence = frame_confidence(problem)
    pixels = problem.sample.xy.T.numpy()
    poses, how = [], []
    for f in range(problem.num_frames):
        pose, by = placement.poses.get(f), "tree"
        if pose is None:
            trusted = _trusted(confidence[f] * placement.known[f]).numpy()
            world = placement.points[f].T.numpy()[trusted]
            pose, by = pnp(world, pixels[trusted], float(focals[f]), problem.principal_point[f].numpy()), "pnp"
        if pose is None:
            pose, by = _pose_of_best_pair(problem, scores, pair_motion, f), "similarity"
            log.warn(f"PnP found no pose for frame {f}; it starts from the similarity of its best pair")
        poses.append(pose)
        how.append(by)
    return torch.stack(poses), tuple(how)


def _pose_of_best_pair(
    problem: Problem, scores: torch.Tensor, pair_motion: tuple[torch.Tensor, torch.Tensor], frame: int
) -> torch.Tensor:
    rows = torch.nonzero(problem.edges[:, 0] == frame)[:, 0]
    if len(rows) == 0:
        raise AlignmentError(
            f"frame {frame} has no pose: PnP failed and none of its usable pairs has it as the reference view. "
            "Use a denser --graph or leave the frame out"
        )
    best = rows[scores[rows].argmax()]
    return homogeneous(pair_motion[0][best], pair_motion[1][best])


def _trusted(confidence: torch.Tensor) -> torch.Tensor:
    """(P,) bool from (P,) confidences: the points for PnP."""
    trusted = confidence > PNP_CONFIDENCE
    if int(trusted.sum()) < len(confidence) // 10:
        trusted = confidence >= confidence.median()
    return trusted & (confidence > 0)


def _positive(depth: torch.Tensor, log: RunLog) -> torch.Tensor:
    """(F, P) depths with those behind the camera replaced by the median of the frame's depths in front of it."""
    good = torch.isfinite(depth) & (depth > 0)
    share = good.float().mean(dim=1)
    empty = torch.nonzero(share < 0.01)[:, 0].tolist()
    if empty:
        raise AlignmentError(
            f"frames {empty[:8]} lie behind their own cameras after the initial registration: their pointmaps "
            "contradict those of their neighbours. Use a denser --graph, other weights, or leave the frames out"
        )
    if bool((share < 0.5).any()):
        log.warn(f"more than half of the points of {int((share < 0.5).sum())} frames start behind the camera")
    median = depth.masked_fill(~good, torch.nan).nanmedian(dim=1).values
    return torch.where(good, depth, median[:, None])


def homogeneous(R: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """(3, 3) rotation and (3,) translation -> (4, 4)."""
    T = torch.eye(4, dtype=R.dtype)
    T[:3, :3], T[:3, 3] = R, t
    return T
