"""A clip with a crate that slides over the floor and a box that flies, with known cameras, depth and masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from easi3r_ns.core.scene import Scene
from easi3r_ns.training.scenes import Clip, ClipOptions, film
from easi3r_ns.training.scenes.scene import BOX
from tests.support import large_mover
from tests.support.clip_scene import perfect_scene, true_points

STANDING, FLYING = 1, 2
"""Object ids."""
MARGIN = 7
"""Side in pixels of the square by which masks are grown where stereo knows no depth."""


def standing_clip(num_frames: int = 10, size: tuple[int, int] = (168, 224)) -> Clip:
    """The room of :mod:`.large_mover`; its crate stands on the floor, and a static box flies instead."""
    times = np.arange(num_frames) / large_mover.FPS
    room = large_mover.studio(times[-1])
    poses, half, kinds = room.T_world_obj.copy(), room.half_size.copy(), room.kinds.copy()
    half[0], half[1], kinds[:2] = (0.25, 0.25, 0.3), (0.15, 0.15, 0.15), BOX
    poses[0, :3, 3], poses[1, :3, 3] = (-0.3, 0.1, 0.3), (0.55, 0.2, 1.45)
    moves = np.arange(len(kinds)) < 2
    velocity = np.where(moves[:, None], [0.35, 0.0, 0.0], 0.0)
    velocity[1] = [-0.2, 0.1, 0.05]
    motion = replace(room.motion, velocity=velocity, sway=np.zeros_like(velocity), spin=np.where(moves, 0.2, 0.0))
    room = replace(
        room, T_world_obj=poses, half_size=half, kinds=kinds, motion=motion, casts_shadow=np.zeros(len(kinds), bool)
    )
    focal = large_mover.FOCAL * size[0] / large_mover.SIZE[0]
    return film(room, (STANDING, FLYING), large_mover.walk(times), focal, size, times, ClipOptions(noise=1.0))


def measured_scene(clip: Clip, folder: Path) -> Scene:
    """The clip as stereo leaves it: true depth of what stands still, unknown on what moves and close to it."""
    scene = replace(perfect_scene(clip, folder), sparse=true_points(clip))
    near = np.stack([cv2.dilate(m.astype(np.uint8), np.ones((MARGIN, MARGIN), np.uint8)) > 0 for m in clip.moving])
    return replace(scene, depth=scene.depth * ~near, confidence=scene.confidence * ~near)
