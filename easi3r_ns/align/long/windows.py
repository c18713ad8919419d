"""Alignment of a long clip: windows of frames are aligned one by one, kept on disk, and joined.

Only the alignment, which needs all of its pairs in memory at once, works on windows. Both passes of the network run
over the whole clip, so the masks do not depend on how it is cut into windows.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...core.errors import AlignmentError
from ...core.median import weighted_median
from ...core.runlog import RunLog
from ...core.types import POINTMAP_NAMES, DynamicMasks, PairGraph, PairPredictions
from ...core.windows import Window, WindowPlan, subgraph
from ...storage.cache import StageCache, Tensors, digest
from ..align import AlignResult
from .loops import usual_confidence, verify_loops
from .packing import pack_result, unpack_result
from .posegraph import Link
from .spread import FOLDER, work_together
from .stitch import AlignedWindows, Stitched, overlap_links, stitch

SAME_FOCAL = 1e-3
"""Windows whose focal lengths differ from the clip's by more than this share are aligned again, with it."""
NO_TRAVEL = 0.01
"""Least camera travel, in units of the depth, by which a window's focal length is weighted."""
_WARNINGS = "warnings"

AlignPart = Callable[[np.ndarray, PairPredictions, "float | None", RunLog], AlignResult]
"""Aligns some frames (n,) of the clip from the predictions of their pairs, with a known focal length or with none."""


@dataclass(frozen=True)
class LongClip:
    """Everything that is common to the windows of one clip."""

    plan: WindowPlan
    graph: PairGraph
    """Of the whole clip."""
    open_predictions: Callable[[], PairPredictions]
    """Opens the predictions of the whole clip; called for every window, so that what one has read can be freed."""
    dynamic: DynamicMasks
    principal_point: np.ndarray
    """(2,) network pixels, integer pixel centres."""
    pixel_aspect: float
    """Vertical over horizontal focal length in network pixels."""
    shared_focal: bool
    """Whether the whole clip has one focal length."""
    focal: float | None
    """Known focal length in network pixels; None estimates it."""
    seed: int
    """Decides which pixels are matched between windows."""
    key: str
    """Digest of everything that the alignment of a window depends on, beside its frames and focal length."""


@dataclass(frozen=True)
class Loops:
    """Pairs of frames that may close loops, decoded by the network."""

    candidates: np.ndarray
    """(K, 2) frames."""
    decoded: PairPredictions | None
    """Predictions for both orders of every candidate; None without candidates."""


NO_LOOPS = Loops(np.empty((0, 2), dtype=np.int64), None)


def align_long(
    clip: LongClip, loops: Loops, align_part: AlignPart, cache: StageCache, log: RunLog, *, spill: bool = False
) -> Stitched:
    """Align all windows and join them.

    Args:
        cache: keeps every finished window; a cache without a folder is replaced by a temporary one.
        spill: keep the image arrays of the whole clip in files of the cache's folder, not in memory.

    Raises:
        AlignmentError: a window cannot be aligned or joined; the message names its frames.
    """
    with _folder(cache) as kept:
        assert kept.folder is not None
        aligner = _WindowAligner(WindowWork(clip, align_part, kept.folder), log)
        aligned = AlignedWindows(
            windows=clip.plan.windows,
            load=aligner.load(),
            principal_point=clip.principal_point,
            pixel_aspect=clip.pixel_aspect,
            masks=clip.dynamic.masks,
            num_pairs=len(clip.graph),
            seed=clip.seed,
            folder=cache.folder if spill else None,
        )
        with log.stage("join windows"):
            overlaps = overlap_links(aligned, log)
            links: list[Link] = []
            if loops.decoded is not None:
                links = verify_loops(
                    aligned, loops.candidates, loops.decoded, usual_confidence(clip.open_predictions())
                )
            stitched = stitch(aligned, overlaps, links, log)
    log.info(_summary(stitched.facts, len(loops.candidates)))
    return replace(stitched, facts=stitched.facts | {"loop_candidates": len(loops.candidates)})


def _summary(facts: dict[str, Any], num_candidates: int) -> str:
    closed = f", {len(facts['loops'])} of {num_candidates} possible loops closed" if num_candidates else ""
    return f"{len(facts['windows'])} windows joined{closed}"


@dataclass(frozen=True)
class WindowWork:
    """Aligns windows of one clip and keeps them: a :class:`~.spread.Work` for whoever helps."""

    clip: LongClip
    align_part: AlignPart
    folder: Path
    """Of the cache."""

    def do(self, job: tuple[int, float | None]) -> None:
        """Align a window (its number) with a known focal length or with none, unless that is kept already."""
        self.tensors(*job)

    def tensors(self, k: int, focal: float | None) -> Tensors:
        """The kept result of a window, made now where there is none. Raises AlignmentError."""
        window, clip = self.clip.plan.windows[k], self.clip
        key = digest(clip.key, window.frames, window.rows, focal)
        name = f"window{k:03d}" if focal == clip.focal else f"refocused{k:03d}"
        return StageCache(self.folder).stage(name, key, lambda: self._compute(window, focal))

    def _compute(self, window: Window, focal: float | None) -> Tensors:
        frames, graph = subgraph(self.clip.graph, window.rows)
        log = _QuietLog()
        try:
            result = self.align_part(frames, select_pairs(self.clip.open_predictions(), window.rows, graph), focal, log)
        except AlignmentError as error:
            raise AlignmentError(f"{window} of the clip could not be aligned: {error}") from error
        text = torch.frombuffer(bytearray(json.dumps(log.warnings).encode()), dtype=torch.uint8)
        return pack_result(result) | {_WARNINGS: text}


