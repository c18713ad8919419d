"""Forecast of a run: seconds and peak memory of each stage, from counts and the rates of a calibration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from ..align.problem import sample_pixels
from ..core.budget import GIB, UNBOUNDED, Budget
from ..core.config import LEAST_WINDOW, AlignConfig
from ..core.pairs import DEFAULT_GRAPH, attach_frames, make_pairs
from ..core.runlog import StageRecord, duration
from ..core.windows import cut_windows
from ..core.workers import default_workers
from ..frames import KEPT_BYTES, enlargement
from ..motion.two_view import residual_bytes
from ..network.compute import Compute
from ..network.config import DUSt3RConfig
from ..network.costs import activation_bytes, network_cost, start_bytes, weight_bytes
from ..network.inference import CPU_START_BYTES, GPU_START_BYTES, MOST_STARTS, map_dtype
from ..network.sources import KNOWN
from .calibration import Rates
from .stages import Staged, StageForecast, rounded, time_range

if TYPE_CHECKING:
    from .geometric import GeometricForecast

ADAM_SECONDS = 5.2e-8
"""Seconds of the first-order solver per pair, sampled pixel and iteration. All times here were measured on one core of
a server CPU."""
NEWTON_SECONDS = 1.1e-6
"""Seconds of the second-order solver per pair, sampled pixel and step."""
NEWTON_STEPS = 40
"""Assumed number of second-order steps; 10 to 70 were observed, fewer where the pointmaps agree better."""
FLOW_SECONDS = 1.1e-7
"""Seconds of the optical flow per pair and pixel."""
RESIDUAL_SECONDS = 1.6e-6
"""Seconds of the flow for motion masks, per frame and pixel of the enlarged images in which it is estimated."""
LOOK_SECONDS = 2.5e-6
"""Seconds of the second look, per frame and pixel of the images in which it follows flow."""
LOOK_BYTES = 30.0
"""Images, depth, masks and regions of the second look, per frame and pixel of these images."""
FILE_SECONDS = 5e-7
"""Seconds to read, resize and write all copies of a frame, per frame and source pixel."""
FEATURE_SECONDS = 1.5e-6
"""Seconds of feature detection per frame and source pixel."""
MATCH_SECONDS = 0.145
"""Seconds of matching, mapping and bundle adjustment per pair of frames that are matched: 0.15 for 6 frames and 0.144
for 24 of the example clip."""
EXHAUSTIVE, NEAR, LOOKALIKE = 60, 10, 3
"""Up to so many frames all pairs are matched; in longer clips so many neighbours in time, frames 2^k further on, and
about so many that look alike (``refine/matching.py``)."""
WRITE_SECONDS = 2.0
"""Seconds to load the dataset for a check and to write report and preview, beside what grows with the frames."""
REPORT_SECONDS = 0.04
"""Seconds of check, preview and report for each frame."""
REFINE_PIXELS = 1600 * 1200
"""Source pixels of a frame above which features are found in a smaller image."""
ALIGN_BYTES = 92
"""Temporary memory of the second-order solver per sampled pixel of a pair."""
ADAM_BYTES = 54
"""Temporary memory of the first-order solver per sampled pixel of a pair."""
FRAME_BYTES = 99
"""Temporary memory of the alignment per pixel of a frame and per pointmap that shows the frame."""
RESULT_BYTES = 9
"""Depth, confidence and one flag per pixel of every frame."""
LIBRARIES_BYTES = 170e6
"""Memory of the libraries that the alignment loads and the network does not; it is held until the end."""
FLOW_BYTES = 5.0
"""Optical flow and its consistency check, per pair and pixel."""
WRITER_BYTES = 400e6
"""Memory of the libraries that write the dataset, load it back and draw the report."""
WRITTEN_BYTES = 20.0
"""Image, mask, depth and their files while a frame is written, per source pixel, by each of the threads: 18 to 24 were
measured in 4K."""
OPEN_FRAMES = 24
"""Number of frames whose attention statistics are in memory at one time, in a graph that pairs near frames."""
LONG_SECONDS = 3600.0
"""A run that is forecast to take longer is told what would be faster."""
SMALLER_NETWORK = "dust3r-224"
NETWORK_STAGES = ("encode frames", "pass 1", "pass 2")


@dataclass(frozen=True)
class Job:
    """The quantities that determine the cost of a run."""

    network: DUSt3RConfig
    grid: tuple[int, int]
    """Tokens (h, w) of a frame."""
    num_frames: int
    num_pairs: int
    """Number of ordered pairs."""
    source_pixels: int
    """Pixels of one frame at source resolution."""
    align: AlignConfig
    two_passes: bool = True
    graph: str = DEFAULT_GRAPH
    """Strategy of the pair graph, as in ``--graph``."""
    num_eval: int = 0
    """How many of the frames are evaluation views."""
    flow_residual: bool = False
    """Whether the dynamic score of the weights includes optical flow."""
    refine: bool = False
    """Whether bundle adjustment follows the alignment."""
    second_look: bool = False
    """Whether the found scene decides once more what moves."""

    @property
    def tokens(self) -> int:
        """Tokens of one frame."""
        return self.grid[0] * self.grid[1]

    @property
    def pixels(self) -> int:
        """Pixels of one frame at network size."""
        return self.tokens * self.network.patch_size**2

    def pairs_within(self, window: int) -> int:
        """Number of ordered pairs in the largest window of ``window`` frames; 0 means one window for all frames.

        Raises:
            InputError: the pair graph cannot be cut into such windows.
        """
        if not 0 < window < self.num_frames:
            return self.num_pairs
        return _largest_window(self.graph, self.num_frames - self.num_eval, self.num_eval, window)


@lru_cache(maxsize=256)
def _largest_window(strategy: str, num_frames: int, num_eval: int, window: int) -> int:
    graph = make_pairs(strategy, num_frames)
    plan = cut_windows(attach_frames(graph, num_eval) if num_eval else graph, window, num_eval)
    return max(len(part.rows) for part in plan.windows)


@dataclass(frozen=True)
class Forecast(Staged):
    """Forecast of a run, stage by stage."""

    job: Job
    device: str
    stages: tuple[StageForecast, ...]
    budget: Budget = field(default=UNBOUNDED)
    raw: tuple[StageForecast, ...] = ()
    """The stages before they were corrected by what is known of this machine."""

    @property
    def gpu_bytes(self) -> float:
        """Largest memory on the GPU; 0 on a CPU."""
        return max(stage.gpu_bytes for stage in self.stages)

    @property
    def remedy(self) -> str:
        """Which options would shorten a run of more than :data:`LONG_SECONDS`; empty for a shorter one."""
        return f"this takes long; {', '.join(_faster(self))}" if self.seconds > LONG_SECONDS else ""

    def key(self, name: str) -> str:
        """Under which the experience with a stage is kept."""
        if name not in NETWORK_STAGES:
            return name
        net = self.job.network
        sizes = f"{net.enc_embed_dim}x{net.enc_depth}, {net.dec_embed_dim}x{net.dec_depth}, {net.head_type}"
        return f"{name} of {sizes} on {self.device}"

    def __str__(self) -> str:
        gpu = f" and {self.gpu_bytes / GIB:.1f} GiB on the GPU" if self.gpu_bytes else ""
        size = "x".join(str(side * self.job.network.patch_size) for side in reversed(self.job.grid))
        return (
            f"{self.job.num_frames} frames at {size}, {self.job.num_pairs} pairs; about "
            f"{time_range(self.stages)}, {self.memory_bytes / GIB:.1f} GiB of memory{gpu} ({self.device})"
        )


def forecast(job: Job, compute: Compute, rates: Rates, budget: Budget = UNBOUNDED, *, factor: float = 1.0) -> Forecast:
    """Seconds and memory of every stage of the run.

    ``factor``: how much slower than the reference this machine is in what the network has no part in.
    """
    compute = replace(compute, batch_size=budget.batch_size or compute.batch_size)
    sampled = _sampled_pixels(*(s * job.network.patch_size for s in job.grid), job.align.pixel_budget)
    held = rates.base_bytes + 3.0 * job.num_frames * job.pixels
    with_flow = job.align.flow_strength > 0
    # Pointmaps are mapped from a file and in memory once they are read; a window works on a copy of its own.
    pairs, copies = job.pairs_within(budget.window), 2 if _windowed(job, budget) else 1
    aligning = held + pairs * job.pixels * (copies * pointmap_bytes(job) + FLOW_BYTES * with_flow)
    flow_seconds = FLOW_SECONDS * job.num_pairs * job.pixels * with_flow
    align_seconds = _step_seconds(job.align) * job.num_pairs * sampled
    stages = (
        StageForecast("frames", FILE_SECONDS / 2 * job.num_frames * job.source_pixels, held + KEPT_BYTES),
        *_network_stages(job, compute, rates, budget),
        *([_residual_stage(job, budget, held)] if job.flow_residual else []),
        StageForecast("optical flow", flow_seconds, aligning),
        StageForecast("global alignment", align_seconds, aligning + _align_bytes(job, budget, sampled)),
        *([_refine_stage(job, held)] if job.refine else []),
        *([_look_stage(job, held)] if job.second_look else []),
        StageForecast("dataset", write_seconds(job.num_frames, job.source_pixels), held + _write_bytes(job)),
    )
    scaled = tuple(s if s.name in NETWORK_STAGES else replace(s, seconds=factor * s.seconds) for s in stages)
    return Forecast(job, compute.device.type, scaled, budget, raw=scaled)


def _residual_stage(job: Job, budget: Budget, held: float) -> StageForecast:
    """Optical flow for motion masks: between the two passes, while the network and its features are still in memory."""
    size = [side * job.network.patch_size for side in job.grid]
    pixels = job.pixels * enlargement(*size) ** 2
    seconds = (RESIDUAL_SECONDS * pixels + FILE_SECONDS / 2 * job.source_pixels) * job.num_frames
    features = 4.0 * job.num_frames * job.tokens * job.network.enc_embed_dim
    stored = 0.0 if budget.spill or job.two_passes else pointmap_bytes(job) * job.num_pairs * job.pixels
    working = features + stored + max(_weight_bytes(job.network, 4)) + residual_bytes(job.num_frames, *size)
    return StageForecast("motion from flow", seconds, held + working)


def matched_pairs(num_frames: int) -> int:
    """About how many pairs of frames are matched."""
    if num_frames <= EXHAUSTIVE:
        return num_frames * (num_frames - 1) // 2
    steps = [*range(1, NEAR + 1), *(2**k for k in range(4, int(math.log2(num_frames)) + 1))]
    return sum(num_frames - step for step in steps) + LOOKALIKE * num_frames


def refine_seconds(num_frames: int, source_pixels: int) -> float:
    """Seconds of features, matching, mapping and bundle adjustment."""
    features = FEATURE_SECONDS * num_frames * min(source_pixels, REFINE_PIXELS)
    return features + MATCH_SECONDS * matched_pairs(num_frames)


def write_seconds(num_frames: int, source_pixels: int) -> float:
    """Seconds to write and check the dataset and to report on it."""
    return WRITE_SECONDS + num_frames * (REPORT_SECONDS + FILE_SECONDS * source_pixels)


def _refine_stage(job: Job, held: float) -> StageForecast:
    """Bundle adjustment on static tracks; left out at run time where the camera does not travel."""
    seconds = refine_seconds(job.num_frames, job.source_pixels)
    memory = held + LIBRARIES_BYTES + RESULT_BYTES * job.num_frames * job.pixels
    return StageForecast("bundle adjustment", seconds, memory)


def _look_stage(job: Job, held: float) -> StageForecast:
    """Flow against the found scene; left out at run time where the camera does not travel."""
    size = [side * job.network.patch_size for side in job.grid]
    pixels = job.num_frames * job.pixels * enlargement(*size) ** 2
    memory = held + LIBRARIES_BYTES + RESULT_BYTES * job.num_frames * job.pixels + LOOK_BYTES * pixels
    seconds = LOOK_SECONDS * pixels + FILE_SECONDS / 2 * job.num_frames * job.source_pixels
    return StageForecast("motion against the scene", seconds, memory + residual_bytes(job.num_frames, *size))


@lru_cache(maxsize=16)
def _sampled_pixels(height: int, width: int, budget: int) -> int:
    return len(sample_pixels(height, width, budget).index)


def _network_stages(job: Job, compute: Compute, rates: Rates, budget: Budget) -> list[StageForecast]:
    on_gpu = compute.device.type != "cpu"
    width = compute.dtype.itemsize
    encoder, decoder = _weight_bytes(job.network, width)
    item = activation_bytes(job.network, job.grid)
    features = width * job.num_frames * job.tokens * job.network.enc_embed_dim
    channels = job.network.dec_depth * job.network.dec_num_heads
    statistics = 4 * 4.0 * min(job.num_frames, OPEN_FRAMES) * job.tokens * channels
    stored = 0.0 if budget.spill else pointmap_bytes(job) * job.num_pairs * job.pixels
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


_weight_bytes = lru_cache(maxsize=16)(weight_bytes)


def pointmap_bytes(job: Job) -> float:
    """Bytes of two pointmaps and confidences, per pair and pixel."""
    size = (side * job.network.patch_size for side in job.grid)
    return 8.0 * map_dtype(job.num_pairs, *size).itemsize


def _step_seconds(align: AlignConfig) -> float:
    """Seconds of all steps of the solver, per pair and sampled pixel."""
    if align.solver == "adam":
        return ADAM_SECONDS * align.iterations
    return NEWTON_SECONDS * min(align.iterations, NEWTON_STEPS)


def _windowed(job: Job, budget: Budget) -> bool:
    return 0 < budget.window < job.num_frames


def _align_bytes(job: Job, budget: Budget, sampled: int) -> float:
    """Additional memory while all frames, or those of the largest window, are aligned."""
    windowed, pairs = _windowed(job, budget), job.pairs_within(budget.window)
    frames = budget.window if windowed else job.num_frames
    per_sample = ADAM_BYTES if job.align.solver == "adam" else ALIGN_BYTES
    working = per_sample * pairs * sampled + FRAME_BYTES * job.pixels * 2 * pairs / frames
    # With intermediate results on disk, those of the windows are joined in files.
    results = 0 if windowed and budget.spill else job.num_frames
    return working + LIBRARIES_BYTES + RESULT_BYTES * results * job.pixels


def _write_bytes(job: Job) -> float:
    """Additional memory while the dataset is written, checked and reported on."""
    written = writer_bytes(job.num_frames, job.source_pixels)
    return LIBRARIES_BYTES + RESULT_BYTES * job.num_frames * job.pixels + written


def writer_bytes(num_frames: int, source_pixels: int) -> float:
    """Memory of what writes the dataset, beside what it writes."""
    return WRITER_BYTES + WRITTEN_BYTES * min(num_frames, default_workers()) * source_pixels


def forecast_lines(plan: Forecast | GeometricForecast, *, asked_window: bool = False) -> list[str]:
    """First lines of a run's log: the forecast, how memory is limited, and what would be faster if the run takes long.

    ``asked_window``: the window size was given by the user and not chosen to keep the limit.
    """
    budget, limit = plan.budget, plan.budget.memory_bytes / GIB
    lines = [str(plan)]
    if isinstance(plan, Forecast) and _windowed(plan.job, budget):
        for_limit = budget.bounded and not asked_window
        lines.append(f"to stay under {limit:.1f} GiB: {budget}" if for_limit else str(budget))
    if plan.memory_bytes > budget.memory_bytes:
        lines.append(
            f"{limit:.1f} GiB are free now, less than that ({budget}); end other programs, or use fewer frames "
            "(--num-frames-target) or a smaller network (--weights)"
        )
    return [*lines, plan.remedy] if plan.remedy else lines


def actual_line(plan: Forecast | GeometricForecast, seconds: float, stages: Sequence[StageRecord]) -> str:
    """Last line of a run's log: actual time and memory beside the forecast."""
    peak = max((stage.peak_memory_bytes for stage in stages), default=0)
    return (
        f"took {duration(seconds)} and {peak / GIB:.1f} GiB of memory; "
        f"forecast: {time_range(plan.stages)} and {plan.memory_bytes / GIB:.1f} GiB"
    )


def _faster(plan: Forecast) -> Iterator[str]:
    job = plan.job
    frames = max(LEAST_WINDOW, int(job.num_frames * LONG_SECONDS / plan.seconds))
    if frames < job.num_frames:
        yield f"--num-frames-target {frames} takes about {duration(rounded(plan.seconds * frames / job.num_frames))}"
    small = KNOWN[SMALLER_NETWORK].network
    assert small is not None
    side = small.image_size // small.patch_size
    share = _operations(job, small, (side, side)) / _operations(job, job.network, job.grid)
    if share < 0.5:
        network = sum(stage.seconds for stage in plan.stages if stage.name in NETWORK_STAGES)
        yield f"--weights {SMALLER_NETWORK} about {duration(rounded(plan.seconds - (1 - share) * network))}"
    if plan.device == "cpu":
        yield "a GPU a small part of it"


def _operations(job: Job, network: DUSt3RConfig, grid: tuple[int, int]) -> float:
    cost = network_cost(network, grid)
    per_pair = cost.attention * job.two_passes + cost.decode + cost.heads
    return cost.encode * job.num_frames + per_pair * job.num_pairs
