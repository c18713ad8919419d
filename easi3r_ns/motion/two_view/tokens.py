"""Optical flow that no motion of the camera explains, per token of a network: a map beside those of its attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from skimage.measure import block_reduce

from ...core.pairs import make_pairs
from ...core.runlog import RunLog
from ...core.types import PairGraph
from ..flow.provider import FlowProvider
from .residual import choose_kind, motion_stats, unordered

PAIRS = "swin-3-noncyclic"
"""Every frame with the three before and after it: over longer gaps flow fails, above all in small images."""
WORK_SIDE = 384
"""Pixels of the longer side, about, of the images in which flow is estimated."""
BLOCK = 16
"""Frames whose images and residuals are in memory at once, beside the few around them."""
BLOCK_BYTES = 50
"""Bytes in memory per pixel of these images, residuals included."""
REACH = 3
"""Frames on either side of a block that :data:`PAIRS` joins to it."""
_MUCH_LOST = 0.5


def enlargement(height: int, width: int) -> int:
    """Times that images of a network's size are enlarged for :func:`flow_residual`; tokens stay whole pixels."""
    return max(1, round(WORK_SIDE / max(height, width)))


def flow_residual(
    image: Callable[[int], np.ndarray], num_frames: int, patch_size: int, provider: FlowProvider, log: RunLog
) -> np.ndarray:
    """How much the flow of every token breaks the camera's motion: mean over near pairs, and over the token's pixels.

    Where nothing moves it is the noise of the flow, not 0. What moves along its epipolar lines is not seen. Frames that
    flow cannot follow are 1 everywhere, so that the other maps decide.

    Args:
        image: number of a frame -> (H, W, 3) uint8 RGB; about :data:`WORK_SIDE` pixels is where it was tried. Frames
            are asked for as they are needed, some of them more than once.
        num_frames: at least 2.
        patch_size: side of a token in pixels of these images, a divisor of their sides.

    Returns:
        (F, h, w) float32 in [0, 1]: see :class:`~easi3r_ns.motion.two_view.residual.MotionStats`.
    """

    def load(frames: Sequence[int]) -> np.ndarray:
        return np.stack([image(k) for k in frames])

    graph = make_pairs(PAIRS, num_frames)
    blocks = [_Block(graph, start, min(start + BLOCK, num_frames)) for start in range(0, num_frames, BLOCK)]
    maps, lost = [], 0
    with log.stage("motion from flow", sum(len(unordered(block.graph)) for block in blocks)) as advance:
        kind = choose_kind(load, graph, provider)
        for block in blocks:
            stats = motion_stats(load(block.frames), block.graph, kind, provider, advance)
            own = token_means(stats.mean[block.own], patch_size)
            followed = stats.trust[block.own].any(axis=(1, 2))
            maps.append(np.where(followed[:, None, None], own, np.float32(1)))
            lost += int((~followed).sum())
    if lost > _MUCH_LOST * num_frames:
        log.warn(
            f"optical flow follows only {num_frames - lost} of {num_frames} frames (the rest lie too far apart, or "
            "show little texture): there attention alone decides what moves; use more frames (--num-frames-target, "
            "--fps), or give your own --masks"
        )
    return np.concatenate(maps)


def residual_bytes(num_frames: int, height: int, width: int) -> float:
    """Memory of :func:`flow_residual` for images of a network's size."""
    pixels = height * width * enlargement(height, width) ** 2
    return float(BLOCK_BYTES * min(num_frames, BLOCK + 2 * REACH) * pixels)


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
