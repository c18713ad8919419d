"""Scene -> COLMAP project: images, masks and a sparse model, binary and text (https://colmap.github.io/format.html).

::

    images/frame_00001.png            the source images
    masks/frame_00001.png.png         8 bit, black where COLMAP shall find no features: what moves
    sparse/0/{cameras,images,points3D}.bin
    text/{cameras,images,points3D}.txt    the same model

``images`` and ``sparse/0`` lie where the loaders of gsplat and of INRIA's gaussian-splatting look for them. The world
is that of ``transforms.json`` (z up). The camera model is PINHOLE, or OPENCV where the lens distorts; undistorted, such
a scene is PINHOLE too, which is all that INRIA's loader takes. Triangulated points come with their tracks; a scene
without them gives static points with empty tracks and the error -1 (unknown).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from ..core.errors import InputError
from ..core.geometry import (
    Z_UP_FROM_OPENCV_WORLD,
    distort,
    intrinsics_to_source,
    opencv_to_colmap,
    pixel_grid,
    transform,
)
from ..core.geometry import undistort as undistort_xy
from ..core.scene import Scene
from ..dataset.pointcloud import static_points
from ..dataset.resample import static_at_source
from ..storage.files import link_or_copy, make_folder, read_png, write_bytes, write_png
from .exporter import Exporter, ExportJob

_FOLDER = "colmap"
MODEL_FILES = ("cameras", "images", "points3D")
_MODEL_IDS = {"PINHOLE": 1, "OPENCV": 4}
_UNKNOWN_ERROR = -1.0
_TEXT_HEADERS = {
    "cameras": "# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]",
    "images": "# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME\n# POINTS2D[] as (X, Y, POINT3D_ID)",
    "points3D": "# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)",
}


@dataclass(frozen=True)
class ColmapModel:
    """A sparse model; the numbers that the files count from 1 count from 0 here."""

    model: str
    """'PINHOLE' or 'OPENCV'."""
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


def colmap_files(scene: Scene) -> set[str]:
    """Every file that :func:`write_colmap` writes, relative to its folder."""
    files = {f"sparse/0/{name}.bin" for name in MODEL_FILES} | {f"text/{name}.txt" for name in MODEL_FILES}
    for name in _names(scene):
        files |= {f"images/{name}", f"masks/{name}.png"}
    return files


def write_colmap(
    scene: Scene, path: Path, *, mask_growth: float = 3, max_points: int = 200_000, undistort: bool = False
) -> Path:
    """Write ``scene`` as a COLMAP project into the folder ``path`` and return it.

    Moving regions are grown by ``mask_growth`` network pixels in the masks, and before points are taken from the depth
    (at most ``max_points``; triangulated points are all kept). With ``undistort`` images, masks and observations are
    those of a lens without distortion and the same focal length; pixels that the source does not show are black, and
    masked. Raises InputError when a source image is gone,
    OutputError when the disk refuses.
    """
    missing = [source for source in scene.source_paths if not source.is_file()]
    if missing:
        raise InputError(f"{missing[0]} is missing: a COLMAP project needs the images of the scene where they were")
    undistort = undistort and any(scene.distortion)
    model = colmap_model(scene, mask_growth=mask_growth, max_points=max_points, undistort=undistort)
    for folder in ("images", "masks", "sparse/0", "text"):
        make_folder(path / folder)
    for position, name in enumerate(model.names):
        static = static_at_source(scene.dynamic.masks[position], scene.pixel_map, mask_growth)
        if undistort:
            image, static = _undistorted(scene, position, static)
            write_png(path / "images" / name, image)
        else:
            link_or_copy(scene.source_paths[position], path / "images" / name)
        write_png(path / "masks" / f"{name}.png", static.astype(np.uint8) * 255)
    write_model(model, path / "sparse" / "0", path / "text")
    return path


def write_model(model: ColmapModel, binary: Path, text: Path) -> None:
    """Write the three files of a model into each of two folders that exist. Raises OutputError."""
    tracks = _tracks(model)
    for name, content in zip(MODEL_FILES, (_camera_bytes(model), _image_bytes(model), _point_bytes(model, tracks))):
        write_bytes(binary / f"{name}.bin", content)
    for name, lines in zip(MODEL_FILES, (_camera_lines(model), _image_lines(model), _point_lines(model, tracks))):
        write_bytes(text / f"{name}.txt", "\n".join([_TEXT_HEADERS[name], *lines, ""]).encode())


def colmap_model(
    scene: Scene, *, mask_growth: float = 3, max_points: int = 200_000, undistort: bool = False
) -> ColmapModel:
    """The sparse model of a scene; see :func:`write_colmap`."""
    distorted = any(scene.distortion) and not undistort
    params = np.array([intrinsics_to_source(f, scene.principal_point, scene.pixel_map) for f in scene.focals])
    params = params[:1] if (params == params[0]).all() else params
    if distorted:
        params = np.hstack([params, np.tile(scene.distortion, (len(params), 1))])
    sparse, frames = scene.sparse, range(len(scene))
    if sparse is not None:
        points, colors, errors = sparse.points, sparse.colors, sparse.errors
        rows = [np.flatnonzero(sparse.frame_index == frame) for frame in frames]
        observations = tuple(sparse.pixels[row] for row in rows)
        if undistort:
            observations = tuple(_ideal_pixels(scene, frame, xy) for frame, xy in enumerate(observations))
        observed = tuple(sparse.point_index[row] for row in rows)
    else:
        points, colors = static_points(scene, max_points, mask_growth)
        errors = np.full(len(points), _UNKNOWN_ERROR)
        observations, observed = (np.empty((0, 2)),) * len(scene), (np.empty(0, dtype=np.int64),) * len(scene)
    return ColmapModel(
        model="OPENCV" if distorted else "PINHOLE",
        width=scene.pixel_map.source_wh[0],
        height=scene.pixel_map.source_wh[1],
        params=params,
        T_cam_world=opencv_to_colmap(Z_UP_FROM_OPENCV_WORLD @ scene.T_world_cam),
        names=_names(scene),
        points=transform(Z_UP_FROM_OPENCV_WORLD, points.astype(float)),
        colors=colors,
        errors=errors,
        observations=observations,
        observed=observed,
    )


def _lens(scene: Scene, position: int) -> tuple[float, np.ndarray]:
    """Focal length and principal point in source pixels, the first centre at 0.5."""
    focal, _, cx, cy = intrinsics_to_source(scene.focals[position], scene.principal_point, scene.pixel_map)
    return focal, np.array([cx, cy])


def _ideal_pixels(scene: Scene, position: int, xy: np.ndarray) -> np.ndarray:
    focal, centre = _lens(scene, position)
    return undistort_xy((xy - centre) / focal, scene.distortion) * focal + centre


def _undistorted(scene: Scene, position: int, static: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The source image (H, W, 3) uint8 and its static pixels (H, W) bool as a lens without distortion shows them."""
    import cv2

    focal, centre = _lens(scene, position)
    # OpenCV counts pixel centres from 0.
    ideal = (pixel_grid(*static.shape) + 0.5 - centre) / focal
    column, row = np.moveaxis((distort(ideal, scene.distortion) * focal + centre - 0.5).astype(np.float32), -1, 0)
    image = cv2.remap(read_png(scene.source_paths[position]), column, row, cv2.INTER_LINEAR)
    # A pixel is static when everything that it mixes is; outside the source nothing is known.
    share = cv2.remap(static.astype(np.float32), column, row, cv2.INTER_LINEAR)
    return image, share > 1 - 1e-4


def _names(scene: Scene) -> tuple[str, ...]:
    return tuple(f"frame_{position + 1:05d}.png" for position in range(len(scene)))


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
        yield _join(value for (x, y), point in rows for value in (x, y, point))


def _point_lines(model: ColmapModel, tracks: list[np.ndarray] | None) -> Iterator[str]:
    columns = zip(model.points.tolist(), model.colors.tolist(), model.errors.tolist())
    for point, (xyz, rgb, error) in enumerate(columns):
        track = [] if tracks is None else (tracks[point] + [1, 0]).ravel().tolist()
        yield _join([point + 1, *xyz, *rgb, error, *track])


def _join(values: Iterable[object]) -> str:
    """Numbers with all their digits."""
    return " ".join(str(value) for value in values)


def _write(job: ExportJob) -> list[Path]:
    folder = job.folder / _FOLDER
    write_colmap(job.scene, folder, **job.point_options, undistort=job.config.undistort)
    return [folder / file for file in colmap_files(job.scene)]


EXPORTER = Exporter(files=lambda job: {f"{_FOLDER}/{file}" for file in colmap_files(job.scene)}, write=_write)
