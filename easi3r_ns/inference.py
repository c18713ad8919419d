"""Frames and pairs through the network: every frame is encoded once, pairs are decoded in batches.

Letters in shapes: F frames, E ordered pairs, H x W pixels, h x w tokens, N = h * w, D feature channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .attention import AttentionAccumulator
from .backbone.blocks import Silence
from .backbone.model import DUSt3R, Grid, PairAttention
from .errors import CheckpointError, InputError
from .types import AttentionStats, PairGraph, PairPredictions

Advance = Callable[[int], None]

FULL_PRECISION_LIMIT = 2**27
"""Bytes of float32 pair predictions above which they are kept in half precision."""


@dataclass(frozen=True)
class Compute:
    """Where and how the network runs."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    """Of the transformer blocks; heads and attention statistics are always float32."""
    batch_size: int = 0
    """Pairs per call; 0: by device and size of the image."""

    def autocast(self) -> AbstractContextManager:
        """The context in which the network is called."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def batch_for(self, num_tokens: int) -> int:
        """Images or pairs per call for images of ``num_tokens`` tokens."""
        budget = 1024 if self.device.type == "cpu" else 4096
        return self.batch_size or max(1, budget // num_tokens)


def normalise(images: np.ndarray, device: torch.device) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.inference_mode()
def encode_frames(model: DUSt3R, images: np.ndarray, compute: Compute, advance: Advance) -> Tensor:
    """(F, H, W, 3) uint8 -> (F, N, D) float32 encoder features on ``compute.device``."""
    num_tokens = int(np.prod(model.token_grid(*images.shape[1:3])))
    batch = compute.batch_for(num_tokens)
    features = []
    for start in range(0, len(images), batch):
        chunk = normalise(images[start : start + batch], compute.device)
        with compute.autocast():
            features.append(model.encode(chunk).float())
        advance(len(chunk))
    return torch.cat(features)


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
    for rows, (i, j) in _batches(graph, compute.batch_for(features.shape[1])):
        with compute.autocast():
            attention = model.attention(features[i], features[j], grid)
        _accumulate(accumulator, graph.edges[rows], attention)
        advance(len(i))
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
    for rows, (i, j) in _batches(graph, compute.batch_for(features.shape[1])):
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
    return PairPredictions(graph, **maps), accumulator.finish()


def _batches(graph: PairGraph, size: int) -> Iterator[tuple[slice, tuple[list[int], list[int]]]]:
    for start in range(0, len(graph), size):
        rows = slice(start, start + size)
        yield rows, (graph.edges[rows, 0].tolist(), graph.edges[rows, 1].tolist())


def _accumulate(accumulator: AttentionAccumulator, edges: np.ndarray, attention: PairAttention) -> None:
    for edge, on_j, on_i in zip(edges.tolist(), attention.on_j, attention.on_i):
        accumulator.add(edge, on_j, on_i)


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
