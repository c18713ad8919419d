"""Frames -> DynamicMasks from optical flow and epipolar geometry, without a network."""

from __future__ import annotations

import numpy as np

from ...core.errors import InputError
from ...core.runlog import RunLog
from ...core.types import DynamicMasks
from ...frames.near import Shot
from ..edges import snap_to_edges
from ..flow.dis import DISFlow
from ..flow.provider import FlowProvider
from .plan import choose_step, plan_pairs
from .residual import Pictures, by_two_views, choose_kinds, follow_pairs
from .threshold import cut_clip
from .tokens import token_means
from .votes import ClipRegions

GAPS = (1, 2, 4)
"""Steps between a frame and those that it is compared with, before and after it; a step is a source frame or two."""
WITNESS_GAPS = (1, 4)
"""Steps to the source frames whose regions take part in the vote: a surface is recognised more surely where it is seen
shortly before and after than in a frame far away."""
METHOD = (
    "flow to source frames",
    GAPS,
    WITNESS_GAPS,
    "edges",
    "noise of the pair",
    "looks and levels",
    "clear contours",
)
"""What decides these masks, beside the images and the estimator of flow."""
LEAST_SCORE = 0.15
"""No pixel below this score moves, whatever the histogram says: it is what flow does on static surfaces. In the units
of :class:`~easi3r_ns.motion.two_view.residual.PairMotion`: two thirds of a deviation of the flow of
static surfaces, after the vote."""
_FEW_PAIRS = 0.5


def geometric_masks(
    images: np.ndarray,
    patch_size: int,
    log: RunLog,
    *,
    provider: FlowProvider | None = None,
    shot: Shot | None = None,
) -> DynamicMasks:
    """What moves in a clip, from its images alone.

    Optical flow to source frames before and after each frame, over gaps in which something moves and that flow can
    follow; homography or fundamental matrix of the background; residuals in units of the noise of the flow, mean and
    deviation over the pairs of a frame; a vote among superpixels that look alike or flow into each other; one
    multi-Otsu threshold for the clip, with a floor so that nothing moves in a static clip, and lower ones for what
    stands out as clearly; borders drawn to the edges of colour. What flow does not follow, and what has no texture to
    be followed by, does not count as moving.

    Blind spots: with parallax, what moves along its epipolar lines; a background that moves as a whole (water).

    Args:
        images: (F, H, W, 3) uint8 RGB, F >= 2 frames in the order of time, H and W multiples of ``patch_size``.
        shot: where these frames stand in their source, and the source frames around them; None: they are consecutive.

    Raises:
        InputError: fewer than two frames.
    """
    if len(images) < 2:
        raise InputError(f"{len(images)} frame(s): at least two are needed to see what moves")
    shot, flow = shot or Shot.of(images), provider or DISFlow()
    plan = plan_pairs(shot, GAPS, choose_step(shot, flow), WITNESS_GAPS)
    with log.stage("motion from geometry", len(plan.pairs)) as advance:
        pictures = Pictures(shot)
        kinds = choose_kinds(plan, pictures, len(images), flow)
        regions = ClipRegions(images.shape[:3], shot, plan, pictures, patch_size, len(GAPS))
        for motion in follow_pairs(plan, pictures, by_two_views(kinds, pictures), flow, advance):
            regions.add(motion)
        score = regions.score()
    if regions.frames_followed < _FEW_PAIRS * len(images):
        log.warn(
            "optical flow follows few of the frames (they lie too far apart, or show little texture): what moves is "
            "found only in part; use more frames (--num-frames-target, --fps), or give your own --masks"
        )
    threshold, above, kept = cut_clip(score, LEAST_SCORE)
    tokens, masks = token_means(score, patch_size), snap_to_edges(images, above)
    return DynamicMasks(masks, tokens, threshold, source="geometry", maps=regions.maps, over_cut=kept)
