"""Joining the windows of a clip, each aligned by itself, to one scene.

Neighbouring windows share frames. The static, confident pixels of these frames give the similarity between the worlds
of the two windows. A pose graph over these overlaps, and over loops where there are any, places all windows. A frame of
several windows gets their mean, weighted by how far it lies inside each, so that cameras and depths do not jump where
one window ends.
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
from .overlap import PointMatches, robust_similarity
from .posegraph import Link, chain_overlaps, solve_pose_graph

POINTS_PER_FRAME = 1500
"""Most pixels of a shared frame that are matched."""
CAMERA_SHARE = 0.5
"""Weight of a camera's position as a share of the summed weight of its frame's points."""
LEAST_SIGMA = 0.005
"""Least expected error of a link: every window is slightly distorted inside, which its overlaps do not show."""
LEAST_STATIC = 0.05
"""Least share of static pixels of known depth with which the moving pixels of a frame are left out."""
POOR_OVERLAP = 0.05
"""Median distance between two windows in their overlap, in units of the depth, above which the user is warned."""


@dataclass(frozen=True)
class AlignedWindows:
    """The aligned windows of a clip of F frames; results are loaded when they are needed."""

    windows: tuple[Window, ...]
    load: Callable[[int], AlignResult]
    """Window number -> its alignment, whose frames are those of the window, in a world and unit of its own."""
    principal_point: np.ndarray
    """(2,) network pixels."""
    pixel_aspect: float
    """Vertical over horizontal focal length in network pixels."""
    masks: np.ndarray
    """(F, H, W) bool, True where something moves."""
    num_pairs: int
    """Rows of the clip's pair graph."""
    seed: int = 0
    """Decides which pixels are matched."""
    folder: Path | None = None
    """Folder for memory-mapped files with the image arrays of the whole clip; None keeps them in memory."""

    @cached_property
    def windows_of_frame(self) -> dict[int, list[tuple[int, int, float]]]:
        """Frame -> (window, position in it, weight) of all windows that determine its camera; the weights sum to 1.

        A window of evaluation views determines the cameras of these views only.
        """
        found: dict[int, list[tuple[int, int, float]]] = {}
        clip = {int(f) for window in self.windows if not window.attached for f in window.frames}
        for k, window in enumerate(self.windows):
            for position, (frame, inside) in enumerate(zip(window.frames.tolist(), centrality(window))):
                if not (window.attached and frame in clip):
                    found.setdefault(frame, []).append((k, position, float(inside)))
        totals = {frame: sum(inside for _, _, inside in entries) for frame, entries in found.items()}
        return {f: [(k, p, inside / totals[f]) for k, p, inside in entries] for f, entries in sorted(found.items())}

    def main_window(self, frame: int) -> tuple[int, int]:
        """The window in which a frame is most central, and its position there."""
        window, position, _ = max(self.windows_of_frame[frame], key=lambda entry: entry[2])
        return window, position

    def points(self, result: AlignResult, position: int) -> np.ndarray:
        """(H, W, 3) points of one frame of a window, in the window's world."""
        focal = result.focals[position] * np.array([1.0, self.pixel_aspect])
        local = unproject(np.asarray(result.depth[position], dtype=float), focal, self.principal_point)
        points: np.ndarray = transform(result.T_world_cam[position], local)
        return points

    def trusted(self, result: AlignResult, position: int, frame: int) -> np.ndarray:
        """(H, W) bool: pixels of known depth, static, not contradicted, and of at least the median confidence of these.

        Where too few are static, moving pixels count too: in a shared frame both windows show them at the same time.
        """
        known = (result.depth[position] > 0) & ~result.contradicted[position]
        static = known & ~self.masks[frame]
        usable: np.ndarray = static if static.mean() >= LEAST_STATIC else known
        confidence = result.confidence[position]
        if usable.any():
            usable = usable & (confidence >= np.median(confidence[usable]))
        return usable


@dataclass(frozen=True)
class Stitched:
    """One reconstruction of the whole clip, and how it was joined."""

    result: AlignResult
    facts: dict[str, Any]
    """Values that can be written as JSON: windows, residuals of the overlaps, loops."""


