"""A 360 degree clip of a textured room in which something moves, with its cameras and what moves.

The frames are put together from six pictures of the ray caster in the most obvious way; nothing here uses the code that
cuts such frames into views.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from scipy.ndimage import map_coordinates

from easi3r_ns.training.scenes.raycast import RenderCameras, render
from easi3r_ns.training.scenes.scene import SyntheticScene

FACES = {
    "front": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "right": ((0, 0, -1), (0, 1, 0), (1, 0, 0)),
    "back": ((-1, 0, 0), (0, 1, 0), (0, 0, -1)),
    "left": ((0, 0, 1), (0, 1, 0), (-1, 0, 0)),
    "up": ((1, 0, 0), (0, 0, 1), (0, -1, 0)),
    "down": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
}
"""Right, down and ahead of each picture in the axes of the camera (x right, y down, z ahead)."""


@dataclass(frozen=True)
class SphereClip:
    """F equirectangular frames of H x 2H pixels."""

    frames: np.ndarray
    """(F, H, 2H, 3) uint8 RGB."""
    moving: np.ndarray
    """(F, H, 2H) bool."""
    T_world_rig: np.ndarray
    """(F, 4, 4) camera-to-world of the middle of the frames, OpenCV axes."""
    times: np.ndarray


def directions(height: int) -> np.ndarray:
    """(H, 2H, 3) where the pixels of an equirectangular frame look."""
    elevation = (np.pi / 2 - (np.arange(height) + 0.5) * np.pi / height)[:, None]
    azimuth = ((np.arange(2 * height) + 0.5) * np.pi / height - np.pi)[None]
    right, ahead = np.cos(elevation) * np.sin(azimuth), np.cos(elevation) * np.cos(azimuth)
    return np.stack([right, -np.sin(elevation) + 0 * azimuth, ahead], axis=-1)


def compose(pictures: dict[str, np.ndarray], looks: np.ndarray, order: int) -> np.ndarray:
    """(H, 2H, C) frame from six square pictures (S, S, C) of 90 degrees; ``order`` of the interpolation."""
    side, channels = next(iter(pictures.values())).shape[1:]
    facing = np.argmax(np.stack([looks @ np.array(axes[2]) for axes in FACES.values()]), axis=0)
    out = np.zeros((*looks.shape[:2], channels))
    for number, (name, axes) in enumerate(FACES.items()):
        at = facing == number
        right, down, ahead = (looks[at] @ np.array(axis) for axis in axes)
        x, y = ((part / ahead + 1) * side / 2 - 0.5 for part in (right, down))
        for channel in range(channels):
            out[at, channel] = map_coordinates(
                pictures[name][..., channel].astype(float), [y, x], order=order, mode="nearest"
            )
    return out


def film_sphere(
    scene: SyntheticScene, T_world_rig: np.ndarray, times: np.ndarray, height: int, supersample: int = 1
) -> SphereClip:
    """The frames of a 360 degree camera along (F, 4, 4) poses at (F,) times."""
    side, looks = height // 2 + height // 4, directions(height)
    turns = np.tile(np.eye(4), (len(FACES), 1, 1))
    turns[:, :3, :3] = np.array(list(FACES.values()), dtype=float).transpose(0, 2, 1)
    frames, moving = [], []
    for pose, time in zip(T_world_rig, times):
        cameras = RenderCameras(
            (pose @ turns)[None], np.full((1, 6), side / 2), np.full((1, 6), float(time)), side, side
        )
        shot = render([scene], cameras, supersample)
        colours = dict(zip(FACES, shot.colour[0].numpy()))
        moves = np.isin(shot.object_id[0].numpy(), scene.mover_ids)[..., None]
        frames.append((255 * compose(colours, looks, 1)).round().clip(0, 255).astype(np.uint8))
        moving.append(compose(dict(zip(FACES, moves)), looks, 0)[..., 0] > 0.5)
    return SphereClip(np.stack(frames), np.stack(moving), T_world_rig, np.asarray(times, dtype=float))


def write_clip(path: Path, frames: np.ndarray, fps: int = 10) -> Path:
    """The frames as a video, nearly without loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "8"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path
