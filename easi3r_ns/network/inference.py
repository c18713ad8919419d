"""Batched inference: every frame is encoded once, pairs are decoded in batches.

Every pair is decoded in both passes. The decoding of pass 1 could be reused for a pair whose second view has no moving
token, if pass 1 also ran the heads: 270 of the 582 GFLOP of a pair at the published size. But the score is normalised
to [0, 1] in every frame (Easi3R, equation 7), so the threshold finds moving tokens in nearly every frame, and most of
these heads would be computed for nothing. Where the user gives masks, there is no pass 1; and pairs without moving
tokens are decoded without attention masking (:func:`silence_for`).

Letters in shapes: F frames, E ordered pairs, H x W pixels, h x w tokens, N = h * w, D feature channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..core.errors import CheckpointError
from ..core.types import POINTMAP_NAMES
from ..storage.rows import MemoryRows, RowStore
from .blocks import Silence
from .compute import Compute, in_batches, normalise
from .costs import activation_bytes, start_bytes
from .model import DUSt3R, Grid, PairOutput, Start

Advance = Callable[[int], None]

FULL_PRECISION_LIMIT = 2**27
"""Size of float32 pair predictions in bytes above which they are stored in half precision."""
FEATURES = "features"
"""Name of the encoder features in a store."""
CPU_START_BYTES = 2**26
"""Memory for the kept results of :meth:`DUSt3R.start` on a CPU, in bytes."""
GPU_START_BYTES = 2**30
"""Memory for the kept results of :meth:`DUSt3R.start` on a GPU, in bytes."""
MOST_STARTS = 32
"""Most frames for which they are kept; more save hardly any time."""


def encode_frames(model: DUSt3R, images: np.ndarray, compute: Compute, advance: Advance) -> Tensor:
    """(F, H, W, 3) uint8 -> (F, N, D) float32 encoder features on ``compute.device``."""
    store = MemoryRows(feature_shape(model, images), torch.float32)
    encode_into(model, images, compute, store, advance)
    return store.tensors[FEATURES].to(compute.device)


@torch.inference_mode()
def encode_into(model: DUSt3R, images: np.ndarray, compute: Compute, store: RowStore, advance: Advance) -> None:
    """Encode (F, H, W, 3) uint8 images and write the (F, N, D) features to ``store`` as rows of :data:`FEATURES`."""
    grid = model.token_grid(*images.shape[1:3])

    def encode(part: slice) -> None:
        chunk = normalise(images[part], compute.device)
        with compute.autocast():
            features = model.encode(chunk)
        store.write(np.arange(part.start, part.stop), {FEATURES: features.to("cpu", store.dtype)})
        advance(len(chunk))

    item = activation_bytes(model.config, grid).encode
    in_batches(len(images), compute.batch_for(grid[0] * grid[1], item), encode)


def feature_shape(model: DUSt3R, images: np.ndarray) -> dict[str, tuple[int, ...]]:
    """Shape of the encoder features of (F, H, W, 3) images: {:data:`FEATURES`: (F, N, D)}."""
    grid = model.token_grid(*images.shape[1:3])
    return {FEATURES: (len(images), grid[0] * grid[1], model.config.enc_embed_dim)}


def map_shapes(num_pairs: int, height: int, width: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of :class:`~easi3r_ns.core.types.PairPredictions`, by name."""
    return {name: (num_pairs, height, width, *((3,) if name.startswith("points") else ())) for name in POINTMAP_NAMES}


def map_dtype(num_pairs: int, height: int, width: int) -> torch.dtype:
    """float32 up to :data:`FULL_PRECISION_LIMIT`, else float16, whose error is far below that of the pointmaps."""
    return torch.float32 if num_pairs * height * width * 8 * 4 <= FULL_PRECISION_LIMIT else torch.float16


