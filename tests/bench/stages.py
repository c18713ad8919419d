"""What the benchmark of the network measures: a row per stage, and how a row becomes that of a longer clip.

What was run on few frames carries the factor that makes it the cost of the frames that the table is about, and the
bytes that those frames would add: tensors whose sizes are known, counted.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import torch

from easi3r_ns.core.budget import Budget
from easi3r_ns.core.config import AlignConfig
from easi3r_ns.core.pairs import make_pairs
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.network.compute import Compute, choose_compute
from easi3r_ns.network.config import DUSt3RConfig
from easi3r_ns.network.costs import network_cost
from easi3r_ns.network.inference import FrameStarts, PairNetwork
from easi3r_ns.plan.forecast import Job, Rates, forecast
from easi3r_ns.plan.plan import choose_budget

GRAPH = "swinstride-5-noncyclic"
ITERATIONS = 300
MUCH_MEMORY = 64.0
"""GiB."""
NETWORKS = {
    "published": (DUSt3RConfig(), (288, 512)),
    "toy": (
        DUSt3RConfig(
            image_size=64,
            enc_embed_dim=64,
            enc_depth=2,
            enc_num_heads=4,
            dec_embed_dim=48,
            dec_depth=4,
            dec_num_heads=4,
        ),
        (48, 64),
    ),
}
STAGES = {
    "frames": "decode",
    "load encoder": "encode",
    "encode frames": "encode",
    "load decoder": "pass 1",
    "pass 1: attention": "pass 1",
    "pass 1: motion": "masks",
    "pass 2: pointmaps": "pass 2",
    "pass 2: motion": "masks",
    "optical flow": "flow",
    "global alignment": "alignment",
    "dataset": "write",
}
"""The run log's names -> those of the table."""
PLANNED = {"encode": "encode frames", "pass 1": "pass 1", "masks": "pass 1", "pass 2": "pass 2"}
"""The table's names -> those of the planner, which counts memory; stages that are run on a part of the clip."""


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    size: str = "published"
    """A name of :data:`NETWORKS`."""
    frames: int = 30
    """The table is about a clip of this length."""
    measured: int = 3
    """Frames that go through the network, 0: all of them; the other stages always run on all."""
    twin_measured: int = 2
    """Frames that the twin runs, in all its stages."""
    twin_iterations: int = 3
    """Iterations of the twin's alignment."""
    device: str = "cpu"
    dtype: str = "fp32"
    batch_size: int = 0
    threads: int = 1

    @property
    def network(self) -> DUSt3RConfig:
        """Its weights are random."""
        return NETWORKS[self.size][0]

    @property
    def image(self) -> tuple[int, int]:
        """(H, W) at network size."""
        return NETWORKS[self.size][1]

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens (h, w)."""
        return tuple(side // self.network.patch_size for side in self.image)

    def run_frames(self, side: str) -> int:
        """How many frames a side runs through the network; ``clip``: all."""
        wanted = {"ours": self.measured, "twin": self.twin_measured, "clip": self.frames}[side]
        return min(self.frames, wanted or self.frames)

    def job(self, frames: int) -> Job:
        """For the planner's counts."""
        pairs, (height, width) = len(make_pairs(GRAPH, frames)), self.image
        return Job(self.network, self.grid, frames, pairs, 4 * height * width, AlignConfig(iterations=ITERATIONS))

    def compute(self) -> Compute:
        """Where it runs."""
        return choose_compute(self.device, self.dtype, self.batch_size)

    def budget(self) -> Budget:
        """What the planner chooses for the whole clip on a machine with much memory."""
        return choose_budget(self.job(self.frames), self.compute(), MUCH_MEMORY, 0.0)


@dataclass(frozen=True)
class Row:
    """One stage of one side, as it was measured."""

    stage: str
    seconds: float
    cpu_seconds: float
    operations: float
    peak_bytes: float
    """Of the process on a CPU, of PyTorch's allocations on a GPU."""
    factor: float = 1.0
    """From what was run to the clip of the table; times are linear in it."""
    counted_bytes: float = 0.0
    """What that clip adds to the peak."""


