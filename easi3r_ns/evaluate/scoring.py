"""Compares a reconstructed scene with the ground truth of its capture, by every score that the truth allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..core.errors import AlignmentError, InputError
from ..core.geometry import network_to_source, pixel_grid, source_to_network
from ..core.scene import INTERPOLATED, Scene
from .datasets import Capture, read_depth, read_mask
from .depth import DepthErrors, compare_depths
from .masks import jaccard, prediction_at_source, truth_on_network
from .points import PointErrors, PointMaps, compare_points
from .trajectory import Drift, TrajectoryErrors, camera_drift, compare_paths, is_fixed


@dataclass(frozen=True)
class MaskErrors:
    """J of every frame with a true mask, under both protocols of :mod:`easi3r_ns.evaluate.masks`."""

    network: tuple[float, ...]
    """At network resolution (paper)."""
    source: tuple[float, ...]
    """At source resolution (standard)."""
    true_coverage: float
    """Share of the source pixels that truly move."""
    predicted_coverage: float
    """Share of the network pixels that were marked as moving."""


@dataclass(frozen=True)
class SequenceScores:
    """All scores of one clip; None for a score whose ground truth is missing."""

    num_frames: int
    """Frames in the reconstruction."""
    num_posed: int
    """Frames whose camera the pipeline estimated itself, neither interpolated nor transferred from the network."""
    trajectory: TrajectoryErrors | None = None
    drift: Drift | None = None
    """Only for a fixed camera."""
    focal_error: float | None = None
    """(estimated - true) / true, horizontal."""
    masks: MaskErrors | None = None
    depth: DepthErrors | None = None
    points: PointErrors | None = None
    """Where cameras, lens and depth are known, and the camera path can be aligned."""
    problems: tuple[str, ...] = ()
    """Scores for which there is a truth and which could not be computed, with the reason; they count as failures."""


def score_scene(scene: Scene, capture: Capture, requested: Sequence[str] | None = None) -> SequenceScores:
    """Compare ``scene`` with the truth of the capture that it was made from.

    A frame without a truth is left out of that score only. ``requested`` holds the keys of the frames that the run was
    given; a frame among them that the scene lacks counts as one with an empty mask.

    Raises:
        InputError: the truth has another size than the frames, or cannot be read.
        MissingExtraError: cameras are to be scored and evo is missing.
    """
    keys = capture.keys(scene.names, [int(i) for i in scene.indices])
    problems: list[str] = []
    trajectory, drift = _cameras(scene, capture, keys, problems)
    depth = _depth(scene, capture, keys)
    if depth is None and scene.has_depth and any(key in capture.depth for key in keys):
        problems.append("depth: no pixel has both an estimated and a true depth")
    return SequenceScores(
        num_frames=len(scene),
        num_posed=len(scene) - sum(source in ("aligned", INTERPOLATED) for source in scene.pose_sources or ()),
        trajectory=trajectory,
        drift=drift,
        focal_error=_focal_error(scene, capture),
        masks=_masks(scene, capture, keys, requested or keys),
        depth=depth,
        points=None if trajectory is None else _points(scene, capture, keys),
        problems=tuple(problems),
    )


def typical_depth(scene: Scene) -> float | None:
    """Median static depth in scene units, from the depth maps or else the triangulated points; None without both."""
    static = (scene.depth > 0) & ~scene.dynamic.masks
    if static.any():
        return float(np.median(scene.depth[static]))
    if scene.sparse is None or not len(scene.sparse.point_index):
        return None
    cameras = np.linalg.inv(scene.T_world_cam)[scene.sparse.frame_index]
    points = scene.sparse.points[scene.sparse.point_index]
    z = (cameras[:, 2, :3] * points).sum(axis=-1) + cameras[:, 2, 3]
    return float(np.median(z[z > 0])) if (z > 0).any() else None


def true_depth_on_network(depth: np.ndarray, scene: Scene) -> np.ndarray:
    """(h, w) true depth of the whole source image, at any resolution -> (H, W) on the network grid, nearest pixel."""
    width, height = scene.pixel_map.source_wh
    xy = network_to_source(pixel_grid(*scene.images.shape[1:3]), scene.pixel_map)
    cell = np.floor(xy * np.array([depth.shape[1] / width, depth.shape[0] / height])).astype(int)
    return depth[np.clip(cell[..., 1], 0, depth.shape[0] - 1), np.clip(cell[..., 0], 0, depth.shape[1] - 1)]


def _cameras(
    scene: Scene, capture: Capture, keys: list[str], problems: list[str]
) -> tuple[TrajectoryErrors | None, Drift | None]:
    known = [position for position, key in enumerate(keys) if key in capture.T_world_cam]
    truth = np.stack([capture.T_world_cam[keys[k]] for k in known]) if known else None
    if capture.fixed_camera or (truth is not None and is_fixed(truth)):
        return None, camera_drift(scene.T_world_cam, typical_depth(scene))
    if truth is None:
        if capture.T_world_cam:
            problems.append("cameras: no frame of the run has a true camera")
        return None, None
    try:
        return compare_paths(scene.T_world_cam[known], truth), None
    except AlignmentError as error:
        problems.append(f"cameras: {error}")
        return None, None


def _focal_error(scene: Scene, capture: Capture) -> float | None:
    if capture.intrinsics is None:
        return None
    lens = capture.intrinsics
    if (lens.width, lens.height) != scene.pixel_map.source_wh:
        raise InputError(
            f"{capture.name}: true intrinsics for {lens.width}x{lens.height}, the frames are "
            f"{'x'.join(map(str, scene.pixel_map.source_wh))}"
        )
    return float(np.mean(scene.focals) / scene.pixel_map.scale_xy[0] / lens.fl_x - 1)


def _masks(scene: Scene, capture: Capture, keys: list[str], requested: Sequence[str]) -> MaskErrors | None:
    known = [key for key in requested if key in capture.masks]
    if not known:
        return None
    position = {key: k for k, key in enumerate(keys)}
    network, source, coverage = [], [], []
    for key in known:
        truth = read_mask(capture.masks[key])
        if truth.shape[::-1] != scene.pixel_map.source_wh:
            size, wanted = ("x".join(map(str, wh)) for wh in (truth.shape[::-1], scene.pixel_map.source_wh))
            raise InputError(f"{capture.masks[key]} is {size}, the frames are {wanted}")
        ours = scene.dynamic.masks[position[key]] if key in position else None
        at_source = None if ours is None else prediction_at_source(ours, scene.pixel_map)
        network.append(float(jaccard([ours], [truth_on_network(truth, scene.pixel_map)])[0]))
        source.append(float(jaccard([at_source], [truth])[0]))
        coverage.append(float(truth.mean()))
    marked = [float(scene.dynamic.masks[position[key]].mean()) for key in known if key in position]
    return MaskErrors(tuple(network), tuple(source), float(np.mean(coverage)), float(np.mean(marked or [0.0])))


def _depth(scene: Scene, capture: Capture, keys: list[str]) -> DepthErrors | None:
    known = [position for position, key in enumerate(keys) if key in capture.depth]
    if not known or not scene.has_depth:
        return None
    truth = np.stack([true_depth_on_network(read_depth(capture.depth[keys[k]]), scene) for k in known])
    return compare_depths(scene.depth[known], truth)


def _points(scene: Scene, capture: Capture, keys: list[str]) -> PointErrors | None:
    lens, cameras = capture.intrinsics, capture.T_world_cam
    known = [position for position, key in enumerate(keys) if key in capture.depth and key in cameras]
    if lens is None or len(known) < 3 or not scene.has_depth:
        return None
    ours = PointMaps(
        depth=scene.depth[known],
        T_world_cam=scene.T_world_cam[known],
        focals_xy=scene.focals_xy[known],
        principal_point=scene.principal_point,
        distortion=scene.distortion,
    )
    centre = (lens.width / 2 if lens.cx is None else lens.cx, lens.height / 2 if lens.cy is None else lens.cy)
    truth = PointMaps(
        depth=np.stack([true_depth_on_network(read_depth(capture.depth[keys[k]]), scene) for k in known]),
        T_world_cam=np.stack([cameras[keys[k]] for k in known]),
        focals_xy=np.tile(np.array([lens.fl_x, lens.fl_y]) * np.array(scene.pixel_map.scale_xy), (len(known), 1)),
        principal_point=source_to_network(np.array(centre), scene.pixel_map),
    )
    return compare_points(ours, truth)
