"""Depth of what stands still, by multi-view stereo: :func:`stereo_depth`.

Per frame a plane sweep at half size, smoothed, then two searches about the surface that it found, at full size
(:mod:`.sweep`, :mod:`.smooth`); then only what at least two other frames have measured too is kept (:mod:`.agree`).
Pixels that move, in the frame or in its neighbours, take no part. What cannot be measured stays unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from .. import __version__
from ..core.runlog import RunLog
from ..core.scene import Scene
from ..core.workers import ordered
from ..storage.cache import StageCache, Tensors, digest
from .agree import Measured, agreement, without_speckles
from .arrays import OpenCVOperations, Operations
from .choose import Stereo
from .neighbours import Surroundings, surroundings
from .patchmatch import PatchMatch, measure_by_patch_match
from .smooth import Smoothness, smoothed
from .sweep import SweepView, peak, plane_scores, surface_scores, travel
from .views import SceneViews, TwoSizes

FEWEST_VIEWS = 2
"""Other views that must have measured the same point."""
HELD_VIEWS = 3
"""Pictures in memory, in multiples of the neighbours of a frame."""
_LEAST = 0.1
"""Of the smallest inverse depth that is searched: what lies beyond was not measured."""
_MEDIAN, _BILATERAL = 5, 9
"""Sides of the windows in which a measured surface is smoothed, pixels."""
_SURFACE = 0.02
"""Relative step of depth up to which two pixels are smoothed together."""


@dataclass(frozen=True)
class StereoConfig:
    """How the search is made. See examples/results/depth.md for what the values were chosen by."""

    views: int = 8
    """Neighbours of a frame."""
    coarse_radius: int = 2
    fine_radius: int = 3
    """Of the square windows that are compared, in pixels of the half and of the full picture."""
    plane_step: float = 0.75
    """Pixels of the half picture by which a plane moves it in the median neighbour, against the plane before."""
    fewest_planes: int = 24
    most_planes: int = 96
    passes: tuple[tuple[float, int], ...] = ((0.5, 2), (0.25, 1))
    """Searches about the surface: step in planes, and steps to either side."""
    least_score: float = 0.3
    """Correlation below which nothing was measured."""
    smoothness: Smoothness = Smoothness()


@dataclass(frozen=True)
class _Keep:
    """Where the parts of a measurement are kept, under which name, and what decides them."""

    cache: StageCache
    name: str
    key: str

    def stage(self, part: str, compute: Callable[[], Tensors]) -> Tensors:
        return self.cache.stage(f"{self.name}-{part}", self.key, compute)


def stereo_depth(
    scene: Scene,
    log: RunLog,
    cache: StageCache = StageCache(None),
    *,
    how: Stereo = Stereo.on(torch.device("cpu")),
    config: StereoConfig = StereoConfig(),
    stage: str = "stereo",
) -> Scene:
    """The scene with the depth of what stands still; its earlier depth and confidence are not looked at.

    The confidence of a pixel is the number of other frames that measured the same point, at least two: with the default
    of --min-confidence all of them are trusted. Where the depth is unknown both are 0.

    Args:
        scene: cameras and triangulated points are needed; a frame that sees too few points stays without depth.
        cache: keeps what was measured, frame by frame: a killed run goes on where it stopped.
        how: what measures; the agreement of the frames is found in the same way whatever does. PatchMatch is one step:
            a run that is killed in it begins it again.
        stage: name under which the cache keeps it; a run that measures twice needs two.

    Returns:
        Depth on the scene's own (distorted) pixel grid, in scene units.
    """
    views = SceneViews(scene, how.operations, HELD_VIEWS * config.views)
    around = surroundings(scene, config.views)
    keep = _Keep(cache, stage, _key(scene, config, how))
    depth, confidence = np.zeros_like(scene.depth), np.zeros_like(scene.confidence)
    if how.patch_match is None:
        inverse = _swept(around, views, config, keep, log, how.threads)
    else:
        inverse = _matched(scene, around, views, how.patch_match, keep, log)
    with log.stage("stereo agreement", len(scene)) as advance:
        for frame, near in enumerate(around):
            if near is not None and inverse[frame] is not None:
                depth[frame], confidence[frame] = _agreed(frame, near.neighbours, inverse, views)
            advance(1)
    still = ~scene.dynamic.masks
    return replace(scene, depth=depth * still, confidence=confidence * still)


def _swept(
    around: Sequence[Surroundings | None],
    views: SceneViews,
    config: StereoConfig,
    keep: _Keep,
    log: RunLog,
    threads: int | None,
) -> list[np.ndarray | None]:
    """Per frame (H, W) inverse depth of a sweep; None for frames without neighbours."""

    def measured(frame: int) -> np.ndarray | None:
        near = around[frame]
        return None if near is None else _kept(frame, near, views, config, keep)

    workers = threads if isinstance(views.ops, OpenCVOperations) else 1  # a GPU does one frame at a time
    inverse: list[np.ndarray | None] = []
    with log.stage("stereo", len(around)) as advance:
        for result in ordered(measured, range(len(around)), workers):
            inverse.append(result)
            advance(1)
    return inverse


def _matched(
    scene: Scene,
    around: Sequence[Surroundings | None],
    views: SceneViews,
    patch_match: PatchMatch,
    keep: _Keep,
    log: RunLog,
) -> list[np.ndarray | None]:
    """The same of PatchMatch."""

    def compute() -> Tensors:
        found = measure_by_patch_match(scene, around, views, patch_match, log)
        return {str(k): torch.from_numpy(values) for k, values in enumerate(found) if values is not None}

    kept = keep.stage("patchmatch", compute)
    return [kept[str(k)].numpy() if str(k) in kept else None for k in range(len(around))]


def measure(
    ops: Operations, views: Sequence[TwoSizes], nearest: float, farthest: float, config: StereoConfig
) -> np.ndarray:
    """(H, W) float32 inverse depth of the first view by comparison with the others; 0 where nothing was measured.

    ``nearest``, ``farthest``: the depths that are searched.
    """
    coarse, fine = [view.coarse for view in views], [view.fine for view in views]
    planes = sweep_planes(coarse, nearest, farthest, config)
    step = float(planes[1] - planes[0])
    scores = plane_scores(ops, coarse[0], coarse[1:], planes, config.coarse_radius)
    index, shift, _ = peak(ops, smoothed(ops, scores, coarse[0].image * coarse[0].weight, config.smoothness))
    surface = _enlarged(planes[0] + ops.get(index + shift) * step, fine[0].size, step)
    for share, side in config.passes:
        offsets = np.arange(-side, side + 1) * (share * step)
        scores = surface_scores(ops, fine[0], fine[1:], ops.put(surface), offsets, config.fine_radius)
        index, shift, best = peak(ops, scores)
        surface = _tidy(surface + (ops.get(index + shift) - side) * (share * step))
    measured = (ops.get(best) > config.least_score) & (ops.get(fine[0].weight) > 0) & (surface > _LEAST * planes[0])
    return np.where(measured, surface, 0).astype(np.float32)


def sweep_planes(coarse: Sequence[SweepView], nearest: float, farthest: float, config: StereoConfig) -> np.ndarray:
    """(D,) increasing inverse depths, evenly spaced so that a plane moves the picture by ``config.plane_step``."""
    low, high = 1 / farthest, 1 / nearest
    moved = float(np.median([travel(coarse[0], other, low, high) for other in coarse[1:]]))
    count = int(np.clip(np.ceil(moved / config.plane_step) + 1, config.fewest_planes, config.most_planes))
    return np.linspace(low, high, count)


def _kept(frame: int, near: Surroundings, views: SceneViews, config: StereoConfig, keep: _Keep) -> np.ndarray:
    """(H, W) what :func:`measure` says of one frame, or said in an earlier run."""

    def compute() -> Tensors:
        shown = [views[k] for k in (frame, *near.neighbours)]
        return {"inverse_depth": torch.from_numpy(measure(views.ops, shown, near.nearest, near.farthest, config))}

    return keep.stage(f"{frame:06d}", compute)["inverse_depth"].numpy()


def _agreed(
    frame: int, neighbours: Sequence[int], inverse: Sequence[np.ndarray | None], views: SceneViews
) -> tuple[np.ndarray, np.ndarray]:
    """(h, w) depth and confidence on the frame's own pixels."""
    ops = views.ops
    own, *others = (
        Measured(views[k].fine, ops.put(values)) for k in (frame, *neighbours) if (values := inverse[k]) is not None
    )
    agreed, count = (ops.get(values) for values in agreement(ops, own, others))
    agreed, count = views.grid(frame).back(np.where(count >= FEWEST_VIEWS, agreed, 0).astype(np.float32), count)
    depth = np.divide(1.0, agreed, out=np.zeros_like(agreed), where=(agreed > 0) & (count >= FEWEST_VIEWS))
    depth = without_speckles(depth)
    return depth, np.where(depth > 0, count, 0).astype(np.float32)


