"""Scene -> dataset of instant-ngp, which wants masks beside the images.

::

    transforms.json                          the lens with its distortion, is_fisheye where it is one, aabb_scale
    images/ngp_00001.png                     the source images
    images/dynamic_mask_ngp_00001.png        8 bit, not 0 where something moves: ignored
    depths/ngp_00001.png                     16 bit, steps of integer_depth_scale; where the scene has depth

Cameras as in the dataset's own ``transforms.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.geometry import (
    Z_UP_FROM_OPENCV_WORLD,
    FisheyeDistortion,
    distortion_names,
    opencv_to_opengl,
    transform,
)
from ..core.scene import Scene
from ..dataset.listing import Listed, listed_frames
from ..dataset.nerfstudio import DEPTH_STEP, TRANSFORMS, aabb_scale, depth_steps
from ..dataset.pointcloud import static_points
from ..storage.files import make_folder, write_json, write_png
from .colmap import image_names
from .exporter import Exporter, ExportJob, between_remark, require_images
from .views import ImageWriter, SourceViews, each

_FOLDER = "ngp"
_BOX_POINTS = 20_000
"""Points by which the size of the box is chosen."""


def ngp_files(scene: Scene) -> set[str]:
    """Every file that the format writes, relative to its folder."""
    names = image_names(scene, _FOLDER)
    files = {TRANSFORMS, *(f"images/{name}" for name in names), *(_mask(name) for name in names)}
    return files | ({_depth(name) for name in names} if scene.has_depth else set())


def write_ngp(scene: Scene, path: Path, *, mask_growth: float = 3) -> Path:
    """Write ``scene`` into the folder ``path`` and return it.

    Moving regions are grown by ``mask_growth`` network pixels in the masks. Raises InputError when a source image is
    gone, OutputError when the disk refuses.
    """
    require_images(scene)
    views, names = SourceViews(scene, undistort=False), image_names(scene, _FOLDER)
    frames = [frame for frame in listed_frames(scene) if frame.position is not None]
    for folder in ("images", *(("depths",) if scene.has_depth else ())):
        make_folder(path / folder)
    images = ImageWriter(views, mask_growth)

    def write(k: int, frame: Listed) -> None:
        static = images.write(frame, path, names[k])
        write_png(path / _mask(names[k]), (~static).astype(np.uint8) * 255)
        if scene.has_depth:
            write_png(path / _depth(names[k]), depth_steps(views.depth(k)))

    each(frames, write)
    points, _ = static_points(scene, _BOX_POINTS, mask_growth)
    write_json(path / TRANSFORMS, _transforms(views, frames, names, transform(Z_UP_FROM_OPENCV_WORLD, points)))
    return path


def _mask(name: str) -> str:
    return f"images/dynamic_mask_{Path(name).stem}.png"


def _depth(name: str) -> str:
    return f"depths/{Path(name).stem}.png"


def _transforms(
    views: SourceViews, frames: Sequence[Listed], names: Sequence[str], points: np.ndarray
) -> dict[str, Any]:
    scene = views.scene
    width, height = scene.pixel_map.source_wh
    poses = Z_UP_FROM_OPENCV_WORLD @ opencv_to_opengl(scene.T_world_cam)
    lenses = [dict(zip(("fl_x", "fl_y"), 2 * (views.lens(frame.focal)[0],))) for frame in frames]
    shared = all(lens == lenses[0] for lens in lenses)
    _, (cx, cy) = views.lens(frames[0].focal)
    top: dict[str, Any] = {"w": width, "h": height, "cx": float(cx), "cy": float(cy)}
    top |= (lenses[0] if shared else {}) | dict(zip(distortion_names(scene.distortion), scene.distortion))
    top |= {"is_fisheye": True} if isinstance(scene.distortion, FisheyeDistortion) else {}
    top |= {"aabb_scale": aabb_scale(np.concatenate([poses[:, :3, 3], points]))}
    top |= {"integer_depth_scale": DEPTH_STEP, "enable_depth_loading": True} if scene.has_depth else {}
    entries = []
    for k, name in enumerate(names):
        entry: dict[str, Any] = {"file_path": f"images/{name}", "transform_matrix": poses[k]}
        entry |= {"depth_path": _depth(name)} if scene.has_depth else {}
        entries.append(entry | ({} if shared else lenses[k]))
    return {**top, "frames": entries}


def _write(job: ExportJob) -> list[Path]:
    write_ngp(job.scene, job.folder / _FOLDER, mask_growth=job.config.mask_growth)
    return [job.folder / _FOLDER / file for file in ngp_files(job.scene)]


EXPORTER = Exporter(
    files=lambda job: {f"{_FOLDER}/{file}" for file in ngp_files(job.scene)},
    write=_write,
    needs=require_images,
    says=lambda job: between_remark(job.scene),
)
