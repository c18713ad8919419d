"""Which pairs of source frames are looked at: near ones on both sides of a frame, over gaps in which things move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...core.flow import FOLLOWED
from ...frames.near import Shot
from ..flow.provider import FlowProvider
from .background import FEWEST_SAMPLES, sample
from .flows import both_ways

STEPS = (1, 2)
"""Source frames that a gap of 1 stands for, at the rate of most clips, and at a higher one."""
MOVES_PX = 2.0
"""Flow, in pixels, from which on a step is long enough: several times what flow is off by."""
FASTEST = 0.98
"""Share of the flow vectors that are slower than the one that counts as the motion of a pair: a small thing that moves
before a fixed camera should still count."""
PROBES = 6
"""Pairs that decide the step."""


@dataclass(frozen=True)
class PairPlan:
    """Places in the source, see :class:`~easi3r_ns.frames.near.Shot`."""

    pairs: tuple[tuple[int, int], ...]
    """(i, j), i < j, in the order in which they are looked at: j does not decrease."""
    witnesses: frozenset[int]
    """Places of near frames whose regions take part in the vote."""


def plan_pairs(shot: Shot, gaps: Sequence[int], step: int, witness_gaps: Sequence[int] = ()) -> PairPlan:
    """Every frame with what is there ``step`` times a gap before and after it.

    Args:
        witness_gaps: those of ``gaps`` whose near frames are witnesses.
    """
    known = set(shot.places.tolist()) | set(shot.near.tolist())
    frames = set(shot.places.tolist())
    pairs, witnesses = set(), set()
    for place in sorted(frames):
        for gap in gaps:
            for other in (place - step * gap, place + step * gap):
                if other in known:
                    pairs.add((min(place, other), max(place, other)))
                    if gap in witness_gaps and other not in frames:
                        witnesses.add(other)
    return PairPlan(tuple(sorted(pairs, key=lambda pair: pair[::-1])), frozenset(witnesses))


def choose_step(shot: Shot, provider: FlowProvider) -> int:
    """The first of :data:`STEPS` over which something moves in at least half of some pairs that flow can follow."""
    for step in STEPS[:-1]:
        pairs = plan_pairs(shot, (1,), step).pairs
        motion = []
        for i, j in spread(pairs, PROBES):
            flows, agree = both_ways(np.stack([shot.image(i), shot.image(j)]), provider)
            samples = sample(flows[0], agree[0])
            if len(samples) < FEWEST_SAMPLES or agree[0].mean() < FOLLOWED:
                motion.append(np.inf)  # moves too much to be followed
            else:
                motion.append(float(np.quantile(samples.lengths, FASTEST)))
        if not motion or np.median(motion) >= MOVES_PX:
            return step
    return STEPS[-1]


def spread(pairs: Sequence[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """About ``count`` of the pairs, evenly spread."""
    step = max(1, len(pairs) // count)
    return list(pairs[step // 2 :: step])
