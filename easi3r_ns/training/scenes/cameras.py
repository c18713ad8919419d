"""Where the camera stands: sets of overlapping views for training, hand-held paths for clips."""

from __future__ import annotations

import numpy as np

from .scene import SyntheticScene, object_poses

HFOV_DEGREES = (40.0, 75.0)
"""Range of the field of view across the LONG side of an image."""
SPREADS = (0.04, 1.0)
"""Range of the spread of a set of training views."""
WIDE_SPREADS = (0.3, 1.0)
"""Spreads whose pairs are mostly far apart: the harder half of the training range."""


def focal_from_fov(fov_degrees: float, height: int, width: int) -> float:
    """Focal length in pixels for a field of view across the long side."""
    return 0.5 * max(height, width) / np.tan(np.radians(fov_degrees) / 2)


def look_at(position: np.ndarray, target: np.ndarray, roll: float = 0.0) -> np.ndarray:
    """(4, 4) camera-to-world (OpenCV axes) at ``position`` looking at ``target``; world z is up; roll in radians."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    T = np.eye(4)
    T[:3, :3] = np.stack([c * right + s * down, c * down - s * right, forward], axis=1)
    T[:3, 3] = position
    return T


def is_clear(scene: SyntheticScene, position: np.ndarray, times: np.ndarray, margin: float = 0.3) -> bool:
    """Whether a camera at (3,) stays inside the room and outside the bounding balls of all solids at (V,) times."""
    low, high = -scene.room_half + margin, scene.room_half - margin
    low, high = np.array([*low[:2], 0.35]), np.array([*high[:2], 2 * scene.room_half[2] - margin])
    if (position < low).any() or (position > high).any():
        return False
    centres = object_poses(scene, times)[:, 1:, :3, 3]
    radius = np.linalg.norm(scene.half_size, axis=1)
    return bool((np.linalg.norm(centres - position, axis=-1) > radius + margin).all())


def _around(target: np.ndarray, azimuth: float, distance: float, height: float) -> np.ndarray:
    return np.array([target[0] + distance * np.cos(azimuth), target[1] + distance * np.sin(azimuth), height])


def training_views(
    scene: SyntheticScene, num_views: int, rs: np.random.RandomState, spread_range: tuple[float, float] = SPREADS
) -> np.ndarray:
    """(V, 4, 4) cameras around a common target.

    ``spread`` sets how far apart they stand and aim: 1 is a wide baseline (up to a radian around the target), 0.04 what
    lies between neighbouring frames of a clip. It is drawn log-uniformly, one for the whole set.
    """
    reach = min(scene.room_half[:2].min(), 4.5)
    spread = np.exp(rs.uniform(*np.log(spread_range)))
    common = rs.uniform(-0.2, 0.2, 3) * (1 - spread)
    for _ in range(40):
        target = np.array([*rs.uniform(-0.5, 0.5, 2) * reach, rs.uniform(0.2, 1.2)])
        azimuth, distance = rs.uniform(0, 2 * np.pi), rs.uniform(0.5, 1.3) * reach
        height = rs.uniform(0.6, 2.0)
        if is_clear(scene, _around(target, azimuth, distance, height), np.zeros(1)):
            break
    else:
        target, azimuth, distance, height = np.array([0, 0, 0.5]), 0.0, 0.9 * reach, 2.2
    views = []
    while len(views) < num_views:
        for _ in range(20):
            position = _around(
                target,
                azimuth + spread * rs.uniform(-0.5, 0.5),
                distance * (1 + 0.35 * spread * rs.uniform(-1, 1)),
                height + 0.6 * spread * rs.uniform(-1, 1),
            )
            if is_clear(scene, position, np.zeros(1)):
                break
        else:
            position = _around(target, azimuth, distance, height)
        # A hand-held camera turns faster than it moves: the aim varies with the root of the spread.
        turn = 0.225 * np.sqrt(spread) * rs.uniform(0.2, 1.0)
        aim = target + distance * (common + turn * rs.uniform(-1, 1, 3))
        views.append(look_at(position, aim, 0.12 * np.sqrt(spread) * rs.uniform(-1, 1)))
    return np.stack(views)


def _wander(rs: np.random.RandomState, phase: np.ndarray, amplitude: float, cycles: tuple[float, float]) -> np.ndarray:
    """(F, 3) smooth pseudo-random motion: three sinusoids per axis."""
    rate = rs.uniform(*cycles, (3, 3)) * 2 * np.pi
    shift = rs.uniform(0, 2 * np.pi, (3, 3))
    weight = rs.uniform(0.3, 1.0, (3, 3))
    waves = weight * np.sin(rate * phase[:, None, None] + shift)
    return amplitude * waves.sum(-1) / np.sqrt(3)


def _centre_of_action(scene: SyntheticScene) -> np.ndarray:
    """(3,) where a person would point the camera: at what moves, else at the middle of the floor."""
    if not scene.motion.moves.any():
        return np.array([0.0, 0.0, 0.5])
    middle = scene.T_world_obj[scene.motion.moves, :3, 3].mean(0)
    return np.array([*0.8 * middle[:2], min(middle[2], 0.9)])


def handheld_path(scene: SyntheticScene, times: np.ndarray, rs: np.random.RandomState) -> np.ndarray:
    """(F, 4, 4) a person walks a short arc and looks at the middle of the scene, with the shake of a hand."""
    times = np.asarray(times, dtype=float)
    phase = (times - times[0]) / max(times[-1] - times[0], 1e-9)
    reach = min(scene.room_half[:2].min(), 4.5)
    for attempt in range(60):
        target = _centre_of_action(scene) + rs.uniform([-0.25, -0.25, -0.1], [0.25, 0.25, 0.2])
        azimuth, sweep = rs.uniform(0, 2 * np.pi), rs.uniform(0.25, 0.6) * rs.choice([-1, 1])
        near, far = rs.uniform(0.7, 1.1, 2) * (0.85 * reach)
        low, high = rs.uniform(1.0, 1.8, 2)
        sway = _wander(rs, phase, 0.05, (0.4, 1.6)) + _wander(rs, phase, 0.008, (3.0, 6.0))
        aim = target + _wander(rs, phase, 0.12, (0.3, 1.2)) + _wander(rs, phase, 0.012, (3.0, 6.0))
        roll = _wander(rs, phase, 0.02, (0.5, 3.0))[:, 0]
        positions = (
            np.stack(
                [
                    _around(target, azimuth + sweep * (s - 0.5), near + (far - near) * s, low + (high - low) * s)
                    for s in phase
                ]
            )
            + sway
        )
        # A small room may leave no path at this distance from everything: it shrinks with every attempt.
        margin = 0.35 * (1 - attempt / 60)
        if all(is_clear(scene, p, times, margin) for p in positions):
            break
    return np.stack([look_at(p, a, r) for p, a, r in zip(positions, aim, roll, strict=True)])