def stitch(aligned: AlignedWindows, overlaps: list[Link], loops: list[Link], log: RunLog) -> Stitched:
    """Join the windows. ``overlaps``: from :func:`overlap_links`; ``loops``: links of loop closures, may be empty.

    Raises:
        AlignmentError: a window shares no trusted points with the others; the message names its frames.
    """
    count = sum(not window.attached for window in aligned.windows)
    start = _all_placed(chain_overlaps(count, overlaps), aligned)
    before, _ = solve_pose_graph(start, overlaps)
    after, refused = solve_pose_graph(before, overlaps + loops) if loops else (before, [])
    corrections = [new.after(old.inverse()) for new, old in zip(after, before)]
    placed = _Assembly(aligned, before, corrections)
    result = placed.assemble(log)
    believed = [link for link in loops if not any(link is other for other in refused)]
    if refused:
        log.info(f"{len(refused)} of {len(loops)} loops contradict the others and are left out")
    facts = {
        "windows": [[int(w.frames[0]), int(w.frames[-1])] for w in aligned.windows if not w.attached],
        "overlap_residual_percent": [round(100 * link.residual, 3) for link in overlaps],
        "loops": [list(link.frames) for link in believed if link.frames],
        "loops_refused": [list(link.frames) for link in refused if link.frames],
    }
    return Stitched(result, facts)


def overlap_links(aligned: AlignedWindows, log: RunLog) -> list[Link]:
    """One link for every two windows of the clip that share frames. Warns where two windows disagree."""
    links = []
    clip = [k for k, window in enumerate(aligned.windows) if not window.attached]
    for a in clip:
        first = aligned.load(a)
        for b in clip[a + 1 :]:
            shared = np.intersect1d(aligned.windows[a].frames, aligned.windows[b].frames)
            if len(shared) == 0:
                break
            links += _link(aligned, a, first, b, shared, log)
    return links


def _link(aligned: AlignedWindows, a: int, first: AlignResult, b: int, shared: np.ndarray, log: RunLog) -> list[Link]:
    second = aligned.load(b)
    where_a, where_b = (np.searchsorted(aligned.windows[k].frames, shared) for k in (a, b))
    parts = [
        corresponding(aligned, (second, int(q)), (first, int(p)), int(frame))
        for frame, p, q in zip(shared, where_a, where_b)
    ]
    fit = robust_similarity(PointMatches.joined(parts), aligned.seed)
    if fit is None:
        return []
    if fit.residual > POOR_OVERLAP:
        log.warn(
            f"{aligned.windows[a]} and {aligned.windows[b]} disagree by {100 * fit.residual:.0f} % of the depth in the "
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
    """A link between two windows, measured at a frame of window ``second``.

    ``similarity``: from the world of ``second`` to that of ``first``; ``residual``: in units of the depth; ``where``:
    the alignment of ``second`` and the frame's position in it; ``frames``: as in :class:`Link`.
    """
    result, position = where
    depth = result.depth[position]
    unit = float(np.median(depth[depth > 0])) if (depth > 0).any() else 1.0
    sigma = max(residual, LEAST_SIGMA)
    return Link(first, second, similarity, sigma, result.T_world_cam[position, :3, 3], unit, frames, residual)


def corresponding(
    aligned: AlignedWindows, source: tuple[AlignResult, int], target: tuple[AlignResult, int], frame: int
) -> PointMatches:
    """Matches of one frame in two windows: points of its trusted pixels, and its camera.

    ``source``, ``target``: the alignment of a window and the frame's position in it; ``frame``: its number in the clip.
    """
    both = aligned.trusted(*source, frame) & aligned.trusted(*target, frame)
    if both.mean() < LEAST_STATIC / 2:
        both = (source[0].depth[source[1]] > 0) & (target[0].depth[target[1]] > 0)
    chosen = sample(both, aligned.seed + frame)
    x, y = (aligned.points(*side).reshape(-1, 3)[chosen] for side in (source, target))
    depth = np.asarray(target[0].depth[target[1]], dtype=float).ravel()[chosen]
    points = PointMatches(x, y, depth, np.ones(len(chosen)))
    if len(chosen) == 0:
        return points
    here, there = (result.T_world_cam[position, None, :3, 3] for result, position in (source, target))
    camera = PointMatches(here, there, np.median(depth)[None], np.array([CAMERA_SHARE * len(chosen)]))
    return PointMatches.joined([points, camera])


def sample(usable: np.ndarray, seed: int, most: int = POINTS_PER_FRAME) -> np.ndarray:
    """Row-major numbers of at most ``most`` random pixels where ``usable`` (H, W) is True, increasing."""
    chosen = np.flatnonzero(usable)
    if len(chosen) > most:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, most, replace=False))
    return chosen