class _WindowAligner:
    """Aligns the windows, with one focal length where the clip has one: one after the other, or with helpers."""

    def __init__(self, work: WindowWork, log: RunLog) -> None:
        self._clip, self._work, self._log = work.clip, work, log
        self._warnings: dict[int, list[str]] = {}

    def load(self) -> Callable[[int], AlignResult]:
        """Align all windows; returns a function that reads the result of one of them from the cache."""
        clip, windows = self._clip, self._clip.plan.windows
        found = []
        with self._log.stage("align windows", total=len(windows)) as advance:
            self._share(range(len(windows)), clip.focal)
            for k in range(len(windows)):
                found.append(_own_focal(self._window(k, clip.focal)))
                advance(1)
        focal, sigma = clip.focal, 0.0
        if focal is None and clip.shared_focal:
            focal, sigma = common_focal(found)
        again = [k for k, own in enumerate(found) if focal is not None and abs(own.focal / focal - 1) > SAME_FOCAL]
        if again:
            with self._log.stage("align windows with one focal length", total=len(again)) as advance:
                self._share(again, focal)
                for k in again:
                    self._window(k, focal)
                    advance(1)
        self._say_warnings()
        final = [focal if k in again else clip.focal for k in range(len(windows))]

        def load(k: int) -> AlignResult:
            result = self._window(k, final[k])
            return result if focal is None else _with_focal(result, focal, sigma)

        return load

    def _share(self, numbers: Sequence[int], focal: float | None) -> None:
        """Let helpers take some of these windows, where this process shares them (:mod:`.spread`)."""
        if (folder := FOLDER.get()) is not None and len(numbers) > 1:
            work_together(folder, self._work, [(k, focal) for k in numbers], self._log)

    def _window(self, k: int, focal: float | None) -> AlignResult:
        tensors = self._work.tensors(k, focal)
        self._warnings[k] = json.loads(bytes(tensors[_WARNINGS].numpy()).decode())
        return unpack_result(tensors)

    def _say_warnings(self) -> None:
        for message in gathered_warnings(self._warnings, self._clip.plan.windows):
            self._log.warn(message)


def gathered_warnings(warnings: Mapping[int, Sequence[str]], windows: Sequence[Window]) -> list[str]:
    """Warnings for the user from those of each window (by its number).

    Warnings that differ in their digits only become one, which names the windows.
    """
    alike: dict[str, list[tuple[int, str]]] = {}
    for k in sorted(warnings):
        for message in warnings[k]:
            alike.setdefault(re.sub(r"\d+(\.\d+)?", "#", message), []).append((k, message))
    said = []
    for found in alike.values():
        numbers = list(dict.fromkeys(k for k, _ in found))
        where = "; ".join(str(windows[k]) for k in numbers[:3]) + (" ..." if len(numbers) > 3 else "")
        like = "this or the like, " if len({message for _, message in found}) > 1 else ""
        said.append(f"{found[0][1]} ({like}in {len(numbers)} of {len(windows)} windows: {where})")
    return said


class _QuietLog(RunLog):
    """The log inside a window: shows no stages, and collects each warning once instead of showing it."""

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        def ignore(steps: int = 1) -> None:
            pass

        yield ignore

    def warn(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)


def select_pairs(predictions: PairPredictions, rows: np.ndarray, graph: PairGraph) -> PairPredictions:
    """The predictions of some rows (K,), in memory; ``graph``: the K pairs with the numbering of the window."""
    index = torch.from_numpy(rows)
    return PairPredictions(graph, **{name: getattr(predictions, name)[index] for name in POINTMAP_NAMES})


@dataclass(frozen=True)
class OwnFocal:
    """One window's estimate of the focal length."""

    focal: float
    """Network pixels."""
    travel: float
    """Camera travel of the window, in units of the depth."""
    sigma: float = 0.0
    """Standard deviation in network pixels; 0: not estimated."""


def common_focal(windows: Sequence[OwnFocal]) -> tuple[float, float]:
    """The weighted median of the windows' focal lengths, and its standard deviation; both in network pixels.

    Weights are the camera travel, because parallax determines the focal length. The deviation is the larger one of
    that from the windows' own deviations and that from their spread.
    """
    focals = np.array([window.focal for window in windows])
    weight = np.array([max(window.travel, NO_TRAVEL) for window in windows])
    focal = weighted_median(focals, weight)
    share = weight / weight.sum()
    expected = np.sqrt((share**2 * np.array([window.sigma for window in windows]) ** 2).sum())
    spread = np.sqrt((share**2).sum() * (share * (focals - focal) ** 2).sum())
    return focal, float(max(expected, spread))


def _own_focal(result: AlignResult) -> OwnFocal:
    sigma = 0.0 if result.uncertainty is None else float(np.median(result.uncertainty.focal))
    return OwnFocal(float(np.median(result.focals)), result.diagnostics.travel, sigma)


def _with_focal(result: AlignResult, focal: float, sigma: float) -> AlignResult:
    """The result with the focal length of the clip, from which its own differs by at most :data:`SAME_FOCAL`."""
    uncertainty = result.uncertainty
    if uncertainty is not None:
        uncertainty = replace(uncertainty, focal=np.full_like(uncertainty.focal, sigma))
    return replace(result, focals=np.full_like(result.focals, focal), uncertainty=uncertainty)


@contextlib.contextmanager
def _folder(cache: StageCache) -> Iterator[StageCache]:
    """The cache, or one in a temporary folder: windows are read several times, and must not all be in memory."""
    if cache.folder is not None:
        yield cache
        return
    with tempfile.TemporaryDirectory(prefix="easi3r-windows-") as folder:
        yield StageCache(Path(folder))
