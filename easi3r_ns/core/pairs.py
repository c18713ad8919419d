"""Which frames are paired (DUSt3R, MonST3R and Easi3R scene graphs)."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from .errors import InputError
from .types import PairGraph

_OFFSETS: dict[str, Callable[[int], list[int]]] = {
    "swin": lambda window: list(range(1, window + 1)),
    "swinstride": lambda window: [1 + 2 * k for k in range(window)],
    "swin2stride": lambda window: [1 + 3 * k for k in range(window)],
    "swinskip_start": lambda window: list(range(2, window + 2)),
    "logwin": lambda window: [2**k for k in range(window)],
}
DEFAULT_GRAPH = "swinstride-5-noncyclic"
"""Which frames are paired for the published weights."""

_WINDOWED = re.compile(rf"({'|'.join(_OFFSETS)})-([1-9]\d*)(-noncyclic)?")


def check_strategy(strategy: str) -> None:
    """Raises InputError unless :func:`make_pairs` knows the strategy, whatever the number of frames."""
    if strategy != "complete" and not re.fullmatch(r"oneref-\d+", strategy) and not _WINDOWED.fullmatch(strategy):
        raise InputError(
            f"--graph {strategy}: not a known pair graph; use complete, oneref-R, swin-W, swinstride-W, swin2stride-W "
            "or logwin-W (R a frame number, W a window), and append -noncyclic for video"
        )


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
        unordered = {(i, j) for i in range(num_frames) for j in range(i)}
    elif match := re.fullmatch(r"oneref-(\d+)", strategy):
        reference = int(match[1])
        if reference >= num_frames:
            raise InputError(f"--graph {strategy}: the clip has only {num_frames} frames (numbered from 0)")
        unordered = {(i, reference) for i in range(num_frames) if i != reference}
    else:
        windowed = _WINDOWED.fullmatch(strategy)
        assert windowed is not None, "check_strategy let it pass"
        kind, window, noncyclic = windowed.groups()
        unordered = _window_pairs(_OFFSETS[kind](int(window)), num_frames, cyclic=not noncyclic)
    ordered = sorted({pair for i, j in unordered for pair in ((i, j), (j, i))})
    return PairGraph(np.array(ordered, dtype=np.int64), num_frames, strategy)


def _window_pairs(offsets: list[int], num_frames: int, cyclic: bool) -> set[tuple[int, int]]:
    pairs = set()
    for i in range(num_frames):
        for offset in offsets:
            j = (i + offset) % num_frames if cyclic else i + offset
            if j < num_frames and j != i:
                pairs.add((min(i, j), max(i, j)))
    return pairs


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
