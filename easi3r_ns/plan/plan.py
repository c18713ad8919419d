"""Plans a run before any weights are downloaded or loaded: its cost, and a budget that keeps its memory limit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..core.budget import GIB, Budget
from ..core.config import LEAST_WINDOW, AlignConfig, Easi3RConfig, FrameConfig
from ..core.errors import InputError, MemoryLimitError
from ..core.pairs import DEFAULT_GRAPH, attach_frames, make_pairs
from ..core.runlog import RunLog, StageRecord, resident_memory_bytes
from ..frames import ImageGeometry, preview_source, selection_of_views
from ..frames.clips import preview_clips
from ..motion.given import masks_are_given
from ..network.compute import Compute, choose_compute
from ..network.config import DUSt3RConfig
from ..network.costs import activation_bytes
from ..network.sources import AUTO, BEST, KNOWN, resolve
from ..network.weights import WeightsInfo, describe
from .calibration import Rates, calibrate
from .experience import STARVED, Experience, keep_experience, load_experience, remembered_rates
from .forecast import Forecast, Job, forecast, pointmap_bytes
from .geometric import GeometricForecast, GeometricJob, forecast_geometric
from .limits import memory_limit
from .prior import with_prior_stage
from .tracker import with_names_stage, with_tracker_stage

MARGIN = 0.85
"""Share of the memory limit that a forecast may reach; the rest allows for its error."""
SPILL_BYTES = 2**28
"""Size of all pair predictions from which, on a CPU, they are always kept on disk: the file that resumes an interrupted
run is written in any case."""
SHRINK = 0.8
"""Ratio of one window size to the next larger one that is tried."""


class Network(NamedTuple):
    """The properties of weights that determine the cost of a run."""

    config: DUSt3RConfig
    graph: str = DEFAULT_GRAPH
    """Pair graph that their card recommends."""
    flow_residual: bool = False
    """Whether their dynamic score includes optical flow."""

    @classmethod
    def of(cls, info: WeightsInfo) -> Network:
        """The properties of weights that are on this machine."""
        return cls(info.config, info.graph or DEFAULT_GRAPH, info.score.flow_residual)


def network_of(weights: str) -> Network:
    """The network behind ``--weights``; downloads nothing.

    Raises:
        CheckpointError: neither a published name nor weights on this machine.
        InputError: ``none`` has no network.
    """
    if weights == "none":
        raise InputError("--weights none: there is no network to plan for")
    network = published_network(weights)
    if network is not None:
        return Network(network)
    _, info = describe(resolve(weights, download=False))
    return Network.of(info)


def published_network(weights: str) -> DUSt3RConfig | None:
    """The architecture of weights that may have to be downloaded first; None for all others."""
    known = KNOWN.get(BEST if weights == AUTO else weights)
    return None if known is None else known.network


def plan_run(
    data: Path,
    select: FrameConfig,
    config: Easi3RConfig,
    align: AlignConfig,
    log: RunLog,
    *,
    network: Network | None = None,
    eval_data: Path | None = None,
    refine: bool = False,
) -> Forecast:
    """Forecast a run on ``data``; decodes one frame and calibrates, but loads no weights.

    ``network``: for a caller that has it already; default: that of ``config.weights``. ``refine``: whether bundle
    adjustment follows.

    Raises:
        Easi3RError: as the run itself before its network starts; MemoryLimitError where the run does not fit
            ``config.max_memory``.
    """
    network = network or network_of(config.weights)
    graph = network.graph if config.graph == "auto" else config.graph
    compute = choose_compute(config.device, config.dtype, config.batch_size, tf32=config.tf32)
    job = _job(data, eval_data, select, network.config, graph, log)
    own_masks = not masks_are_given(config)
    passes, residual = own_masks and not config.no_adapt, own_masks and network.flow_residual
    look = own_masks and config.motion == "auto"
    job = replace(job, align=align, two_passes=passes, flow_residual=residual, refine=refine, second_look=look)
    experience = load_experience()
    rates = _rates(job, compute, experience)
    budget = choose_budget(job, compute, config.max_memory, rates.base_bytes, window=config.window)
    factor = experience.factor or 1.0
    plan = forecast(job, compute, rates, budget, factor=factor)
    plan = with_tracker_stage(plan, config, factor, own_masks * (1 + passes + look))
    plan = with_names_stage(plan, config, factor)
    plan = with_prior_stage(plan, config, factor)
    return replace(plan, stages=experience.corrected(plan.raw, plan.key))


def plan_geometric(
    data: Path,
    select: FrameConfig,
    config: Easi3RConfig,
    geometry: ImageGeometry,
    log: RunLog,
    *,
    eval_data: Path | None = None,
    more_data: tuple[Path, ...] = (),
) -> GeometricForecast:
    """Forecast a run without a network on ``data``, and further clips; decodes one frame of each source.

    Raises:
        Easi3RError: as the run itself; MemoryLimitError where it does not fit ``config.max_memory``.
    """
    num_frames, pixel_map = preview_clips((data, *more_data), select, geometry, log)
    if eval_data is not None:
        num_frames += _num_views(eval_data, select, geometry, log)
    own_masks = not masks_are_given(config)
    source = pixel_map.source_wh[0] * pixel_map.source_wh[1]
    look, depth = config.motion == "auto", config.depth != "none"
    job = GeometricJob(num_frames, pixel_map.network_wh, source, own_masks, look, depth, config.max_memory)
    experience = load_experience()
    factor = experience.factor or 1.0
    plan = forecast_geometric(job, factor)
    plan = with_tracker_stage(plan, config, factor, own_masks * (1 + look))
    plan = with_names_stage(plan, config, factor)
    plan = with_prior_stage(plan, config, factor)
    if config.max_memory is not None and plan.memory_bytes > MARGIN * config.max_memory * GIB:
        needed = math.ceil(100 * plan.memory_bytes / MARGIN / GIB) / 100
        raise MemoryLimitError(
            f"--max-memory {config.max_memory:g}: this run needs {needed:.2f} GiB; allow as much, or use fewer frames "
            "(--num-frames-target)"
        )
    return replace(plan, stages=experience.corrected(plan.raw, plan.key))


def learn_from(plan: Forecast | GeometricForecast, taken: Sequence[StageRecord]) -> None:
    """Keep how long a finished run took, for the forecasts of later ones, unless other programs kept it waiting."""
    seconds = sum(record.seconds for record in taken)
    if plan.device == "cpu" and sum(record.cpu_seconds for record in taken) < STARVED * seconds:
        return
    experience = load_experience()
    experience.learn(plan.raw, plan.key, taken)
    keep_experience(experience)


def _rates(job: Job, compute: Compute, experience: Experience) -> Rates:
    """Rates of the network at the image size of the run, measured once on a machine."""
    measured: list[Rates] = []

    def measure() -> list[float]:
        measured.append(calibrate(job.network, job.grid, compute))
        return [measured[0].encode, measured[0].attend, measured[0].decode]

    key = f"{job.network}, {job.grid}, {compute.device.type}, {compute.dtype}, {compute.batch_size}"
    encode, attend, decode = remembered_rates(experience, key, measure)
    return measured[0] if measured else Rates(encode, attend, decode, float(resident_memory_bytes()))


def _job(
    data: Path, eval_data: Path | None, select: FrameConfig, network: DUSt3RConfig, graph: str, log: RunLog
) -> Job:
    geometry = ImageGeometry(network.image_size, network.patch_size, network.square, select.square_ok)
    num_frames, pixel_map = preview_source(data, select, geometry, log)
    pairs, num_eval = make_pairs(graph, num_frames), 0
    if eval_data is not None:
        num_eval = _num_views(eval_data, select, geometry, log)
        pairs = attach_frames(pairs, num_eval)
    width, height = pixel_map.network_wh
    return Job(
        network=network,
        grid=(height // network.patch_size, width // network.patch_size),
        num_frames=pairs.num_frames,
        num_pairs=len(pairs),
        source_pixels=pixel_map.source_wh[0] * pixel_map.source_wh[1],
        align=AlignConfig(),
        graph=graph,
        num_eval=num_eval,
    )


def _num_views(eval_data: Path, select: FrameConfig, geometry: ImageGeometry, log: RunLog) -> int:
    return preview_source(eval_data, selection_of_views(eval_data, select), geometry, log)[0]


def choose_budget(
    job: Job, compute: Compute, max_memory: float | None, base_bytes: float, *, window: int = 0
) -> Budget:
    """The budget that keeps the forecast under the memory limit with the least effect on the result.

    Tried in this order: fewer pairs per call, then intermediate results on disk (on a CPU always where they are large),
    then windows, as long as possible.

    Args:
        max_memory: limit in GiB; None: what is free on the machine, less a margin. If no budget fits the free memory,
            the smallest one is returned, because other programs may release memory during the run.
        base_bytes: resident memory of the process before the run.
        window: frames per window that the user asks for; 0: chosen here.

    Raises:
        MemoryLimitError: the least budget exceeds ``max_memory``.
    """
    limit = memory_limit(max_memory, base_bytes)
    rates, tried = Rates(0.0, 0.0, 0.0, base_bytes), []
    for budget in _budgets(job, compute, window, limit):
        peak = forecast(job, compute, rates, budget).memory_bytes
        if peak <= MARGIN * limit:
            return budget
        tried.append((peak, budget))
    lowest = min(peak for peak, _ in tried)
    peak, least = next((p, budget) for p, budget in tried if p <= lowest + GIB / 1000)
    if max_memory is not None:
        needed = math.ceil(100 * peak / MARGIN / GIB) / 100
        raise MemoryLimitError(
            f"--max-memory {max_memory:g}: this run needs at least {needed:.2f} GiB ({least}); allow as "
            "much, or use fewer frames (--num-frames-target) or a smaller network (--weights)"
        )
    return least


def _budgets(job: Job, compute: Compute, window: int, limit: float) -> Iterator[Budget]:
    """All budgets in the order in which they are tried, from the largest to the smallest."""
    batches = [compute.batch_size]
    if not compute.batch_size and compute.device.type == "cpu":
        size = compute.batch_for(job.tokens, activation_bytes(job.network, job.grid).decode)
        batches += [size >> k for k in range(1, size.bit_length())]
    large = job.num_pairs * job.pixels * pointmap_bytes(job) > SPILL_BYTES and compute.device.type == "cpu"
    for frames in [window] if window else _windows(job):
        for spill in (True,) if large else (False, True):
            for batch in batches:
                yield Budget(batch, frames, spill, limit)


def _windows(job: Job) -> Iterator[int]:
    """0 (all frames), then shorter and shorter windows, as long as the pair graph can be cut into them."""
    yield 0
    window = job.num_frames - job.num_eval
    while window > LEAST_WINDOW:
        window = max(LEAST_WINDOW, int(SHRINK * window))
        try:
            job.pairs_within(window)
        except InputError:  # smaller windows cannot be cut either
            return
        yield window
