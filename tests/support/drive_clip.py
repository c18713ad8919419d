"""A drive along a street of boxes behind a car, or towards one that comes: both move along the epipolar lines."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from easi3r_ns.core.scene import Scene
from easi3r_ns.core.types import PixelMap
from easi3r_ns.motion.attention.masks import static_masks
from easi3r_ns.training.scenes import Clip, ClipOptions, Motion, SyntheticScene, film, look_at
from easi3r_ns.training.scenes.scene import BOX

SIZE, FOCAL = (192, 320), 260.0
NUM_FRAMES, FPS, SPEED = 16, 8.0, 1.5
CAR_HALF = (0.45, 0.5, 0.4)


def street(car_start: float, car_speed: float) -> SyntheticScene:
    """Boxes on both sides of the y axis; the car is at y = ``car_start`` at time 0."""
    rs = np.random.RandomState(5)
    boxes = [
        (side * rs.uniform(1.3, 2.3), y, rs.uniform(0.25, 0.6, 3)) for y in np.arange(-1, 16, 1.1) for side in (-1, 1)
    ]
    count = 1 + len(boxes)
    poses, half = np.tile(np.eye(4), (count, 1, 1)), np.zeros((count, 3))
    half[0], poses[0, :3, 3] = CAR_HALF, (0.05, car_start, CAR_HALF[2])
    for k, (x, y, size) in enumerate(boxes, start=1):
        half[k], poses[k, :3, 3] = size, (x, y, size[2])
    velocity = np.zeros((count, 3))
    velocity[0, 1] = car_speed
    still = np.zeros((count, 3))
    textures = rs.randint(64, size=(count + 1, 6))
    textures[0] = textures[0, 4]  # no stripes along the street: flow cannot tell how far it went along them
    return SyntheticScene(
        seed=3,
        family="held_out",
        room_half=np.array([3.0, 20.0, 2.0]),
        kinds=np.full(count, BOX),
        half_size=half,
        T_world_obj=poses,
        motion=Motion(velocity, still, np.zeros(count), np.zeros(count)),
        textures=textures,
        tile=np.r_[4.0, rs.uniform(0.8, 1.5, count)],
        offset=np.zeros((count + 1, 2)),
        gain=np.full((count + 1, 3), 1.1),
        light=np.array([-0.6, 0.0, 3.5]),
        ambient=0.75,
        casts_shadow=np.arange(count) > 0,
    )


@functools.cache
def drive(kind: str) -> Clip:
    """``kind``: 'ahead', a car that keeps its distance; 'oncoming'; 'parked', where nothing moves."""
    start, speed = {"ahead": (3.0, SPEED), "oncoming": (7.5, -0.8), "parked": (5.5, 0.0)}[kind]
    times = np.arange(NUM_FRAMES) / FPS
    rs = np.random.RandomState(2)
    poses = []
    for time in times:
        position = np.array([0.15 * np.sin(1.5 * time), SPEED * time, 1.0 + 0.05 * np.sin(3 * time)])
        position += rs.normal(0, 0.004, 3)
        poses.append(look_at(position, position + [rs.normal(0, 0.01), 3.0, -0.25 + rs.normal(0, 0.01)]))
    scene = street(start, speed)
    movers = scene.mover_ids
    return film(scene, movers, np.stack(poses), FOCAL, SIZE, times, ClipOptions(fps=FPS, noise=1.0))


def as_scene(clip: Clip, depth: np.ndarray) -> Scene:
    """True cameras, the depth that is given (0 where unknown), and nothing marked as moving."""
    count, (height, width) = len(clip), clip.images.shape[1:3]
    return Scene(
        images=clip.images,
        T_world_cam=clip.T_world_cam,
        focals=np.full(count, clip.focal),
        principal_point=clip.principal_point,
        depth=depth.astype(np.float32),
        confidence=np.where(depth > 0, 3.0, 0.0).astype(np.float32),
        dynamic=static_masks(count, height, width, 16),
        pixel_map=PixelMap((width, height), (width, height), (0, 0, width, height)),
        times=clip.times,
        indices=np.arange(count),
        names=("clip",) * count,
        source_paths=tuple(Path(f"{k}.png") for k in range(count)),
    )
