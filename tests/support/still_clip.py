"""Rendered clips of cameras that stand still, turn by known angles, or creep along a line."""

from __future__ import annotations

import functools

import numpy as np
from scipy.spatial.transform import Rotation

from easi3r_ns.training.scenes import Clip
from easi3r_ns.training.scenes.cameras import focal_from_fov, handheld_path
from easi3r_ns.training.scenes.clips import film
from easi3r_ns.training.scenes.scene import SceneOptions, make_scene
from tests.support.zoom_clip import with_zoom, zoom_course

NUM_FRAMES, SIZE = 16, (288, 384)
LARGE_MOVER = 2
"""Seed of a scene in which something that moves fills 28 % of the picture; in that of seed 1 it is 4 %."""


@functools.cache
def still_clip(kind: str, seed: int = 1, amount: float = 0.0, zoom: float = 1.0) -> Clip:
    """A clip with one mover.

    ``kind``: 'fixed'; 'turn' by ``amount`` degrees about the vertical, and by some about the other axes; 'sideways' and
    'forward' travel of ``amount`` metres (the scene is 3 to 4 metres away).
    ``zoom``: ratio of the last focal length to the first, see :func:`~tests.support.zoom_clip.zoom_course`.
    """
    times = np.arange(NUM_FRAMES) / 12
    scene = make_scene(seed, SceneOptions("held_out", 1, times[-1], True))
    pose = handheld_path(scene, times, np.random.RandomState(seed))[NUM_FRAMES // 2]
    poses, phase = np.tile(pose, (NUM_FRAMES, 1, 1)), np.linspace(-0.5, 0.5, NUM_FRAMES)
    if kind == "turn":
        angles = amount * np.stack([phase, 0.15 * np.sin(6 * phase), 0.05 * np.cos(9 * phase)], axis=1)
        poses[:, :3, :3] = pose[:3, :3] @ Rotation.from_euler("YXZ", angles, degrees=True).as_matrix()
    elif kind != "fixed":
        axis = {"sideways": 0, "forward": 2}[kind]
        poses[:, :3, 3] += amount * phase[:, None] * pose[:3, axis]
    clip = film(scene, scene.mover_ids, poses, focal_from_fov(60, *SIZE), SIZE, times)
    return clip if zoom == 1.0 else with_zoom(clip, scene, clip.focal * zoom_course(zoom, NUM_FRAMES))
