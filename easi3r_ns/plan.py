"""What a run will cost: seconds and peak memory by stage, from counts and a calibration that loads no weights; and how
much of the work may be in memory at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from .align.problem import sample_pixels
from .backbone.config import DUSt3RConfig
from .backbone.costs import activation_bytes, network_cost, num_parameters, start_bytes
from .backbone.sources import AUTO, BEST, KNOWN, resolve
from .backbone.weights import describe
from .budget import GIB, UNBOUNDED, Budget, memory_limit
from .calibration import Rates, calibrate
from .config import LEAST_WINDOW, AlignConfig, Easi3RConfig, FrameConfig
from .errors import InputError
from .frames import ImageGeometry, preview_source
from .inference import (
    CPU_START_BYTES,
    GPU_START_BYTES,
    MOST_STARTS,
    Compute,
    choose_compute,
    map_dtype,
)
from .pairs import attach_frames, make_pairs
from .pipeline import DEFAULT_GRAPH
from .runlog import RunLog, StageRecord

__all__ = ["Forecast", "Job", "Rates", "calibrate", "choose_budget", "forecast", "network_of", "plan_run"]

ALIGN_SECONDS = 2.6e-8
"""Per pair, sampled pixel of one of its views and iteration of the alignment; measured on one core of a server CPU."""
FLOW_SECONDS = 1.1e-7
"""Per pair and pixel of the optical flow, likewise."""
FILE_SECONDS = 5e-7
"""Per frame and source pixel of reading, resizing and writing all copies of a frame, likewise."""
ALIGN_BYTES = 54
"""Of the alignment's temporaries, per sampled pixel of a pair, and again per pixel of a frame."""
RESULT_BYTES = 9
"""Depth, confidence and a mark per pixel of every frame, while windows are aligned one by one."""
LIBRARIES_BYTES = 170e6
"""What the alignment loads beside the network."""
FLOW_BYTES = 5.0
"""Optical flow and its check, per pair and pixel."""
WRITER_BYTES = 400e6
"""What is loaded to write the dataset, to load it back and to draw the report."""
OPEN_FRAMES = 24
"""Frames whose statistics are held at a time; in a graph of near frames."""
MARGIN = 0.9
"""Of a limit on the memory, up to which a forecast is taken to keep it."""
SHRINK = 0.8
"""Of a window, to the next smaller one that is tried."""
LONG_SECONDS = 3600.0
"""A forecast beyond this is said together with what would be faster."""
SMALLER_NETWORK = "dust3r-224"
NETWORK_STAGES = ("encode frames", "pass 1", "pass 2")


@dataclass(frozen=True)
class Job:
    """What decides the cost of a run."""

    network: DUSt3RConfig
    grid: tuple[int, int]
    """Tokens (h, w) of a frame."""
    num_frames: int
    num_pairs: int
    """Ordered."""
    source_pixels: int
    """Of one frame of the clip."""
    align: AlignConfig
    two_passes: bool = True
    graph: str = DEFAULT_GRAPH
    """Strategy of the pair graph."""

    @property
    def tokens(self) -> int:
        """Of one frame."""
        return self.grid[0] * self.grid[1]

    @property
    def pixels(self) -> int:
        """Of one frame at network size."""
        return self.tokens * self.network.patch_size**2

    def pairs_within(self, window: int) -> int:
        """Ordered pairs among ``window`` consecutive frames; 0: all frames."""
        if not 0 < window < self.num_frames:
            return self.num_pairs
        if self.graph.startswith("oneref"):
            return math.ceil(self.num_pairs * window / self.num_frames)
        return min(self.num_pairs, len(make_pairs(self.graph, window)))


@dataclass(frozen=True)
class StageForecast:
    """One stage."""

    name: str
    seconds: float
    memory_bytes: float
    """Largest resident memory of the process."""
    gpu_bytes: float = 0.0
    """Largest memory on the GPU, where the network runs on one."""


