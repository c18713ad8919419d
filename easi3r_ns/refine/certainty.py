"""How far the cameras of a bundle adjustment may be off: the covariance at its minimum.

The normal equations without the points (Schur complement) give it for independent errors, scaled by the variance of
the residuals that are left (Triggs et al., Bundle Adjustment - A Modern Synthesis, 2000, section 9). Errors of
keypoints are not independent, so the spread of what whole frames and whole parts of the scene add to the gradient
stands beside it (White 1980, with clusters); with few frames it is too small by up to a half. What all keypoints have
in common, such as a rolling shutter or a lens of another kind, is in none of them. How often the truth lies within:
examples/results/focal.md.
"""

from __future__ import annotations

import numpy as np
import torch

from ..align.uncertainty import similarity_free
from ..core.scene import CameraUncertainty
from .individual import FREE_DISTORTION, TrackedCameras, cameras_of, certainty
from .model import SparseModel

CELLS = 64
"""Parts of the scene whose points may have errors in common."""
LARGEST = 400
"""Frames beyond which nothing is estimated: the covariance has 49 times their number squared entries."""


def model_uncertainty(model: SparseModel, camera_model: str, *, fixed_focal: bool) -> CameraUncertainty | None:
    """1 sigma of the cameras of a model, in its unit; ``focal`` in SOURCE pixels.

    Errors are not taken for independent: those of a frame's keypoints may have anything in common, and so may those of
    neighbouring points in all frames (of :data:`CELLS` cells of points); of the three estimates the largest counts.
    Frames that are not registered have infinite deviations. ``residual`` is the median distance of a frame's keypoints
    from their points, in percent of the depth. None for a model of more than :data:`LARGEST` frames.

    Args:
        camera_model: the lens that was adjusted.
        fixed_focal: the focal length was given.
    """
    known = np.flatnonzero(model.registered)
    if not 2 <= len(known) <= LARGEST:
        return None
    cameras, tracks = cameras_of(model)
    found = certainty(
        *(cameras, tracks, FREE_DISTORTION[camera_model]),
        shared=model.focals is None,
        given_focal=fixed_focal,
        groups=(tracks.frame, _cells(cameras.points)[tracks.point]),
    )
    depth = float(np.median(model.observed_depth()))
    centre, rotation = np.max([_free_of_gauge(root, cameras, depth) for root in found.roots], axis=0)
    log_focal = np.max([np.linalg.norm(root[6 : 7 * len(known) : 7], axis=1) for root in found.roots], axis=0)
    off, residual = _relative_errors(model), np.full(len(model.registered), np.nan)
    for frame in known:
        residual[frame] = 100 * np.median(off[model.sparse.frame_index == frame])

    def everywhere(values: np.ndarray) -> np.ndarray:
        out = np.full(len(model.registered), np.inf)
        out[known] = values
        return out

    focal = model.frame_focals * np.interp(np.arange(len(model.registered)), known, log_focal)
    return CameraUncertainty(everywhere(np.degrees(rotation)), everywhere(centre), focal, residual)


def _free_of_gauge(root: np.ndarray, cameras: TrackedCameras, depth: float) -> tuple[np.ndarray, np.ndarray]:
    """(K,) sigma of centres and of rotations in radians, without what a similarity of the whole path explains."""
    count = len(cameras.R)
    inverse = cameras.R.transpose(0, 2, 1)
    turn, shift = (root[: 7 * count].reshape(count, 7, -1)[:, part] for part in (slice(3), slice(3, 6)))
    # C = -R^T t, and the turn of a camera-to-world rotation.
    crossed = np.cross(np.broadcast_to(cameras.t[:, :, None], turn.shape), turn, axis=1)
    moved = np.concatenate([-inverse @ (crossed + shift), -inverse @ turn], axis=1)
    places = -np.einsum("kab,kb->ka", inverse, cameras.t)
    P = similarity_free(torch.from_numpy(places), depth, torch.ones(count, dtype=torch.bool)).numpy()
    free = (P @ moved.reshape(6 * count, -1)).reshape(count, 2, 3, -1)
    sigma = np.sqrt((free**2).sum(axis=(2, 3)))
    return sigma[:, 0], sigma[:, 1]


def _cells(points: np.ndarray) -> np.ndarray:
    """(N,) the number of the cell of each point, of at most :data:`CELLS` with equally many: halved where longest."""
    cells = [np.arange(len(points))]
    while len(cells) < CELLS and len(points) >= 4 * len(cells):
        halves = []
        for rows in cells:
            axis = int(np.ptp(points[rows], axis=0).argmax())
            halves += np.array_split(rows[np.argsort(points[rows, axis], kind="stable")], 2)
        cells = halves
    number = np.empty(len(points), dtype=np.int64)
    for k, rows in enumerate(cells):
        number[rows] = k
    return number


def _relative_errors(model: SparseModel) -> np.ndarray:
    """(M,) distance of every observation from its point, in focal lengths."""
    shown, _ = model.reprojected()
    return np.linalg.norm(shown - model.sparse.pixels, axis=1) / model.frame_focals[model.sparse.frame_index]
