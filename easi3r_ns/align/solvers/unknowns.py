"""The unknowns of the alignment in plain units for the second-order solver, their numbering and their steps.

A camera's step is a motion (v, w) in its OWN coordinates: its points X become X - v - w x X there. A pair's step is a
similarity (v, w, s) in the coordinates of its reference camera, and the pair moves with that camera. So the residual of
the reference view does not depend on its own camera, and a drift of the camera path changes few unknowns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..problem import Problem
from ..state import FOCAL_GAIN, State, decode, scale_normaliser, signed_log1p

CAMERA, PAIR = 6, 7
"""Count of unknowns of a camera (v, w) and of a pair (v, w, s)."""


@dataclass(frozen=True)
class Unknowns:
    """Everything that is solved for, float64 on one device, in the world and units of ``State``."""

    R: torch.Tensor
    """(F, 3, 3) camera-to-world rotations."""
    centre: torch.Tensor
    """(F, 3) camera centres."""
    log_focal: torch.Tensor
    """(F,) log of the focal length in network pixels; all equal when it is shared."""
    pair_A: torch.Tensor
    """(E, 3, 3) scaled rotation of each pair's similarity (reference camera -> world)."""
    pair_b: torch.Tensor
    """(E, 3) its translation."""
    depth: torch.Tensor
    """(F, P) z-depth."""


@dataclass(frozen=True)
class Numbering:
    """Which number each unknown has in the normal equations: cameras, then pairs, then focal lengths."""

    frames: int
    pairs: int
    focals: int
    """0: known; 1: shared; ``frames``: one per frame."""

    @property
    def size(self) -> int:
        """N, the count of numbered unknowns; depths have no number, they are eliminated."""
        return CAMERA * self.frames + PAIR * self.pairs + self.focals

    def camera(self, frame: torch.Tensor) -> torch.Tensor:
        """(K,) frames -> (K, 6) numbers."""
        return CAMERA * frame[:, None] + torch.arange(CAMERA)

    def pair(self, pair: torch.Tensor) -> torch.Tensor:
        """(K,) pairs -> (K, 7) numbers."""
        return CAMERA * self.frames + PAIR * pair[:, None] + torch.arange(PAIR)

    def focal(self, frame: torch.Tensor) -> torch.Tensor:
        """(K,) frames -> (K,) numbers; undefined when the focal length is known."""
        return self.size - self.focals + (frame if self.focals > 1 else torch.zeros_like(frame))

    @property
    def scales(self) -> torch.Tensor:
        """(E,) numbers of the pairs' log-scales."""
        return self.pair(torch.arange(self.pairs))[:, -1]


def to_unknowns(state: State, problem: Problem) -> Unknowns:
    """Decode a state in float64."""
    double = state.map(lambda x: x.double())
    now = decode(double, problem.sample.xy.double(), problem.principal_point.double())
    return Unknowns(now.R, now.centre, now.focal.log(), now.pair_A, now.pair_b, now.depth)


def to_state(unknowns: Unknowns, like: State) -> State:
    """The inverse of :func:`to_unknowns`, in the dtype and with the number of focal lengths of ``like``."""
    import roma  # not at the top: it loads torch's compiler, 160 MB that the network stage needs more

    log_scale = torch.linalg.det(unknowns.pair_A).log() / 3
    log_scale = log_scale + scale_normaliser(log_scale).log()
    scale = log_scale.exp()
    state = State(
        cam_quat=roma.rotmat_to_unitquat(unknowns.R),
        cam_trans=signed_log1p(unknowns.centre),
        log_depth=unknowns.depth.log(),
        focal=FOCAL_GAIN * unknowns.log_focal[: len(like.focal)],
        pair_quat=roma.rotmat_to_unitquat(unknowns.pair_A / scale[:, None, None]),
        pair_trans=signed_log1p(unknowns.pair_b / scale[:, None]),
        pair_log_scale=log_scale,
    )
    return state.map(lambda x: x.to(like.cam_quat).contiguous())


def moved(unknowns: Unknowns, step: torch.Tensor, edges: torch.Tensor, numbering: Numbering) -> Unknowns:
    """The unknowns after ``step`` (N,), with the same depths.

    ``edges``: (E, 2) pairs. The pairs' mean log-scale is unchanged when the scale entries of the step sum to 0.
    """
    import roma

    u, reference = unknowns, edges[:, 0]
    cameras, pairs, focals = step.split(
        [CAMERA * numbering.frames, PAIR * numbering.pairs, numbering.focals],
    )
    cameras, pairs = cameras.view(-1, CAMERA), pairs.view(-1, PAIR)
    to_camera = u.R[reference].transpose(1, 2)
    turn = roma.rotvec_to_rotmat(pairs[:, 3:6]) * pairs[:, 6].exp()[:, None, None]
    A = turn @ to_camera @ u.pair_A
    b = turn @ to_camera @ (u.pair_b - u.centre[reference]).unsqueeze(-1) + pairs[:, :3, None]
    R = u.R @ roma.rotvec_to_rotmat(cameras[:, 3:])
    centre = u.centre + (u.R @ cameras[:, :3, None]).squeeze(-1)
    return replace(
        u,
        R=R,
        centre=centre,
        log_focal=u.log_focal + focals if numbering.focals else u.log_focal,
        pair_A=R[reference] @ A,
        pair_b=(R[reference] @ b).squeeze(-1) + centre[reference],
    )
