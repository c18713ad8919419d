"""Global alignment: pointmaps of many pairs become one set of cameras and depth maps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..config import AlignConfig
from ..errors import AlignmentError, InputError
from ..runlog import RunLog
from ..types import PairFlow, PairPredictions
from .depth import clean, full_confidence, full_depths, sampled_depths
from .init import Initialisation, initialise
from .problem import Problem, build_problem, flow_observations, sample_pixels
from .solve import flow_value, optimise
from .state import Decoded, State, decode
from .terms import intrinsics

LOW_PARALLAX = 0.02
"""Camera travel, in units of the median depth, below which depth and focal length are hardly observed."""


@dataclass(frozen=True)
class AlignDiagnostics:
    """What is worth knowing about an alignment beside its result."""

    registered_by: tuple[str, ...]
    """Per frame, how its first pose was found: 'tree', 'pnp' or 'similarity' (PnP had failed)."""
    dropped_pairs: tuple[tuple[int, int], ...]
    """Pairs left out because their pointmaps were flat or empty."""
    travel: float
    """Largest distance of a camera from the mean camera position, in units of the median depth."""
    sampled_pixels: int
    """Pixels per frame in the optimiser."""
    final_flow: float | None
    """Value of the flow term at the end in pixels (sum of both directions), None without flow."""
    focal_estimates: tuple[float, ...]
    """Per frame the focal length in network pixels that its pointmap shows by itself; empty when it was given."""

    @property
    def low_parallax(self) -> bool:
        """Whether the cameras hardly moved, so that depth and focal length rest on the network alone."""
        return self.travel < LOW_PARALLAX


@dataclass(frozen=True)
class AlignResult:
    """Cameras and depths in the frame of the first camera; scene units are arbitrary but common to all fields."""

    T_world_cam: np.ndarray
    """(F, 4, 4) float64 camera-to-world, OpenCV axes; the first is the identity."""
    focals: np.ndarray
    """(F,) float64 horizontal focal lengths in network pixels."""
    depth: np.ndarray
    """(F, H, W) float32 z-depth, 0 where unknown."""
    confidence: np.ndarray
    """(F, H, W) float32 largest confidence of any pair, 0 where the depth is unknown."""
    contradicted: np.ndarray
    """(F, H, W) bool: the point lies in front of what another, more confident view sees there (see :func:`clean`)."""
    pair_scales: np.ndarray
    """(E,) float64 scene units per unit of each pair's pointmaps, 0 for pairs that were left out."""
    loss_curve: np.ndarray
    """(iterations,) float64 loss at the beginning of each iteration."""
    diagnostics: AlignDiagnostics


def align(
    predictions: PairPredictions,
    *,
    principal_point: np.ndarray,
    config: AlignConfig,
    focal: float | None = None,
    pixel_aspect: float = 1.0,
    dynamic_masks: np.ndarray | None = None,
    flow: PairFlow | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    log: RunLog | None = None,
) -> AlignResult:
    """Find cameras, focal lengths and depths that explain all pairs (spec: DUSt3R 3.4, MonST3R 3.3, Easi3R 3.4).

    Large images are optimised on a sample of at most ``config.max_pixels`` pixels per frame (``seed`` places it);
    their full depth maps are then solved in closed loop with everything else fixed.

    :param predictions: pointmaps of a symmetric, connected pair graph, float16 or float32, any device.
    :param principal_point: (2,) or (F, 2) network pixels, integer pixel centres.
    :param focal: known focal length in network pixels, kept fixed; None estimates it.
    :param pixel_aspect: vertical over horizontal focal length in network pixels (a resize that rounds makes it differ
        a little from 1); focal lengths are the horizontal ones.
    :param dynamic_masks: (F, H, W) bool, True where something moves; such pixels are left out of the flow term.
    :param flow: optical flow of the same pairs, or None to leave the flow term out.
    :raises AlignmentError: the pairs do not connect all frames, or pointmaps are degenerate or contradict each other.
    """
    log = log if log is not None else RunLog()
    height, width = predictions.conf_i.shape[1:]
    _check_inputs(predictions, focal, dynamic_masks, flow)
    with log.stage("global alignment", total=config.iterations) as advance, _one_thread(torch.device(device)):
        sample = sample_pixels(height, width, config.max_pixels, seed, pixel_aspect)
        problem = build_problem(predictions, sample, principal_point, log)
        start = initialise(problem, focal, config.shared_focal, log)
        if flow is not None and config.flow_strength > 0:
            problem = replace(problem, flows=(flow_observations(problem, flow, dynamic_masks, config.flow_check),))
        problem = problem.to(device)
        state = _with_fitted_depths(problem, start.state.map(lambda x: x.to(device)))
        state, curve = optimise(problem, state, config, focal is not None, advance)
        decoded = decode(state, problem.sample.xy, problem.principal_point)
        depth = _final_depths(problem, predictions, decoded)
        confidence, contradicted = _confidence(problem, predictions, decoded, depth)
        diagnostics = _diagnose(problem, decoded, depth, start)
        _warn(diagnostics, config, log)
    return AlignResult(
        T_world_cam=_in_first_camera(decoded),
        focals=decoded.focal.cpu().double().numpy(),
        depth=depth.numpy(),
        confidence=confidence.numpy(),
        contradicted=contradicted.numpy(),
        pair_scales=_pair_scales(problem, decoded, len(predictions.graph)),
        loss_curve=curve,
        diagnostics=diagnostics,
    )


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    # The solver works in blocks that fit the cache: a second thread saves no time, and on a busy machine the threads'
    # waiting for each other costs ten times the work itself.
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _with_fitted_depths(problem: Problem, state: State) -> State:
    """Depths that fit all pairs instead of the one of the spanning tree: the loop starts nearer to its end."""
    decoded = decode(state, problem.sample.xy, problem.principal_point)
    return replace(state, log_depth=sampled_depths(problem, decoded).log())


