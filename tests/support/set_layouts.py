"""One rendered clip, written as a sequence of each published set, by formulas of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from easi3r_ns.core.scene import Scene
from easi3r_ns.core.types import DynamicMasks, PixelMap
from tests.support.dataset_scene import Truth

WH = (32, 24)
FOCAL = 30.0


@dataclass(frozen=True)
class Made:
    """A clip and its truth."""

    images: np.ndarray
    """(F, H, W, 3) uint8."""
    T_world_cam: np.ndarray
    depth: np.ndarray
    """(F, H, W) float32."""
    moving: np.ndarray

    def scene(self, frames: list[int], names: list[str], **changed: np.ndarray) -> Scene:
        """The truth of some frames as a reconstruction; ``changed`` replaces T_world_cam, depth or moving of them."""
        own = {name: getattr(self, name)[frames] for name in ("T_world_cam", "depth", "moving")} | changed
        count = len(frames)
        return Scene(
            images=self.images[frames],
            T_world_cam=own["T_world_cam"],
            focals=np.full(count, FOCAL),
            principal_point=np.array([(WH[0] - 1) / 2, (WH[1] - 1) / 2]),
            depth=own["depth"].astype(np.float32),
            confidence=np.ones_like(own["depth"], dtype=np.float32),
            dynamic=DynamicMasks(own["moving"], np.zeros((count, 1, 2), np.float32), 0.5),
            pixel_map=PixelMap(WH, WH, (0, 0, *WH)),
            times=np.arange(float(count)),
            indices=np.arange(count),
            names=tuple(names),
            source_paths=(Path("x"),) * count,
        )


def made_clip(count: int) -> Made:
    """A camera that walks on a curve through a room in which a ball rolls to and fro."""
    turn = 2 * np.pi * np.arange(count) / 60
    T = np.tile(np.eye(4), (count, 1, 1))
    T[:, :3, 3] = np.stack([0.4 * np.sin(turn), 0.2 * np.cos(2 * turn), 0.3 * np.sin(0.7 * turn)], axis=-1)
    for k, angle in enumerate(0.2 * np.sin(1.3 * turn)):
        T[k, :3, :3] = cv2.Rodrigues(np.array([0.1 * angle, angle, 0.05]))[0]
    truth = Truth(FOCAL, T, WH)
    xy = np.stack(np.meshgrid(np.arange(WH[0]) + 0.5, np.arange(WH[1]) + 0.5), axis=-1)
    depth, moving = np.zeros((count, *WH[::-1]), np.float32), np.zeros((count, *WH[::-1]), bool)
    for k in range(count):
        depth[k], _, _ = truth.cast(k, xy)
        moving[k, 6:18, 4 + k % 8 : 16 + k % 8] = True
    shades = np.clip(40 * depth, 0, 255).astype(np.uint8)
    return Made(np.stack([shades, 255 - shades, np.where(moving, 200, 20).astype(np.uint8)], -1), T, depth, moving)


def picture(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def write_davis(root: Path, name: str, made: Made) -> None:
    for k, (image, moving) in enumerate(zip(made.images, made.moving, strict=True)):
        picture(root / "JPEGImages" / "480p" / name / f"{k:05d}.jpg", image)
        objects = Image.fromarray(np.where(moving, np.arange(WH[0]) // 12 + 1, 0).astype(np.uint8), mode="P")
        objects.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
        path = root / "Annotations" / "480p" / name / f"{k:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        objects.save(path)


def write_sintel(root: Path, name: str, made: Made) -> None:
    K = np.array([[FOCAL, 0, WH[0] / 2], [0, FOCAL, WH[1] / 2], [0, 0, 1]])
    for k, image in enumerate(made.images):
        stem = f"frame_{k + 1:04d}"
        picture(root / "training" / "final" / name / f"{stem}.png", image)
        camera = root / "training" / "camdata_left" / name / f"{stem}.cam"
        camera.parent.mkdir(parents=True, exist_ok=True)
        w2c = np.linalg.inv(made.T_world_cam[k])[:3]
        camera.write_bytes(np.float32(202021.25).tobytes() + K.tobytes() + np.ascontiguousarray(w2c).tobytes())
        depth = root / "training" / "depth" / name / f"{stem}.dpt"
        depth.parent.mkdir(parents=True, exist_ok=True)
        sky = np.where(np.arange(WH[0]) < 2, np.float32(1e5), made.depth[k])
        depth.write_bytes(
            np.float32(202021.25).tobytes() + np.array(WH, np.int32).tobytes() + sky.astype(np.float32).tobytes()
        )


def write_rgbd(root: Path, name: str, made: Made) -> None:
    """Cameras and depth have clocks of their own; the second picture has no camera near its time."""
    rgb, depth, poses = ["# color images"], ["# depth maps"], ["# ground truth trajectory"]
    for k, image in enumerate(made.images):
        time = 100 + 0.05 * k
        picture(root / name / "rgb" / f"{time:.6f}.png", image)
        picture(root / name / "depth" / f"{time + 0.01:.6f}.png", np.rint(5000 * made.depth[k]).astype(np.uint16))
        rgb.append(f"{time:.6f} rgb/{time:.6f}.png")
        depth.append(f"{time + 0.01:.6f} depth/{time + 0.01:.6f}.png")
        if k == 1:
            continue
        T = made.T_world_cam[k]
        axis = cv2.Rodrigues(T[:3, :3])[0].ravel()
        angle = np.linalg.norm(axis)
        q = [*(np.sin(angle / 2) * axis / max(angle, 1e-12)), np.cos(angle / 2)]
        poses.append(f"{time + 0.004:.4f} " + " ".join(f"{value:.9f}" for value in (*T[:3, 3], *q)))
        poses.append(f"{time + 0.019:.4f} 9 9 9 0 0 0 1")
    for kind, lines in (("rgb", rgb), ("depth", depth), ("groundtruth", poses)):
        text(root / name / f"{kind}.txt", "\n".join(lines) + "\n")


def write_kitti(root: Path, name: str, made: Made) -> None:
    K, beside = np.array([[FOCAL, 0, WH[0] / 2], [0, FOCAL, WH[1] / 2], [0, 0, 1]]), np.array([0.06, -0.01, 0.003])
    P = np.column_stack([K, K @ beside])
    rows = [f"{camera}: " + " ".join(map(repr, P.ravel().tolist())) for camera in ("P0", "P1", "P2", "P3")]
    text(root / "dataset" / "sequences" / name / "calib.txt", "\n".join(rows))
    lines = []
    for k, image in enumerate(made.images):
        picture(root / "dataset" / "sequences" / name / "image_2" / f"{k:06d}.png", image)
        grey = made.T_world_cam[k].copy()
        grey[:3, 3] += grey[:3, :3] @ beside  # a point of the grey camera, moved by this, is one of the colour camera
        lines.append(" ".join(map(repr, grey[:3].ravel().tolist())))
    text(root / "dataset" / "poses" / f"{name}.txt", "\n".join(lines) + "\n")


def write_adt(root: Path, name: str, made: Made) -> None:
    root.mkdir(parents=True, exist_ok=True)
    encoded = [cv2.imencode(".jpg", image[..., ::-1])[1].tobytes() for image in made.images]
    np.savez(
        root / f"{name}.npz",
        images_jpeg_bytes=np.array(encoded, dtype=object),
        fx_fy_cx_cy=np.array([FOCAL, FOCAL, WH[0] / 2, WH[1] / 2]),
        extrinsics_w2c=np.linalg.inv(made.T_world_cam),
        tracks_XYZ=np.zeros((len(encoded), 2, 3)),
    )


def write_dycheck(root: Path, name: str, made: Made, refined: bool = False) -> None:
    """``refined``: a COLMAP model of half the size with the true cameras; those of the phone are a meter away."""
    names = [f"0_{k:05d}" for k in range(len(made.images))]
    text(root / name / "splits" / "train.json", json.dumps({"frame_names": names, "camera_ids": [0] * len(names)}))
    if refined:
        write_model(root / name / "flow3d_preprocessed" / "colmap" / "sparse", names, made)
    rows: list[str] = []
    for frame, image, T, depth in zip(names, made.images, made.T_world_cam, made.depth, strict=True):
        picture(root / name / "rgb" / "1x" / f"{frame}.png", image)
        T = T.copy()
        T[:3, 3] += 1.0 * refined * np.sin(np.arange(3) + len(rows))
        rows.append(frame)
        camera = {"orientation": np.linalg.inv(T)[:3, :3].tolist(), "position": T[:3, 3].tolist()}
        camera |= {"focal_length": FOCAL, "principal_point": [WH[0] / 2, WH[1] / 2], "image_size": list(WH)}
        text(root / name / "camera" / f"{frame}.json", json.dumps(camera))
        disparity = root / name / "flow3d_preprocessed" / "aligned_depth_anything_colmap" / "1x" / f"{frame}.npy"
        disparity.parent.mkdir(parents=True, exist_ok=True)
        np.save(disparity, 1 / depth)


def write_model(folder: Path, names: list[str], made: Made) -> None:
    """A COLMAP model for pictures of half the size, in its text format."""
    lens = f"{FOCAL / 2} {FOCAL / 2} {WH[0] / 4} {WH[1] / 4}"
    text(folder / "cameras.txt", f"1 PINHOLE {WH[0] // 2} {WH[1] // 2} {lens}\n")
    lines = []
    for k, (name, T) in enumerate(zip(names, np.linalg.inv(made.T_world_cam), strict=True), start=1):
        axis = cv2.Rodrigues(T[:3, :3])[0].ravel()
        angle = np.linalg.norm(axis)
        q = [np.cos(angle / 2), *(np.sin(angle / 2) * axis / max(angle, 1e-12))]
        lines += [" ".join(map(str, (k, *q, *T[:3, 3], 1, f"{name}.png"))), ""]
    text(folder / "images.txt", "\n".join(lines) + "\n")


Writer = Callable[[Path, str, Made], None]


@dataclass(frozen=True)
class Miniature:
    """A set in small: who writes a sequence, how many frames it has, and which of them the protocol takes."""

    write: Writer
    names: tuple[str, ...]
    count: int
    taken: tuple[int, ...]
    lists: tuple[tuple[str, str], ...] = ()
    """Files beside the sequences, with their content."""


MINIATURES = {
    "davis-16": Miniature(
        write_davis, ("cow", "dog"), 4, (0, 1, 2, 3),
        (("ImageSets/2016/val.txt", "".join(
            f"/JPEGImages/480p/{name}/00000.jpg /Annotations/480p/{name}/00000.png\n" for name in ("cow", "dog"))),),
    ),
    "davis-all": Miniature(
        write_davis, ("dog", "cow"), 4, (0, 1, 2, 3),
        (("ImageSets/2017/train.txt", "dog\n"), ("ImageSets/2017/val.txt", "cow\n")),
    ),
    "dycheck": Miniature(write_dycheck, ("apple", "spin"), 45, (0, 10, 20, 30, 40)),
    "adt": Miniature(write_adt, ("Apartment_a", "Apartment_b"), 21, (0, 5, 10, 15, 20)),
    "tum-dynamics": Miniature(
        write_rgbd, ("rgbd_dataset_freiburg3_sitting_xyz", "rgbd_dataset_freiburg3_walking_rpy"), 100, (0, 31, 61, 91)
    ),
    "tum-dynamics-90": Miniature(
        write_rgbd, ("rgbd_dataset_freiburg3_sitting_xyz",), 100, (0, *range(4, 91, 3))
    ),
    "sintel": Miniature(write_sintel, ("alley_2", "temple_3"), 5, (0, 1, 2, 3, 4)),
    "bonn": Miniature(write_rgbd, ("rgbd_bonn_crowd2",), 34, (30, 31, 32, 33)),
    "kitti": Miniature(write_kitti, ("00", "10"), 112, tuple(range(110))),
}  # fmt: skip


def write_set(name: str, root: Path) -> Made:
    """Write the miniature of a set, every sequence of it the same clip; the clip."""
    small = MINIATURES[name]
    made = made_clip(small.count)
    for sequence in small.names:
        small.write(root, sequence, made)
    for path, content in small.lists:
        text(root / path, content)
    return made
