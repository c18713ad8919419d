"""The unknowns of the alignment as they are optimised, and their decoding into cameras and points.

Parametrisation of DUSt3R and MonST3R, kept because the published step sizes of Adam belong to it: quaternions (xyzw)
that are normalised when decoded, translations as sign(t) log(1 + |t|), log-depths, 20 log(focal length), log-scales
normalised to a fixed mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch

FOCAL_GAIN = 20.0
"""A focal length f is stored as 20 log(f), so that a step of Adam changes log(f) by 1/20 of the step size."""
MEAN_PAIR_SCALE = 0.5
"""Geometric mean to which the pair scales are normalised; it fixes the free scale of the scene."""


@dataclass(frozen=True)
class State:
    """Unknowns of F frames and E pairs as they are stored, float32; the world is that of the initialisation."""

    cam_quat: torch.Tensor
    """(F, 4) camera-to-world rotation, xyzw, any length."""
    cam_trans: torch.Tensor
    """(F, 3) signed_log1p of the camera centre."""
    log_depth: torch.Tensor
    """(F, P) log of the z-depth at the sampled pixels."""
    focal: torch.Tensor
    """(F,) or (1,) when shared: 20 log(f), f in network pixels."""
    pair_quat: torch.Tensor
    """(E, 4) rotation from the pair's reference camera to the world, xyzw."""
    pair_trans: torch.Tensor
    """(E, 3) signed_log1p of (translation / raw scale)."""
    pair_log_scale: torch.Tensor
    """(E,) log of the raw scale, before normalisation."""

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> State:
        """The same state with ``function`` applied to every tensor."""
        return replace(self, **{f.name: function(getattr(self, f.name)) for f in fields(self)})

    def tensors(self) -> dict[str, torch.Tensor]:
        """Field name -> tensor."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True)
class Decoded:
    """The unknowns in the units of the scene and in pixels; a differentiable function of :class:`State`."""

    R: torch.Tensor
    """(F, 3, 3) camera-to-world rotations."""
    centre: torch.Tensor
    """(F, 3) camera centres in the world."""
    focal: torch.Tensor
    """(F,) horizontal focal lengths in network pixels."""
    depth: torch.Tensor
    """(F, P) z-depth."""
    rays: torch.Tensor
    """(F, 3, P) rays of the sampled pixels in their own camera, z = 1."""
    pair_A: torch.Tensor
    """(E, 3, 3) scaled rotation of the pair's similarity (reference camera -> world)."""
    pair_b: torch.Tensor
    """(E, 3) translation of the pair's similarity."""

    def world_points(self) -> torch.Tensor:
        """(F, 3, P) sampled points in the world."""
        in_camera = self.rays * self.depth.unsqueeze(1)
        return torch.baddbmm(self.centre.unsqueeze(-1), self.R, in_camera)


def signed_log1p(x: torch.Tensor) -> torch.Tensor:
    """sign(x) log(1 + |x|): steps of equal size move a far camera further than a near one."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


def signed_expm1(x: torch.Tensor) -> torch.Tensor:
    """Inverse of :func:`signed_log1p`."""
    return torch.sign(x) * torch.expm1(torch.abs(x))


def rotation(quat: torch.Tensor) -> torch.Tensor:
    """(N, 4) quaternions xyzw of any length > 0 -> (N, 3, 3) rotations."""
    import roma  # not at the top: it loads torch's compiler, 160 MB that the network stage needs more

    R: torch.Tensor = roma.unitquat_to_rotmat(quat / quat.norm(dim=-1, keepdim=True))
    return R


def scale_normaliser(pair_log_scale: torch.Tensor) -> torch.Tensor:
    """Factor (scalar) that brings the geometric mean of the pair scales to :data:`MEAN_PAIR_SCALE`.

    ``pair_log_scale``: (E,).
    """
    return (math.log(MEAN_PAIR_SCALE) - pair_log_scale.mean()).exp()


def decode(state: State, xy: torch.Tensor, principal_point: torch.Tensor) -> Decoded:
    """Cameras, points and similarities of a state. ``xy``: (2, P) pixels; ``principal_point``: (F, 2) pixels."""
    focal = (state.focal / FOCAL_GAIN).exp().expand(len(state.cam_quat))
    planar = (xy - principal_point.unsqueeze(-1)) / focal[:, None, None]
    rays = torch.cat([planar, torch.ones_like(planar[:, :1])], dim=1)
    scale = state.pair_log_scale.exp() * scale_normaliser(state.pair_log_scale)
    return Decoded(
        R=rotation(state.cam_quat),
        centre=signed_expm1(state.cam_trans),
        focal=focal,
        depth=state.log_depth.exp(),
        rays=rays,
        pair_A=rotation(state.pair_quat) * scale[:, None, None],
        pair_b=signed_expm1(state.pair_trans) * scale[:, None],
    )
