"""Which pairs contradict the others, and a placement of the frames that does not depend on them.

One wrong pair in the spanning tree of DUSt3R places all frames that the tree reaches through it wrongly, and the
optimisation does not recover. Here every frame is placed where most of its pairs agree that it lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..core.errors import AlignmentError
from ..core.geometry import interpolate_poses
from ..core.runlog import RunLog
from .init import Placement, edge_scores, homogeneous, place_frames, pose_of_points, robust_register
from .problem import Problem
from .residuals import lengths

THIN_PIXELS = 512
"""Pixels per pointmap that take part in the comparison."""
SWEEPS = 2
"""How often every frame is placed again once all are placed."""
AGREEMENT = 0.05
"""Distance, in units of the pair's depth, at which two placements of a frame count as agreeing by one half."""
CONTRADICTION = (4.0, 0.1, 0.35)
"""(factor, least, most): a pair contradicts the others when the median distance of its points exceeds factor times the
median of all pairs; this limit is at least ``least`` and at most ``most``, in units of the pair's depth."""
LEAST_RELATIVE_WEIGHT = 0.1
"""Least mean weight of a pointmap, in units of the median of all pointmaps. It must exceed the usual error relative to
the depth: the mean log-scale of the pairs is fixed, so the scale of a pair without weight could grow until all other
scales, and with them the objective, have shrunk to 0."""
NAMED = 8
"""Most frames named in one message."""
MOST_WEAK = 0.5
"""Largest share of frames without a trusted pair; beyond it, which pairs are wrong cannot be told."""


@dataclass(frozen=True)
class Screening:
    """A problem without the pairs that contradict the others."""

    problem: Problem
    placement: Placement | None
    """Where the frames lie, when the spanning tree would place them wrongly; else None."""
    contradicted: tuple[tuple[int, int], ...]
    """The pairs that were left out."""
    weak: tuple[int, ...]
    """Frames that no trusted pair connects to the others; in ``problem`` they are copies of another frame."""
    unsure: tuple[int, ...]
    """Frames about which the network has no confidence; their pointmaps have :data:`LEAST_RELATIVE_WEIGHT`."""
    residual: float
    """Median over all pairs of the distance of their points from the frames as placed, in units of the pair's depth."""


@dataclass(frozen=True)
class _Consensus:
    """Where every frame lies: a row of the observations and the similarity from its points to the common frame."""

    row: torch.Tensor
    """(F,) int64."""
    scale: torch.Tensor
    """(F,)."""
    R: torch.Tensor
    """(F, 3, 3)."""
    t: torch.Tensor
    """(F, 3)."""

    def points(self, problem: Problem) -> torch.Tensor:
        """(F, 3, P) points of the frames in the common frame."""
        sR = self.scale[:, None, None] * self.R
        return torch.baddbmm(self.t.unsqueeze(-1), sR, problem.points[self.row])


def screen(problem: Problem, names: Sequence[int], log: RunLog) -> Screening:
    """Find the pairs that contradict the others, leave them out and warn. ``names``: of the F frames, in messages.

    Raises :class:`AlignmentError` when more than :data:`MOST_WEAK` of the frames have no other pairs.
    """
    problem, unsure = with_least_weight(problem)
    small = _thin(problem)
    scores = edge_scores(small)
    tree = place_frames(small, scores)
    residual = pair_residuals(small, tree.points, tree.known)
    consensus: _Consensus | None = None
    if bool(contradicting(residual).any()):
        found = _agree(small, scores)
        better = pair_residuals(small, found.points(small), small.confidence[found.row] > 0)
        if better.clamp_max(1.0).mean() < 0.9 * residual.clamp_max(1.0).mean():
            residual, consensus = better, found
    typical = float(residual.median())
    placed = None if consensus is None else (consensus.points(problem), problem.confidence[consensus.row] > 0)
    bad = contradicting(residual)
    if not bool(bad.any()):
        placement = None if placed is None else _placement(problem, *placed, residual)
        return Screening(problem, placement, (), (), unsure, typical)
    weak = _weak_frames(problem.edges[~bad].numpy(), problem.num_frames)
    _report(problem, bad, weak, names, log)
    near = _neighbours(problem, weak)
    reduced, rows = _without(problem, bad, near)
    placement = None
    if placed is not None:
        for values in placed:
            for frame, twin in near.items():
                values[frame] = values[twin]
        placement = _placement(reduced, *placed, residual[rows])
    pairs = tuple((int(i), int(j)) for i, j in problem.edges[bad].tolist())
    unsure = tuple(frame for frame in unsure if frame not in weak)
    return Screening(reduced, placement, pairs, tuple(weak), unsure, typical)


