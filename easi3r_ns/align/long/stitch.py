"""Windows of a clip, each aligned by itself, become one scene.

Neighbouring windows share frames: the same pixels of these give the similarity between their worlds, where they stand
still and both are confident. A pose graph joins all windows, with loops where there are any. A frame of two windows
gets the mean of both, weighted by how far it lies inside each: nothing jumps at a seam.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...core.errors import AlignmentError
from ...core.geometry import transform, unproject
from ...core.runlog import RunLog
from ...core.scene import CameraUncertainty
from ...core.similarity import Similarity, between, nearest_rotation
from ...core.windows import Window, centrality
from ...storage.rows import empty_tensor
from ..align import AlignDiagnostics, AlignResult
from ..diagnostics import camera_travel, camera_turn
from .overlap import Correspondences, robust_similarity
from .posegraph import Link, chain, solve

POINTS_PER_FRAME = 1500
CAMERA_SHARE = 0.5
"""Weight of a camera's position among the points of its frame, as a share of theirs."""
LEAST_SIGMA = 0.005
"""Expected error of a link at best: windows bend a little by themselves, which no overlap shows."""
LEAST_STATIC = 0.05
"""Share of a frame that must be static and confident to stand for it."""
POOR_OVERLAP = 0.05
"""Median distance of two windows in their overlap, in units of the depth, above which the user is warned."""


@dataclass(frozen=True)
class Pieces:
    """The aligned windows of a clip; results are loaded when they are needed."""

    windows: tuple[Window, ...]
    load: Callable[[int], AlignResult]
    """Window number -> its alignment, whose frames are those of the window."""
    principal_point: np.ndarray
    """(2,) network pixels."""
    pixel_aspect: float
    masks: np.ndarray
    """(F, H, W) bool, True where something moves."""
    num_pairs: int
    """Rows of the clip's pair graph."""
    seed: int = 0
    folder: Path | None = None
    """Where the pictures of the whole clip lie in memory-mapped files; None: in memory."""

    @cached_property
    def homes(self) -> dict[int, list[tuple[int, int, float]]]:
        """Frame -> (window, position in it, weight) of all windows that give its camera; the weights sum to 1.

        Windows of evaluation views give the cameras of these only.
        """
        found: dict[int, list[tuple[int, int, float]]] = {}
        clip = {int(f) for window in self.windows if not window.attached for f in window.frames}
        for k, window in enumerate(self.windows):
            for position, (frame, inside) in enumerate(zip(window.frames.tolist(), centrality(window))):
                if not (window.attached and frame in clip):
                    found.setdefault(frame, []).append((k, position, float(inside)))
        totals = {frame: sum(inside for _, _, inside in homes) for frame, homes in found.items()}
        return {f: [(k, p, inside / totals[f]) for k, p, inside in homes] for f, homes in sorted(found.items())}

    def home(self, frame: int) -> tuple[int, int]:
        """The window in which a frame lies most central, and its position there."""
        return max(self.homes[frame], key=lambda entry: entry[2])[:2]

    def points(self, result: AlignResult, position: int) -> np.ndarray:
        """(H, W, 3) points of one frame of a window in the window's world."""
        focal = result.focals[position] * np.array([1.0, self.pixel_aspect])
        local = unproject(np.asarray(result.depth[position], dtype=float), focal, self.principal_point)
        return transform(result.T_world_cam[position], local)

    def trusted(self, result: AlignResult, position: int, frame: int) -> np.ndarray:
        """(H, W) bool: depth known, static, not contradicted and no less confident than half of such pixels.

        Without enough of them the moving pixels count too: both windows show them at the same moment.
        """
        known = (result.depth[position] > 0) & ~result.contradicted[position]
        static = known & ~self.masks[frame]
        usable = static if static.mean() >= LEAST_STATIC else known
        confidence = result.confidence[position]
        return usable & (confidence >= np.median(confidence[usable])) if usable.any() else usable


@dataclass(frozen=True)
class Stitched:
    """One reconstruction of the whole clip, and how it came about."""

    result: AlignResult
    facts: dict[str, Any]
    """JSON-serialisable: windows, overlaps, loops."""


