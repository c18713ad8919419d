"""What a run will cost: seconds and peak memory by stage, from counts and a calibration that loads no weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from .align.problem import sample_pixels
from .backbone.blocks import DecoderBlock, EncoderBlock
from .backbone.config import DUSt3RConfig
from .backbone.costs import activation_bytes, network_cost, num_parameters
from .backbone.heads import DPTHead, LinearHead
from .backbone.rope import rope_tables
from .backbone.sources import AUTO, BEST, KNOWN, resolve
from .backbone.weights import describe
from .config import AlignConfig, Easi3RConfig, FrameConfig
from .errors import InputError
from .frames import ImageGeometry, preview_source
from .inference import FULL_PRECISION_LIMIT, Compute, choose_compute
from .pairs import make_pairs
from .pipeline import DEFAULT_GRAPH
from .runlog import RunLog, resident_memory_bytes

ALIGN_SECONDS = 2.6e-8
"""Per pair, sampled pixel of one of its views and iteration of the alignment; measured on one core of a server CPU."""
FLOW_SECONDS = 1.1e-7
"""Per pair and pixel of the optical flow, likewise."""
FILE_SECONDS = 5e-7
"""Per frame and source pixel of reading, resizing and writing all copies of a frame, likewise."""
ALIGN_BYTES = 54
"""Of the alignment's temporaries, per sampled pixel of a pair, and again per pixel of a frame."""
LIBRARIES_BYTES = 170e6
"""What the alignment loads beside the network."""
MIN_CALIBRATION = 0.1
"""Seconds."""


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


@dataclass(frozen=True)
class Rates:
    """Seconds that parts of the network take on this machine, and the memory of the process before it is loaded."""

    encode: float
    """One frame."""
    attend: float
    """One ordered pair in pass 1."""
    decode: float
    """One ordered pair in pass 2, heads included."""
    base_bytes: float
    """Resident memory of the process."""


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

    def __str__(self) -> str:
        gpu = f" and {self.gpu_bytes / 2**30:.1f} GiB on the GPU" if self.gpu_bytes else ""
        minutes, seconds = divmod(round(self.seconds), 60)
        return (
            f"{self.job.num_frames} frames, {self.job.num_pairs} pairs; about {minutes}:{seconds:02d} min, "
            f"{self.memory_bytes / 2**30:.1f} GiB of memory{gpu} ({self.device})"
        )


def network_of(weights: str) -> tuple[DUSt3RConfig, str]:
    """The network behind ``--weights`` and the pair graph that suits it; downloads nothing.

    Raises:
        CheckpointError: neither a published name nor weights on this machine.
        InputError: ``none`` has no network.
    """
    if weights == "none":
        raise InputError("--weights none: there is no network to plan for")
    known = KNOWN.get(BEST if weights == AUTO else weights)
    if known is not None and known.network is not None:
        return known.network, DEFAULT_GRAPH
    _, info = describe(resolve(weights, download=False))
    return info.config, info.graph or DEFAULT_GRAPH


