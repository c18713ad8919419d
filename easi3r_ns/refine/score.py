"""How well cameras explain matches that none of the candidates has seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ..core.geometry import undistort
from .model import Correspondences, Lens, Lenses, frame_focals

HELD_OUT = 0.15
"""Share of the tracks that no candidate sees."""
MIN_HELD_OUT = 30
"""Held-out matches below which candidates cannot be compared."""
MAX_ERROR = 4.0
"""Source pixels within which a held-out track must come back to count as seen by a frame."""

_ITERATIONS = 6
_RELATIVE_WEIGHT_FLOOR = 1e-3


@dataclass(frozen=True)
class Score:
    """Quality of cameras on held-out tracks; see :func:`score_cameras`."""

    epipolar_px: float
    """Median symmetric epipolar error in source pixels over the held-out matches."""
    registered: float
    """Share of the frames whose camera comes from the candidate itself."""
    track_length: float
    """Mean number of frames in which a held-out track, triangulated from these cameras, comes back."""
    num_matches: int
    """Held-out matches."""

    @property
    def cost(self) -> float:
        """Criterion for candidates, smaller is better: the error, larger where frames are missing or tracks short."""
        return self.epipolar_px / max(self.registered * self.track_length, 1e-9)

    def __str__(self) -> str:
        return (
            f"epipolar error {self.epipolar_px:.2f} px, {100 * self.registered:.0f} % of the frames, tracks over "
            f"{self.track_length:.1f} frames"
        )


def track_labels(found: Correspondences) -> tuple[np.ndarray, np.ndarray]:
    """Tracks: keypoints that matches connect.

    Returns (K,) int64 label of every keypoint (all frames in a row) and (F + 1,) offsets of the frames in that row.
    """
    offsets = np.cumsum([0, *(len(rows) for rows in found.keypoints)])
    if found.num_matches == 0:
        return np.arange(offsets[-1]), offsets
    links = np.concatenate([rows + offsets[pair] for pair, rows in zip(found.pairs, found.matches)])
    graph = coo_matrix((np.ones(len(links), dtype=bool), links.T), shape=(offsets[-1], offsets[-1]))
    return connected_components(graph, directed=False)[1].astype(np.int64), offsets


def hold_out(found: Correspondences, share: float, seed: int) -> tuple[Correspondences, Correspondences]:
    """Split the matches into (seen, held out) by whole tracks, so that no keypoint is on both sides.

    Tracks with two keypoints in one frame contain a wrong match, which may have joined many tracks: they are never held
    out.
    """
    labels, offsets = track_labels(found)
    frame = np.repeat(np.arange(found.num_frames), np.diff(offsets))
    count = int(labels.max(initial=-1)) + 1
    visits = np.bincount(np.unique(np.stack([labels, frame], axis=1), axis=0)[:, 0], minlength=count)
    consistent = visits == np.bincount(labels, minlength=count)
    held = consistent & (np.random.default_rng(seed).random(count) < share)
    rows = [held[labels[m[:, 0] + offsets[i]]] for (i, _), m in zip(found.pairs.tolist(), found.matches)]
    return _select(found, [~row for row in rows]), _select(found, rows)


def without_keypoints(found: Correspondences, unwanted: Correspondences) -> Correspondences:
    """The matches that touch no keypoint which ``unwanted``, matches of the same images, holds at the same place."""
    taken: list[set[bytes]] = [set() for _ in found.keypoints]
    for pair, rows in zip(unwanted.pairs.tolist(), unwanted.matches):
        for frame, column in zip(pair, rows.T):
            taken[frame].update(unwanted.keypoints[frame][k].tobytes() for k in np.unique(column))
    free = [
        np.array([xy.tobytes() not in known for xy in keypoints], dtype=bool)
        for keypoints, known in zip(found.keypoints, taken)
    ]
    rows = [free[i][m[:, 0]] & free[j][m[:, 1]] for (i, j), m in zip(found.pairs.tolist(), found.matches)]
    return _select(found, rows)


def _select(found: Correspondences, rows: list[np.ndarray]) -> Correspondences:
    kept = [k for k, row in enumerate(rows) if row.any()]
    return Correspondences(found.keypoints, found.pairs[kept], tuple(found.matches[k][rows[k]] for k in kept))


def score_cameras(
    T_world_cam: np.ndarray,
    lens: Lens | Lenses,
    held: Correspondences,
    registered: np.ndarray,
    focals: np.ndarray | None = None,
) -> Score:
    """Score (F, 4, 4) camera-to-world poses (OpenCV axes) of ALL frames on held-out matches.

    The epipolar error asks for rotations and directions, the tracks for distances too: they are triangulated from all
    their frames and must come back within :data:`MAX_ERROR`.

    Args:
        registered: (F,) bool, frames that the candidate itself has placed.
        focals: (F,) source pixels, where frames have focal lengths of their own.
    """
    errors = [np.zeros(0)]
    focals = frame_focals(lens, held.num_frames) if focals is None else focals
    rays = _rays(held, lens, focals)
    for (i, j), rows in zip(held.pairs.tolist(), held.matches):
        T = np.linalg.inv(T_world_cam[j]) @ T_world_cam[i]
        errors.append(epipolar_error(rays[i][rows[:, 0]], rays[j][rows[:, 1]], T) * (focals[i] + focals[j]) / 2)
    pooled = np.concatenate(errors)
    return Score(
        epipolar_px=float(np.median(pooled)) if len(pooled) else float("inf"),
        registered=float(np.mean(registered)),
        track_length=_mean_track_length(T_world_cam, lens, focals, held, rays),
        num_matches=len(pooled),
    )


def _rays(found: Correspondences, lens: Lens | Lenses, focals: np.ndarray) -> list[np.ndarray]:
    """Per frame (K_f, 2) ideal normalised image coordinates of its keypoints."""
    xy = zip((lens.at(frame) for frame in range(found.num_frames)), found.keypoints, focals.tolist())
    return [undistort((pixels - own.principal_point) / focal, own.distortion) for own, pixels, focal in xy]


def agreement(
    T_world_cam: np.ndarray,
    lens: Lens | Lenses,
    found: Correspondences,
    registered: np.ndarray,
    max_error: float,
    focals: np.ndarray | None = None,
) -> np.ndarray:
    """(F,) share of a frame's matches with other registered frames that lie near their epipolar lines; 0 without any.

    Bundle adjustment sees only the matches whose rays meet at an angle; a correct camera explains the others too.

    Args:
        registered: (F,) bool, frames that have a camera.
        max_error: mean distance to the two lines in source pixels that counts as near.
        focals: (F,) source pixels, where frames have focal lengths of their own.
    """
    focals = frame_focals(lens, found.num_frames) if focals is None else focals
    rays = _rays(found, lens, focals)
    near, total = np.zeros(found.num_frames), np.zeros(found.num_frames)
    for (i, j), rows in zip(found.pairs.tolist(), found.matches):
        if registered[i] and registered[j]:
            T = np.linalg.inv(T_world_cam[j]) @ T_world_cam[i]
            errors = epipolar_error(rays[i][rows[:, 0]], rays[j][rows[:, 1]], T) * (focals[i] + focals[j]) / 2
            near[[i, j]] += (errors < max_error).sum()
            total[[i, j]] += len(rows)
    return near / np.maximum(total, 1)


def epipolar_error(rays_i: np.ndarray, rays_j: np.ndarray, T_j_i: np.ndarray) -> np.ndarray:
    """(N,) mean of the distances of each point to the epipolar line of the other, in normalised image coordinates.

    Cameras at one place have no epipolar lines: there the error is the distance between the two rays' image points.
    """
    R, t = T_j_i[:3, :3], T_j_i[:3, 3]
    x_i, x_j = (np.concatenate([rays, np.ones((len(rays), 1))], axis=1) for rays in (rays_i, rays_j))
    length = np.linalg.norm(t)
    if length < 1e-12:
        turned = x_i @ R.T
        return np.linalg.norm(turned[:, :2] / turned[:, 2:] - rays_j, axis=1)
    x, y, z = t / length
    E = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ R
    line_j, line_i = x_i @ E.T, x_j @ E
    residual = np.abs((x_j * line_j).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        sides = [residual / np.linalg.norm(line[:, :2], axis=1) for line in (line_i, line_j)]
    return np.nan_to_num(0.5 * (sides[0] + sides[1]), nan=0.0)


def _mean_track_length(
    T: np.ndarray, lens: Lens | Lenses, focals: np.ndarray, held: Correspondences, rays: list[np.ndarray]
) -> float:
    labels, offsets = track_labels(held)
    used = np.zeros(offsets[-1], dtype=bool)
    for pair, rows in zip(held.pairs, held.matches):
        used[(rows + offsets[pair]).ravel()] = True
    frame = np.repeat(np.arange(held.num_frames), np.diff(offsets))[used]
    if not len(frame):
        return 0.0
    track = np.unique(labels[used], return_inverse=True)[1]
    xy, ray = np.concatenate(held.keypoints)[used], np.concatenate(rays)[used]
    points = triangulate(T, frame, track, ray)
    local = np.einsum("mba,mb->ma", T[frame, :3, :3], points[track] - T[frame, :3, 3])
    front = local[:, 2] > 0
    ideal = local[:, :2] / np.where(front, local[:, 2], 1.0)[:, None]
    shown = lens.shown(ideal, frame, focals)
    good = front & (np.linalg.norm(shown - xy, axis=1) < MAX_ERROR)
    length = np.bincount(track, weights=good)
    return float(np.where(length >= 2, length, 0).mean())


def triangulate(T: np.ndarray, frame: np.ndarray, track: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """(N, 3) points nearest to the rays of their tracks, robustly (Cauchy weights, angular residuals).

    Args:
        T: (F, 4, 4) camera-to-world.
        frame, track: (M,) camera and track of every ray; tracks are numbered 0..N-1.
        rays: (M, 2) ideal normalised image coordinates.
    """
    direction = np.concatenate([rays, np.ones((len(rays), 1))], axis=1)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    direction = np.einsum("mab,mb->ma", T[frame, :3, :3], direction)
    across = np.eye(3) - direction[:, :, None] * direction[:, None, :]
    centre = T[frame, :3, 3]
    weight = np.ones(len(frame))
    count = int(track.max()) + 1
    for _ in range(_ITERATIONS):
        A, b = np.zeros((count, 3, 3)), np.zeros((count, 3))
        np.add.at(A, track, weight[:, None, None] * across)
        np.add.at(b, track, weight[:, None] * np.einsum("mab,mb->ma", across, centre))
        # A point at infinity has no nearest point: a little damping towards the cameras keeps it finite, far away.
        damping = 1e-9 * np.trace(A, axis1=1, axis2=2)[:, None, None] * np.eye(3)
        points = np.linalg.solve(A + damping, b[..., None])[..., 0]
        offset = points[track] - centre
        distance = np.maximum(np.linalg.norm(offset, axis=1), 1e-12)
        angle = np.linalg.norm(np.einsum("mab,mb->ma", across, offset), axis=1) / distance
        middle = np.maximum(np.median(angle), 1e-6)
        weight = 1 / ((1 + (angle / (3 * middle)) ** 2) * distance**2)
        heaviest = np.zeros(count)
        np.maximum.at(heaviest, track, weight)
        weight = np.maximum(weight / heaviest[track], _RELATIVE_WEIGHT_FLOOR)
    return points
