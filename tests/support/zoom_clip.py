"""Rendered clips during which the lens zooms, with the true focal length of every frame."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from easi3r_ns.training.scenes import Clip, RenderCameras, film, focal_from_fov, handheld_path, make_scene, render
from easi3r_ns.training.scenes.clips import ClipOptions, expose
from easi3r_ns.training.scenes.scene import SceneOptions, SyntheticScene

NUM_FRAMES, SIZE = 16, (270, 360)


def zoom_course(ratio: float, num_frames: int = NUM_FRAMES) -> np.ndarray:
    """(F,) factors of the focal length: 1, then a smooth rise over the middle half of the clip to ``ratio``."""
    phase = np.clip((np.linspace(0, 1, num_frames) - 0.25) / 0.5, 0, 1)
    return ratio ** (0.5 - 0.5 * np.cos(np.pi * phase))


def with_zoom(clip: Clip, scene: SyntheticScene, focals: np.ndarray) -> Clip:
    """The clip's images, depth and what moves in them with (F,) focal lengths; ``focal`` stays that of the clip."""
    images, moving, depth = clip.images.copy(), clip.moving.copy(), clip.depth.copy()
    for k, (pose, time) in enumerate(zip(clip.T_world_cam, clip.times, strict=True)):
        cameras = RenderCameras(pose[None, None], focals[None, k : k + 1], np.array([[time]]), *clip.depth.shape[1:])
        shot = render([scene], cameras)
        images[k] = expose(shot.colour[0, 0], ClipOptions(), [clip.seed, k])
        depth[k] = shot.depth[0, 0].cpu().numpy()
        moving[k] = np.isin(shot.object_id[0, 0].cpu().numpy(), clip.mover_ids)
    return replace(clip, images=images, moving=moving, depth=depth)


@functools.cache
def zoom_clip(ratio: float, seed: int = 3) -> tuple[Clip, np.ndarray]:
    """A static scene along a hand-held path, and (F,) focal lengths in pixels; ``Clip.focal`` is the first of them."""
    times = np.arange(NUM_FRAMES) / 8
    scene = make_scene(seed, SceneOptions("held_out", 0, times[-1], True))
    poses = handheld_path(scene, times, np.random.RandomState(seed))
    focals = focal_from_fov(62, *SIZE) * zoom_course(ratio)
    return with_zoom(film(scene, (), poses, focals[0], SIZE, times), scene, focals), focals
