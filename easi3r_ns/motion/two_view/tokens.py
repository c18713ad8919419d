"""Optical flow that no motion of the camera explains, per token of a network: a map beside those of its attention."""

from __future__ import annotations

from collections import Counter

import numpy as np
from skimage.measure import block_reduce

from ...core.runlog import RunLog
from ...frames.near import Shot
from ...frames.preprocess import enlargement
from ..flow.provider import FlowProvider
from .plan import choose_step, plan_pairs
from .residual import Moments, Pictures, by_two_views, choose_kinds, follow_pairs

GAPS = (1, 2, 3)
"""Steps between a frame and those that it is compared with: over longer gaps flow fails, above all in small images."""
METHOD = ("flow to source frames", GAPS)
"""What decides the residual, beside the images and the estimator of flow."""
INCONSISTENT_WEIGHT = 0.1
"""Weight of a pixel whose forward and backward flow disagree: little, but it decides where no pair agrees."""
FRAMES_AT_ONCE = 22
FRAME_BYTES = 50
"""Frames whose images and residuals are in memory at once, about, and bytes per pixel of each."""
_MUCH_LOST = 0.5


def flow_residual(shot: Shot, patch_size: int, provider: FlowProvider, log: RunLog) -> np.ndarray:
    """How much the flow of every token breaks the camera's motion: mean over near pairs, and over the token's pixels.

    Where nothing moves it is the noise of the flow, not 0. What moves along its epipolar lines is not seen. Frames that
    flow cannot follow are 1 everywhere, so that the other maps decide.

    Args:
        shot: at least 2 frames, of :data:`~easi3r_ns.frames.preprocess.FLOW_SIDE` pixels or so; images are asked for as
            they are needed, some of them more than once.
        patch_size: side of a token in pixels of these images, a divisor of their sides.

    Returns:
        (F, h, w) float32 in [0, 1]: see :class:`~easi3r_ns.motion.two_view.residual.PairMotion`.
    """
    plan = plan_pairs(shot, GAPS, choose_step(shot, provider))
    num_frames, row = len(shot.places), {place: row for row, place in enumerate(shot.places.tolist())}
    maps: list[np.ndarray | None] = [None] * num_frames
    with log.stage("motion from flow", len(plan.pairs)) as advance:
        pictures = Pictures(shot)
        kinds = choose_kinds(plan, pictures, num_frames, provider)
        left = Counter(place for pair in plan.pairs for place in pair if place in row)
        moments: dict[int, Moments] = {}
        for motion in follow_pairs(plan, pictures, by_two_views(kinds), provider, advance):
            for side, place in enumerate(motion.pair):
                if place not in row:
                    continue
                if motion.residuals is not None:
                    own = moments.setdefault(place, Moments(motion.agree[side].shape))
                    own.add(motion.residuals[side], _weight(motion.agree[side]))
                left[place] -= 1
                if left[place] == 0 and place in moments:
                    maps[row[place]] = token_means(moments.pop(place).mean[None], patch_size)[0]
    lost = sum(values is None for values in maps)
    if lost > _MUCH_LOST * num_frames:
        log.warn(
            f"optical flow follows only {num_frames - lost} of {num_frames} frames (the rest lie too far apart, or "
            "show little texture): there flow does not tell what moves; use more frames (--num-frames-target, --fps), "
            "or give your own --masks"
        )
    height, width = (side // patch_size for side in shot.image(int(shot.places[0])).shape[:2])
    unknown = np.ones((height, width), dtype=np.float32)
    return np.stack([unknown if values is None else values for values in maps])


def residual_bytes(num_frames: int, height: int, width: int) -> float:
    """Memory of :func:`flow_residual` for images of a network's size."""
    pixels = height * width * enlargement(height, width) ** 2
    return float(FRAME_BYTES * min(num_frames, FRAMES_AT_ONCE) * pixels)


def _weight(consistent: np.ndarray) -> np.ndarray:
    return np.where(consistent, 1.0, INCONSISTENT_WEIGHT).astype(np.float32)


def token_means(values: np.ndarray, patch_size: int) -> np.ndarray:
    """(F, H, W) pixels -> (F, h, w) float32 means over tokens."""
    return block_reduce(values, (1, patch_size, patch_size), np.mean).astype(np.float32)