@dataclass(frozen=True)
class Forecast:
    """A run, stage by stage."""

    job: Job
    device: str
    stages: tuple[StageForecast, ...]
    budget: Budget = field(default=UNBOUNDED)

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def memory_bytes(self) -> float:
        """Largest resident memory of the process."""
        return max(stage.memory_bytes for stage in self.stages)

    @property
    def gpu_bytes(self) -> float:
        """Largest memory on the GPU; 0 on a CPU."""
        return max(stage.gpu_bytes for stage in self.stages)

    @property
    def remedy(self) -> str:
        """What would be faster than a run of hours; empty for shorter ones."""
        return f"this takes long; {', '.join(_faster(self))}" if self.seconds > LONG_SECONDS else ""

    def __str__(self) -> str:
        gpu = f" and {self.gpu_bytes / GIB:.1f} GiB on the GPU" if self.gpu_bytes else ""
        size = "x".join(str(side * self.job.network.patch_size) for side in reversed(self.job.grid))
        return (
            f"{self.job.num_frames} frames at {size}, {self.job.num_pairs} pairs; about "
            f"{duration(self.seconds)}, {self.memory_bytes / GIB:.1f} GiB of memory{gpu} ({self.device})"
        )


def duration(seconds: float) -> str:
    """'0:42 min', '12:05 min' or '3.4 h'."""
    if seconds >= LONG_SECONDS:
        return f"{seconds / 3600:.1f} h"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min"


def network_of(weights: str) -> tuple[DUSt3RConfig, str]:
    """The network behind ``--weights`` and the pair graph that suits it; downloads nothing.

    Raises:
        CheckpointError: neither a published name nor weights on this machine.
        InputError: ``none`` has no network.
    """
    if weights == "none":
        raise InputError("--weights none: there is no network to plan for")
    network = published_network(weights)
    if network is not None:
        return network, DEFAULT_GRAPH
    _, info = describe(resolve(weights, download=False))
    return info.config, info.graph or DEFAULT_GRAPH


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
    network: tuple[DUSt3RConfig, str] | None = None,
    eval_data: Path | None = None,
) -> Forecast:
    """What a run on ``data`` will cost; decodes one frame, calibrates, and loads no weights.

    ``network``: architecture and pair graph, where the caller knows them; default: those of ``config.weights``.

    Raises:
        Easi3RError: what the run would raise for these options before its network starts; InputError also where the
            run does not fit ``config.max_memory``.
    """
    architecture, graph = network or network_of(config.weights)
    graph = graph if config.graph == "auto" else config.graph
    compute = choose_compute(config.device, config.dtype, config.batch_size)
    job = _job(data, eval_data, select, architecture, graph, log)
    job = replace(job, align=align, two_passes=not (config.no_adapt or config.no_masks or config.masks is not None))
    rates = calibrate(job.network, job.grid, compute)
    budget = choose_budget(job, compute, config.max_memory, rates.base_bytes, window=config.window)
    return forecast(job, compute, rates, budget)


