"""One picture of a dataset: frames with what moves in red, depth, and the static points with the cameras.

    python examples/make_figure.py out figure.jpg

Needs only the dataset; the virtual camera stands behind and above the first one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import open3d

HEIGHT = 210
COLUMNS = 4
CLOUD = (2 * HEIGHT, 620)
RED = np.array([60, 40, 230])
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


def overlay(out: Path, frame: dict) -> np.ndarray:
    """A frame with its moving pixels in red (BGR)."""
    image = cv2.imread(str(out / frame["file_path"]))
    moving = cv2.imread(str(out / frame["mask_path"]), cv2.IMREAD_UNCHANGED) == 0
    image[moving] = (0.45 * image[moving] + 0.55 * RED).astype(np.uint8)
    return image


def depth_picture(out: Path, frame: dict, near: float, far: float) -> np.ndarray:
    """Inverse depth in colours, black where unknown (BGR)."""
    depth = cv2.imread(str(out / frame["depth_file_path"]), cv2.IMREAD_UNCHANGED) * 1e-3
    known = depth > 0
    inverse = (1 / np.where(known, depth, far) - 1 / far) / (1 / near - 1 / far)
    picture = cv2.applyColorMap((np.clip(inverse, 0, 1) * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    picture[~known] = 0
    return picture


def cloud_picture(out: Path, meta: dict) -> np.ndarray:
    """Static points and camera outlines from behind and above the first camera (BGR)."""
    cloud = open3d.io.read_point_cloud(str(out / meta["ply_file_path"]))
    points, colours = np.asarray(cloud.points), np.asarray(cloud.colors)[:, ::-1] * 255
    poses = np.array([frame["transform_matrix"] for frame in meta["frames"]]) @ FLIP
    distance = float(np.median(np.linalg.norm(points - poses[:, :3, 3].mean(axis=0), axis=1)))
    view = np.eye(4)
    pitch = np.deg2rad(28)
    view[1:3, 1:3] = [[np.cos(pitch), np.sin(pitch)], [-np.sin(pitch), np.cos(pitch)]]
    view = poses[len(poses) // 2] @ view
    view[:3, 3] = poses[:, :3, 3].mean(axis=0) - 0.75 * distance * view[:3, 2] + [0, 0, 0.25 * distance]
    to_view = np.linalg.inv(view)
    height, width = CLOUD
    picture, nearest = np.full((height, width, 3), 255, np.uint8), np.full((height, width), np.inf)

    def project(xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        local = xyz @ to_view[:3, :3].T + to_view[:3, 3]
        z = np.maximum(local[..., 2], 1e-6)
        return 1.15 * height * local[..., :2] / z[..., None] + np.array([width / 2, height / 2]), local[..., 2]

    xy, z = project(points)
    for k in np.argsort(-z):
        x, y = xy[k].astype(int)
        if z[k] > 0.05 * distance and 1 <= x < width - 1 and 1 <= y < height - 1 and z[k] < nearest[y, x]:
            picture[y - 1 : y + 2, x - 1 : x + 2] = colours[k]
            nearest[y, x] = z[k]
    size = 0.06 * distance
    aspect = meta["h"] / meta["w"]
    corners = size * np.array([[-1, -aspect, 1.4], [1, -aspect, 1.4], [1, aspect, 1.4], [-1, aspect, 1.4]])
    for pose in poses[:: max(1, len(poses) // 12)]:
        tip, _ = project(pose[:3, 3])
        frame, _ = project(corners @ pose[:3, :3].T + pose[:3, 3])
        lines = [np.array([tip, corner]) for corner in frame] + [np.vstack([frame, frame[:1]])]
        cv2.polylines(picture, [np.rint(line).astype(np.int32) for line in lines], False, (200, 60, 30), 1, cv2.LINE_AA)
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("picture", type=Path)
    args = parser.parse_args()
    meta = json.loads((args.dataset / "transforms.json").read_text())
    frames = [meta["frames"][round(k)] for k in np.linspace(0, len(meta["frames"]) - 1, COLUMNS)]
    depths = [cv2.imread(str(args.dataset / f["depth_file_path"]), cv2.IMREAD_UNCHANGED) * 1e-3 for f in frames]
    near, far = np.quantile(np.concatenate([d[d > 0] for d in depths]), [0.02, 0.98])
    columns = [np.vstack([overlay(args.dataset, f), depth_picture(args.dataset, f, near, far)]) for f in frames]
    scale = 2 * HEIGHT / columns[0].shape[0]
    columns = [cv2.resize(c, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[: 2 * HEIGHT] for c in columns]
    cv2.imwrite(str(args.picture), np.hstack([*columns, cloud_picture(args.dataset, meta)]))


if __name__ == "__main__":
    main()