def stitch(pieces: Pieces, overlaps: list[Link], loops: list[Link], log: RunLog) -> Stitched:
    """Join the windows. ``overlaps`` from :func:`overlap_links`; ``loops`` may be empty.

    Raises:
        AlignmentError: windows without a common world; the message names their frames.
    """
    count = sum(not window.attached for window in pieces.windows)
    start = _all_placed(chain(count, overlaps), pieces)
    before, _ = solve(start, overlaps)
    after, refused = solve(before, overlaps + loops) if loops else (before, [])
    corrections = [new.after(old.inverse()) for new, old in zip(after, before)]
    placed = _Assembly(pieces, before, corrections)
    result = placed.assemble(log)
    believed = [link for link in loops if not any(link is other for other in refused)]
    if refused:
        log.info(f"{len(refused)} of {len(loops)} loops contradict the others and are left out")
    facts = {
        "windows": [[int(w.frames[0]), int(w.frames[-1])] for w in pieces.windows if not w.attached],
        "overlap_residual_percent": [round(100 * link.residual, 3) for link in overlaps],
        "loops": [list(link.frames) for link in believed if link.frames],
        "loops_refused": [list(link.frames) for link in refused if link.frames],
    }
    return Stitched(result, facts)


def overlap_links(pieces: Pieces, log: RunLog) -> list[Link]:
    """One link for every two windows of the clip that share frames; such a window pair is loaded once."""
    links = []
    clip = [k for k, window in enumerate(pieces.windows) if not window.attached]
    for a in clip:
        first = pieces.load(a)
        for b in clip[a + 1 :]:
            shared = np.intersect1d(pieces.windows[a].frames, pieces.windows[b].frames)
            if len(shared) == 0:
                break
            links += _link(pieces, a, first, b, shared, log)
    return links


def _link(pieces: Pieces, a: int, first: AlignResult, b: int, shared: np.ndarray, log: RunLog) -> list[Link]:
    second = pieces.load(b)
    where_a, where_b = (np.searchsorted(pieces.windows[k].frames, shared) for k in (a, b))
    parts = [
        corresponding(pieces, (second, int(q)), (first, int(p)), int(frame))
        for frame, p, q in zip(shared, where_a, where_b)
    ]
    fit = robust_similarity(Correspondences.joined(parts), pieces.seed)
    if fit is None:
        return []
    if fit.residual > POOR_OVERLAP:
        log.warn(
            f"{pieces.windows[a]} and {pieces.windows[b]} disagree by {100 * fit.residual:.0f} % of the depth in the "
            "frames that they share: the camera path may bend there. A larger --window may help"
        )
    middle = int(where_b[len(where_b) // 2])
    return [link_of(a, b, fit.similarity, fit.residual, (second, middle))]


def link_of(
    first: int,
    second: int,
    similarity: Similarity,
    residual: float,
    where: tuple[AlignResult, int],
    frames: tuple[int, int] | None = None,
) -> Link:
    """A link measured at a frame of window ``second`` (its alignment, and the position in it)."""
    result, position = where
    depth = result.depth[position]
    unit = float(np.median(depth[depth > 0])) if (depth > 0).any() else 1.0
    sigma = max(residual, LEAST_SIGMA)
    return Link(first, second, similarity, sigma, result.T_world_cam[position, :3, 3], unit, frames, residual)


def corresponding(
    pieces: Pieces, source: tuple[AlignResult, int], target: tuple[AlignResult, int], frame: int
) -> Correspondences:
    """Points of the trusted pixels of one frame in two windows, and its two cameras."""
    both = pieces.trusted(*source, frame) & pieces.trusted(*target, frame)
    if both.mean() < LEAST_STATIC / 2:
        both = (source[0].depth[source[1]] > 0) & (target[0].depth[target[1]] > 0)
    chosen = sample(both, pieces.seed + frame)
    x, y = (pieces.points(*side).reshape(-1, 3)[chosen] for side in (source, target))
    depth = np.asarray(target[0].depth[target[1]], dtype=float).ravel()[chosen]
    points = Correspondences(x, y, depth, np.ones(len(chosen)))
    if len(chosen) == 0:
        return points
    centres = [result.T_world_cam[position, None, :3, 3] for result, position in (source, target)]
    camera = Correspondences(*centres, np.median(depth)[None], np.array([CAMERA_SHARE * len(chosen)]))
    return Correspondences.joined([points, camera])


def sample(usable: np.ndarray, seed: int, most: int = POINTS_PER_FRAME) -> np.ndarray:
    """Flat numbers of at most ``most`` pixels where (H, W) ``usable`` is True, increasing."""
    chosen = np.flatnonzero(usable)
    if len(chosen) > most:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, most, replace=False))
    return chosen