def _job(
    data: Path, eval_data: Path | None, select: FrameConfig, network: DUSt3RConfig, graph: str, log: RunLog
) -> Job:
    geometry = ImageGeometry(network.image_size, network.patch_size, network.square, select.square_ok)
    num_frames, pixel_map = preview_source(data, select, geometry, log)
    pairs = make_pairs(graph, num_frames)
    if eval_data is not None:
        held_out, _ = preview_source(eval_data, replace(select, start=0.0, end=None), geometry, log)
        pairs = attach_frames(pairs, held_out)
    width, height = pixel_map.network_wh
    return Job(
        network=network,
        grid=(height // network.patch_size, width // network.patch_size),
        num_frames=pairs.num_frames,
        num_pairs=len(pairs),
        source_pixels=pixel_map.source_wh[0] * pixel_map.source_wh[1],
        align=AlignConfig(),
        graph=graph,
    )


def forecast(job: Job, compute: Compute, rates: Rates, budget: Budget = UNBOUNDED) -> Forecast:
    """Seconds and memory of every stage of the run."""
    compute = replace(compute, batch_size=budget.batch_size or compute.batch_size)
    sampled = len(sample_pixels(*(s * job.network.patch_size for s in job.grid), job.align.pixel_budget).index)
    held = rates.base_bytes + 3.0 * job.num_frames * job.pixels
    with_flow = job.align.flow_strength > 0
    # Pointmaps come from a file: in memory is what is read, a window at a time.
    pairs = job.pairs_within(budget.window)
    aligning = held + pairs * job.pixels * (_pointmap_bytes(job) + FLOW_BYTES * with_flow)
    flow_seconds = FLOW_SECONDS * job.num_pairs * job.pixels * with_flow
    align_seconds = ALIGN_SECONDS * 2 * job.num_pairs * sampled * job.align.iterations
    stages = (
        StageForecast("frames", FILE_SECONDS / 2 * job.num_frames * job.source_pixels, held),
        *_network_stages(job, compute, rates, budget),
        StageForecast("optical flow", flow_seconds, aligning),
        StageForecast("global alignment", align_seconds, aligning + _align_bytes(job, budget, sampled)),
        StageForecast("dataset", FILE_SECONDS * job.num_frames * job.source_pixels, held + _write_bytes(job)),
    )
    return Forecast(job, compute.device.type, stages, budget)


def _network_stages(job: Job, compute: Compute, rates: Rates, budget: Budget) -> list[StageForecast]:
    on_gpu = compute.device.type != "cpu"
    encoder, decoder = (4.0 * count for count in num_parameters(job.network))
    item = activation_bytes(job.network, job.grid)
    width = 4.0 if compute.dtype == torch.float32 else 2.0
    features = width * job.num_frames * job.tokens * job.network.enc_embed_dim
    channels = job.network.dec_depth * job.network.dec_num_heads
    statistics = 4 * 4.0 * min(job.num_frames, OPEN_FRAMES) * job.tokens * channels
    stored = 0.0 if budget.spill else _pointmap_bytes(job) * job.num_pairs * job.pixels
    held = rates.base_bytes + 3.0 * job.num_frames * job.pixels

    def stage(name: str, seconds: float, working: float, kept: float = 0.0) -> StageForecast:
        working += features
        return StageForecast(name, seconds, held + kept + (0 if on_gpu else working), working if on_gpu else 0.0)

    def batch(item_bytes: float, count: int) -> float:
        return item_bytes * min(count, compute.batch_for(job.tokens, item_bytes))

    def starts(heads: bool) -> float:
        limit = GPU_START_BYTES if on_gpu else CPU_START_BYTES
        return min(limit, MOST_STARTS * start_bytes(job.network, job.grid, heads=heads))

    stages = [stage("encode frames", rates.encode * job.num_frames, encoder + batch(item.encode, job.num_frames))]
    if job.two_passes:
        attending = decoder + batch(item.decode, job.num_pairs) + starts(False) + statistics
        stages.append(stage("pass 1", rates.attend * job.num_pairs, attending))
    decoding = decoder + batch(item.decode + item.heads, job.num_pairs) + starts(True) + statistics
    stages.append(stage("pass 2", rates.decode * job.num_pairs, decoding, stored))
    return stages


def _pointmap_bytes(job: Job) -> float:
    """Of two pointmaps and confidences, per pair and pixel."""
    size = (side * job.network.patch_size for side in job.grid)
    return 8.0 * map_dtype(job.num_pairs, *size).itemsize


def _align_bytes(job: Job, budget: Budget, sampled: int) -> float:
    """What the alignment of all frames, or of the largest window, adds."""
    windowed = 0 < budget.window < job.num_frames
    frames = budget.window if windowed else job.num_frames
    working = ALIGN_BYTES * (job.pairs_within(budget.window) * sampled + frames * job.pixels)
    return working + LIBRARIES_BYTES + RESULT_BYTES * job.num_frames * job.pixels * windowed


def _write_bytes(job: Job) -> float:
    """What writing, checking and reporting add."""
    return RESULT_BYTES * job.num_frames * job.pixels + WRITER_BYTES


def choose_budget(
    job: Job, compute: Compute, max_memory: float | None, base_bytes: float, *, window: int = 0
) -> Budget:
    """The budget that keeps the forecast under a limit and costs the result least.

    Tried in this order: fewer pairs per call, then intermediate results on disk, then windows, as long as possible.

    Args:
        max_memory: limit in GiB; None: what is free on the machine, less a margin. Where even the least budget does
            not fit what happens to be free, it is returned all the same: memory may become free.
        base_bytes: resident memory of the process before the run.
        window: frames per window that the user asks for; 0: chosen here.

    Raises:
        InputError: the least budget exceeds ``max_memory``.
    """
    limit = memory_limit(max_memory, base_bytes)
    rates = Rates(0.0, 0.0, 0.0, base_bytes)
    least, peak = UNBOUNDED, math.inf
    for budget in _budgets(job, compute, window, limit):
        least, peak = budget, forecast(job, compute, rates, budget).memory_bytes
        if peak <= MARGIN * limit:
            return budget
    if max_memory is not None:
        needed = math.ceil(100 * peak / MARGIN / GIB) / 100
        raise InputError(
            f"--max-memory {max_memory:g}: this run needs at least {needed:.2f} GiB ({least}); allow as "
            "much, or use fewer frames (--num-frames-target) or a smaller network (--weights)"
        )
    return least


def _budgets(job: Job, compute: Compute, window: int, limit: float) -> Iterator[Budget]:
    """From everything at once to the least, in the order in which they are tried."""
    windows = [window] if window else [0]
    while not window and windows[-1] != LEAST_WINDOW and job.num_frames > LEAST_WINDOW:
        windows.append(max(LEAST_WINDOW, int(SHRINK * (windows[-1] or job.num_frames))))
    batches = [compute.batch_size]
    if not compute.batch_size and compute.device.type == "cpu":
        size = compute.batch_for(job.tokens, activation_bytes(job.network, job.grid).decode)
        batches += [size >> k for k in range(1, size.bit_length())]
    for frames in windows:
        for spill in (False, True):
            for batch in batches:
                yield Budget(batch, frames, spill, limit)


def forecast_lines(plan: Forecast) -> list[str]:
    """What a run says first: the forecast, what keeps it under its limit, and what would be faster if it takes long."""
    budget = plan.budget
    lines = [str(plan), plan.remedy]
    if budget.spill or budget.window:
        lines.insert(1, f"to stay under {budget.memory_bytes / GIB:.1f} GiB: {budget}")
    return [line for line in lines if line]


def actual_line(plan: Forecast, seconds: float, stages: Sequence[StageRecord]) -> str:
    """What a run says last: what it took beside the forecast."""
    peak = max((stage.peak_memory_bytes for stage in stages), default=0)
    return (
        f"took {duration(seconds)} and {peak / GIB:.1f} GiB of memory; "
        f"forecast: {duration(plan.seconds)} and {plan.memory_bytes / GIB:.1f} GiB"
    )


def _faster(plan: Forecast) -> Iterator[str]:
    job = plan.job
    frames = max(LEAST_WINDOW, int(job.num_frames * LONG_SECONDS / plan.seconds))
    if frames < job.num_frames:
        yield f"--num-frames-target {frames} takes about {duration(plan.seconds * frames / job.num_frames)}"
    small = KNOWN[SMALLER_NETWORK].network
    assert small is not None
    side = small.image_size // small.patch_size
    share = _operations(job, small, (side, side)) / _operations(job, job.network, job.grid)
    if share < 0.5:
        network = sum(stage.seconds for stage in plan.stages if stage.name in NETWORK_STAGES)
        yield f"--weights {SMALLER_NETWORK} about {duration(plan.seconds - (1 - share) * network)}"
    if plan.device == "cpu":
        yield "a GPU a small part of it"


def _operations(job: Job, network: DUSt3RConfig, grid: tuple[int, int]) -> float:
    cost = network_cost(network, grid)
    per_pair = cost.attention * job.two_passes + cost.decode + cost.heads
    return cost.encode * job.num_frames + per_pair * job.num_pairs
