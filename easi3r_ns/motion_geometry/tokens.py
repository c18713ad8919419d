"""Optical flow that no motion of the camera explains, per token of a network: a map beside those of its attention."""

from __future__ import annotations

import numpy as np
from skimage.measure import block_reduce

from ..flow import FlowProvider
from ..pairs import make_pairs
from ..runlog import RunLog
from ..types import PairGraph
from .residual import Load, choose_kind, motion_stats, unordered

PAIRS = "swin-3-noncyclic"
"""Every frame with the three before and after it: over longer gaps flow is lost, most of all in small images."""
WORK_SIDE = 384
"""Pixels of the longer side, about, of the images in which flow is estimated."""
BLOCK = 32
"""Frames whose images and residuals are in memory at once, beside the few around them."""


def enlargement(height: int, width: int) -> int:
    """Times that images of a network's size are enlarged for :func:`flow_residual`; tokens stay whole pixels."""
    return max(1, round(WORK_SIDE / max(height, width)))


def flow_residual(load: Load, num_frames: int, patch_size: int, provider: FlowProvider, log: RunLog) -> np.ndarray:
    """How much the flow of every token breaks the camera's motion: mean over near pairs, and over the token's pixels.

    Where nothing moves it is the noise of the flow, not 0. What moves along its epipolar lines is not seen.

    Args:
        load: gives the images; about :data:`WORK_SIDE` pixels is where it was tried.
        num_frames: at least 2.
        patch_size: side of a token in pixels of these images, a divisor of their sides.

    Returns:
        (F, h, w) float32 in [0, 1]: see :class:`~easi3r_ns.motion_geometry.residual.MotionStats`.
    """
    graph = make_pairs(PAIRS, num_frames)
    blocks = [_Block(graph, start, min(start + BLOCK, num_frames)) for start in range(0, num_frames, BLOCK)]
    maps = []
    with log.stage("motion from flow", sum(len(unordered(block.graph)) for block in blocks)) as advance:
        kind = choose_kind(load, graph, provider)
        for block in blocks:
            stats = motion_stats(load(block.frames), block.graph, kind, provider, advance)
            maps.append(token_means(stats.mean[block.own], patch_size))
    return np.concatenate(maps)


def token_means(values: np.ndarray, patch_size: int) -> np.ndarray:
    """(F, H, W) pixels -> (F, h, w) float32 means over tokens."""
    return block_reduce(values, (1, patch_size, patch_size), np.mean).astype(np.float32)


class _Block:
    """Some frames of a clip, those that they are paired with, and their pairs."""

    def __init__(self, graph: PairGraph, start: int, stop: int) -> None:
        touching = graph.edges[((graph.edges >= start) & (graph.edges < stop)).any(axis=1)]
        self.frames = list(range(int(touching.min()), int(touching.max()) + 1))
        first = self.frames[0]
        self.graph = PairGraph(touching - first, len(self.frames), graph.strategy)
        self.own = slice(start - first, stop - first)
