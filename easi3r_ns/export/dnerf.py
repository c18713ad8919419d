"""Scene -> the JSON files of D-NeRF, which trainers of moving scenes read (4DGaussians, Deformable-3DGS, fudan's 4DGS).

::

    transforms_train.json, transforms_val.json, transforms_test.json
    images/00000.png           undistorted; whole numbers, for readers that take a time from the name
    points3d.ply, fused.ply    static points to start from, under both names that are in use

``file_path`` has no extension: these readers append ``.png``. Cameras are camera-to-world with OpenGL axes, in the
world of the dataset's ``transforms.json`` (z up). ``camera_angle_x`` (radians) and ``w h fl_x fl_y cx cy`` stand at the
top where all frames share them; a clip that zooms has them in its frames and no ``camera_angle_x``. Several clips
follow one another in time. Every tenth frame
is for evaluation and not in ``train``, as in a nerfstudio dataset; frames in between count where their camera was
found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.end_to_end import end_to_end
from ..core.geometry import Z_UP_FROM_OPENCV_WORLD, opencv_to_opengl
from ..core.scene import INTERPOLATED, Scene
from ..dataset.listing import Listed, every_tenth, listed_frames, moments_held_out
from ..storage.files import make_folder, write_json
from .colmap import colmap_model, image_names
from .exporter import Exporter, ExportJob, off_centre_remark, require_images, require_points, undistorted_remark
from .splat import write_start_cloud
from .views import ImageWriter, SourceViews, each

_FOLDER = "dnerf"
_CLOUDS = ("points3d.ply", "fused.ply")
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class DnerfOptions:
    """What may differ."""

    max_points: int = 200_000
    """Most points that are taken from the depth."""
    mask_growth: float = 3
    """Network pixels by which moving regions are grown before points are taken, and in the alpha channel."""
    alpha: str = "none"
    """'none', 'static' or 'moving': what alone is opaque."""
    seconds: bool = False
    """Times in seconds of the clip, in place of 0 to 1."""


def dnerf_files(scene: Scene) -> set[str]:
    """Every file that the format writes, relative to its folder."""
    images = {f"images/{_name(k)}.png" for k in range(len(_frames(scene)))}
    return images | {f"transforms_{split}.json" for split in _SPLITS} | set(_CLOUDS)


def write_dnerf(scene: Scene, path: Path, options: DnerfOptions = DnerfOptions()) -> Path:
    """Write ``scene`` into the folder ``path`` and return it.

    Raises InputError when a source image is gone, OutputError when the disk refuses.
    """
    _needs(scene)
    frames, views = _frames(scene), SourceViews(scene, undistort=True)
    make_folder(path / "images")
    images = ImageWriter(views, options.mask_growth, options.alpha)
    each(frames, lambda k, frame: images.write(frame, path, f"{_name(k)}.png"))
    model = colmap_model(views, image_names(scene, _FOLDER), options.mask_growth, options.max_points)
    for name in _CLOUDS:
        write_start_cloud(path / name, model)
    times = np.array([frame.time for frame in frames])
    if scene.clip is not None:
        times = end_to_end(times, np.array([frame.clip for frame in frames]))
    if not options.seconds:
        times = (times - times[0]) / max(times[-1] - times[0], np.finfo(float).tiny)
    held_out = every_tenth(range(len(frames))) if scene.rig is None else moments_held_out(scene.rig)
    train = [k for k in range(len(frames)) if k not in held_out] or held_out
    for split, chosen in zip(_SPLITS, (train, held_out, held_out)):
        write_json(path / f"transforms_{split}.json", _transforms(views, frames, times, chosen))
    return path


def _frames(scene: Scene) -> tuple[Listed, ...]:
    return tuple(frame for frame in listed_frames(scene) if frame.pose_source != INTERPOLATED)


def _name(position: int) -> str:
    return f"{position:05d}"


def _transforms(
    views: SourceViews, frames: Sequence[Listed], times: np.ndarray, chosen: Sequence[int]
) -> dict[str, Any]:
    lenses = [_lens(views, frame) for frame in frames]
    shared = all(lens == lenses[0] for lens in lenses)
    top: dict[str, Any] = {}
    if shared:
        top = {"camera_angle_x": 2 * math.atan(lenses[0]["w"] / (2 * lenses[0]["fl_x"])), **lenses[0]}
    entries = []
    for k in chosen:
        pose = Z_UP_FROM_OPENCV_WORLD @ opencv_to_opengl(frames[k].T_world_cam)
        entry = {"file_path": f"images/{_name(k)}", "time": float(times[k]), "transform_matrix": pose}
        entries.append(entry | ({} if shared else lenses[k]))
    return {**top, "frames": entries}


def _lens(views: SourceViews, frame: Listed) -> dict[str, float]:
    focal, (cx, cy) = views.lens(frame.focal)
    width, height = views.scene.pixel_map.source_wh
    return {"w": width, "h": height, "fl_x": focal, "fl_y": focal, "cx": float(cx), "cy": float(cy)}


def _needs(scene: Scene) -> None:
    require_images(scene)
    require_points(scene)


def _write(job: ExportJob) -> list[Path]:
    folder, config = job.folder / _FOLDER, job.config
    write_dnerf(
        job.scene, folder, DnerfOptions(job.most_start_points, config.mask_growth, config.alpha, config.seconds)
    )
    return [folder / file for file in dnerf_files(job.scene)]


def _says(job: ExportJob) -> list[str]:
    border = "and trained on: --alpha static makes it transparent" if job.config.alpha == "none" else "and transparent"
    remarks = undistorted_remark(job.scene, border=border) + off_centre_remark(job.scene)
    if len(set(job.scene.focals.tolist())) > 1:
        remarks.append(
            "the focal length changes, so it stands in the frames and there is no camera_angle_x: 4DGaussians and "
            "Deformable-3DGS, which read one angle for the clip, need --format splat instead"
        )
    return remarks


EXPORTER = Exporter(
    files=lambda job: {f"{_FOLDER}/{file}" for file in dnerf_files(job.scene)}, write=_write, needs=_needs, says=_says
)
