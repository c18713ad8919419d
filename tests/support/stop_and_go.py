"""A rendered clip of a mover that stands still for the first and the last third, and goes in between."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from easi3r_ns.training.scenes import Clip
from easi3r_ns.training.scenes.cameras import focal_from_fov, handheld_path
from easi3r_ns.training.scenes.clips import film
from easi3r_ns.training.scenes.scene import SceneOptions, make_scene


def stop_and_go(seed: int, num_frames: int = 36, size: tuple[int, int] = (288, 384)) -> Clip:
    """``moving`` of the clip is True wherever the mover is seen, whether it goes or stands."""
    times = np.arange(num_frames) / 12
    third = times[-1] / 3
    scene = make_scene(seed, SceneOptions("held_out", 1, third, True))
    poses = handheld_path(scene, times, np.random.RandomState(seed))
    clip = film(scene, scene.mover_ids, poses, focal_from_fov(60, *size), size, np.clip(times - third, 0, third))
    return replace(clip, times=times)
