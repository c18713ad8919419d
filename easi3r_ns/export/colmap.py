"""Scene -> COLMAP project: images, masks and a sparse model, binary and text (https://colmap.github.io/format.html).

::

    images/colmap_00001.png           the source images
    masks/colmap_00001.png.png        8 bit, black where COLMAP shall find no features: what moves
    sparse/0/{cameras,images,points3D}.bin
    text/{cameras,images,points3D}.txt    the same model

``images`` and ``sparse/0`` lie where the loaders of gsplat and of INRIA's gaussian-splatting look for them. The names
of the images are used nowhere else in a dataset and its exports: some readers (Brush) look for an image by the end of
its path in everything below the folder that they are given. The world is that of ``transforms.json`` (z up). The camera
model is PINHOLE, or OPENCV where the lens distorts; undistorted, such a scene is PINHOLE too, which is all that INRIA's
loader takes.

Triangulated points come with their tracks and errors. A scene without them gives static points with tracks by
projection (:mod:`easi3r_ns.export.tracks`) and the error 0: nothing was matched. An image that triangulation left out
gets its observations by projection too.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from scipy.spatial.transform import Rotation

from ..core.geometry import (
    Z_UP_FROM_OPENCV_WORLD,
    FisheyeDistortion,
    distortion_names,
    intrinsics_to_source,
    is_distorted,
    opencv_to_colmap,
    transform,
)
from ..core.scene import Scene
from ..dataset.listing import listed_frames
from ..dataset.pointcloud import static_points
from ..storage.files import JPEG_SUFFIX, make_folder, write_bytes, write_png
from .exporter import Exporter, ExportJob, between_remark, require_images
from .tracks import PointTracks, projected_tracks
from .views import ImageWriter, SourceViews, each

_FOLDER = "colmap"
MODEL_FILES = ("cameras", "images", "points3D")
_MODEL_IDS = {"PINHOLE": 1, "OPENCV": 4, "OPENCV_FISHEYE": 5}
_TEXT_HEADERS = {
    "cameras": "# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]",
    "images": "# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME\n# POINTS2D[] as (X, Y, POINT3D_ID)",
    "points3D": "# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)",
}


@dataclass(frozen=True)
class ColmapModel:
    """A sparse model; the numbers that the files count from 1 count from 0 here."""

    model: str
    """'PINHOLE', 'OPENCV' or 'OPENCV_FISHEYE'."""
    width: int
    height: int
    params: np.ndarray
    """(C, 4 or 8) float64 parameters of each camera: one for the clip, or one per image."""
    T_cam_world: np.ndarray
    """(F, 4, 4) float64 world-to-camera, OpenCV axes."""
    names: tuple[str, ...]
    points: np.ndarray
    """(N, 3) float64."""
    colors: np.ndarray
    """(N, 3) uint8."""
    errors: np.ndarray
    """(N,) float64 pixels; -1 where unknown."""
    observations: tuple[np.ndarray, ...]
    """Per image (K, 2) float64 pixels, the first centre at 0.5."""
    observed: tuple[np.ndarray, ...]
    """Per image (K,) int64: which point each observation shows."""

    def camera_of(self, image: int) -> int:
        """Which camera took an image."""
        return image if len(self.params) > 1 else 0


@dataclass(frozen=True)
class MaskFiles:
    """How masks are called and coloured."""

    growth: float = 3
    """Network pixels by which moving regions are grown."""
    names: str = "colmap"
    """'colmap': x.png.png beside x.png, x.jpg.png beside x.jpg; 'same': x.png."""
    white: str = "static"
    """'static' or 'moving'."""

    def name(self, image: str) -> str:
        """The mask of an image, relative to the project."""
        return f"masks/{image}.png" if self.names == "colmap" else f"masks/{PurePosixPath(image).with_suffix('.png')}"

    def write(self, folder: Path, image: str, static: np.ndarray) -> None:
        """Write the (H, W) bool static pixels of an image into the project ``folder``. Raises OutputError."""
        white = static if self.white == "static" else ~static
        write_png(folder / self.name(image), white.astype(np.uint8) * 255)


def colmap_files(scene: Scene, masks: MaskFiles = MaskFiles()) -> set[str]:
    """Every file that :func:`write_colmap` writes, relative to its folder."""
    files = {f"sparse/0/{name}.bin" for name in MODEL_FILES} | {f"text/{name}.txt" for name in MODEL_FILES}
    for name in image_names(scene, _FOLDER):
        files |= {f"images/{name}", masks.name(name)}
    return files


def write_colmap(
    scene: Scene, path: Path, *, max_points: int = 200_000, undistort: bool = False, masks: MaskFiles = MaskFiles()
) -> Path:
    """Write ``scene`` as a COLMAP project into the folder ``path`` and return it.

    Points are taken from the depth outside the grown masks (at most ``max_points``; triangulated points are all kept).
    With ``undistort`` images, masks and observations are those of a lens without distortion and the same focal length;
    pixels that the source does not show are black, and masked. Raises InputError when a source image is gone,
    OutputError when the disk refuses.
    """
    require_images(scene)
    views = SourceViews(scene, undistort)
    model = colmap_model(views, image_names(scene, _FOLDER), masks.growth, max_points)
    for folder in ("images", "masks", "sparse/0", "text"):
        make_folder(path / folder)
    images = ImageWriter(views, masks.growth)
    frames = [frame for frame in listed_frames(scene) if frame.position is not None]
    each(frames, lambda k, frame: masks.write(path, model.names[k], images.write(frame, path, model.names[k])))
    write_model(model, path / "sparse" / "0", path / "text")
    return path


def write_model(model: ColmapModel, binary: Path, text: Path | None = None) -> None:
    """Write the three files of a model into folders that exist, as text too where asked for. Raises OutputError."""
    tracks = _tracks(model)
    for name, content in zip(MODEL_FILES, (_camera_bytes(model), _image_bytes(model), _point_bytes(model, tracks))):
        write_bytes(binary / f"{name}.bin", content)
    if text is None:
        return
    for name, lines in zip(MODEL_FILES, (_camera_lines(model), _image_lines(model), _point_lines(model, tracks))):
        write_bytes(text / f"{name}.txt", "\n".join([_TEXT_HEADERS[name], *lines, ""]).encode())


def colmap_model(views: SourceViews, names: tuple[str, ...], mask_growth: float, max_points: int) -> ColmapModel:
    """The sparse model of a scene; see :func:`write_colmap`."""
    scene = views.scene
    distorted = is_distorted(scene.distortion) and not views.undistort
    params = np.array([intrinsics_to_source(f, scene.principal_point, scene.pixel_map) for f in scene.focals])
    params = params[:1] if (params == params[0]).all() else params
    if distorted:
        params = np.hstack([params, np.tile(scene.distortion, (len(params), 1))])
    sparse = scene.sparse
    if sparse is not None:
        points, colors, errors = sparse.points, sparse.colors, sparse.errors
        tracks = _measured(scene, mask_growth)
    else:
        points, colors = static_points(scene, max_points, mask_growth)
        points, colors, tracks = _seen(points, colors, projected_tracks(scene, points, mask_growth))
        errors = np.zeros(len(points))
    return ColmapModel(
        model=_model(scene) if distorted else "PINHOLE",
        width=scene.pixel_map.source_wh[0],
        height=scene.pixel_map.source_wh[1],
        params=params,
        T_cam_world=opencv_to_colmap(Z_UP_FROM_OPENCV_WORLD @ scene.T_world_cam),
        names=names,
        points=transform(Z_UP_FROM_OPENCV_WORLD, points.astype(float)),
        colors=colors,
        errors=errors,
        observations=tuple(views.pixels(xy, float(f)) for xy, f in zip(tracks.observations, scene.focals)),
        observed=tracks.observed,
    )


def _model(scene: Scene) -> str:
    return "OPENCV_FISHEYE" if isinstance(scene.distortion, FisheyeDistortion) else "OPENCV"


def image_names(scene: Scene, stem: str, alpha: bool = False) -> tuple[str, ...]:
    """Names of the images of a format: ``stem_00001.png``, ...; views of a sphere: ``stem_00001_view1.png``, ...

    They end in .jpg where all source images are JPEG files. ``alpha``: the images get an alpha channel, which a JPEG
    file has not.
    """
    jpeg = all(path.suffix == JPEG_SUFFIX for path in scene.source_paths)
    suffix = JPEG_SUFFIX if jpeg and not alpha else ".png"
    if scene.rig is not None:
        return tuple(f"{scene.rig.stem(position, stem)}{suffix}" for position in range(len(scene)))
    return tuple(f"{stem}_{position + 1:05d}{suffix}" for position in range(len(scene)))


def _measured(scene: Scene, mask_growth: float) -> PointTracks:
    """The tracks of triangulated points; an image that they leave out gets those whose depth it confirms."""
    sparse = scene.sparse
    assert sparse is not None
    rows = [np.flatnonzero(sparse.frame_index == frame) for frame in range(len(scene))]
    observations, observed = [sparse.pixels[row] for row in rows], [sparse.point_index[row] for row in rows]
    left_out = [frame for frame, row in enumerate(rows) if not len(row)]
    if left_out and scene.has_depth:
        projected = projected_tracks(scene, sparse.points, mask_growth)
        for frame in left_out:
            observations[frame], observed[frame] = projected.observations[frame], projected.observed[frame]
    return PointTracks(tuple(observations), tuple(observed))


def _seen(points: np.ndarray, colors: np.ndarray, tracks: PointTracks) -> tuple[np.ndarray, np.ndarray, PointTracks]:
    """Points without those that no image shows: a model with empty tracks is refused by some readers."""
    kept = np.zeros(len(points), dtype=bool)
    for rows in tracks.observed:
        kept[rows] = True
    number = np.cumsum(kept) - 1
    return points[kept], colors[kept], PointTracks(tracks.observations, tuple(number[rows] for rows in tracks.observed))


def _tracks(model: ColmapModel) -> list[np.ndarray] | None:
    """Per point (L, 2) int64 (image, which of its observations), in the order of the images; None: all are empty."""
    counts = [len(observed) for observed in model.observed]
    if not sum(counts):
        return None
    where = np.concatenate([np.column_stack([np.full(n, image), np.arange(n)]) for image, n in enumerate(counts)])
    owner = np.concatenate(model.observed)
    order = np.argsort(owner, kind="stable")
    ends = np.cumsum(np.bincount(owner, minlength=len(model.points)))
    return np.split(where[order], ends[:-1])


def _quaternions(model: ColmapModel) -> np.ndarray:
    """(F, 4) unit quaternions w x y z of the world-to-camera rotations, w >= 0."""
    xyzw = Rotation.from_matrix(model.T_cam_world[:, :3, :3]).as_quat()
    wxyz = np.roll(xyzw, 1, axis=1)
    return np.where(wxyz[:, :1] < 0, -wxyz, wxyz)


def _camera_bytes(model: ColmapModel) -> bytes:
    parts = [struct.pack("<Q", len(model.params))]
    for camera, params in enumerate(model.params):
        parts.append(struct.pack("<IiQQ", camera + 1, _MODEL_IDS[model.model], model.width, model.height))
        parts.append(params.astype("<f8").tobytes())
    return b"".join(parts)


def _image_bytes(model: ColmapModel) -> bytes:
    parts = [struct.pack("<Q", len(model.names))]
    observation = np.dtype([("xy", "<f8", 2), ("point", "<i8")])
    for image, quaternion in enumerate(_quaternions(model)):
        pose = (*quaternion, *model.T_cam_world[image, :3, 3])
        parts.append(struct.pack("<I7dI", image + 1, *pose, model.camera_of(image) + 1))
        parts.append(model.names[image].encode() + b"\0")
        rows = np.empty(len(model.observed[image]), dtype=observation)
        rows["xy"], rows["point"] = model.observations[image], model.observed[image] + 1
        parts.append(struct.pack("<Q", len(rows)) + rows.tobytes())
    return b"".join(parts)


def _point_bytes(model: ColmapModel, tracks: list[np.ndarray] | None) -> bytes:
    head = np.dtype([("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("length", "<u8")])
    rows = np.empty(len(model.points), dtype=head)
    rows["id"] = np.arange(len(rows)) + 1
    rows["xyz"], rows["rgb"], rows["error"] = model.points, model.colors, model.errors
    rows["length"] = 0 if tracks is None else [len(track) for track in tracks]
    count = struct.pack("<Q", len(rows))
    if tracks is None:
        return count + rows.tobytes()
    pairs = ((track + [1, 0]).astype("<u4").tobytes() for track in tracks)
    return count + b"".join(part for row, pair in zip(rows, pairs) for part in (row.tobytes(), pair))


def _camera_lines(model: ColmapModel) -> Iterator[str]:
    for camera, params in enumerate(model.params):
        yield _join([camera + 1, model.model, model.width, model.height, *params.tolist()])


def _image_lines(model: ColmapModel) -> Iterator[str]:
    for image, quaternion in enumerate(_quaternions(model).tolist()):
        shift = model.T_cam_world[image, :3, 3].tolist()
        yield _join([image + 1, *quaternion, *shift, model.camera_of(image) + 1, model.names[image]])
        rows = zip(model.observations[image].tolist(), (model.observed[image] + 1).tolist())
        yield " ".join(f"{x} {y} {point}" for (x, y), point in rows)


def _point_lines(model: ColmapModel, tracks: list[np.ndarray] | None) -> Iterator[str]:
    columns = zip(model.points.tolist(), model.colors.tolist(), model.errors.tolist())
    for point, (xyz, rgb, error) in enumerate(columns):
        track = [] if tracks is None else (tracks[point] + [1, 0]).ravel().tolist()
        yield _join([point + 1, *xyz, *rgb, error, *track])


def _join(values: Iterable[object]) -> str:
    """Numbers with all their digits."""
    return " ".join(str(value) for value in values)


def masks_of(job: ExportJob) -> MaskFiles:
    """How the options want masks."""
    return MaskFiles(job.config.mask_growth, job.config.mask_names, job.config.mask_white)


def _write(job: ExportJob) -> list[Path]:
    folder, masks = job.folder / _FOLDER, masks_of(job)
    write_colmap(job.scene, folder, max_points=job.most_start_points, undistort=job.config.undistort, masks=masks)
    return [folder / file for file in colmap_files(job.scene, masks)]


def _files(job: ExportJob) -> set[str]:
    return {f"{_FOLDER}/{file}" for file in colmap_files(job.scene, masks_of(job))}


def _says(job: ExportJob) -> list[str]:
    remarks = ["gsplat's examples look for images_4: give them --data_factor 1, or export --format splat"]
    if is_distorted(job.scene.distortion) and not job.config.undistort:
        lens = ", ".join(
            f"{name} {value:.4g}" for name, value in zip(distortion_names(job.scene.distortion), job.scene.distortion)
        )
        remarks.insert(
            0,
            f"the lens is distorted (camera model {_model(job.scene)}, {lens}). COLMAP, gsplat and nerfstudio "
            "undistort by themselves; INRIA's loader and those made from it refuse it: for them, "
            "--undistort or --format splat",
        )
    if not job.scene.has_depth and job.scene.sparse is None:
        remarks.append("the scene has neither depth nor points, so the model has none: most trainers start from some")
    return remarks + between_remark(job.scene)


EXPORTER = Exporter(files=_files, write=_write, needs=require_images, says=_says)
