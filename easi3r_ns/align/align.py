"""Global alignment: from pointmaps of many pairs to one set of cameras and depth maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..core.config import AlignConfig
from ..core.errors import AlignmentError, InputError
from ..core.runlog import RunLog
from ..core.scene import CameraUncertainty
from ..core.types import PairFlow, PairPredictions
from ..network.compute import tensor_float
from . import depth as by_frame
from . import maps_at_once
from .consensus import Screening, interpolate, screen
from .diagnostics import AlignDiagnostics, diagnose, warn
from .init import initialise
from .problem import Problem, build_problem, flow_observations, sample_pixels
from .solvers import adam, newton
from .solvers.project import LARGEST_FRONT, front_width
from .state import Decoded, State, decode
from .terms import intrinsics
from .uncertainty import camera_uncertainty

Optimise = Callable[[Problem, State, AlignConfig, bool, Callable[[int], None]], "tuple[State, np.ndarray]"]


@dataclass(frozen=True)
class AlignResult:
    """Cameras and depths in the coordinates of the first camera; scene units are arbitrary but common to all fields."""

    T_world_cam: np.ndarray
    """(F, 4, 4) float64 camera-to-world, OpenCV axes; the first is the identity."""
    focals: np.ndarray
    """(F,) float64 horizontal focal lengths in network pixels."""
    depth: np.ndarray
    """(F, H, W) float32 z-depth, 0 where unknown."""
    confidence: np.ndarray
    """(F, H, W) float32 largest confidence of any pair, 0 where the depth is unknown."""
    contradicted: np.ndarray
    """(F, H, W) bool: the point lies in front of the depth map of a more confident view (see :func:`.depth.clean`)."""
    pair_scales: np.ndarray
    """(E,) float64 scene units per unit of each pair's pointmaps, 0 for pairs that were left out."""
    loss_curve: np.ndarray
    """(steps,) float64 objective. newton: before the first and after every accepted step of each stage; adam: at the
    beginning of each iteration."""
    diagnostics: AlignDiagnostics
    uncertainty: CameraUncertainty | None = None
    """In the units of these cameras; None for more pairs than can be handled at once."""


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
    numbers: Sequence[int] | None = None,
) -> AlignResult:
    """Find cameras, focal lengths and depths that explain all pairs.

    Sources: DUSt3R (arXiv:2312.14132) section 3.4, MonST3R (arXiv:2410.03825) section 3.3, Easi3R (arXiv:2503.24391)
    section 3.4. Large images are optimised on a random sample of at most ``config.pixel_budget`` pixels per frame
    (``seed`` fixes it); their full depth maps are then solved for with everything else fixed.

    :param predictions: pointmaps of a symmetric, connected pair graph, float16 or float32, any device.
    :param principal_point: (2,) or (F, 2) network pixels, integer pixel centres.
    :param focal: known focal length in network pixels, kept fixed; None estimates it.
    :param pixel_aspect: vertical over horizontal focal length in network pixels (a resize that rounds makes it differ
        a little from 1); focal lengths are the horizontal ones.
    :param dynamic_masks: (F, H, W) bool, True where something moves; such pixels are left out of the flow term.
    :param flow: optical flow of the same pairs, or None to leave the flow term out.
    :param numbers: what the F frames are called in messages; None: 0, 1, ...
    :raises InputError: ``focal`` is not a positive number.
    :raises AlignmentError: the pairs do not connect all frames, pointmaps are degenerate or contradict each other, or
        masks or flow do not fit the pairs.
    """
    log = log if log is not None else RunLog()
    names = range(predictions.graph.num_frames) if numbers is None else numbers
    _check_inputs(predictions, focal, dynamic_masks, flow)
    with log.stage("global alignment", total=config.iterations) as advance, _settings(torch.device(device)):
        height, width = predictions.conf_i.shape[1:]
        sample = sample_pixels(height, width, config.pixel_budget, seed, pixel_aspect)
        screened = screen(build_problem(predictions, sample, principal_point, log), names, log)
        start = initialise(screened.problem, focal, config.shared_focal, log, screened.placement)
        problem = _with_flow(screened, flow, dynamic_masks, config, log).to(device)
        state = _with_fitted_depths(problem, start.state.map(lambda x: x.to(device)))
        optimise = _solver(problem, 0 if focal else len(state.focal), config, log)
        state, curve = optimise(problem, state, config, focal is not None, advance)
        decoded = decode(state, problem.sample.xy, problem.principal_point)
        maps = _maps(problem, predictions, decoded)
        diagnostics = diagnose(problem, decoded, maps[0].cpu(), start, screened)
        warn(diagnostics, config, dynamic_masks, names, log)
        uncertainty = camera_uncertainty(problem, decoded, 0 if focal else len(state.focal), screened.weak, log)
        cameras = _cameras(problem, decoded, screened.weak, len(predictions.graph))
        images = _images(problem, maps, decoded, screened.weak)
    return AlignResult(**cameras, **images, loss_curve=curve, diagnostics=diagnostics, uncertainty=uncertainty)


@contextmanager
def _settings(device: torch.device) -> Iterator[None]:
    # The solver works in blocks that fit the processor's cache: a second thread saves no time, and on a busy machine
    # the threads wait for each other ten times longer than they work.
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        # On a GPU three digits, which a program around this may have asked for, are too few for coordinates.
        with tensor_float(False) if device.type == "cuda" else nullcontext():
            yield
    finally:
        torch.set_num_threads(threads)