def plan_run(data: Path, select: FrameConfig, config: Easi3RConfig, align: AlignConfig, log: RunLog) -> Forecast:
    """What a run on ``data`` will cost; decodes one frame, calibrates, and loads no weights.

    Raises:
        Easi3RError: what the run would raise for these options before its network starts.
    """
    network, graph = network_of(config.weights)
    if config.graph != "auto":
        graph = config.graph
    compute = choose_compute(config.device, config.dtype, config.batch_size)
    geometry = ImageGeometry(network.image_size, network.patch_size, network.square, select.square_ok)
    num_frames, pixel_map = preview_source(data, select, geometry, log)
    width, height = pixel_map.network_wh
    job = Job(
        network=network,
        grid=(height // network.patch_size, width // network.patch_size),
        num_frames=num_frames,
        num_pairs=len(make_pairs(graph, num_frames)),
        source_pixels=pixel_map.source_wh[0] * pixel_map.source_wh[1],
        align=align,
        two_passes=not (config.no_adapt or config.no_masks or config.masks is not None),
    )
    return forecast(job, compute, calibrate(job.network, job.grid, compute))


def forecast(job: Job, compute: Compute, rates: Rates) -> Forecast:
    """Seconds and memory of every stage of the run."""
    on_gpu = compute.device.type != "cpu"
    tokens, pixels = job.grid[0] * job.grid[1], job.grid[0] * job.grid[1] * job.network.patch_size**2
    encoder, decoder = (4.0 * count for count in num_parameters(job.network))
    item = activation_bytes(job.network, job.grid)
    images = 3.0 * job.num_frames * pixels
    features = 4.0 * job.num_frames * tokens * job.network.enc_embed_dim
    channels = job.network.dec_depth * job.network.dec_num_heads
    statistics = 4 * 4.0 * job.num_frames * tokens * channels
    pointmaps = _pointmap_bytes(job.num_pairs * pixels)
    flow = 5.0 * job.num_pairs * pixels * (job.align.flow_strength > 0)
    sampled = len(sample_pixels(*(s * job.network.patch_size for s in job.grid), job.align.max_pixels).index)
    temporaries = ALIGN_BYTES * (job.num_pairs * sampled + job.num_frames * pixels) + LIBRARIES_BYTES

    def network(name: str, seconds: float, weights: float, activations: float, kept: float) -> StageForecast:
        working = weights + features + activations
        held = rates.base_bytes + images + kept
        return StageForecast(name, seconds, held + (0 if on_gpu else working), working if on_gpu else 0.0)

    def batch(item_bytes: float, count: int) -> float:
        return item_bytes * min(count, compute.batch_for(tokens, item_bytes))

    stages = [
        StageForecast("frames", FILE_SECONDS / 2 * job.num_frames * job.source_pixels, rates.base_bytes + images),
        network("encode frames", rates.encode * job.num_frames, encoder, batch(item.encode, job.num_frames), 0.0),
    ]
    if job.two_passes:
        attending = batch(item.decode, job.num_pairs)
        stages.append(network("pass 1", rates.attend * job.num_pairs, decoder, attending, statistics))
    decoding = batch(item.decode + item.heads, job.num_pairs)
    decode_seconds = rates.decode * job.num_pairs
    stages.append(network("pass 2", decode_seconds, decoder, decoding, statistics + pointmaps))
    aligning = rates.base_bytes + images + pointmaps + flow
    flow_seconds = FLOW_SECONDS * job.num_pairs * pixels * (flow > 0)
    align_seconds = ALIGN_SECONDS * 2 * job.num_pairs * sampled * job.align.iterations
    stages.append(StageForecast("optical flow", flow_seconds, aligning))
    stages.append(StageForecast("global alignment", align_seconds, aligning + temporaries))
    stages.append(StageForecast("dataset", FILE_SECONDS * job.num_frames * job.source_pixels, aligning))
    return Forecast(job, compute.device.type, tuple(stages))


def _pointmap_bytes(pixels: float) -> float:
    """Two pointmaps and confidences; half precision above the limit of :mod:`easi3r_ns.inference`."""
    full = 8 * 4.0 * pixels
    return full if full <= FULL_PRECISION_LIMIT else full / 2


@torch.inference_mode()
def calibrate(network: DUSt3RConfig, grid: tuple[int, int], compute: Compute) -> Rates:
    """Time one block of the encoder, one of a decoder and one head, with random weights, at the size of the run."""
    base = resident_memory_bytes()
    tokens, item = grid[0] * grid[1], activation_bytes(network, grid)
    cost = network_cost(network, grid)
    with torch.device(compute.device):
        encoder_tables = rope_tables(grid, network.enc_embed_dim // network.enc_num_heads, 1.0, compute.device)
        decoder_tables = rope_tables(grid, network.dec_embed_dim // network.dec_num_heads, 1.0, compute.device)
        encoder = EncoderBlock(network.enc_embed_dim, network.enc_num_heads, network.mlp_ratio).eval()
        decoder = DecoderBlock(network.dec_embed_dim, network.dec_num_heads, network.mlp_ratio).eval()
        head = {"dpt": DPTHead, "linear": LinearHead}[network.head_type](network).eval()
        frames = torch.randn(compute.batch_for(tokens, item.encode), tokens, network.enc_embed_dim)
        pairs = torch.randn(compute.batch_for(tokens, item.decode + item.heads), tokens, network.dec_embed_dim)
        read = {0: frames[:1].expand(len(pairs), -1, -1).contiguous()}
    read |= {layer: pairs for layer in head.layers if layer}
    encoder_block = _seconds(lambda: encoder(frames, encoder_tables), compute) / len(frames)
    decoder_block = _seconds(lambda: decoder(pairs, pairs, decoder_tables), compute) / len(pairs)
    with torch.autocast(compute.device.type, enabled=False):
        heads = 2 * _seconds(lambda: head(read, grid), Compute(compute.device)) / len(pairs)
    decoders = 2 * network.dec_depth * decoder_block
    return Rates(
        encode=network.enc_depth * encoder_block,
        attend=decoders * cost.attention / cost.decode,
        decode=decoders * (cost.decode + cost.silence) / cost.decode + heads,
        base_bytes=base,
    )


def _seconds(call: Callable[[], object], compute: Compute) -> float:
    """Of one call, after one that warms up."""
    synchronise = torch.cuda.synchronize if compute.device.type == "cuda" else lambda: None

    def once() -> float:
        synchronise()
        begin = time.perf_counter()
        with compute.autocast():
            call()
        synchronise()
        return time.perf_counter() - begin

    once()
    taken = [once()]
    while sum(taken) < MIN_CALIBRATION:
        taken.append(once())
    return min(taken)