def _all_placed(placed: list[Similarity | None], pieces: Pieces) -> list[Similarity]:
    lost = [pieces.windows[k] for k, world in enumerate(placed) if world is None]
    if lost:
        raise AlignmentError(
            f"{lost[0]} cannot be joined to the frames before: the frames that they share have too few points that "
            "both windows know. Use a larger --window, other weights, or another part of the clip (--start, --end)"
        )
    return [world for world in placed if world is not None]


@dataclass(frozen=True)
class _Assembly:
    """Writes every frame of the clip into one world."""

    pieces: Pieces
    worlds: list[Similarity]
    """Per window of the clip: its world -> that of window 0, by the overlaps alone."""
    corrections: list[Similarity]
    """Per window of the clip: what the loops move, in the world of window 0."""

    def assemble(self, log: RunLog) -> AlignResult:
        """The whole clip; windows are loaded one after the other, two or three at a time."""
        pieces, homes = self.pieces, self.pieces.homes
        out = self._empty()
        loaded: dict[int, AlignResult] = {}
        light: dict[int, AlignResult] = {}
        worlds = dict(enumerate(self.worlds))
        for frame, entries in homes.items():
            for k in [k for k in loaded if k not in {e[0] for e in entries}]:
                del loaded[k]
            for k, _, _ in entries:
                if k not in loaded:
                    loaded[k] = pieces.load(k)
                    light[k] = _without_pictures(loaded[k])
                if k not in worlds:
                    worlds[k] = self._place_attached(k, loaded[k], out, log)
            self._write(frame, [(loaded[k], p, w, worlds[k]) for k, p, w in entries], out)
        out["T_world_cam"] = np.linalg.inv(out["T_world_cam"][0]) @ out["T_world_cam"]
        out["T_world_cam"][0] = np.eye(4)
        return self._finish(out, [light[k] for k in range(len(light))], worlds)

    def _empty(self) -> dict[str, np.ndarray]:
        count, shape, folder = len(self.pieces.homes), self.pieces.masks.shape, self.pieces.folder
        types = {"depth": torch.float32, "confidence": torch.float32, "contradicted": torch.bool}
        pictures = {name: empty_tensor(shape, dtype, folder).numpy() for name, dtype in types.items()}
        return {"T_world_cam": np.tile(np.eye(4), (count, 1, 1)), "focals": np.zeros(count), **pictures}

    def _write(
        self, frame: int, views: list[tuple[AlignResult, int, float, Similarity]], out: dict[str, np.ndarray]
    ) -> None:
        # A window that knows no depth of the frame has only guessed its camera.
        informed = [view for view in views if (view[0].depth[view[1]] > 0).any()]
        views = informed or views
        weights = np.array([weight for _, _, weight, _ in views])
        weights /= weights.sum()
        cameras = np.stack([world.cameras(result.T_world_cam[p]) for result, p, _, world in views])
        pose = np.eye(4)
        pose[:3, :3] = nearest_rotation(np.tensordot(weights, cameras[:, :3, :3], axes=1))
        pose[:3, 3] = np.tensordot(weights, cameras[:, :3, 3], axes=1)
        correction = self._correction(frame, pose[:3, 3])
        depths = np.stack([world.scale * np.asarray(r.depth[p], dtype=float) for r, p, _, world in views])
        known = depths > 0
        share = weights[:, None, None] * known
        total = share.sum(axis=0)
        depth = np.where(total > 0, (share * depths).sum(axis=0) / np.maximum(total, 1e-12), 0.0)
        out["T_world_cam"][frame] = correction.cameras(pose)
        out["focals"][frame] = np.exp(np.dot(weights, [np.log(r.focals[p]) for r, p, _, _ in views]))
        out["depth"][frame] = correction.scale * depth
        out["confidence"][frame] = np.max([r.confidence[p] for r, p, _, _ in views], axis=0)
        out["contradicted"][frame] = np.any([r.contradicted[p] for r, p, _, _ in views], axis=0)

    def _correction(self, frame: int, centre: np.ndarray) -> Similarity:
        """What the loops move at a frame: between the middles of the windows it passes over from one to the next."""
        clip = [window for window in self.pieces.windows if not window.attached]
        middles = np.array([window.frames.mean() for window in clip])
        if frame > clip[-1].frames[-1]:
            return Similarity.identity()  # evaluation views were placed among frames that are corrected already
        after = int(np.searchsorted(middles, frame))
        if after in (0, len(middles)):
            return self.corrections[min(after, len(middles) - 1)]
        share = (frame - middles[after - 1]) / (middles[after] - middles[after - 1])
        return between(self.corrections[after - 1], self.corrections[after], float(share), centre)

    def _place_attached(self, k: int, result: AlignResult, out: dict[str, np.ndarray], log: RunLog) -> Similarity:
        """The world of a window of evaluation views: onto the frames of the clip that it holds, as they stand now."""
        pieces, window = self.pieces, self.pieces.windows[k]
        target = replace(result, **out)
        parts = [
            corresponding(pieces, (result, p), (target, int(f)), int(f))
            for p, f in enumerate(window.frames)
            if out["focals"][f] > 0
        ]
        fit = robust_similarity(Correspondences.joined(parts), pieces.seed)
        if fit is None:
            raise AlignmentError(
                f"{window} cannot be joined to the clip: their pointmaps share no trusted point with it. Leave out "
                "--eval-data, or film it closer to the clip"
            )
        if fit.residual > POOR_OVERLAP:
            log.warn(f"{window} fit the clip to {100 * fit.residual:.0f} % of the depth only")
        return fit.similarity

    def _finish(
        self, out: dict[str, np.ndarray], parts: list[AlignResult], worlds: dict[int, Similarity]
    ) -> AlignResult:
        """The fields that are no pictures: those of the window in which a frame lies most central."""
        pieces = self.pieces
        units = np.array([worlds[k].scale for k in range(len(parts))])
        units[: len(self.corrections)] *= [correction.scale for correction in self.corrections]
        scales = np.zeros(pieces.num_pairs)
        for k in reversed(range(len(parts))):
            scales[pieces.windows[k].rows] = units[k] * parts[k].pair_scales
        homes = [pieces.home(frame) for frame in pieces.homes]
        return AlignResult(
            **out,
            pair_scales=scales,
            loss_curve=np.concatenate([part.loss_curve for part in parts]),
            diagnostics=_diagnostics(pieces, parts, homes, out),
            **_uncertainty(parts, homes, units),
        )


