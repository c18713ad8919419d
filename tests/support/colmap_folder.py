"""A rendered clip as a folder of COLMAP, written by hand from the description of its text format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from easi3r_ns.training.scenes import Clip
from tests.support.clip_scene import true_points

PARAMS = {
    "SIMPLE_PINHOLE": lambda f, cx, cy: [f, cx, cy],
    "PINHOLE": lambda f, cx, cy: [f, f, cx, cy],
    "SIMPLE_RADIAL": lambda f, cx, cy: [f, cx, cy, 0.0],
    "RADIAL": lambda f, cx, cy: [f, cx, cy, 0.0, 0.0],
    "OPENCV": lambda f, cx, cy: [f, f, cx, cy, 0.0, 0.0, 0.0, 0.0],
}
"""Parameters of a lens without distortion."""
AWAY = np.eye(4)
"""The world of the model in that of the clip: turned, moved and in other units."""
AWAY[:3, :3], AWAY[:3, 3] = 1.7 * Rotation.from_euler("xyz", [0.4, -1.1, 2.0]).as_matrix(), [3, -1, 2]


def write_colmap_folder(
    clip: Clip,
    folder: Path,
    *,
    model: str = "PINHOLE",
    names: Sequence[str] | None = None,
    place: str = "sparse/0",
    binary: bool = False,
    registered: Sequence[int] | None = None,
    points: bool = True,
) -> Path:
    """Pictures in ``folder/images`` by ``names``, and a model of the ``registered`` ones in ``folder/place``."""
    names = names or [f"shot_{k}.png" for k in range(len(clip))]
    for name, image in zip(names, clip.images, strict=True):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image[..., ::-1])
    target = folder / place
    target.mkdir(parents=True, exist_ok=True)
    height, width = clip.images.shape[1:3]
    cx, cy = np.asarray(clip.principal_point) + 0.5
    lens = " ".join(map(str, PARAMS[model](clip.focal, cx, cy)))
    (target / "cameras.txt").write_text(f"# a comment\n7 {model} {width} {height} {lens}\n")
    kept = range(len(clip)) if registered is None else registered
    sparse = true_points(clip, per_frame=60)
    views = np.bincount(sparse.point_index[np.isin(sparse.frame_index, kept)], minlength=len(sparse))
    known = (views > 1) & points
    lines, tracks = [], {point: [] for point in np.flatnonzero(known)}
    for frame in kept:
        own = np.flatnonzero(sparse.frame_index == frame)
        pose = np.linalg.inv(unscaled(AWAY @ clip.T_world_cam[frame]))
        x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
        lines.append(" ".join(map(str, [frame + 10, w, x, y, z, *pose[:3, 3], 7, names[frame]])))
        owners = sparse.point_index[own]
        shown = [point + 3 if known[point] else -1 for point in owners]
        lines.append(" ".join(f"{u} {v} {point}" for (u, v), point in zip(sparse.pixels[own], shown)))
        for place_in_image, point in enumerate(owners):
            if known[point]:
                tracks[point].append(f"{frame + 10} {place_in_image}")
    (target / "images.txt").write_text("\n".join(["# a comment", *lines, ""]))
    rows = []
    for point, track in tracks.items():
        xyz = AWAY[:3, :3] @ sparse.points[point] + AWAY[:3, 3]
        rows.append(" ".join(map(str, [point + 3, *xyz, *sparse.colors[point], 0.5, *track])))
    (target / "points3D.txt").write_text("\n".join(["# a comment", *rows, ""]))
    if binary:
        import pycolmap

        pycolmap.Reconstruction(str(target)).write_binary(str(target))
        for file in target.glob("*.txt"):
            file.unlink()
    return folder


def unscaled(T: np.ndarray) -> np.ndarray:
    """A camera in a world of other units: its axes have length 1 again."""
    T = T.copy()
    T[:3, :3] /= np.cbrt(np.linalg.det(T[:3, :3]))
    return T
