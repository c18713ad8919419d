"""An analytic room with a moving ball, cast exactly at source and at network pixels: truth for datasets."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from easi3r_ns.core.scene import Scene
from easi3r_ns.core.types import DynamicMasks, PixelMap
from easi3r_ns.frames import ImageGeometry, plan_preprocessing, resize_and_crop

ROOM = np.array([3.0, 2.0, 4.0])
"""Half extents; the world has OpenCV axes (y down), the cameras are near the origin and look along +z."""
BALL_RADIUS = 0.45


@dataclass(frozen=True)
class Truth:
    """What the cameras saw, in the world of ``Scene``; source pixels with the first centre at 0.5."""

    focal: float
    """In source pixels, which are square."""
    T_world_cam: np.ndarray
    source_wh: tuple[int, int]

    def project(self, frame: int, world: np.ndarray) -> np.ndarray:
        """(..., 3) world points -> (..., 2) source pixels."""
        T = self.T_world_cam[frame]
        local = (world - T[:3, 3]) @ T[:3, :3]
        return self.focal * local[..., :2] / local[..., 2:] + np.array(self.source_wh) / 2

    def cast(self, frame: int, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(..., 2) source pixels -> z-depth, world points, True where the ball is hit."""
        rays = np.concatenate([(xy - np.array(self.source_wh) / 2) / self.focal, np.ones_like(xy[..., :1])], axis=-1)
        T = self.T_world_cam[frame]
        rays = rays @ T[:3, :3].T
        depth, hit = _cast(T[:3, 3], rays, ball_centre(frame))
        return depth, T[:3, 3] + depth[..., None] * rays, hit


def ball_centre(frame: int) -> np.ndarray:
    return np.array([-0.8 + 0.3 * frame, 0.35, 1.6])


def room_color(world: np.ndarray) -> np.ndarray:
    """(..., 3) world -> (..., 3) uint8: smooth waves, so that a pixel's colour hardly depends on its area."""
    phase = world @ np.array([[2.1, 0.7, 1.3], [-0.9, 2.3, 0.8], [1.1, -0.6, 1.9]])
    return np.rint(127 + 90 * np.sin(phase) + 25 * np.sin(3 * phase[..., ::-1] + 1)).astype(np.uint8)


def make_scene(
    folder: Path, source_wh: tuple[int, int], num_frames: int = 5, geometry: ImageGeometry = ImageGeometry(128, 8)
) -> tuple[Scene, Truth]:
    """A perfectly reconstructed Scene and its truth; the source images are written into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    pixel_map = plan_preprocessing(source_wh, geometry)
    scale = np.array(pixel_map.resized_wh) / np.array(source_wh)
    truth = Truth(0.9 * max(source_wh), np.stack([camera(frame) for frame in range(num_frames)]), source_wh)
    images, depths, masks, paths = [], [], [], []
    for frame in range(num_frames):
        image = render(truth, frame)
        paths.append(folder / f"frame_{frame + 1:05d}.png")
        cv2.imwrite(str(paths[-1]), image[..., ::-1])
        images.append(resize_and_crop(image, pixel_map))
        depth, _, hit = truth.cast(frame, network_pixels(pixel_map))
        depths.append(depth)
        masks.append(hit)
    width, height = pixel_map.network_wh
    left, top = pixel_map.crop_box[:2]
    moving = np.stack(masks)
    scene = Scene(
        images=np.stack(images),
        T_world_cam=truth.T_world_cam,
        focals=np.full(num_frames, truth.focal * scale[0]),
        principal_point=np.array(pixel_map.resized_wh) / 2 - [left, top] - 0.5,
        depth=np.stack(depths).astype(np.float32),
        confidence=np.full((num_frames, height, width), 3.0, np.float32),
        dynamic=DynamicMasks(moving, np.zeros((num_frames, 4, 4), np.float32), 0.5),
        pixel_map=pixel_map,
        times=np.arange(num_frames) / 10 + 0.5,
        indices=np.arange(num_frames) * 3,
        names=("clip.mp4",) * num_frames,
        source_paths=tuple(paths),
        provenance={"version": "test", "peak": float("nan")},
    )
    return scene, truth


def camera(frame: int) -> np.ndarray:
    """A hand-held path: a step to the side, a little up and forward, a slow turn."""
    yaw, pitch = 0.04 * frame - 0.08, 0.02 * np.sin(frame)
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    T = np.eye(4)
    T[:3, :3] = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]) @ np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    T[:3, 3] = [0.12 * frame - 0.2, 0.05 * np.cos(frame), -2.0 + 0.06 * frame]
    return T


def source_pixels(source_wh: tuple[int, int]) -> np.ndarray:
    """(h, w, 2) centres of all source pixels, the first at (0.5, 0.5)."""
    x, y = np.meshgrid(np.arange(source_wh[0]) + 0.5, np.arange(source_wh[1]) + 0.5)
    return np.stack([x, y], axis=-1)


def network_pixels(pixel_map: PixelMap) -> np.ndarray:
    """(H, W, 2) where the centres of all network pixels lie in the source image."""
    left, top, right, bottom = pixel_map.crop_box
    x, y = np.meshgrid(np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5)
    return np.stack([x, y], axis=-1) * np.array(pixel_map.source_wh) / np.array(pixel_map.resized_wh)


def render(truth: Truth, frame: int) -> np.ndarray:
    """(h, w, 3) uint8 RGB at source size; the ball is red."""
    _, world, hit = truth.cast(frame, source_pixels(truth.source_wh))
    return np.where(hit[..., None], np.array([230, 30, 30], np.uint8), room_color(world))


def _cast(origin: np.ndarray, rays: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(divide="ignore", invalid="ignore"):
        walls = np.where(rays != 0, (np.sign(rays) * ROOM - origin) / rays, np.inf)
    depth = walls.min(axis=-1)
    to_ball = origin - centre
    a, b = (rays**2).sum(-1), 2 * rays @ to_ball
    discriminant = b**2 - 4 * a * (to_ball @ to_ball - BALL_RADIUS**2)
    near = (-b - np.sqrt(np.maximum(discriminant, 0))) / (2 * a)
    hit = (discriminant > 0) & (near > 0) & (near < depth)
    return np.where(hit, near, depth), hit


def write_truth(scene: Scene, truth: Truth, folder: Path) -> None:
    """``gt_cameras.json`` and ``masks/`` for every SOURCE frame up to the last one used."""
    (folder / "masks").mkdir(parents=True)
    used = {int(index): frame for frame, index in enumerate(scene.indices)}
    entries = []
    for index in range(int(scene.indices[-1]) + 1):
        frame = used.get(index, 0)
        _, _, hit = truth.cast(frame, source_pixels(truth.source_wh))
        cv2.imwrite(str(folder / "masks" / f"{index:05d}.png"), hit.astype(np.uint8) * 255)
        entries.append({"file": f"{index:05d}.png", "c2w": truth.T_world_cam[frame].tolist()})
    intrinsics = {"fl_x": truth.focal, "fl_y": truth.focal}
    (folder / "gt_cameras.json").write_text(json.dumps({"intrinsics": intrinsics, "frames": entries}))