def _solver(problem: Problem, focals: int, config: AlignConfig, log: RunLog) -> Optimise:
    """The solver of the config; the first-order one where the second-order one would take hours."""
    if config.solver == "adam":
        return adam.optimise
    width = front_width(problem, focals)
    if width <= LARGEST_FRONT:
        return newton.optimise
    log.warn(
        f"pairs reach so far in time that {width} unknowns would have to be solved for at once: the alignment uses the "
        "slower --align.solver adam, and cameras get no uncertainty. A --graph of near pairs, or --window, avoids this"
    )
    return adam.optimise


def _with_flow(
    screened: Screening, flow: PairFlow | None, dynamic_masks: np.ndarray | None, config: AlignConfig, log: RunLog
) -> Problem:
    """The screened problem with the flow of its pairs, if the term is on; frames without trusted pairs get no flow."""
    problem = screened.problem
    if flow is None or config.flow_strength <= 0:
        return problem
    observed = flow_observations(problem, flow, dynamic_masks, config.flow_check, log)
    weak = torch.tensor(screened.weak, dtype=torch.int64)
    observed.used[torch.isin(problem.edges, weak).any(dim=1)] = False
    return replace(problem, flows=(observed,))


def _with_fitted_depths(problem: Problem, state: State) -> State:
    """The state with depths that fit all pairs instead of those of one pair: a start nearer to the minimum."""
    decoded = decode(state, problem.sample.xy, problem.principal_point)
    fit = maps_at_once.sampled_depths if _at_once(problem) else by_frame.sampled_depths
    return replace(state, log_depth=fit(problem, decoded).log())


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


def _at_once(problem: Problem) -> bool:
    # Apple's GPUs have not all of the functions, and take the way that asks for less.
    return problem.points.device.type == "cuda"


def _maps(problem: Problem, predictions: PairPredictions, decoded: Decoded) -> tuple[torch.Tensor, torch.Tensor]:
    """(F, H, W) depths and confidences, on the device or on the CPU.

    The depths are the optimised ones where every pixel took part, else solved for at full resolution.
    """
    depth: torch.Tensor | None
    if _at_once(problem):
        depth, confidence = maps_at_once.full_maps(problem, predictions, decoded)
    else:
        confidence = by_frame.full_confidence(predictions, problem.kept)
        depth = None if problem.sample.complete else by_frame.full_depths(problem, predictions, decoded)
    if problem.sample.complete:
        depth = decoded.depth.to(confidence.device).view(-1, *problem.sample.size)
    assert depth is not None
    return depth, confidence.masked_fill_(depth <= 0, 0.0)


def _cameras(problem: Problem, decoded: Decoded, weak: Sequence[int], num_pairs: int) -> dict[str, np.ndarray]:
    """Fields of the result; ``num_pairs``: of the whole pair graph."""
    scales = np.zeros(num_pairs)
    scales[problem.kept.cpu().numpy()] = torch.linalg.det(decoded.pair_A.cpu().double()).numpy() ** (1 / 3)
    focals = decoded.focal.cpu().double().numpy()
    return {"T_world_cam": _in_first_camera(decoded, weak), "focals": focals, "pair_scales": scales}


def _images(
    problem: Problem, maps: tuple[torch.Tensor, torch.Tensor], decoded: Decoded, weak: Sequence[int]
) -> dict[str, np.ndarray]:
    """Fields of the result with one image per frame; ``weak``: frames without trusted pairs, whose depth is unknown.

    ``maps``: (F, H, W) depths and confidences.
    """
    depth, confidence = maps
    stretch = torch.tensor([1.0, problem.sample.aspect, 1.0]).to(decoded.focal)
    K = stretch[:, None] * intrinsics(decoded.focal, problem.principal_point)
    clean = maps_at_once.clean if _at_once(problem) else by_frame.clean
    cameras = (x.to(depth.device) for x in (decoded.R, decoded.centre, K))
    contradicted = clean(confidence, depth, *cameras) < confidence
    depth, confidence, contradicted = (x.cpu() for x in (depth, confidence, contradicted))
    if weak:
        depth, confidence = (x.index_fill(0, torch.tensor(weak), 0.0) for x in (depth, confidence))
    return {"depth": depth.numpy(), "confidence": confidence.numpy(), "contradicted": contradicted.numpy()}


def _in_first_camera(decoded: Decoded, weak: Sequence[int]) -> np.ndarray:
    """(F, 4, 4) camera-to-world in the coordinates of the first camera; those of ``weak`` frames interpolated."""
    T = np.tile(np.eye(4), (len(decoded.R), 1, 1))
    T[:, :3, :3], T[:, :3, 3] = decoded.R.cpu().double().numpy(), decoded.centre.cpu().double().numpy()
    # float32 quaternions give rotations that are orthonormal to 1e-7 only: take the nearest exact rotation.
    U, _, Vt = np.linalg.svd(T[:, :3, :3])
    T[:, :3, :3] = U @ Vt
    T = interpolate(T, weak)
    moved: np.ndarray = np.linalg.inv(T[0]) @ T
    moved[0] = np.eye(4)
    return moved


__all__ = ["AlignDiagnostics", "AlignResult", "align"]
