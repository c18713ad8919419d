"""Which frames are paired (DUSt3R, MonST3R and Easi3R scene graphs)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable

import numpy as np

from .errors import InputError
from .types import PairGraph

_OFFSETS: dict[str, Callable[[int], int]] = {
    "swin": lambda k: 1 + k,
    "swinstride": lambda k: 1 + 2 * k,
    "swin2stride": lambda k: 1 + 3 * k,
    "swinskip_start": lambda k: 2 + k,
    "logwin": lambda k: 2**k,
}
"""Distance in frames of the k-th neighbour."""
DEFAULT_GRAPH = "swinstride-5-noncyclic"
"""Which frames are paired for the published weights."""

_WINDOWED = re.compile(rf"({'|'.join(_OFFSETS)})-([1-9]\d*)(-noncyclic)?")
_REFERENCE = re.compile(r"oneref-(\d+)")
_LARGEST = 1_000_000
"""Largest number in a strategy."""
_MOST_PAIRS = 5_000_000
"""Most pairs of a graph without their order; their list alone takes a gigabyte."""


def check_strategy(strategy: str) -> None:
    """Raises InputError unless :func:`make_pairs` knows the strategy, whatever the number of frames."""
    known = _REFERENCE.fullmatch(strategy) or _WINDOWED.fullmatch(strategy)
    if strategy != "complete" and known is None:
        raise InputError(
            f"--graph {strategy}: not a known pair graph; use complete, oneref-R, swin-W, swinstride-W, swin2stride-W "
            "or logwin-W (R a frame number, W a window), and append -noncyclic for video"
        )
    for number in re.findall(r"\d+", strategy):
        # The length first: Python refuses to read whole numbers of thousands of digits.
        if len(number) > len(str(_LARGEST)) or int(number) > _LARGEST:
            shown = strategy if len(strategy) < 60 else f"{strategy[:60]}..."
            raise InputError(f"--graph {shown}: give a number of at most {_LARGEST}")


def make_pairs(strategy: str, num_frames: int) -> PairGraph:
    """The symmetric graph of ordered pairs of a clip.

    Args:
        strategy: ``complete``, ``oneref-R`` (every frame with frame R) or ``KIND-W`` with KIND one of ``swin`` (offsets
            1..W), ``swinstride`` (1, 3, ..), ``swin2stride`` (1, 4, ..), ``swinskip_start`` (2..W+1), ``logwin``
            (1, 2, 4, ..); ``-noncyclic`` appended: the last frame is not a neighbour of the first.
        num_frames: at least 2.

    Raises:
        InputError: the strategy is not known, or there are fewer than two frames.
    """
    check_strategy(strategy)
    if num_frames < 2:
        raise InputError(f"{num_frames} frame(s): at least two are needed to reconstruct a scene")
    if strategy == "complete":
        _refuse_many(num_frames * (num_frames - 1) // 2, num_frames)
        unordered = {(i, j) for i in range(num_frames) for j in range(i)}
    elif match := _REFERENCE.fullmatch(strategy):
        reference = int(match[1])
        if reference >= num_frames:
            raise InputError(f"--graph {strategy}: the clip has only {num_frames} frames (numbered from 0)")
        unordered = {(i, reference) for i in range(num_frames) if i != reference}
    else:
        windowed = _WINDOWED.fullmatch(strategy)
        assert windowed is not None, "check_strategy let it pass"
        kind, window, noncyclic = windowed.groups()
        unordered = _window_pairs(_OFFSETS[kind], int(window), num_frames, cyclic=not noncyclic)
    ordered = sorted({pair for i, j in unordered for pair in ((i, j), (j, i))})
    return PairGraph(np.array(ordered, dtype=np.int64), num_frames, strategy)


def _window_pairs(offset: Callable[[int], int], window: int, num_frames: int, cyclic: bool) -> set[tuple[int, int]]:
    # Modulo the number of frames, the steps repeat after at most so many.
    steps: Iterable[int] = itertools.islice(map(offset, range(window)), num_frames)
    steps = steps if cyclic else itertools.takewhile(lambda step: step < num_frames, steps)
    offsets = {step % num_frames for step in steps}
    _refuse_many(num_frames * len(offsets), num_frames)
    pairs = set()
    for i in range(num_frames):
        for step in offsets:
            j = (i + step) % num_frames if cyclic else i + step
            if j < num_frames and j != i:
                pairs.add((min(i, j), max(i, j)))
    return pairs


def _refuse_many(num_pairs: int, num_frames: int) -> None:
    if num_pairs > _MOST_PAIRS:
        raise InputError(
            f"--graph: {num_frames} frames would make {num_pairs:,} pairs, more than {_MOST_PAIRS:,}: give fewer "
            "frames (--num-frames-target), or a graph with a smaller window"
        )


def attach_frames(graph: PairGraph, num_extra: int, links: int = 5) -> PairGraph:
    """Append evaluation views, which were filmed separately from the clip, to its graph.

    Each is paired with its predecessor among the new frames and with ``links`` evenly spaced frames of the clip.
    """
    n = graph.num_frames
    anchors = sorted({round(x) for x in np.linspace(0, n - 1, min(links, n)).tolist()})
    new = [(n + k, anchor) for k in range(num_extra) for anchor in anchors]
    new += [(n + k, n + k - 1) for k in range(1, num_extra)]
    edges = {tuple(edge) for edge in graph.edges.tolist()} | {pair for i, j in new for pair in ((i, j), (j, i))}
    return PairGraph(np.array(sorted(edges), dtype=np.int64), n + num_extra, f"{graph.strategy} + {num_extra} frames")
