"""Scene -> COLMAP project for trainers of Gaussian splats.

Brush, LichtFeld Studio, gsplat's examples, INRIA's gaussian-splatting and Postshot read it without options.

::

    images/splat_00001.png     undistorted; images_2, images_4 and images_8 (gsplat's examples want images_4)
    masks/splat_00001.png      same name and size as the image, black = ignored: what moves
    sparse/0/{cameras,images,points3D}.bin    PINHOLE; every image has observations
    sparse/0/points3D.ply      INRIA's loader would write it, and fail in a read-only folder
    init.ply, pointcloud.ply   the points again, under the names that Brush and LichtFeld Studio look for

The world is that of ``transforms.json`` (z up). Names of images are used nowhere else: see
:mod:`easi3r_ns.export.colmap`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ..core.downscale import downscaled_size
from ..core.scene import Scene
from ..dataset.listing import listed_frames
from ..dataset.pointcloud import write_ply
from ..storage.files import make_folder
from .colmap import MODEL_FILES, ColmapModel, MaskFiles, colmap_model, image_names, masks_of, write_model
from .exporter import (
    Exporter,
    ExportJob,
    between_remark,
    off_centre_remark,
    require_images,
    require_points,
    undistorted_remark,
)
from .views import ImageWriter, SourceViews, each

_FOLDER = "splat"
_CLOUDS = ("init.ply", "pointcloud.ply")
_MODEL_CLOUD = "sparse/0/points3D.ply"
_FACTORS = (2, 4, 8)
_MASKS = MaskFiles(names="same")


def splat_files(scene: Scene, alpha: str = "none") -> set[str]:
    """Every file that the format writes, relative to its folder."""
    files = {f"sparse/0/{name}.bin" for name in MODEL_FILES} | {*_CLOUDS, _MODEL_CLOUD}
    for name in _names(scene, alpha):
        files |= {f"images/{name}", _MASKS.name(name)}
        files |= {*(f"images_{factor}/{name}" for factor in _factors(scene))}
    return files


def write_splat(
    scene: Scene, path: Path, *, max_points: int = 200_000, masks: MaskFiles = MaskFiles(), alpha: str = "none"
) -> Path:
    """Write ``scene`` into the folder ``path`` and return it.

    ``max_points``: most points that are taken from the depth. ``alpha``: 'none', 'static' or 'moving', what alone is
    opaque in the images. Raises InputError when a source image is gone, OutputError when the disk refuses.
    """
    require_images(scene)
    views, masks = SourceViews(scene, undistort=True), replace(masks, names=_MASKS.names)
    model = colmap_model(views, _names(scene, alpha), masks.growth, max_points)
    for folder in ("images", "masks", "sparse/0", *(f"images_{factor}" for factor in _factors(scene))):
        make_folder(path / folder)
    images = ImageWriter(views, masks.growth, alpha, _factors(scene))
    frames = [frame for frame in listed_frames(scene) if frame.position is not None]
    each(frames, lambda k, frame: masks.write(path, model.names[k], images.write(frame, path, model.names[k])))
    write_model(model, path / "sparse" / "0")
    write_start_cloud(path / _MODEL_CLOUD, model)
    for name in _CLOUDS:
        write_ply(path / name, model.points, model.colors)
    return path


def write_start_cloud(path: Path, model: ColmapModel) -> None:
    """Write the points as INRIA's readers want them: with normals, which are 0 in their own files too.

    Raises OutputError.
    """
    write_ply(path, model.points, model.colors, np.zeros_like(model.points))


def _names(scene: Scene, alpha: str) -> tuple[str, ...]:
    return image_names(scene, _FOLDER, alpha=alpha != "none")


def _factors(scene: Scene) -> tuple[int, ...]:
    return tuple(factor for factor in _FACTORS if min(downscaled_size(scene.pixel_map.source_wh, factor)) > 0)


def _write(job: ExportJob) -> list[Path]:
    folder = job.folder / _FOLDER
    write_splat(job.scene, folder, max_points=job.most_start_points, masks=masks_of(job), alpha=job.config.alpha)
    return [folder / file for file in splat_files(job.scene, alpha=job.config.alpha)]


def _needs(scene: Scene) -> None:
    require_images(scene)
    require_points(scene)


EXPORTER = Exporter(
    files=lambda job: {f"{_FOLDER}/{file}" for file in splat_files(job.scene, alpha=job.config.alpha)},
    write=_write,
    needs=_needs,
    says=lambda job: undistorted_remark(job.scene) + off_centre_remark(job.scene) + between_remark(job.scene),
)
