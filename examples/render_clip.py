"""Renders the example clip: a living room, a ball, a box and a balloon that move, and a hand-held camera.

    python examples/render_clip.py [--output-dir examples/clip]

Writes ``clip.mp4`` and the truth beside it: ``truth.json`` (cameras, intrinsics, conventions), ``masks/`` (white where
something moves) and ``depth/`` (16-bit PNG, a quarter of the clip's size). Everything is drawn by the package's own
scene generator, so the files carry the package's licence.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import tyro
from PIL import Image

from easi3r_ns.training.scenes import Clip, ClipOptions, Motion, SyntheticScene, film, handheld_path
from easi3r_ns.training.scenes.scene import BOX, CYLINDER, SPHERE

WIDTH, HEIGHT, FOCAL = 640, 480, 560.0
NUM_FRAMES, FPS = 24, 8
DEPTH_DOWNSCALE = 4
DEPTH_UNIT = 0.001
FAMILY = "held_out"
PATH_SEED = 2


@dataclass(frozen=True)
class Thing:
    """One solid of the room: metres, degrees, texture numbers of the family ``held_out``."""

    kind: int
    half_size: tuple[float, float, float]
    centre: tuple[float, float, float]
    texture: int
    tile: float = 0.8
    yaw: float = 0.0
    velocity: tuple[float, float, float] = (0.0, 0.0, 0.0)
    sway: float = 0.0
    spin: float = 0.0
    """Degrees per second."""


MOVERS = [
    Thing(SPHERE, (0.27, 0.27, 0.27), (0.05, -0.62, 0.27), 63, 0.6, velocity=(0.62, -0.22, 0.0), spin=60),
    Thing(BOX, (0.26, 0.16, 0.17), (-0.75, 0.55, 0.17), 29, 0.5, yaw=25, velocity=(0.2, -0.55, 0.0), spin=20),
    Thing(SPHERE, (0.2, 0.2, 0.25), (0.75, 0.85, 1.35), 40, 0.7, velocity=(-0.42, 0.0, 0.05), sway=0.16),
]
LEGS = [Thing(CYLINDER, (0.04, 0.04, 0.34), (x, y, 0.34), 57) for x in (0.45, 1.65) for y in (0.85, 1.55)]
STATICS = [
    Thing(BOX, (0.7, 0.45, 0.03), (1.05, 1.2, 0.71), 57, 1.2),  # table
    Thing(SPHERE, (0.12, 0.12, 0.19), (1.3, 1.25, 0.93), 0, 0.35),  # vase
    Thing(BOX, (0.17, 0.12, 0.05), (0.75, 1.15, 0.79), 32, 0.3, yaw=20),  # books
    Thing(BOX, (0.2, 0.6, 0.85), (-2.75, 0.9, 0.85), 57, 1.2),  # cupboard
    Thing(BOX, (1.25, 0.85, 0.012), (-0.1, 0.0, 0.012), 53, 1.1, yaw=8),  # rug
    Thing(CYLINDER, (0.22, 0.22, 0.25), (-1.7, -0.9, 0.25), 6, 0.7),  # stool
    Thing(BOX, (0.3, 0.3, 0.3), (1.9, -0.5, 0.3), 64, 0.9, yaw=35),  # crate
    Thing(BOX, (0.24, 0.24, 0.24), (-1.55, 1.75, 0.24), 51, 0.6, yaw=-20),  # crate
    Thing(SPHERE, (0.22, 0.22, 0.22), (-0.45, 1.75, 0.22), 63, 0.6),  # looks like the ball that moves
    Thing(BOX, (0.55, 0.02, 0.4), (-0.6, 2.59, 1.5), 31, 1.0),  # picture
    Thing(BOX, (0.02, 0.5, 0.4), (-2.99, -0.9, 1.45), 49, 0.9),  # picture
    Thing(BOX, (0.02, 0.45, 0.35), (2.99, 0.4, 1.45), 26, 0.9),  # picture
    *LEGS,
]


def living_room(duration: float) -> SyntheticScene:
    """The scene; movers pass their listed positions in the middle of the clip."""
    things = MOVERS + STATICS
    count = len(things)
    poses = np.tile(np.eye(4), (count, 1, 1))
    for pose, thing in zip(poses, things, strict=True):
        c, s = np.cos(np.radians(thing.yaw)), np.sin(np.radians(thing.yaw))
        pose[:2, :2], pose[:3, 3] = [[c, -s], [s, c]], thing.centre
    motion = Motion(
        velocity=np.array([thing.velocity for thing in things]),
        sway=np.array([[0, 0, thing.sway] for thing in things]),
        sway_rate=np.full(count, 2 * np.pi / duration),
        spin=np.radians([thing.spin for thing in things]),
        rest_time=duration / 2,
    )
    walls = [44, 44, 62, 62, 30, 52]
    return SyntheticScene(
        seed=0,
        family=FAMILY,
        room_half=np.array([3.0, 2.6, 1.35]),
        kinds=np.array([t.kind for t in things]),
        half_size=np.array([t.half_size for t in things]),
        T_world_obj=poses,
        motion=motion,
        textures=np.array([walls] + [[t.texture] * 6 for t in things]),
        tile=np.array([1.7] + [t.tile for t in things]),
        offset=np.zeros((count + 1, 2)),
        gain=np.full((count + 1, 3), 1.1),
        light=np.array([-0.4, -0.6, 2.5]),
        ambient=0.55,
        casts_shadow=~motion.moves,
    )


def shoot(size: tuple[int, int]) -> Clip:
    """The clip at (height, width); the field of view does not depend on it."""
    times = np.arange(NUM_FRAMES) / FPS
    scene = living_room(times[-1])
    path = handheld_path(scene, times, np.random.RandomState(PATH_SEED))
    options = ClipOptions(fps=FPS, supersample=2 if size[0] == HEIGHT else 1, noise=1.0)
    return film(scene, scene.mover_ids, path, FOCAL * size[0] / HEIGHT, size, times, options)


def write_video(images: np.ndarray, path: Path) -> None:
    """(F, H, W, 3) uint8 -> H.264."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "20", "preset": "slow"})
        stream.height, stream.width, stream.pix_fmt = *images.shape[1:3], "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def write_truth(clip: Clip, small: Clip, folder: Path) -> None:
    """RenderCameras, masks and depth."""
    frames = []
    for index, pose in enumerate(clip.T_world_cam):
        name = f"frame_{index + 1:05d}.png"
        Image.fromarray(clip.moving[index].astype(np.uint8) * 255).convert("1").save(folder / "masks" / name)
        Image.fromarray(np.round(small.depth[index] / DEPTH_UNIT).astype(np.uint16)).save(folder / "depth" / name)
        frames.append(
            {
                "time": round(float(clip.times[index]), 6),
                "mask": f"masks/{name}",
                "depth": f"depth/{name}",
                "T_world_cam": np.round(pose, 8).tolist(),
            }
        )
    truth = {
        "conventions": "T_world_cam: camera to world, OpenCV axes (x right, y down, z forward), world z up, metres. "
        "Pixel centres at integer coordinates. Masks: white where something moves. Depth: z-depth; 0 is unknown; "
        f"pixel (x, y) of a depth map covers the clip's pixels {DEPTH_DOWNSCALE}x .. {DEPTH_DOWNSCALE}x + "
        f"{DEPTH_DOWNSCALE - 1} and likewise in y.",
        "width": WIDTH,
        "height": HEIGHT,
        "fx": FOCAL,
        "fy": FOCAL,
        "cx": float(clip.principal_point[0]),
        "cy": float(clip.principal_point[1]),
        "fps": FPS,
        "depth_unit_m": DEPTH_UNIT,
        "depth_downscale": DEPTH_DOWNSCALE,
        "licence": "Apache-2.0",
        "frames": frames,
    }
    (folder / "truth.json").write_text(json.dumps(truth, indent=1) + "\n")


def main(output_dir: Path = Path(__file__).parent / "clip") -> None:
    """Render the example clip and its truth into OUTPUT_DIR."""
    for name in ("masks", "depth"):
        shutil.rmtree(output_dir / name, ignore_errors=True)
        (output_dir / name).mkdir(parents=True)
    clip = shoot((HEIGHT, WIDTH))
    write_video(clip.images, output_dir / "clip.mp4")
    write_truth(clip, shoot((HEIGHT // DEPTH_DOWNSCALE, WIDTH // DEPTH_DOWNSCALE)), output_dir)


if __name__ == "__main__":
    tyro.cli(main)