class AttentionSink(Protocol):
    """Accumulates the attention maps of pairs, batch by batch, in any order.

    When :meth:`add_pairs` runs out of memory, it must not have added any pair of the batch: the call is repeated in
    smaller batches.
    """

    def add_pairs(self, edges: np.ndarray, on_j: Tensor, on_i: Tensor) -> None:
        """Add pairs (B, 2) of frames: ``on_j`` (B, h, w, C) from decoder 1, ``on_i`` from decoder 2, on any device."""


@dataclass(frozen=True)
class PairNetwork:
    """Decodes pairs of frames from the encoder features of the single frames."""

    model: DUSt3R
    features: Tensor
    """(F, N, D) result of :func:`encode_frames`, on any device, in any precision."""
    grid: Grid
    compute: Compute

    @torch.inference_mode()
    def attend(self, edges: np.ndarray, sink: AttentionSink, advance: Advance) -> None:
        """Pass 1: add the attention of pairs (E, 2) to ``sink``; nothing after the last layer's keys is computed."""
        starts = FrameStarts(self, heads=False)
        order = visiting_order(edges, starts.block)

        def attend(part: slice) -> None:
            rows = order[part]
            with self.compute.autocast():
                attention = self.model.attention_from(starts.of(edges[rows]), self.grid)
            sink.add_pairs(edges[rows], attention.on_j, attention.on_i)
            advance(len(rows))

        item = activation_bytes(self.model.config, self.grid).decode
        in_batches(len(edges), self.compute.batch_for(self.features.shape[1], item), attend)

    @torch.inference_mode()
    def decode(
        self,
        edges: np.ndarray,
        token_masks: np.ndarray | None,
        store: RowStore,
        sink: AttentionSink | None,
        advance: Advance,
    ) -> None:
        """Pass 2: write pointmaps and confidences of pairs (E, 2) to ``store`` and add their attention to ``sink``.

        Args:
            token_masks: (F, h, w) bool, True where a token moves; in decoder 1 static queries do not attend to these
                tokens. None: no attention is masked.
            sink: None if the attention is not needed.

        Raises:
            CheckpointError: the network returned NaN or infinity.
        """
        moving = None if token_masks is None else torch.from_numpy(token_masks).flatten(1)
        starts, writer = FrameStarts(self, heads=True), _AsyncWriter(store, self.compute.device)
        order = visiting_order(edges, starts.block)

        def decode(part: slice) -> None:
            rows = order[part]
            silence = None if moving is None else silence_for(moving, edges[rows], self.compute.device)
            with self.compute.autocast():
                output = self.model.decode_from(starts.of(edges[rows]), self.grid, silence)
            writer.write(rows, output)
            if sink is not None:
                sink.add_pairs(edges[rows], output.attention.on_j, output.attention.on_i)
            advance(len(rows))

        item = activation_bytes(self.model.config, self.grid)
        in_batches(len(edges), self.compute.batch_for(self.features.shape[1], item.decode + item.heads), decode)
        writer.flush()