def _all_placed(placed: list[Similarity | None], aligned: AlignedWindows) -> list[Similarity]:
    lost = [aligned.windows[k] for k, world in enumerate(placed) if world is None]
    if lost:
        raise AlignmentError(
            f"{lost[0]} cannot be joined to the frames before: too few points of their shared frames are known to both "
            "windows. Use a larger --window, other weights, or another part of the clip (--start, --end)"
        )
    return [world for world in placed if world is not None]


@dataclass(frozen=True)
class _Assembly:
    """Combines the frames of all windows in one world."""

    aligned: AlignedWindows
    worlds: list[Similarity]
    """Per window of the clip the similarity from its world to that of window 0, by the overlaps alone."""
    corrections: list[Similarity]
    """Per window of the clip the change that the loops make, in the world of window 0."""

    def assemble(self, log: RunLog) -> AlignResult:
        """The whole clip. At most the few windows of one frame are in memory at a time."""
        aligned = self.aligned
        out = self._empty()
        loaded: dict[int, AlignResult] = {}
        without_images: dict[int, AlignResult] = {}
        worlds = dict(enumerate(self.worlds))
        for frame, entries in aligned.windows_of_frame.items():
            for k in [k for k in loaded if k not in {e[0] for e in entries}]:
                del loaded[k]
            for k, _, _ in entries:
                if k not in loaded:
                    loaded[k] = aligned.load(k)
                    without_images[k] = _without_images(loaded[k])
                if k not in worlds:
                    worlds[k] = self._place_attached(k, loaded[k], out, log)
            self._write(frame, [(loaded[k], p, w, worlds[k]) for k, p, w in entries], out)
        out["T_world_cam"] = np.linalg.inv(out["T_world_cam"][0]) @ out["T_world_cam"]
        out["T_world_cam"][0] = np.eye(4)
        return self._finish(out, [without_images[k] for k in range(len(without_images))], worlds)

    def _empty(self) -> dict[str, Any]:
        count, shape, folder = len(self.aligned.windows_of_frame), self.aligned.masks.shape, self.aligned.folder
        types = {"depth": torch.float32, "confidence": torch.float32, "contradicted": torch.bool}
        images = {name: empty_tensor(shape, dtype, folder).numpy() for name, dtype in types.items()}
        return {"T_world_cam": np.tile(np.eye(4), (count, 1, 1)), "focals": np.zeros(count), **images}

    def _write(self, frame: int, views: list[tuple[AlignResult, int, float, Similarity]], out: dict[str, Any]) -> None:
        # A window without any depth for the frame has only interpolated its camera: other windows have priority.
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
        """The change that the loops make at a frame, interpolated between the middle frames of windows around it."""
        clip = [window for window in self.aligned.windows if not window.attached]
        middles = np.array([window.frames.mean() for window in clip])
        if frame > clip[-1].frames[-1]:
            return Similarity.identity()  # evaluation views are placed among frames that are corrected already
        after = int(np.searchsorted(middles, frame))
        if after in (0, len(middles)):
            return self.corrections[min(after, len(middles) - 1)]
        share = (frame - middles[after - 1]) / (middles[after] - middles[after - 1])
        return between(self.corrections[after - 1], self.corrections[after], float(share), centre)

    def _place_attached(self, k: int, result: AlignResult, out: dict[str, Any], log: RunLog) -> Similarity:
        """Similarity from a window of evaluation views to the clip, by the frames of the clip that it contains."""
        aligned, window = self.aligned, self.aligned.windows[k]
        target = replace(result, **out)
        parts = [
            corresponding(aligned, (result, p), (target, int(f)), int(f))
            for p, f in enumerate(window.frames)
            if out["focals"][f] > 0
        ]
        fit = robust_similarity(PointMatches.joined(parts), aligned.seed)
        if fit is None:
            raise AlignmentError(
                f"{window} cannot be joined to the clip: their pointmaps share no trusted points with it. Leave out "
                "--eval-data, or film it closer to the clip"
            )
        if fit.residual > POOR_OVERLAP:
            log.warn(f"{window} fit the clip to {100 * fit.residual:.0f} % of the depth only")
        return fit.similarity

    def _finish(self, out: dict[str, Any], parts: list[AlignResult], worlds: dict[int, Similarity]) -> AlignResult:
        """The result; fields that are no images come from the window in which a frame is most central."""
        aligned = self.aligned
        units = np.array([worlds[k].scale for k in range(len(parts))])
        units[: len(self.corrections)] *= [correction.scale for correction in self.corrections]
        scales = np.zeros(aligned.num_pairs)
        for k in reversed(range(len(parts))):
            scales[aligned.windows[k].rows] = units[k] * parts[k].pair_scales
        main = [aligned.main_window(frame) for frame in aligned.windows_of_frame]
        return AlignResult(
            **out,
            pair_scales=scales,
            loss_curve=np.concatenate([part.loss_curve for part in parts]),
            diagnostics=_diagnostics(aligned, parts, main, out),
            uncertainty=_uncertainty(parts, main, units),
        )


