"""Which seeds give clips that show their motion: some scenes hide their movers behind furniture or the picture's edge.

Seeds are skipped, scenes never changed: the same seed always gives the same scene.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .clips import Clip, ClipOptions, render_clip

PREVIEW = (24, 32)
"""Height and width of the pictures by which a seed is judged."""


@dataclass(frozen=True)
class Showing:
    """What a clip must show of its movers."""

    share: float = 0.02
    """Share of a frame that the movers cover together ..."""
    frames: float = 0.8
    """... in at least this share of the frames."""
    share_of_each: float = 0.005
    """Share of a frame that every single mover covers in at least half of the frames."""
    most: float = 0.4
    """Largest share of the whole clip that the movers cover: the rest must suffice to find the cameras."""


def shows_motion(clip: Clip, rule: Showing = Showing()) -> bool:
    """Whether a clip (or its frozen twin) shows its movers; False for a clip without any."""
    if not clip.mover_ids:
        return False
    together = clip.would_move.mean(axis=(1, 2))
    each = [np.median((clip.object_id == k).mean(axis=(1, 2))) >= rule.share_of_each for k in clip.mover_ids]
    return bool((together >= rule.share).mean() >= rule.frames and together.mean() <= rule.most and all(each))


def showing_seeds(
    count: int,
    num_frames: int,
    num_movers: Callable[[int], int],
    first: int = 0,
    options: ClipOptions = ClipOptions(),
    rule: Showing = Showing(),
) -> list[int]:
    """The first ``count`` seeds from ``first`` on whose clips, with ``num_movers(seed)`` movers, show their motion.

    Judged on a small rendering, so that the answer is the same whatever the size of the clip.
    """
    good = (
        seed
        for seed in itertools.count(first)
        if shows_motion(render_clip(seed, num_frames, *PREVIEW, num_movers(seed), options=options), rule)
    )
    return list(itertools.islice(good, count))
