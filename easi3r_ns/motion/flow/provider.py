"""What estimates optical flow, and the flow between the frames of every pair of a clip."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from ...core.errors import InputError
from ...core.flow import flow_returns
from ...core.runlog import RunLog
from ...core.types import PairFlow, PairGraph
from ...storage.rows import empty_tensor

PAIRS_AT_ONCE = 8
"""Unordered pairs per call of a provider."""
SPILL_BYTES = 2**29
"""Flows of a clip that are larger go into a file, where there is a folder for it."""


@runtime_checkable
class FlowProvider(Protocol):
    """Estimates optical flow."""

    name: str

    def flow(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """(B, H, W, 3) uint8 RGB each -> (B, H, W, 2) float32 (dx, dy): source pixel p is seen at p + flow(p)."""


def is_parallel(provider: FlowProvider) -> bool:
    """Whether it may be asked from several threads at once; it says so by an attribute ``parallel``."""
    return bool(getattr(provider, "parallel", False))


def pair_flow(
    images: np.ndarray,
    graph: PairGraph,
    provider: FlowProvider,
    log: RunLog,
    *,
    dtype: torch.dtype = torch.float16,
    folder: Path | None = None,
) -> PairFlow:
    """Flow of every ordered pair, each computed once, with a forward-backward check.

    Both directions of a pair are computed in one call, so that they can be checked against each other before they are
    rounded for storage.

    :param images: (F, H, W, 3) uint8 RGB.
    :param dtype: storage type; float16 keeps flows below 32 pixels to 1/64 pixel at half the memory.
    :param folder: where results larger than SPILL_BYTES are kept in memory-mapped files; None keeps all in memory.
    :raises InputError: the images are not (F, H, W, 3) uint8, or not as many as the graph has frames.
    :raises OutputError: the folder cannot take the results.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or len(images) != graph.num_frames:
        raise InputError(
            f"optical flow needs {graph.num_frames} uint8 RGB images (F, H, W, 3), got {images.dtype} {images.shape}"
        )
    rows = _both_rows(graph)
    shape = (len(graph), *images.shape[1:3])
    num_bytes = math.prod(shape) * (2 * dtype.itemsize + 1)
    spill_to = folder if num_bytes > SPILL_BYTES else None
    flow = empty_tensor((shape[0], 2, *shape[1:]), dtype, spill_to)
    consistent = empty_tensor(shape, torch.bool, spill_to)
    with log.stage("optical flow", total=len(graph)) as advance:
        for start in range(0, len(rows), PAIRS_AT_ONCE):
            block = rows[start : start + PAIRS_AT_ONCE]
            there, back = block.T
            both = np.concatenate([there, back])
            i, j = graph.edges[both].T
            fields = torch.from_numpy(provider.flow(images[i], images[j])).permute(0, 3, 1, 2)
            flow[both] = fields.to(dtype)
            consistent[both] = forward_backward_consistent(fields, fields.roll(len(block), dims=0))
            advance(len(both))
    return PairFlow(graph, flow, consistent, provider.name)


def _both_rows(graph: PairGraph) -> np.ndarray:
    """(E / 2, 2) rows of (i, j) and of (j, i), i < j: a graph is symmetric."""
    row_of = {edge: row for row, edge in enumerate(map(tuple, graph.edges.tolist()))}
    return np.array([(row, row_of[j, i]) for (i, j), row in row_of.items() if i < j])


def forward_backward_consistent(forward: torch.Tensor, backward: torch.Tensor) -> torch.Tensor:
    """(B, H, W) bool: whether the backward flow, read where the forward flow lands, leads back to the start.

    Both flows (B, 2, H, W) in pixels. A pixel that lands outside the image is not consistent.
    """
    forward, backward = forward.float(), backward.float()
    height, width = forward.shape[2:]
    rows, cols = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    landing = forward + torch.stack([cols, rows]).to(forward)
    size = torch.tensor([width, height], device=forward.device).view(2, 1, 1)
    grid = (landing + 0.5) / size * 2 - 1
    back = torch.nn.functional.grid_sample(
        backward, grid.permute(0, 2, 3, 1), mode="bilinear", padding_mode="border", align_corners=False
    )
    return flow_returns(*(x.movedim(1, -1) for x in (forward, back, landing)), height, width)
