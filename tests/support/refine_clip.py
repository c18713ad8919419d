"""Exact tracks with noise, and a scene whose cameras and depths are a little wrong: truth for the refinement."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from easi3r_ns.core.geometry import distort, focal_from_source, image_centre_in_network, transform
from easi3r_ns.core.scene import Scene
from easi3r_ns.core.types import PixelMap
from easi3r_ns.motion.attention.masks import static_masks
from easi3r_ns.refine.model import Correspondences, Lens
from tests.support.align_scene import camera_path

PIXEL_MAP = PixelMap((640, 480), (128, 96), (0, 0, 128, 96))


@dataclass(frozen=True)
class Tracks:
    """What a matcher would find, and what it saw."""

    found: Correspondences
    T_world_cam: np.ndarray
    lens: Lens
    points: np.ndarray


def make_tracks(
    num_frames: int = 8,
    num_points: int = 400,
    *,
    travel: float = 1.5,
    noise: float = 0.3,
    wrong: float = 0.02,
    distortion: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0),
    seed: int = 0,
) -> Tracks:
    """Random points 3 to 7 units away, seen along a hand-held path; a share of the matches is wrong."""
    rng = np.random.default_rng(seed)
    lens = Lens(640, 480, 560.0, (320.0, 240.0), distortion)
    T = camera_path(num_frames, travel, rng)
    points = np.stack([rng.uniform(-3, 3, num_points), rng.uniform(-2, 2, num_points), rng.uniform(3, 7, num_points)])
    return seen_along(T, points.T, lens, noise, wrong, rng)


def walk_then_pan(noise: float = 0.3, seed: int = 0) -> Tracks:
    """A few steps sideways, then the camera turns away and moves less than a degree past all that it sees there."""
    rng = np.random.default_rng(seed)
    turn = np.concatenate([np.zeros(7), np.arange(1, 16) * 6.0])
    T = np.tile(np.eye(4), (len(turn), 1, 1))
    T[:, :3, :3] = Rotation.from_euler("y", turn[:, None], degrees=True).as_matrix()
    T[:, 0, 3] = np.concatenate([np.arange(7) * 0.2, 1.2 + np.arange(1, 16) * 0.0125])
    T[:, 1, 3] = 0.02 * rng.standard_normal(len(T)) * (turn == 0)
    angle, depth = rng.uniform(-0.7, 2.3, 1500), rng.uniform(4.7, 5.3, 1500)
    points = np.stack([depth * np.sin(angle), rng.uniform(-2, 2, 1500), depth * np.cos(angle)], axis=1)
    return seen_along(T, points, Lens(640, 480, 560.0, (320.0, 240.0)), noise, 0.02, rng)


def seen_along(
    T: np.ndarray,
    points: np.ndarray,
    lens: Lens,
    noise: float,
    wrong: float,
    rng: np.random.Generator,
    focals: np.ndarray | None = None,
) -> Tracks:
    """What (F, 4, 4) cameras see of (N, 3) points, with this noise in pixels; a share of the matches is wrong.

    ``focals``: (F,) pixels, where the lens zooms.
    """
    keypoints, owners = [], []
    for pose, focal in zip(T, np.full(len(T), lens.focal) if focals is None else focals):
        local = transform(np.linalg.inv(pose), points)
        with np.errstate(divide="ignore", invalid="ignore"):
            xy = distort(local[:, :2] / local[:, 2:], lens.distortion) * focal + lens.principal_point
        seen = (local[:, 2] > 0.1) & (xy > 0).all(axis=1) & (xy < (640, 480)).all(axis=1)
        keypoints.append(xy[seen] + noise * rng.standard_normal((seen.sum(), 2)))
        owners.append(np.flatnonzero(seen))
    pairs, matches = [], []
    for i in range(len(T)):
        for j in range(i + 1, len(T)):
            _, a, b = np.intersect1d(owners[i], owners[j], return_indices=True)
            broken = rng.random(len(b)) < wrong
            b[broken] = rng.permutation(b[broken])
            if len(a) >= 15:
                pairs.append((i, j))
                matches.append(np.stack([a, b], axis=1))
    found = Correspondences(tuple(keypoints), np.array(pairs), tuple(matches))
    return Tracks(found, T, lens, points)


def disturbed(T_world_cam: np.ndarray, angle: float, shift: float, seed: int = 1) -> np.ndarray:
    """Cameras turned by about ``angle`` degrees and moved by about ``shift`` units, each on its own."""
    rng = np.random.default_rng(seed)
    T = T_world_cam.copy()
    turns = Rotation.from_rotvec(np.radians(angle) * rng.standard_normal((len(T), 3))).as_matrix()
    T[:, :3, :3] = T[:, :3, :3] @ turns
    T[:, :3, 3] += shift * rng.standard_normal((len(T), 3))
    return T


def make_scene(T_world_cam: np.ndarray, focal: float, depth: np.ndarray, paths: tuple[Path, ...] = ()) -> Scene:
    """A static scene with these cameras (focal length in source pixels) and (F, 96, 128) depths; black images."""
    n = len(T_world_cam)
    return Scene(
        images=np.zeros((n, 96, 128, 3), np.uint8),
        T_world_cam=T_world_cam,
        focals=np.full(n, focal_from_source(focal, PIXEL_MAP)),
        principal_point=image_centre_in_network(PIXEL_MAP),
        depth=depth.astype(np.float32),
        confidence=np.full((n, 96, 128), 3.0, np.float32),
        dynamic=static_masks(n, 96, 128, 16),
        pixel_map=PIXEL_MAP,
        times=np.arange(n) / 10,
        indices=np.arange(n),
        names=("clip",) * n,
        source_paths=paths or tuple(Path(f"{k}.png") for k in range(n)),
    )