def _without_images(result: AlignResult) -> AlignResult:
    images = ("depth", "confidence", "contradicted")
    return replace(result, **{name: getattr(result, name)[:0] for name in images})


def _uncertainty(parts: list[AlignResult], main: list[tuple[int, int]], units: np.ndarray) -> CameraUncertainty | None:
    """Uncertainty of every camera inside its window, without that of the joints between windows.

    ``main``: per frame (window, position); ``units``: scene units per unit of each window.
    """
    own = [part.uncertainty for part in parts if part.uncertainty is not None]
    if len(own) < len(parts):
        return None
    columns = {f.name: np.array([getattr(own[k], f.name)[p] for k, p in main]) for f in fields(CameraUncertainty)}
    columns["centre"] = columns["centre"] * units[[k for k, _ in main]]
    return CameraUncertainty(**columns)


def _diagnostics(
    aligned: AlignedWindows, parts: list[AlignResult], main: list[tuple[int, int]], out: dict[str, Any]
) -> AlignDiagnostics:
    """Diagnostics of the whole clip; a frame is on a list if the window in which it is most central lists it."""
    own = [part.diagnostics for part in parts]
    merged: dict[str, Any] = {}
    for name in (f.name for f in fields(AlignDiagnostics)):
        values = [getattr(diagnostics, name) for diagnostics in own]
        if name.endswith("_pairs"):
            local = [aligned.windows[k].frames[np.array(pairs)] for k, pairs in enumerate(values) if pairs]
            merged[name] = tuple(sorted({(int(i), int(j)) for rows in local for i, j in rows}))
        elif name.endswith("_frames"):
            merged[name] = tuple(frame for frame, (k, p) in enumerate(main) if p in values[k])
    flows = [d.final_flow for d in own if d.final_flow is not None]
    estimated = all(len(d.focal_estimates) for d in own)
    cameras = torch.from_numpy(out["T_world_cam"]).float()
    return replace(
        own[0],
        **merged,
        registered_by=tuple(own[k].registered_by[p] for k, p in main),
        travel=camera_travel(cameras[:, :3, 3], torch.from_numpy(out["depth"])),
        turn=camera_turn(cameras[:, :3, :3]),
        final_flow=float(np.mean(flows)) if flows else None,
        focal_estimates=tuple(own[k].focal_estimates[p] for k, p in main) if estimated else (),
    )