class FrameStarts:
    """A cache of the results of :meth:`DUSt3R.start`, which all pairs of a frame share.

    At DUSt3R's published size it saves the embedding and the first self-attention, 3 % of the decoders, and the finest
    level, 19 % of the heads. In the default graph a frame is the first view of ten pairs and the second view of ten.
    """

    def __init__(self, network: PairNetwork, *, heads: bool) -> None:
        self._network, self._heads = network, heads
        budget = CPU_START_BYTES if network.compute.device.type == "cpu" else GPU_START_BYTES
        fitting = int(budget / start_bytes(network.model.config, network.grid, heads=heads))
        self.block = min(max(1, fitting - 1), MOST_STARTS)
        """Number of first views that are kept; request pairs in the :func:`visiting_order` of this number."""
        self._kept: tuple[dict[int, Start], dict[int, Start]] = ({}, {})

    def of(self, edges: np.ndarray) -> tuple[Start, Start]:
        """The starts of both views of pairs (B, 2)."""
        i, j = edges.T.tolist()
        return self._view(0, i, self.block), self._view(1, j, 1)

    def _view(self, view: int, frames: list[int], keep: int) -> Start:
        kept, network = self._kept[view], self._network
        missing = [frame for frame in dict.fromkeys(frames) if frame not in kept]
        if missing:
            features = network.features[missing].to(network.compute.device, torch.float32)
            start = network.model.start(features, network.grid, view, heads=self._heads)
            for row, frame in enumerate(missing):
                kept[frame] = Start(*(None if part is None else part[row : row + 1] for part in start))
        for frame in frames:
            kept[frame] = kept.pop(frame)  # keeps the dictionary in the order of last use
        rows = [kept[frame] for frame in frames]
        for frame in list(kept)[: max(0, len(kept) - keep)]:
            del kept[frame]
        if len(rows) == 1:
            return rows[0]
        return Start(*(None if parts[0] is None else torch.cat(parts) for parts in zip(*rows)))


def visiting_order(edges: np.ndarray, block: int) -> np.ndarray:
    """Order of the pairs (E, 2) in which :class:`FrameStarts` computes each frame few times, as row numbers (E,).

    The pairs of ``block`` consecutive first views come together, sorted by their second view. As pairs of nearby frames
    follow each other, the attention statistics also need to hold few frames at a time.
    """
    i, j = edges.T
    return np.lexsort((i, j, i // block))


def silence_for(moving: Tensor, edges: np.ndarray, device: torch.device) -> Silence | None:
    """The attention masking of pairs (B, 2) for (F, N) moving tokens on the CPU; None where no second view has any."""
    query, key = moving[edges[:, 0]], moving[edges[:, 1]]
    if not bool(key.any()):
        return None
    return Silence(query.to(device), key.to(device), int(query.sum(dim=1).max()))


class _AsyncWriter:
    """Writes the results of calls to the store; on a GPU the copy to the host overlaps with the next call."""

    def __init__(self, store: RowStore, device: torch.device) -> None:
        self._store, self._on_gpu = store, device.type == "cuda"
        self._pending: tuple[np.ndarray, dict[str, Tensor], Tensor, torch.cuda.Event | None] | None = None

    def write(self, rows: np.ndarray, output: PairOutput) -> None:
        """Start the copy of ``output`` to the host, and write the output of the call before."""
        values = {name: getattr(output, name) for name in POINTMAP_NAMES}
        # The minimum and the maximum are finite exactly when all elements are; only they are checked on the host.
        ranges = torch.stack([torch.stack(value.aminmax()) for value in values.values()])
        if self._store.dtype != torch.float32:
            limit = torch.finfo(self._store.dtype).max
            values = {name: value.clamp(-limit, limit).to(self._store.dtype) for name, value in values.items()}
        sent = (rows, {name: self._to_host(value) for name, value in values.items()}, self._to_host(ranges))
        event = None
        if self._on_gpu:
            event = torch.cuda.Event()
            event.record()
        self.flush()
        self._pending = (*sent, event)

    def flush(self) -> None:
        """Wait for the pending copy and write it.

        Raises:
            CheckpointError: the output has NaN or infinite values.
        """
        if self._pending is None:
            return
        (rows, values, ranges, event), self._pending = self._pending, None
        if event is not None:
            event.synchronize()
        broken = [name for name, fine in zip(POINTMAP_NAMES, ranges.isfinite().all(dim=1).tolist()) if not fine]
        if broken:
            raise CheckpointError(
                f"the network returned NaN or infinity ({', '.join(broken)}); the weights are damaged or the precision "
                "is too low: fetch the weights again or use --dtype fp32"
            )
        self._store.write(rows, values)

    def _to_host(self, value: Tensor) -> Tensor:
        if not self._on_gpu:
            return value.cpu()
        pinned = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
        return pinned.copy_(value, non_blocking=True)