class BenchLog(RunLog):
    """Also waits for the GPU and records its peak."""

    def __init__(self, on_gpu: bool) -> None:
        super().__init__()
        self.on_gpu = on_gpu
        self.gpu_peaks: dict[str, int] = {}

    @contextlib.contextmanager
    def _display(self, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        if self.on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        yield lambda steps=1: None
        if self.on_gpu:
            torch.cuda.synchronize()
            self.gpu_peaks[name] = max(self.gpu_peaks.get(name, 0), torch.cuda.max_memory_allocated())

    def rows(self, names: dict[str, str]) -> dict[str, Row]:
        """Table name -> the stages of that name, added up; stages without one are left out."""
        rows: dict[str, Row] = {}
        for record in self.stages:
            stage = names.get(record.name)
            if stage is None:
                continue
            peak = self.gpu_peaks.get(record.name, 0) if self.on_gpu else record.peak_memory_bytes
            old = rows.get(stage, Row(stage, 0.0, 0.0, 0.0, 0.0))
            rows[stage] = dataclasses.replace(
                old,
                seconds=old.seconds + record.seconds,
                cpu_seconds=old.cpu_seconds + record.cpu_seconds,
                peak_bytes=max(old.peak_bytes, peak),
            )
        return rows


def scaled(row: Row, setting: Setting) -> Row:
    """One of our rows with its operations, its factor, and the bytes that the planner counts for the rest."""
    run = setting.run_frames("ours")
    full, here, compute = setting.job(setting.frames), setting.job(run), setting.compute()
    cost, pairs = network_cost(setting.network, setting.grid), full.num_pairs / here.num_pairs
    spared = [2 * here.num_pairs - starts_made(setting, run, heads=heads) for heads in (False, True)]
    operations = {
        "encode": cost.encode * run,
        "pass 1": cost.attention * here.num_pairs - cost.start * spared[0],
        # Silencing is left out: what it costs depends on how much moves.
        "pass 2": (cost.decode + cost.heads) * here.num_pairs - (cost.start + cost.start_heads) * spared[1],
    }
    factor = {"encode": setting.frames / run, "masks": setting.frames / run, "pass 1": pairs, "pass 2": pairs}
    counted = 0.0
    if row.stage in PLANNED:
        budget = setting.budget()
        counted = _planned(full, compute, budget, row.stage) - _planned(here, compute, budget, row.stage)
    return dataclasses.replace(
        row,
        operations=operations.get(row.stage, 0.0),
        factor=factor.get(row.stage, 1.0),
        counted_bytes=max(0.0, counted),
    )


def starts_made(setting: Setting, frames: int, *, heads: bool) -> int:
    """How often the pipeline computes what a frame brings to its pairs; the twin does so twice for every pair."""
    network = PairNetwork(SimpleNamespace(config=setting.network), torch.empty(0), setting.grid, setting.compute())
    block = FrameStarts(network, heads=heads).block
    i, j = make_pairs(GRAPH, frames).edges.T.tolist()
    return len(set(i)) + len({(first // block, second) for first, second in zip(i, j)})


def _planned(job: Job, compute: Compute, budget: Budget, stage: str) -> float:
    plan = forecast(job, compute, Rates(0.0, 0.0, 0.0, 0.0), budget)
    found = next(s for s in plan.stages if s.name == PLANNED[stage])
    return found.gpu_bytes if compute.device.type != "cpu" else found.memory_bytes


def scaled_twin(row: Row, setting: Setting) -> Row:
    """One of the twin's rows, likewise."""
    run = setting.run_frames("twin")
    full, here = setting.job(setting.frames), setting.job(run)
    cost, pairs = network_cost(setting.network, setting.grid), full.num_pairs / here.num_pairs
    each = 2 * cost.encode + cost.decode + cost.heads
    kept = {"pass 1": kept_bytes(setting), "pass 2": kept_bytes(setting), "alignment": plain_bytes(setting)}
    counted = kept.get(row.stage, 0.0) * (full.num_pairs - here.num_pairs)
    return dataclasses.replace(
        row,
        operations=each * here.num_pairs if row.stage.startswith("pass") else 0.0,
        factor=setting.frames / run if row.stage == "masks" else pairs,
        counted_bytes=counted if setting.device == "cpu" else 0.0,
    )


def kept_bytes(setting: Setting) -> float:
    """What a pass keeps of a pair: two pointmaps and confidences, and its attention by key token, in float32."""
    network, (height, width) = setting.network, setting.image
    tokens, channels = setting.grid[0] * setting.grid[1], network.dec_depth * network.dec_num_heads
    return 4.0 * (8 * height * width + 2 * tokens * channels)


def matrix_bytes(setting: Setting) -> float:
    """All cross-attention matrices of one pair in float32."""
    network, tokens = setting.network, setting.grid[0] * setting.grid[1]
    return 4.0 * 2 * network.dec_depth * network.dec_num_heads * tokens**2


def plain_bytes(setting: Setting) -> float:
    """Least that a pair adds to the plain alignment: points, aligned copies, gradients, weights of both views."""
    height, width = setting.image
    return 4.0 * 2 * height * width * (3 + 3 + 3 + 1)


def matmul_rate(compute: Compute, on_gpu: bool) -> float:
    """Operations per second (per CPU-second on a CPU) of a square matrix product in the precision of the network."""
    n, repeats = (8192, 20) if on_gpu else (1536, 5)
    a = torch.randn(n, n, device=compute.device, dtype=compute.dtype)
    for _ in range(2):  # the first round warms up
        log = BenchLog(on_gpu)
        with log.stage("product"):
            for _ in range(repeats):
                a @ a
    record = log.stages[0]
    return 2.0 * n**3 * repeats / (record.seconds if on_gpu else record.cpu_seconds)
