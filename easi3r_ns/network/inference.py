"""Frames and pairs through the network: every frame is encoded once, pairs are decoded in batches.

Every pair is decoded in both passes. Pass 1 could serve a pair whose second view has no moving token, if it also ran
the heads: 270 of the 582 GFLOP of a pair at the published size. But the score is stretched to [0, 1] in every frame
(Easi3R, equation 7), so that one threshold finds moving tokens in nearly every frame, and those heads would be computed
in vain. Where masks are given, there is no pass 1; and pairs with nothing to silence are decoded plainly
(:func:`silence_for`).

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
"""Bytes of float32 pair predictions above which they are kept in half precision."""
FEATURES = "features"
CPU_START_BYTES = 2**26
"""For what is the same in all pairs of a frame, on a CPU."""
GPU_START_BYTES = 2**30
MOST_STARTS = 32
"""Frames for which it is kept, at most: more would help little."""


def encode_frames(model: DUSt3R, images: np.ndarray, compute: Compute, advance: Advance) -> Tensor:
    """(F, H, W, 3) uint8 -> (F, N, D) float32 encoder features on ``compute.device``."""
    store = MemoryRows(feature_shape(model, images), torch.float32)
    encode_into(model, images, compute, store, advance)
    return store.tensors[FEATURES].to(compute.device)


@torch.inference_mode()
def encode_into(model: DUSt3R, images: np.ndarray, compute: Compute, store: RowStore, advance: Advance) -> None:
    """(F, H, W, 3) uint8 -> (F, N, D) encoder features, as rows of :data:`FEATURES`."""
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
    """Of the encoder features of (F, H, W, 3) images: {:data:`FEATURES`: (F, N, D)}."""
    grid = model.token_grid(*images.shape[1:3])
    return {FEATURES: (len(images), grid[0] * grid[1], model.config.enc_embed_dim)}


def map_shapes(num_pairs: int, height: int, width: int) -> dict[str, tuple[int, ...]]:
    """Of the tensors of :class:`~easi3r_ns.core.types.PairPredictions`, by name."""
    return {name: (num_pairs, height, width, *((3,) if name.startswith("points") else ())) for name in POINTMAP_NAMES}


def map_dtype(num_pairs: int, height: int, width: int) -> torch.dtype:
    """float32 while that is little, else float16: pointmaps carry errors of per cents."""
    return torch.float32 if num_pairs * height * width * 8 * 4 <= FULL_PRECISION_LIMIT else torch.float16


class AttentionSink(Protocol):
    """Takes in the attention maps of pairs, batch by batch, in any order.

    When memory does not suffice for a batch, nothing of it has been taken in: its pairs may come again.
    """

    def add_pairs(self, edges: np.ndarray, on_j: Tensor, on_i: Tensor) -> None:
        """Pairs (B, 2) of frames: ``on_j`` (B, h, w, C) from decoder 1, ``on_i`` from decoder 2, on any device."""


@dataclass(frozen=True)
class PairNetwork:
    """The network over pairs of frames that have been encoded."""

    model: DUSt3R
    features: Tensor
    """(F, N, D) of :func:`encode_frames`, on any device, in any precision."""
    grid: Grid
    compute: Compute

    @torch.inference_mode()
    def attend(self, edges: np.ndarray, sink: AttentionSink, advance: Advance) -> None:
        """Pass 1 over pairs (E, 2): neither heads nor anything after the last keys is computed."""
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
        """Pass 2 over pairs (E, 2): pointmaps and confidences into ``store``, attention into ``sink`` if there is one.

        Args:
            token_masks: (F, h, w) bool, True where a token moves: silenced as keys of static queries in decoder 1; None
                decodes plainly.

        Raises:
            CheckpointError: the network returned NaN or infinity.
        """
        moving = None if token_masks is None else torch.from_numpy(token_masks).flatten(1)
        starts, outbox = FrameStarts(self, heads=True), _Outbox(store, self.compute.device)
        order = visiting_order(edges, starts.block)

        def decode(part: slice) -> None:
            rows = order[part]
            silence = None if moving is None else silence_for(moving, edges[rows], self.compute.device)
            with self.compute.autocast():
                output = self.model.decode_from(starts.of(edges[rows]), self.grid, silence)
            outbox.send(rows, output)
            if sink is not None:
                sink.add_pairs(edges[rows], output.attention.on_j, output.attention.on_i)
            advance(len(rows))

        item = activation_bytes(self.model.config, self.grid)
        in_batches(len(edges), self.compute.batch_for(self.features.shape[1], item.decode + item.heads), decode)
        outbox.deliver()


class FrameStarts:
    """What is the same in all pairs of a frame (:meth:`DUSt3R.start`), kept for the pairs that come next.

    For DUSt3R's published size the embedding and the first self-attention are 3 % of the decoders, and the finest level
    is 19 % of the heads. In the usual graph a frame is the first view of ten pairs and the second view of ten.
    """

    def __init__(self, network: PairNetwork, *, heads: bool) -> None:
        self._network, self._heads = network, heads
        budget = CPU_START_BYTES if network.compute.device.type == "cpu" else GPU_START_BYTES
        fitting = int(budget / start_bytes(network.model.config, network.grid, heads=heads))
        self.block = min(max(1, fitting - 1), MOST_STARTS)
        """First views that are kept; the pairs should come in the :func:`visiting_order` of this number."""
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
            kept[frame] = kept.pop(frame)  # last used, last in the dictionary
        rows = [kept[frame] for frame in frames]
        for frame in list(kept)[: max(0, len(kept) - keep)]:
            del kept[frame]
        if len(rows) == 1:
            return rows[0]
        return Start(*(None if parts[0] is None else torch.cat(parts) for parts in zip(*rows)))


def visiting_order(edges: np.ndarray, block: int) -> np.ndarray:
    """Rows of pairs (E, 2), so that each frame is started few times: ``block`` first views stay, second views pass by.

    Frames near each other come near each other, which is also what keeps few frames open in the statistics.
    """
    i, j = edges.T
    return np.lexsort((i, j, i // block))


def silence_for(moving: Tensor, edges: np.ndarray, device: torch.device) -> Silence | None:
    """What (F, N) moving tokens on the CPU silence in pairs (B, 2); None where no pair has anything to silence."""
    query, key = moving[edges[:, 0]], moving[edges[:, 1]]
    if not bool(key.any()):
        return None
    return Silence(query.to(device), key.to(device), int(query.sum(dim=1).max()))


class _Outbox:
    """Hands the results of a call to the store; on a GPU they travel while the next call is computed."""

    def __init__(self, store: RowStore, device: torch.device) -> None:
        self._store, self._on_gpu = store, device.type == "cuda"
        self._pending: tuple[np.ndarray, dict[str, Tensor], Tensor, torch.cuda.Event | None] | None = None

    def send(self, rows: np.ndarray, output: PairOutput) -> None:
        values = {name: getattr(output, name) for name in POINTMAP_NAMES}
        # Smallest and largest are finite exactly when all are: one small tensor to wait for, instead of four large.
        ranges = torch.stack([torch.stack(value.aminmax()) for value in values.values()])
        if self._store.dtype != torch.float32:
            limit = torch.finfo(self._store.dtype).max
            values = {name: value.clamp(-limit, limit).to(self._store.dtype) for name, value in values.items()}
        sent = (rows, {name: self._to_host(value) for name, value in values.items()}, self._to_host(ranges))
        event = None
        if self._on_gpu:
            event = torch.cuda.Event()
            event.record()
        self.deliver()
        self._pending = (*sent, event)

    def deliver(self) -> None:
        """Write what is still on its way."""
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
