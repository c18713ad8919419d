"""Frames and pairs through the network: every frame is encoded once, pairs are decoded in batches.

Letters in shapes: F frames, E ordered pairs, H x W pixels, h x w tokens, N = h * w, D feature channels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .attention import AttentionAccumulator
from .backbone.blocks import Silence
from .backbone.costs import activation_bytes
from .backbone.model import DUSt3R, Grid, PairAttention
from .errors import CheckpointError, InputError
from .types import AttentionStats, PairGraph, PairPredictions

logger = logging.getLogger(__name__)

Advance = Callable[[int], None]

CPU_TOKENS = 1024
"""Tokens of one view per call on a CPU."""
GPU_TOKENS = 16384
"""Tokens of one view per call beyond which a GPU gains nothing."""
MEMORY_SHARE = 0.5
"""Of a GPU's free memory, for the activations of one call."""
FULL_PRECISION_LIMIT = 2**27
"""Bytes of float32 pair predictions above which they are kept in half precision."""


@dataclass(frozen=True)
class Compute:
    """Where and how the network runs."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    """Of the transformer blocks; heads and attention statistics are always float32."""
    batch_size: int = 0
    """Most images or pairs per call; 0: by device, free memory and size of the image."""

    def autocast(self) -> AbstractContextManager:
        """The context in which the network is called."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def batch_for(self, num_tokens: int, item_bytes: float) -> int:
        """Images or pairs per call for images of ``num_tokens`` tokens, one of which takes ``item_bytes`` of memory.

        A CPU is fastest while a call's activations stay small; a GPU takes what fits a part of its free memory, up to
        what keeps it busy.
        """
        if self.batch_size:
            return self.batch_size
        if self.device.type == "cpu":
            return max(1, CPU_TOKENS // num_tokens)
        fitting = GPU_TOKENS // num_tokens
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            fitting = min(fitting, int(MEMORY_SHARE * free / item_bytes))
        return max(1, fitting)


def normalise(images: np.ndarray, device: torch.device) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.inference_mode()
def encode_frames(model: DUSt3R, images: np.ndarray, compute: Compute, advance: Advance) -> Tensor:
    """(F, H, W, 3) uint8 -> (F, N, D) float32 encoder features on ``compute.device``."""
    grid = model.token_grid(*images.shape[1:3])
    features = torch.empty((len(images), grid[0] * grid[1], model.config.enc_embed_dim), device=compute.device)

    def encode(rows: slice) -> None:
        chunk = normalise(images[rows], compute.device)
        with compute.autocast():
            features[rows] = model.encode(chunk).float()
        advance(len(chunk))

    in_batches(len(images), compute.batch_for(features.shape[1], activation_bytes(model.config, grid).encode), encode)
    return features


@torch.inference_mode()
def collect_attention(
    model: DUSt3R,
    features: Tensor,
    graph: PairGraph,
    grid: Grid,
    compute: Compute,
    advance: Advance,
    *,
    centred: bool = False,
) -> AttentionStats:
    """Pass 1: attention statistics of every frame; neither heads nor anything after the last keys is computed.

    ``centred``: see :class:`~easi3r_ns.attention.ScoreFormula`.
    """
    accumulator = AttentionAccumulator(graph.num_frames, centred)

    def attend(rows: slice) -> None:
        i, j = graph.edges[rows].T.tolist()
        with compute.autocast():
            attention = model.attention(features[i], features[j], grid)
        _accumulate(accumulator, graph.edges[rows], attention)
        advance(len(i))

    in_batches(len(graph), compute.batch_for(features.shape[1], activation_bytes(model.config, grid).decode), attend)
    return accumulator.finish()


@torch.inference_mode()
def decode_pairs(
    model: DUSt3R,
    features: Tensor,
    graph: PairGraph,
    grid: Grid,
    token_masks: np.ndarray | None,
    compute: Compute,
    advance: Advance,
    *,
    centred: bool = False,
) -> tuple[PairPredictions, AttentionStats]:
    """Pass 2: pointmaps, confidences and attention statistics.

    Args:
        token_masks: (F, h, w) bool, True where a token moves: silenced as keys of static queries in decoder 1; None
            decodes plainly.
        centred: see :class:`~easi3r_ns.attention.ScoreFormula`.

    Raises:
        CheckpointError: the network returned NaN or infinity.
    """
    accumulator = AttentionAccumulator(graph.num_frames, centred)
    moving = None if token_masks is None else torch.from_numpy(token_masks).flatten(1).to(features.device)
    height, width = (side * model.config.patch_size for side in grid)
    num_bytes = len(graph) * height * width * 8 * 4
    storage = torch.float32 if num_bytes <= FULL_PRECISION_LIMIT else torch.float16
    maps = {
        name: torch.empty((len(graph), height, width, *tail), dtype=storage)
        for name, tail in (("points_i", (3,)), ("conf_i", ()), ("points_j", (3,)), ("conf_j", ()))
    }
    limit = torch.finfo(storage).max

    def decode(rows: slice) -> None:
        i, j = graph.edges[rows].T.tolist()
        silence = None if moving is None else Silence(moving[i], moving[j])
        with compute.autocast():
            output = model.decode(features[i], features[j], grid, silence)
        for name, target in maps.items():
            value = getattr(output, name)
            if not bool(torch.isfinite(value).all()):
                raise CheckpointError(
                    f"the network returned NaN or infinity ({name}); the weights are damaged or the precision is too "
                    "low: fetch the weights again or use --dtype fp32"
                )
            target[rows] = value.clamp(-limit, limit).to("cpu", storage)
        _accumulate(accumulator, graph.edges[rows], output.attention)
        advance(len(i))

    item = activation_bytes(model.config, grid)
    in_batches(len(graph), compute.batch_for(features.shape[1], item.decode + item.heads), decode)
    return PairPredictions(graph, **maps), accumulator.finish()


def in_batches(total: int, size: int, work: Callable[[slice], None]) -> None:
    """Call ``work`` on consecutive slices of ``range(total)``, ``size`` long; when memory does not suffice, halve them.

    ``work`` must leave nothing behind when the device is out of memory: the same rows come again.

    Raises:
        InputError: a single row does not fit.
    """
    start = 0
    while start < total:
        rows = slice(start, min(start + size, total))
        if _fits(work, rows):
            start = rows.stop
            continue
        if size == 1:
            raise InputError("one pair of frames alone does not fit into the memory of the device: use --device cpu")
        size = max(1, (rows.stop - rows.start) // 2)
        logger.info("out of memory: %d pairs per call from here on", size)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _fits(work: Callable[[slice], None], rows: slice) -> bool:
    # The exception holds the frames of the failed call, and with them its memory: it must be gone before the next try.
    try:
        work(rows)
    except torch.cuda.OutOfMemoryError:
        return False
    except RuntimeError as error:
        if "out of memory" not in str(error):  # how MPS says it
            raise
        return False
    return True


def _accumulate(accumulator: AttentionAccumulator, edges: np.ndarray, attention: PairAttention) -> None:
    for edge, of_j, of_i in zip(edges.tolist(), attention.on_j.cpu(), attention.on_i.cpu()):
        accumulator.add(edge, of_j, of_i)


def choose_compute(device: str, dtype: str, batch_size: int) -> Compute:
    """``auto|cpu|cuda|mps`` and ``auto|fp32|bf16|fp16`` -> what this machine does best.

    Raises:
        InputError: the device is asked for by name and is not there, or it cannot compute in the precision.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        device = next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available[device]:
        usable = ", ".join(name for name, there in available.items() if there)
        raise InputError(f"--device {device}: not available here (usable: {usable})")
    if dtype == "auto":
        dtype = "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if dtype == "fp16" and device == "cpu":
        raise InputError("--dtype fp16: not supported on the CPU; use fp32 or bf16")
    precision = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    return Compute(torch.device(device), precision, batch_size)