def camera_travel(centre: torch.Tensor, depth: torch.Tensor) -> float:
    """Largest distance of a camera (F, 3) from their mean, in units of the median of the known depths (F, H, W)."""
    distance = (centre - centre.mean(dim=0)).norm(dim=1).max()
    sampled = depth.flatten()[:: max(1, depth.numel() // 100_000)]
    known = sampled[sampled > 0]
    return float(distance / known.median()) if len(known) else 0.0


def _check_inputs(
    predictions: PairPredictions, focal: float | None, dynamic_masks: np.ndarray | None, flow: PairFlow | None
) -> None:
    if focal is not None and not (np.isfinite(focal) and focal > 0):
        raise InputError(f"focal length {focal}: must be a positive number of pixels")
    expected = (predictions.graph.num_frames, *predictions.conf_i.shape[1:])
    if dynamic_masks is not None and tuple(dynamic_masks.shape) != expected:
        raise AlignmentError(f"dynamic masks have shape {tuple(dynamic_masks.shape)}, the frames {expected}")
    if flow is not None and not np.array_equal(flow.graph.edges, predictions.graph.edges):
        raise AlignmentError("the optical flow was computed for other pairs than the pointmaps")


def _final_depths(problem: Problem, predictions: PairPredictions, decoded: Decoded) -> torch.Tensor:
    """(F, H, W): the optimised depths where every pixel took part, else solved at full resolution."""
    if problem.sample.complete:
        return decoded.depth.cpu().view(-1, *problem.sample.size)
    return full_depths(problem, predictions, decoded)


def _diagnose(problem: Problem, decoded: Decoded, depth: torch.Tensor, start: Initialisation) -> AlignDiagnostics:
    return AlignDiagnostics(
        registered_by=start.registered_by,
        dropped_pairs=problem.dropped,
        travel=camera_travel(decoded.centre.cpu(), depth),
        sampled_pixels=len(problem.sample.index),
        final_flow=float(flow_value(decoded, problem)) if problem.flows else None,
        focal_estimates=start.focal_estimates,
    )


def _warn(diagnostics: AlignDiagnostics, config: AlignConfig, log: RunLog) -> None:
    if diagnostics.low_parallax:
        log.warn(
            f"almost no parallax: the cameras move by {100 * diagnostics.travel:.2g} % of the scene's depth; "
            "depth and focal length rest on the network alone"
        )
    if diagnostics.final_flow is not None and diagnostics.final_flow > config.flow_threshold:
        log.warn(
            f"the optical flow still disagrees with the cameras at the end (flow term {diagnostics.final_flow:.0f}, "
            "threshold --align.flow-threshold), so it hardly took part in the alignment"
        )


def _confidence(
    problem: Problem, predictions: PairPredictions, decoded: Decoded, depth: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    confidence = full_confidence(predictions, problem.kept.cpu())
    confidence.masked_fill_(depth <= 0, 0.0)
    R, centre, focal, pp = (x.cpu() for x in (decoded.R, decoded.centre, decoded.focal, problem.principal_point))
    stretch = torch.tensor([1.0, problem.sample.aspect, 1.0])
    cleaned = clean(confidence, depth, R, centre, stretch[:, None] * intrinsics(focal, pp))
    return confidence, cleaned < confidence


def _in_first_camera(decoded: Decoded) -> np.ndarray:
    T = np.tile(np.eye(4), (len(decoded.R), 1, 1))
    T[:, :3, :3], T[:, :3, 3] = decoded.R.cpu().double().numpy(), decoded.centre.cpu().double().numpy()
    # float32 quaternions leave a rotation orthonormal to 1e-7 only; the nearest exact rotation costs nothing.
    U, _, Vt = np.linalg.svd(T[:, :3, :3])
    T[:, :3, :3] = U @ Vt
    moved = np.linalg.inv(T[0]) @ T
    moved[0] = np.eye(4)
    return moved


def _pair_scales(problem: Problem, decoded: Decoded, count: int) -> np.ndarray:
    scales = np.zeros(count)
    scales[problem.kept.cpu().numpy()] = torch.linalg.det(decoded.pair_A.cpu().double()).numpy() ** (1 / 3)
    return scales


__all__ = ["AlignDiagnostics", "AlignResult", "align"]