def _without_pictures(result: AlignResult) -> AlignResult:
    pictures = ("depth", "confidence", "contradicted")
    return replace(result, **{name: getattr(result, name)[:0] for name in pictures})


def _uncertainty(
    parts: list[AlignResult], homes: list[tuple[int, int]], units: np.ndarray
) -> dict[str, CameraUncertainty]:
    """Of every camera inside its window; what the joints add is not in it. ``units``: scene units per window's unit."""
    own = [part.uncertainty for part in parts if part.uncertainty is not None]
    if len(own) < len(parts):
        return {}
    columns = {f.name: np.array([getattr(own[k], f.name)[p] for k, p in homes]) for f in fields(CameraUncertainty)}
    columns["centre"] = columns["centre"] * units[[k for k, _ in homes]]
    return {"uncertainty": CameraUncertainty(**columns)}


def _diagnostics(
    pieces: Pieces, parts: list[AlignResult], homes: list[tuple[int, int]], out: dict[str, np.ndarray]
) -> AlignDiagnostics:
    """Of the whole clip: lists name its frames, and a frame is on one where its most central window says so."""
    own = [part.diagnostics for part in parts]
    merged: dict[str, Any] = {}
    for name in (f.name for f in fields(AlignDiagnostics)):
        values = [getattr(diagnostics, name) for diagnostics in own]
        if name.endswith("_pairs"):
            local = [pieces.windows[k].frames[np.array(pairs)] for k, pairs in enumerate(values) if pairs]
            merged[name] = tuple(sorted({(int(i), int(j)) for rows in local for i, j in rows}))
        elif name.endswith("_frames"):
            merged[name] = tuple(frame for frame, (k, p) in enumerate(homes) if p in values[k])
    flows = [d.final_flow for d in own if d.final_flow is not None]
    estimated = all(len(d.focal_estimates) for d in own)
    cameras = torch.from_numpy(out["T_world_cam"]).float()
    return replace(
        own[0],
        **merged,
        registered_by=tuple(own[k].registered_by[p] for k, p in homes),
        travel=camera_travel(cameras[:, :3, 3], torch.from_numpy(out["depth"])),
        turn=camera_turn(cameras[:, :3, :3]),
        final_flow=float(np.mean(flows)) if flows else None,
        focal_estimates=tuple(own[k].focal_estimates[p] for k, p in homes) if estimated else (),
    )
