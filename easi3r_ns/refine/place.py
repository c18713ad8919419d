"""Frames that a model lacks, placed one by one against its points."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .bundle import MIN_OBSERVATIONS
from .held import HeldOut
from .library import colmap_camera, load_pycolmap
from .model import Correspondences, SparseModel

MAX_ERROR = 8.0
"""Reprojection error in source pixels up to which a point supports a camera: between the 12 at which COLMAP's mapper
accepts a camera and the 4 to which it then adjusts it."""


def place_missing(model: SparseModel, found: Correspondences, held: HeldOut, seed: int) -> SparseModel:
    """The model with cameras for those of its missing frames that see enough of its points.

    A frame's pose follows from the matches ``found`` between its keypoints and those that observe points (perspective
    n points, robustly). It is kept when at least :data:`~easi3r_ns.refine.bundle.MIN_OBSERVATIONS` points support it
    and the ``held`` matches confirm it. A frame that is placed helps to place others; what was there does not change.

    Args:
        found: matches of the clip.
        held: such that took no part in the model.
        seed: of the robust estimation.
    """
    failed: set[int] = set()
    points: dict[int, np.ndarray] = {}
    while True:
        waiting = [f for f in np.flatnonzero(~model.registered).tolist() if f not in failed]
        if not waiting:
            return model
        supports = {frame: _support(model, found, frame, points) for frame in waiting}
        frame = max(waiting, key=lambda f: len(supports[f][0]))
        grown = _placed(model, frame, *supports[frame], seed=seed)
        if grown is None or not held.confirmed(grown)[frame]:
            failed.add(frame)
        else:
            model, failed = grown, set()


def _support(
    model: SparseModel, found: Correspondences, frame: int, points: dict[int, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) keypoints of a frame without a camera, and (N,) the points that they match; a keypoint may match two.

    ``points``: keeps :func:`_points_of` of frames with a camera.
    """
    rows = [np.empty((0, 2), dtype=np.int64)]
    for pair, matches in zip(found.pairs.tolist(), found.matches):
        if frame not in pair:
            continue
        side = pair.index(frame)
        other = pair[1 - side]
        if model.registered[other]:
            if other not in points:
                points[other] = _points_of(model, found.keypoints[other], other)
            point = points[other][matches[:, 1 - side]]
            rows.append(np.stack([matches[:, side], point], axis=1)[point >= 0])
    unique = np.unique(np.concatenate(rows), axis=0)
    return found.keypoints[frame][unique[:, 0]], unique[:, 1]


def _points_of(model: SparseModel, keypoints: np.ndarray, frame: int) -> np.ndarray:
    """(K,) the point that each keypoint of a frame observes; -1 for none."""
    rows = np.flatnonzero(model.sparse.frame_index == frame)
    # COLMAP keeps keypoints in single precision.
    of = {xy.tobytes(): point for xy, point in zip(_single(model.sparse.pixels[rows]), model.sparse.point_index[rows])}
    return np.array([of.get(xy.tobytes(), -1) for xy in _single(keypoints)], dtype=np.int64)


def _single(xy: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(xy, dtype=np.float32)


def _placed(model: SparseModel, frame: int, xy: np.ndarray, point: np.ndarray, *, seed: int) -> SparseModel | None:
    """The model with a camera for the frame; None when too few points support one."""
    if len(xy) < MIN_OBSERVATIONS:
        return None
    pycolmap = load_pycolmap()
    options = pycolmap.AbsolutePoseEstimationOptions()
    options.ransac.max_error, options.ransac.random_seed = MAX_ERROR, seed % 2**31
    camera = colmap_camera(model.optics.at(frame), "OPENCV")
    answer = pycolmap.estimate_and_refine_absolute_pose(xy, model.sparse.points[point], camera, options)
    if answer is None:
        return None
    good = np.asarray(answer["inlier_mask"], dtype=bool)
    # A keypoint that matches two points cannot observe both.
    first = np.unique(xy[good], axis=0, return_index=True)[1]
    seen = np.flatnonzero(good)[np.sort(first)]
    seen = seen[np.sort(np.unique(point[seen], return_index=True)[1])]
    if len(seen) < MIN_OBSERVATIONS:
        return None
    T, registered = model.T_world_cam.copy(), model.registered.copy()
    T[frame, :3], registered[frame] = answer["cam_from_world"].inverse().matrix(), True
    sparse = model.sparse
    order = np.argsort(np.concatenate([sparse.point_index, point[seen]]), kind="stable")
    observed = replace(
        sparse,
        point_index=np.concatenate([sparse.point_index, point[seen]])[order],
        frame_index=np.concatenate([sparse.frame_index, np.full(len(seen), frame)])[order],
        pixels=np.concatenate([sparse.pixels, xy[seen]])[order],
    )
    return replace(model, T_world_cam=T, registered=registered, sparse=observed)