def with_least_weight(problem: Problem) -> tuple[Problem, tuple[int, ...]]:
    """The problem with at least :data:`LEAST_RELATIVE_WEIGHT` on every pointmap, and the frames where all had less."""
    mean = problem.weight.mean(dim=1)
    usual = float(mean[mean > 0].median()) if bool((mean > 0).any()) else 0.0
    loose = mean < LEAST_RELATIVE_WEIGHT * usual if usual > 0 else torch.ones_like(mean, dtype=torch.bool)
    if not bool(loose.any()):
        return problem, ()
    least = float(np.exp(LEAST_RELATIVE_WEIGHT * usual)) if usual > 0 else float(np.e)
    firm = torch.where(problem.confidence > 0, problem.confidence.clamp_min(least), 0.0)
    confidence = torch.where(loose[:, None], firm, problem.confidence)
    unsure = sorted(set(range(problem.num_frames)) - set(problem.frame[~loose].tolist()))
    return replace(problem, confidence=confidence), tuple(unsure)


def interpolate(T_world_cam: np.ndarray, missing: Sequence[int]) -> np.ndarray:
    """(F, 4, 4) with the poses of the ``missing`` frames interpolated.

    Before the first and after the last known frame its pose is repeated.
    """
    known = np.setdiff1d(np.arange(len(T_world_cam)), missing)
    if len(known) == len(T_world_cam):
        return T_world_cam
    filled = T_world_cam.copy()
    filled[list(missing)] = interpolate_poses(known, T_world_cam[known], np.asarray(missing))
    return filled


