"""A clip in which something large moves: a painted crate fills 30 to 50 % of the picture and goes its own way.

The crate carries most of the picture's texture and moves as one rigid body, so that nothing but its mask tells it from
the world. The camera walks an arc with the shake of a hand; both motions are far from a straight line.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from easi3r_ns.storage.files import write_png
from easi3r_ns.training.scenes import Clip, ClipOptions, Motion, SyntheticScene, film, look_at
from easi3r_ns.training.scenes.scene import BOX, CYLINDER, SPHERE

SIZE = (240, 320)
FOCAL = 240.0
NUM_FRAMES, FPS = 20, 8.0

CRATE = (BOX, (0.62, 0.62, 0.56), (0.0, -0.3, 0.9), 19, 0.8)
STATICS = [
    (BOX, (0.3, 0.3, 0.6), (-1.35, 0.2, 0.6), 64, 1.3),
    (BOX, (0.3, 0.25, 0.9), (1.4, 0.5, 0.9), 57, 1.9),
    (CYLINDER, (0.2, 0.2, 0.75), (-0.9, 1.5, 0.75), 6, 1.6),
    (SPHERE, (0.4, 0.4, 0.4), (0.75, 1.6, 0.4), 63, 1.0),
    (BOX, (0.25, 0.25, 0.25), (-1.0, -1.0, 0.25), 51, 1.1),
    (BOX, (0.22, 0.22, 0.3), (1.05, -0.8, 0.3), 32, 1.2),
    (BOX, (0.35, 0.02, 0.5), (-0.7, 2.97, 1.9), 31, 1.1),
    (BOX, (0.45, 0.02, 0.4), (0.8, 2.97, 2.0), 49, 1.0),
    (CYLINDER, (0.12, 0.12, 1.4), (0.15, 2.0, 1.4), 40, 2.9),
]


def studio(duration: float) -> SyntheticScene:
    """The room; the crate is at its listed place in the middle of the clip."""
    things = [CRATE, *STATICS]
    count = len(things)
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, 3] = [centre for _, _, centre, _, _ in things]
    moves = np.arange(count) == 0
    motion = Motion(
        velocity=np.where(moves[:, None], [0.10, 0.0, 0.0], 0.0),
        sway=np.where(moves[:, None], [0.0, 0.18, 0.10], 0.0),
        sway_rate=np.full(count, 2 * np.pi / duration),
        spin=np.where(moves, np.radians(70) / duration, 0.0),
        rest_time=duration / 2,
    )
    return SyntheticScene(
        seed=7,
        family="held_out",
        room_half=np.array([3.2, 3.0, 1.5]),
        kinds=np.array([kind for kind, *_ in things]),
        half_size=np.array([half for _, half, _, _, _ in things]),
        T_world_obj=poses,
        motion=motion,
        textures=np.array(
            [[0, 6, 31, 49, 29, 52], [50, 20, 19, 28, 17, 13]] + [[index] * 6 for *_, index, _ in STATICS]
        ),
        tile=np.array([5.0] + [tile for *_, tile in things]),
        offset=np.zeros((count + 1, 2)),
        gain=np.full((count + 1, 3), 1.1),
        light=np.array([-0.6, -1.0, 2.7]),
        ambient=0.6,
        casts_shadow=~moves,
    )


def walk(times: np.ndarray) -> np.ndarray:
    """(F, 4, 4) an arc around the room's middle, rising and falling, with a little shake."""
    phase = (times - times[0]) / (times[-1] - times[0])
    rs = np.random.RandomState(3)
    poses = []
    for s in phase:
        angle = np.radians(-90 + 28 * (s - 0.5))
        position = np.array([2.35 * np.cos(angle), 2.35 * np.sin(angle), 1.25 + 0.22 * np.sin(2 * np.pi * s)])
        position += rs.normal(0, 0.004, 3)
        poses.append(look_at(position, np.array([0.15 * np.cos(5 * s), 0.3, 0.95]) + rs.normal(0, 0.004, 3)))
    return np.stack(poses)


def shoot(num_frames: int = NUM_FRAMES, size: tuple[int, int] = SIZE) -> Clip:
    """The clip; its field of view does not depend on ``size`` (H, W)."""
    times = np.arange(num_frames) / FPS
    scene = studio(times[-1])
    focal = FOCAL * size[0] / SIZE[0]
    return film(scene, scene.mover_ids, walk(times), focal, size, times, ClipOptions(fps=FPS, noise=1.0))


def write(clip: Clip, folder: Path) -> Path:
    """Frames as ``folder/images``, true masks (white moves) as ``folder/masks``; returns the folder of the frames."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for k in range(len(clip)):
        write_png(folder / "images" / f"{k:05d}.png", clip.images[k])
        write_png(folder / "masks" / f"{k:05d}.png", clip.moving[k].astype(np.uint8) * 255)
    return folder / "images"
