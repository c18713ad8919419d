"""Facts about an alignment beside its result, and the warnings that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..core.config import AlignConfig
from ..core.runlog import RunLog
from .consensus import Screening, frame_names
from .init import Initialisation
from .problem import Problem
from .state import Decoded
from .terms import flow_value

LOW_PARALLAX = 0.02
"""Camera travel, in units of the median depth, below which depth and focal length are hardly observed."""
TURNING = 2.0
"""Angle in degrees from which a camera that does not travel is said to turn."""
PARTLY_STILL = 0.2
"""Share of frames without parallax from which the user is warned about them."""
MOSTLY_MOVING = 0.8
"""Share of moving pixels above which the user is warned about a frame."""


@dataclass(frozen=True)
class AlignDiagnostics:
    """Facts about an alignment beside its result; plain values that can be written as JSON."""

    registered_by: tuple[str, ...]
    """Per frame, how its first pose was found: 'tree', 'pnp' or 'similarity' (PnP had failed)."""
    dropped_pairs: tuple[tuple[int, int], ...]
    """Pairs left out because their pointmaps were flat or empty."""
    travel: float
    """Largest distance of a camera from the mean camera position, in units of the median depth."""
    sampled_pixels: int
    """Pixels per frame that the solver used."""
    final_flow: float | None
    """Value of the flow term at the end (sum of both directions), None without flow."""
    focal_estimates: tuple[float, ...]
    """Per frame the focal length in network pixels of its own pointmap; empty when the focal length was given."""
    contradicted_pairs: tuple[tuple[int, int], ...] = ()
    """Pairs left out because they contradict the others."""
    weak_frames: tuple[int, ...] = ()
    """Frames that no trusted pair connects to the others: their cameras are interpolated, their depth is unknown."""
    unsure_frames: tuple[int, ...] = ()
    """Frames about which the network has no confidence; their cameras rest on its guess."""
    still_frames: tuple[int, ...] = ()
    """Frames whose camera hardly moves against those of the frames they are paired with."""
    turn: float = 0.0
    """Largest angle in degrees between the rotation of a camera and that of the middle frame."""

    @property
    def low_parallax(self) -> bool:
        """Whether the cameras hardly moved, so that depth and focal length rest on the network alone."""
        return self.travel < LOW_PARALLAX


def diagnose(
    problem: Problem, decoded: Decoded, depth: torch.Tensor, start: Initialisation, screened: Screening
) -> AlignDiagnostics:
    """Collect the facts. ``depth``: (F, H, W), 0 where unknown, in units of ``decoded``."""
    centre = decoded.centre.cpu()
    return AlignDiagnostics(
        registered_by=start.registered_by,
        dropped_pairs=problem.dropped,
        travel=camera_travel(centre, depth),
        sampled_pixels=len(problem.sample.index),
        final_flow=float(flow_value(decoded, problem)) if problem.flows else None,
        focal_estimates=start.focal_estimates,
        contradicted_pairs=screened.contradicted,
        weak_frames=screened.weak,
        unsure_frames=screened.unsure,
        still_frames=_still_frames(problem.edges.cpu(), centre, depth),
        turn=camera_turn(decoded.R.cpu()),
    )


def warn(
    diagnostics: AlignDiagnostics,
    config: AlignConfig,
    dynamic_masks: np.ndarray | None,
    names: Sequence[int],
    log: RunLog,
) -> None:
    """Warn about what the user can act on. ``dynamic_masks``: (F, H, W) bool or None; ``names``: of the F frames."""

    def of(frames: Sequence[int]) -> str:
        return frame_names([names[k] for k in frames])

    _warn_about_parallax(diagnostics, of(diagnostics.still_frames), log)
    if diagnostics.unsure_frames:
        log.warn(f"the network has no confidence in {of(diagnostics.unsure_frames)}: the cameras there are a guess")
    if dynamic_masks is not None:
        moving = np.flatnonzero(np.asarray(dynamic_masks).mean(axis=(1, 2)) > MOSTLY_MOVING)
        if len(moving):
            log.warn(
                f"more than {100 * MOSTLY_MOVING:.0f} % of {of(moving.tolist())} moves: the cameras there may "
                "follow the moving parts; check the masks, or leave these frames out"
            )
    if diagnostics.final_flow is not None and diagnostics.final_flow > config.flow_threshold:
        log.warn(
            f"the optical flow still disagrees with the cameras at the end (flow term {diagnostics.final_flow:.0f}, "
            "threshold --align.flow-threshold), so it hardly took part in the alignment"
        )


def camera_travel(centre: torch.Tensor, depth: torch.Tensor) -> float:
    """Largest distance of a camera centre (F, 3) from their mean, in units of the median known depth.

    ``depth``: (F, H, W), 0 where unknown; 0.0 when no depth is known.
    """
    distance = (centre - centre.mean(dim=0)).norm(dim=1).max()
    sampled = depth.flatten()[:: max(1, depth.numel() // 100_000)]
    known = sampled[sampled > 0]
    return float(distance / known.median()) if len(known) else 0.0


def camera_turn(R: torch.Tensor) -> float:
    """Largest angle in degrees of a rotation (F, 3, 3) from that of the middle frame."""
    relative = R[len(R) // 2].T.double() @ R.double()
    skew = (relative - relative.transpose(1, 2)).norm(dim=(1, 2)) / 8**0.5
    cosine = (relative.diagonal(dim1=1, dim2=2).sum(dim=1) - 1) / 2
    return float(torch.rad2deg(torch.atan2(skew, cosine)).max())


def _warn_about_parallax(diagnostics: AlignDiagnostics, still: str, log: RunLog) -> None:
    if diagnostics.low_parallax:
        turns = diagnostics.turn > TURNING
        what = f"turns (by up to {diagnostics.turn:.0f} degrees) on the spot" if turns else "stands still"
        log.warn(
            f"almost no parallax: the camera {what}, it moves by {100 * diagnostics.travel:.2g} % of the scene's "
            "depth; depth and focal length rest on the network alone"
        )
        return
    count = len(diagnostics.registered_by)
    if len(diagnostics.still_frames) > max(1, PARTLY_STILL * count):
        log.warn(
            f"no parallax in part of the clip: around {still} the camera does not travel, so "
            "depth rests on the network alone there"
        )


def _still_frames(edges: torch.Tensor, centre: torch.Tensor, depth: torch.Tensor) -> tuple[int, ...]:
    """Frames whose camera is nearer than :data:`LOW_PARALLAX` depths to those of all frames they are paired with."""
    farthest = torch.zeros(len(centre))
    distance = (centre[edges[:, 0]] - centre[edges[:, 1]]).norm(dim=1)
    for side in edges.T:
        farthest.scatter_reduce_(0, side, distance, reduce="amax")
    flat = depth.flatten(1)[:, :: max(1, depth[0].numel() // 2000)]
    typical = flat.masked_fill(flat <= 0, torch.nan).nanmedian(dim=1).values
    return tuple(torch.nonzero(farthest < LOW_PARALLAX * typical)[:, 0].tolist())