def pair_residuals(problem: Problem, points: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """(E,) median distance between a pair's points and those of the frames as placed, in the view where it is larger.

    In units of the median distance of the pair's points from their reference camera. ``points``: (F, 3, P) of the
    frames; ``known``: (F, P) bool.
    """
    e = len(problem.edges)
    i, j = problem.edges.T
    source = torch.cat([problem.points[:e], problem.points[e:]], dim=2)
    target = torch.cat([points[i], points[j]], dim=2)
    trusted = torch.cat([problem.confidence[:e] * known[i], problem.confidence[e:] * known[j]], dim=1)
    s, R, t = robust_register(source, target, trusted)
    distance = lengths(torch.baddbmm(t.unsqueeze(-1), s[:, None, None] * R, source) - target)
    unit = s * _median(lengths(source), trusted > 0)
    half = problem.points.shape[-1]
    views = [_median(distance[:, v], trusted[:, v] > 0) for v in (slice(None, half), slice(half, None))]
    return torch.maximum(*views) / unit


def contradicting(residual: torch.Tensor) -> torch.Tensor:
    """(E,) bool: pairs whose :func:`pair_residuals` exceed the limit of :data:`CONTRADICTION`."""
    factor, least, most = CONTRADICTION
    # With two pairs one fits by construction, so their median is meaningless.
    usual = residual.median() if len(residual) > 2 else residual.new_tensor(torch.inf)
    return residual > (factor * usual).clamp(least, most)


def _thin(problem: Problem) -> Problem:
    """The same problem on at most :data:`THIN_PIXELS` pixels, without flow."""
    count = problem.points.shape[-1]
    if count <= THIN_PIXELS:
        return problem
    pick = torch.linspace(0, count - 1, THIN_PIXELS).round().long()
    return replace(problem, flows=()).columns(pick)


def _median(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """(N, P) values, (N, P) bool where -> (N,) medians; 0 where nothing is known."""
    return values.masked_fill(~where, torch.nan).nanmedian(dim=1).values.nan_to_num(0.0)


def _agree(problem: Problem, scores: torch.Tensor) -> _Consensus:
    """Place frame by frame, always the one on whose place most pairs agree, then each :data:`SWEEPS` times again."""
    builder = _Builder(problem)
    builder.begin(scores)
    while len(builder.placed) < problem.num_frames:
        builder.place(builder.next_frame())
    for _ in range(SWEEPS):
        for frame in range(problem.num_frames):
            builder.forget(frame)
            builder.place(frame)
    return builder.result()


_Motion = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Scale (), rotation (3, 3), translation (3,)."""


class _Builder:
    """Placement of the frames in progress. Candidates for a frame come from its pairs with frames placed already."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.count = problem, len(problem.edges)
        i, j = problem.edges.T.numpy()
        self.frame = np.concatenate([i, j])
        self.partner = np.concatenate([np.arange(self.count) + self.count, np.arange(self.count)])
        self.placed: dict[int, tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]] = {}
        self.points: dict[int, torch.Tensor] = {}
        self._support: dict[int, tuple[float, int, _Motion | None]] = {}

    def begin(self, scores: torch.Tensor) -> None:
        """Place the pair with the best score (E,) among those whose two orders (i, j) and (j, i) agree."""
        row_of = {(int(i), int(j)): e for e, (i, j) in enumerate(self.problem.edges.tolist())}
        both = [(e, row_of[j, i]) for (i, j), e in row_of.items() if i < j and (j, i) in row_of]
        best = int(scores.argmax())
        if both:
            there, back = torch.tensor(both).T
            off = self._disagreement(there, back)
            good = ~contradicting(off) & (off <= max(2 * float(off.median()), AGREEMENT))
            ranked = (scores[there] + scores[back]).masked_fill(~good, -1.0)
            best = int(there[ranked.argmax() if bool(good.any()) else off.argmin()])
        eye = (torch.ones(()), torch.eye(3), torch.zeros(3))
        for row in (best, best + self.count):
            self._put(int(self.frame[row]), row, eye)

    def _disagreement(self, there: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        """(N,) median distance between the points of pairs and of the same pairs in the other order.

        In units of the median distance from the camera. ``there``, ``back``: (N,) rows of the pairs and their reverse.
        """
        points, confidence, e = self.problem.points, self.problem.confidence, self.count
        target = torch.cat([points[there], points[there + e]], dim=2)
        source = torch.cat([points[back + e], points[back]], dim=2)
        weight = torch.cat([confidence[there], confidence[there + e]], dim=1)
        s, R, t = robust_register(source, target, weight)
        off = lengths(torch.baddbmm(t.unsqueeze(-1), s[:, None, None] * R, source) - target)
        return _median(off, weight > 0) / _median(lengths(target), weight > 0)

    def next_frame(self) -> int:
        """The frame on whose place most of its pairs with placed frames agree."""
        waiting = set(range(self.problem.num_frames)) - self.placed.keys()
        for frame in waiting:
            if frame not in self._support:
                self._support[frame] = self._best(frame)
        return max(waiting, key=lambda frame: (self._support[frame][0], -frame))

    def place(self, frame: int) -> None:
        """Put a frame where most of its candidates agree; without any it stays where it was."""
        known = self._support.pop(frame) if frame in self._support else self._best(frame)
        _, row, similarity = known
        if similarity is not None:
            self._put(frame, row, similarity)

    def forget(self, frame: int) -> None:
        """Make :meth:`place` compute the frame's candidates again."""
        self._support.pop(frame, None)

    def result(self) -> _Consensus:
        """All frames, once each is placed."""
        rows, *parts = zip(*(self.placed[frame] for frame in range(self.problem.num_frames)))
        return _Consensus(torch.tensor(rows), *(torch.stack(part) for part in parts))

    def _put(self, frame: int, row: int, similarity: _Motion) -> None:
        s, R, t = similarity
        self.placed[frame] = (row, s, R, t)
        self.points[frame] = torch.addmm(t[:, None], s * R, self.problem.points[row])
        near = self.frame[self.partner[self.frame == frame]]
        for other in near.tolist():
            self._support.pop(other, None)

    def _best(self, frame: int) -> tuple[float, int, _Motion | None]:
        """How much the others agree with the best candidate, its row, its similarity; (-1, -1, None) without any."""
        own = np.flatnonzero(self.frame == frame).tolist()
        rows = [row for row in own if int(self.frame[self.partner[row]]) in self.points]
        if not rows:
            return -1.0, -1, None
        anchors = self.partner[rows]
        target = torch.stack([self.points[int(self.frame[a])] for a in anchors])
        s, R, t = robust_register(self.problem.points[anchors], target, self.problem.confidence[anchors])
        seen = torch.baddbmm(t.unsqueeze(-1), s[:, None, None] * R, self.problem.points[rows])
        known = self.problem.confidence[rows] > 0
        unit = s * _median(lengths(self.problem.points[rows]), known)
        support = torch.zeros(len(rows))
        for k in range(len(rows)):
            off = _median(lengths(seen - seen[k]), known & known[k]) / unit[k].clamp_min(1e-12)
            agreeing = (1 + (off / AGREEMENT).square()).reciprocal()
            agreeing[k] = 0.0
            support[k] = agreeing.sum()
        best = int(support.argmax())
        return float(support[best]), rows[best], (s[best], R[best], t[best])


def _placement(problem: Problem, points: torch.Tensor, known: torch.Tensor, residual: torch.Tensor) -> Placement:
    """Frames at ``points`` (F, 3, P); a pose comes from the frame's best pair as the reference view.

    ``known``: (F, P) bool; ``residual``: (E,) of the pairs.
    """
    poses, reference_pair = {}, {}
    for frame in range(problem.num_frames):
        rows = torch.nonzero(problem.edges[:, 0] == frame)[:, 0]
        if len(rows):
            row = int(rows[residual[rows].argmin()])
            weight = problem.confidence[row] * known[frame]
            s, R, t = (x[0] for x in robust_register(problem.points[row][None], points[frame][None], weight[None]))
            poses[frame], reference_pair[frame] = homogeneous(R, t), row
    return Placement(points, known, poses, reference_pair, (), robust=True)


def _weak_frames(good_edges: np.ndarray, num_frames: int) -> list[int]:
    """Frames outside the largest group that the good pairs (N, 2) connect."""
    graph = coo_array((np.ones(len(good_edges)), good_edges.T), shape=(num_frames, num_frames))
    _, label = connected_components(graph, directed=False)
    outside: list[int] = np.flatnonzero(label != np.bincount(label).argmax()).tolist()
    return outside


def _neighbours(problem: Problem, weak: list[int]) -> dict[int, int]:
    """Weak frame -> the frame that is not weak and fewest pairs away.

    Between a weak frame and the one on its way there lies a pair whose frames get the same neighbour.
    """
    edges = problem.edges.numpy()
    ends = np.concatenate([edges, edges[:, ::-1]])  # of some pairs only one order is left
    graph = coo_array((np.ones(len(ends)), ends.T), shape=(problem.num_frames,) * 2).tocsr()
    near = {frame: frame for frame in range(problem.num_frames) if frame not in weak}
    while len(near) < problem.num_frames:
        before = len(near)
        for frame in weak:
            joined = graph.indices[graph.indptr[frame] : graph.indptr[frame + 1]].tolist()
            known = [other for other in joined if other in near]
            if frame not in near and known:
                near[frame] = near[min(known, key=lambda other: abs(other - frame))]
        assert len(near) > before, "the pairs of a problem connect all of its frames"
    return {frame: near[frame] for frame in weak}


def _without(problem: Problem, bad: torch.Tensor, near: dict[int, int]) -> tuple[Problem, torch.Tensor]:
    """The problem without the bad pairs, and the (K,) pairs that are left; weak frames become copies of ``near`` ones.

    The copies keep every unknown of a weak frame determined; pairs without weight would not, see
    :data:`LEAST_RELATIVE_WEIGHT`.
    """
    twins = [tuple(near.get(frame, frame) for frame in edge) for edge in problem.edges.tolist()]
    touched = torch.tensor([pair != tuple(edge) for pair, edge in zip(twins, problem.edges.tolist())])
    same = torch.tensor([i == j for i, j in twins])
    rows = torch.nonzero(torch.where(touched, same, ~bad))[:, 0]
    both = torch.cat([rows, rows + len(twins)])
    points, confidence = problem.points[both], problem.confidence[both]
    own = {frame: _own_pointmap(problem, bad, frame) for frame in set(near.values())}
    for place, row in enumerate(rows.tolist()):
        if touched[row]:
            for at in (place, place + len(rows)):
                points[at], confidence[at] = own[int(twins[row][0])]
    reduced = replace(problem, edges=problem.edges[rows], kept=problem.kept[rows], points=points, confidence=confidence)
    return reduced, rows


def _own_pointmap(problem: Problem, bad: torch.Tensor, frame: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (3, P) of a frame that is not weak in its own camera, and their confidence (P,), by a good pair.

    Every good pair of the frame may have it as the other view only: its points are then in the camera of the reference
    view, from which the pose that shows them where they are leads to its own. Where there is no such pose they stay
    there, and only the start of the optimisation is worse.
    """
    count = len(problem.edges)
    reference = torch.nonzero(~bad & (problem.edges[:, 0] == frame))[:, 0].tolist()
    if reference:
        return problem.points[reference[-1]], problem.confidence[reference[-1]]
    row = int(torch.nonzero(~bad & (problem.edges[:, 1] == frame))[-1, 0])
    points, confidence = problem.points[count + row], problem.confidence[count + row]
    pose = pose_of_points(problem, row, frame)
    if pose is not None:
        points = pose[:3, :3].T @ (points - pose[:3, 3:])
    return points, confidence


def _report(problem: Problem, bad: torch.Tensor, weak: list[int], names: Sequence[int], log: RunLog) -> None:
    if len(weak) > MOST_WEAK * problem.num_frames or len(problem.edges) <= 2:
        raise AlignmentError(
            f"the pointmaps contradict each other: {int(bad.sum())} of {len(bad)} pairs do not fit the rest, and "
            f"{max(1, len(weak))} of the {problem.num_frames} frames have no other pair. Use other weights, a denser "
            "--graph, or another part of the clip (--start, --end)"
        )
    pairs = [(i, j) for i, j in problem.edges[bad].tolist() if i not in weak and j not in weak]
    if pairs:
        shown = ", ".join(f"{names[i]}-{names[j]}" for i, j in pairs[:6]) + (" ..." if len(pairs) > 6 else "")
        log.warn(
            f"{len(pairs)} of {len(problem.edges)} pairs contradict the others and are left out (frames {shown}): the "
            "network probably mistook what they show for something else"
        )
    if weak:
        log.warn(
            f"no pair of {frame_names([names[k] for k in weak])} fits the rest of the clip ({len(weak)} of "
            f"{problem.num_frames}; black, blurred or of another place?): their cameras are interpolated between their "
            "neighbours, and they give no depth"
        )


def frame_names(frames: Sequence[int]) -> str:
    """'frame 3' or 'frames 1, 2, 5': at most :data:`NAMED` of them, then their count."""
    shown = ", ".join(map(str, frames[:NAMED])) + (f" ... ({len(frames)} in all)" if len(frames) > NAMED else "")
    return f"frame{'' if len(frames) == 1 else 's'} {shown}"