def _key(scene: Scene, config: StereoConfig, how: Stereo) -> str:
    """Names everything that decides what is measured."""
    points = scene.sparse
    tracks = () if points is None else (points.points, points.point_index, points.frame_index)
    lens = (scene.focals_xy, np.asarray(scene.principal_point, dtype=float), list(scene.distortion))
    pictures = (scene.images, scene.dynamic.masks)
    return digest(*pictures, scene.T_world_cam, *lens, *tracks, config, str(how), __version__)


def _enlarged(inverse: np.ndarray, size: tuple[int, int], step: float) -> np.ndarray:
    """(h, w) inverse depth at the size (H, W): interpolated on a surface, the nearest pixel's at its border."""
    between = cv2.resize(inverse, size[::-1], interpolation=cv2.INTER_LINEAR)
    nearest = cv2.resize(inverse, size[::-1], interpolation=cv2.INTER_NEAREST)
    return np.where(np.abs(between - nearest) < 2 * step, between, nearest).astype(np.float32)


def _tidy(inverse: np.ndarray) -> np.ndarray:
    """(H, W) inverse depth without lone wrong pixels and with less noise; edges stay. On planes it changes nothing."""
    middle = cv2.medianBlur(inverse.astype(np.float32), _MEDIAN)
    relative = np.log(np.maximum(middle, np.finfo(np.float32).tiny))
    return np.exp(cv2.bilateralFilter(relative, _BILATERAL, _SURFACE, _BILATERAL / 2)).astype(np.float32)
