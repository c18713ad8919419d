"""Scene -> nerfstudio dataset (the format of nerfstudio 1.1.5's own parser)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.config import DatasetConfig
from ..core.downscale import downscale_factors, downscaled_size, shrink_image
from ..core.errors import InputError, OutputError
from ..core.geometry import (
    Z_UP_FROM_OPENCV_WORLD,
    FisheyeDistortion,
    distortion_names,
    intrinsics_to_source,
    is_rigid,
    opencv_to_opengl,
    transform,
)
from ..core.rig import ViewRig
from ..core.runlog import RunLog
from ..core.scene import Scene
from ..core.surface import assumed_pixels, trusted_depth
from ..core.types import T_SIDE_UPRIGHT, upright_again
from ..core.upright import is_level
from ..core.workers import ordered
from ..storage.copies import kept_copies
from ..storage.files import SUFFIXES, link_or_copy, make_folder, read_png, write_image, write_json, write_png, writing
from ..storage.owned import claim, owned_files, settle
from .listing import Listed, listed_frames, listed_splits, possible_stems, splits_by_moment, stems_of
from .loadback import check_loads
from .pointcloud import dynamic_points, dynamic_remark, static_points, write_ply
from .resample import depth_at_source, labels_at_source, objects_at_source, shrink_static, static_at_source
from .scene_folder import SCENE_FILES, SCENE_FOLDER, write_scene

__all__ = ["check_loads", "dataset_files", "refuse_taken", "with_dataset_images", "write_dataset"]

TRANSFORMS = "transforms.json"
UNCHECKED = "transforms.unchecked.json"
"""Its name until the dataset has passed its check."""
POINTS = "sparse_pc.ply"
OBJECTS_FOLDER = "masks_objects"
UNKNOWN_DEPTH = "depths/unknown.png"
"""0 everywhere: nerfstudio wants a depth map for every frame or for none, and frames in between have none."""
DEPTH_STEP = 0.001
"""Scene units per step of a 16-bit depth map (nerfstudio's default)."""

NGP_SCALE = 0.33
"""By which instant-ngp multiplies positions."""
LARGEST_NGP_BOX = 128

_FEW_POINTS = 1000
_INSIDE_BOX = 0.99
"""Share of cameras and points that lie in the box of instant-ngp."""
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class _FrameFiles:
    """Paths of one frame, relative to the dataset."""

    image: str
    mask: str
    depth: str | None
    cloud: str | None
    """None when nothing that moves in this frame has a trusted or an assumed depth."""
    source: str | None = None
    """Where the depth of each pixel came from; None where all is of one source."""
    objects: str | None = None
    """Ids of what moves; None when objects were not told apart, or nothing moves in any frame."""


def write_dataset(
    scene: Scene,
    output_dir: Path,
    config: DatasetConfig,
    log: RunLog,
    *,
    splits: Mapping[str, Sequence[int]] | None = None,
    overwrite: bool = False,
    verify: Callable[[Path], None] | None = None,
) -> Path:
    """Write ``scene`` as a nerfstudio dataset and return the path of its ``transforms.json``, which appears last.

    Poses are camera-to-world with OpenGL axes; ``applied_transform`` leads there from the scene's world. z points
    up where ``easi3r.up`` says how that was found (:mod:`easi3r_ns.core.upright`); ``orientation_override`` then
    keeps nerfstudio from turning the world to the cameras' mean up, which tilts it for a camera that looks down.
    Depth is z-depth in scene units (see ``core.scene.choose_scale``). A scene that has neither depth nor
    triangulated points gets no static cloud (nerfstudio then starts from random points). The scene itself goes into
    ``scene/`` (see :mod:`~easi3r_ns.dataset.scene_folder`), with these images as its sources. ``splits`` gives the
    frame positions of 'train', 'val' and 'test'; the static cloud holds nothing that only val or test frames saw. Of a
    sphere whole moments are held out.

    The frames of ``scene.between`` stand among the others, in the order of time, with ``pose_source``; their depth map
    is 0 (unknown) everywhere, and those with an interpolated camera are in no split.

    Where the scene has an uncertainty, every frame has ``uncertainty`` with ``rotation_deg``, ``position`` (units of
    the dataset; both 1 sigma, null where nothing observes the camera) and ``residual_percent`` (of the depth), and
    ``fl_x_sigma`` (source pixels, 1 sigma) stands beside ``fl_x``; see ``core.scene.CameraUncertainty``.
    nerfstudio ignores them.

    Where the scene tells objects apart, ``masks_objects/`` has a 16-bit image for every frame (``object_mask_path``):
    the id of the object that moves at each pixel, 0 exactly where the mask is white.

    ``scene.source_paths`` must not lie inside the dataset's own folders. ``verify`` is called with the dataset under
    another name of its JSON file; only when it returns does the dataset get its ``transforms.json``.

    Raises OutputError when ``output_dir`` holds a dataset (without ``overwrite``), when a file that is not ours would
    have to be replaced, or when the disk refuses; InputError for impossible ``splits``.
    """
    splits = splits_by_moment(scene.rig) if splits is None else splits
    _check_splits(splits, len(scene))
    listed = listed_frames(scene)
    stems = stems_of(scene, listed)
    frames = [_frame_files(scene, stem, frame, config) for stem, frame in zip(stems, listed)]
    factors = downscale_factors(scene.pixel_map.source_wh, config.num_downscales)
    refuse_taken(output_dir, overwrite)
    claim(output_dir, _all_files(frames, factors), first=TRANSFORMS)
    for folder in {(output_dir / file).parent for file in _all_files(frames, factors)}:
        make_folder(folder)
    with log.stage("dataset", len(listed) + 1) as advance:
        cloud = _write_static_cloud(scene, output_dir, config, log, (splits or {}).get("train"))
        advance(1)
        written = []
        for files in ordered(_frame_writer(scene, output_dir, config, factors), zip(listed, frames)):
            written.append(files)
            advance(1)
        settle(output_dir, _all_files(written, factors))
        stages = [asdict(stage) for stage in log.stages]
        if UNKNOWN_DEPTH in {files.depth for files in written}:
            _write_unknown_depth(scene, output_dir, factors)
        meta = _transforms(scene, listed, written, listed_splits(listed, splits), cloud)
        meta["easi3r"] = meta["easi3r"] | {"warnings": log.warnings, "stages": stages}
        kept = replace(with_dataset_images(scene, output_dir, config), provenance=meta["easi3r"])
        write_scene(kept, output_dir / SCENE_FOLDER)
        write_json(output_dir / UNCHECKED, meta)
    try:
        if verify is not None:
            verify(output_dir / UNCHECKED)
        with writing(output_dir):
            os.replace(output_dir / UNCHECKED, output_dir / TRANSFORMS)
    finally:
        with contextlib.suppress(OSError):
            (output_dir / UNCHECKED).unlink(missing_ok=True)
    return output_dir / TRANSFORMS


def with_dataset_images(scene: Scene, output_dir: Path, config: DatasetConfig) -> Scene:
    """``scene`` with the images of the dataset in ``output_dir`` as its sources."""
    listed = listed_frames(scene)
    files = [
        output_dir / _named_files(stem, config, depth=False, cloud=False).image for stem in stems_of(scene, listed)
    ]
    own = tuple(path for path, frame in zip(files, listed) if frame.position is not None)
    others = tuple(path for path, frame in zip(files, listed) if frame.position is None)
    between = scene.between and replace(scene.between, source_paths=others)
    return replace(scene, source_paths=own, between=between)


def _frame_files(scene: Scene, stem: str, frame: Listed, config: DatasetConfig) -> _FrameFiles:
    depth = config.depths and scene.has_depth
    objects = scene.dynamic.objects is not None and bool(scene.dynamic.objects.any())
    if frame.position is None:
        files = _named_files(stem, config, depth=False, cloud=False)
        return replace(files, depth=UNKNOWN_DEPTH if depth else None, objects=files.objects if objects else None)
    moving = scene.dynamic.masks[frame.position] & (scene.depth[frame.position] > 0)
    moving |= assumed_pixels(scene, frame.position)
    files = _named_files(stem, config, depth=depth, cloud=bool(moving.any()))
    files = files if objects else replace(files, objects=None)
    return replace(files, source=_source_file(stem)) if depth and scene.depth_source is not None else files


def _named_files(stem: str, config: DatasetConfig, *, depth: bool, cloud: bool) -> _FrameFiles:
    return _FrameFiles(
        image=f"images/{stem}{SUFFIXES[config.image_format]}",
        mask=f"masks/{stem}.png",
        depth=f"depths/{stem}.png" if depth else None,
        cloud=f"dynamic/{stem}.ply" if cloud else None,
        objects=f"{OBJECTS_FOLDER}/{stem}.png",
    )


def _scaled(file: str, factor: int) -> str:
    folder, name = file.split("/")
    return file if factor == 1 else f"{folder}_{factor}/{name}"


def _all_files(frames: Sequence[_FrameFiles], factors: Sequence[int]) -> set[str]:
    files = {TRANSFORMS, UNCHECKED, POINTS, *(f"{SCENE_FOLDER}/{name}" for name in SCENE_FILES)}
    for frame in frames:
        files |= {_scaled(f, k) for f in (frame.image, frame.mask, frame.depth) if f for k in (1, *factors)}
        files |= {file for file in (frame.cloud, frame.source, frame.objects) if file}
    return files


def dataset_files(
    num_frames: int,
    source_wh: tuple[int, int],
    config: DatasetConfig,
    *,
    has_depth: bool = True,
    num_clips: int = 1,
    rig: ViewRig | None = None,
) -> set[str]:
    """All files, relative to the dataset, that one of so many frames of that size, and clips, can be made of."""
    depth = has_depth and config.depths
    stems = possible_stems(num_frames, num_clips, rig)
    frames = [_named_files(stem, config, depth=depth, cloud=has_depth) for stem in stems]
    factors = downscale_factors(source_wh, config.num_downscales)
    unknown = {_scaled(UNKNOWN_DEPTH, k) for k in (1, *factors)} if depth else set()
    sources = {_source_file(stem) for stem in stems} if depth else set()
    return unknown | sources | _all_files(frames, factors)


def _source_file(stem: str) -> str:
    return f"depth_sources/{stem}.png"


def refuse_taken(output_dir: Path, overwrite: bool) -> None:
    """Raises OutputError when ``output_dir`` holds a dataset that may not be replaced."""
    if (output_dir / TRANSFORMS).exists():
        if not overwrite:
            raise OutputError(
                f"{output_dir} already holds a dataset ({TRANSFORMS}): choose another --output-dir, or replace it "
                "with --overwrite"
            )
        if TRANSFORMS not in owned_files(output_dir):
            raise OutputError(
                f"{output_dir / TRANSFORMS} was not written by easi3r and is not overwritten: choose another "
                "--output-dir"
            )


def _write_static_cloud(
    scene: Scene, output_dir: Path, config: DatasetConfig, log: RunLog, frames: Sequence[int] | None
) -> np.ndarray:
    """Returns the (N, 3) points in the world of the dataset."""
    if not _has_points(scene):
        (output_dir / POINTS).unlink(missing_ok=True)
        return np.zeros((0, 3))
    points, colors = static_points(scene, config.max_init_points, config.mask_growth, frames)
    if len(points) < min(_FEW_POINTS, config.max_init_points):
        log.warn(
            f"only {len(points)} points are static and confident, too few for splatfacto to start from: look at the "
            f"masks, and lower --min-confidence ({scene.min_confidence:g}; 1 keeps all) or --mask-growth "
            f"({config.mask_growth})"
        )
    points = transform(Z_UP_FROM_OPENCV_WORLD, points)
    write_ply(output_dir / POINTS, points, colors)
    return points


def _has_points(scene: Scene) -> bool:
    """Whether there can be a static cloud at all: readers of PLY files refuse an empty one."""
    return scene.has_measured_depth or scene.sparse is not None


def _frame_writer(
    scene: Scene, output_dir: Path, config: DatasetConfig, factors: Sequence[int]
) -> Callable[[tuple[Listed, _FrameFiles]], _FrameFiles]:
    def write(item: tuple[Listed, _FrameFiles]) -> _FrameFiles:
        frame, files = item
        pixel_map, moving = scene.pixel_map, frame.moving(scene)
        depth = None if frame.position is None else trusted_depth(scene, frame.position)
        labels = scene.depth_source[frame.position] if files.source and scene.depth_source is not None else None
        if frame.turned:
            moving, pixel_map = upright_again(moving), pixel_map.upright()
            depth, labels = (None if values is None else upright_again(values) for values in (depth, labels))
        _write_images(frame, {factor: output_dir / _scaled(files.image, factor) for factor in (1, *factors)}, scene)
        static = static_at_source(moving, pixel_map, config.mask_growth)
        ids = frame.objects(scene) if files.objects else None
        if files.objects and ids is not None:
            ids = upright_again(ids) if frame.turned else ids
            write_png(output_dir / files.objects, objects_at_source(ids, static, pixel_map))
        for factor in (1, *factors):
            mask = shrink_static(static, factor)
            write_png(output_dir / _scaled(files.mask, factor), mask.astype(np.uint8) * 255)
            if files.depth and depth is not None:
                steps = depth_steps(depth_at_source(depth, pixel_map, factor))
                write_png(output_dir / _scaled(files.depth, factor), steps)
                if files.source and labels is not None and factor == 1:
                    write_png(output_dir / files.source, labels_at_source(labels, pixel_map) * (steps > 0))
        if files.cloud is None:
            return files
        points, colors = dynamic_points(scene, frame.near)
        if not len(points):
            (output_dir / files.cloud).unlink(missing_ok=True)
            return replace(files, cloud=None)
        points, remark = transform(Z_UP_FROM_OPENCV_WORLD, points), dynamic_remark(scene, frame.near)
        write_ply(output_dir / files.cloud, points, colors, remark=remark)
        return files

    return write


def _write_images(frame: Listed, targets: dict[int, Path], scene: Scene) -> None:
    """Write the image of a frame, and its copies, as ``targets`` says by factors; links where they exist already."""
    source, source_wh = frame.source_path, scene.pixel_map.source_wh
    as_it_is = not frame.turned and source.suffix == targets[1].suffix
    copies = kept_copies(source, source_wh, tuple(factor for factor in targets if factor > 1)) if as_it_is else None
    if copies is not None:
        for factor, copy in ({1: source} | copies).items():
            link_or_copy(copy, targets[factor])
        return
    image = read_png(source)
    if (image.shape[1], image.shape[0]) != source_wh:
        raise ValueError(f"{source} is {image.shape[1]}x{image.shape[0]}, not {source_wh}")
    image = upright_again(image) if frame.turned else image
    for factor, target in targets.items():
        if factor > 1:
            write_image(target, shrink_image(image, factor))
        elif as_it_is:
            link_or_copy(source, target)
        else:
            write_image(target, image)


def _write_unknown_depth(scene: Scene, output_dir: Path, factors: Sequence[int]) -> None:
    for factor in (1, *factors):
        width, height = downscaled_size(scene.pixel_map.source_wh, factor)
        write_png(output_dir / _scaled(UNKNOWN_DEPTH, factor), np.zeros((height, width), dtype=np.uint16))


def depth_steps(depth: np.ndarray) -> np.ndarray:
    """(H, W) z-depth in scene units -> uint16 steps of :data:`DEPTH_STEP`; 0, unknown, where they do not suffice."""
    rounded = np.rint(depth / DEPTH_STEP)
    return np.where(rounded <= 65535, rounded, 0).astype(np.uint16)


def _transforms(
    scene: Scene,
    listed: Sequence[Listed],
    frames: Sequence[_FrameFiles],
    splits: dict[str, list[int]] | None,
    cloud: np.ndarray,
) -> dict[str, Any]:
    cameras = [frame.T_world_cam @ T_SIDE_UPRIGHT if frame.turned else frame.T_world_cam for frame in listed]
    poses = Z_UP_FROM_OPENCV_WORLD @ opencv_to_opengl(np.stack(cameras))
    if not is_rigid(poses):
        raise ValueError("a camera pose is not a rigid motion")
    intrinsics = [_intrinsics(scene, frame) for frame in listed]
    # nerfstudio prefers what stands at the top, so only what is the same for all frames may stand there.
    shared = {key: value for key, value in intrinsics[0].items() if all(entry[key] == value for entry in intrinsics)}
    kind = "OPENCV_FISHEYE" if isinstance(scene.distortion, FisheyeDistortion) else "OPENCV"
    meta: dict[str, Any] = {"camera_model": kind, **dict(zip(distortion_names(scene.distortion), scene.distortion))}
    meta |= shared | {"applied_transform": Z_UP_FROM_OPENCV_WORLD[:3]}
    meta |= {"orientation_override": "none"} if is_level(scene) else {}
    meta |= {"aabb_scale": aabb_scale(np.concatenate([poses[:, :3, 3], cloud]))}
    meta |= {"integer_depth_scale": DEPTH_STEP} if any(files.depth for files in frames) else {}
    meta |= {"ply_file_path": POINTS} if _has_points(scene) else {}
    entries = []
    for number, (frame, files) in enumerate(zip(listed, frames)):
        entry: dict[str, Any] = {"file_path": files.image, "mask_path": files.mask}
        # instant-ngp calls it depth_path.
        entry |= {"depth_file_path": files.depth, "depth_path": files.depth} if files.depth else {}
        entry |= {"object_mask_path": files.objects} if files.objects else {}
        entry |= {"dynamic_ply_path": files.cloud} if files.cloud else {}
        entry |= {"depth_source_path": files.source} if files.source else {}
        entry |= {"dynamic_depth": "assumed"} if files.cloud and assumed_pixels(scene, frame.near).any() else {}
        entry |= {key: value for key, value in intrinsics[number].items() if key not in shared}
        entry |= {"source": frame.name, "frame_index": frame.index}
        entry |= {} if frame.clip is None else {"clip": frame.clip + 1}
        entry |= {"pose_source": frame.pose_source} if scene.pose_sources or scene.between else {}
        entry |= _uncertainty(scene, frame.position)
        entry |= {"time": frame.time, "transform_matrix": poses[number]}
        entries.append(entry)
    for split, positions in (splits or {}).items():
        meta[f"{split}_filenames"] = [frames[number].image for number in positions]
    return {**meta, "frames": entries, "easi3r": scene.provenance}


def aabb_scale(positions: np.ndarray) -> int:
    """What instant-ngp calls the size of the box that it trains, for (N, 3) cameras and points: a power of two.

    It multiplies positions by 0.33 and puts the origin into the middle of a box of this size; at most 128. One position
    in a hundred may lie outside.
    """
    reach = float(np.quantile(np.abs(positions).max(axis=1), _INSIDE_BOX, method="higher"))
    wanted = 2 * NGP_SCALE * max(reach, float(np.finfo(float).tiny))
    return int(np.clip(2.0 ** np.ceil(np.log2(wanted)), 1, LARGEST_NGP_BOX))


def _intrinsics(scene: Scene, frame: Listed) -> dict[str, float]:
    fl_x, fl_y, cx, cy = intrinsics_to_source(frame.focal, scene.principal_point, scene.pixel_map)
    width, height = scene.pixel_map.source_wh
    if frame.turned:
        width, height, cx, cy = height, width, height - cy, cx
    values = {"fl_x": fl_x, "fl_y": fl_y, "cx": cx, "cy": cy, "w": width, "h": height}
    if scene.uncertainty is not None:
        values["fl_x_sigma"] = float(scene.uncertainty.focal[frame.near] / scene.pixel_map.scale_xy[0])
    return values


def _uncertainty(scene: Scene, position: int | None) -> dict[str, Any]:
    found = scene.uncertainty
    if found is None or position is None:
        return {}
    values = {"rotation_deg": found.rotation_deg, "position": found.centre, "residual_percent": found.residual}
    return {"uncertainty": {name: float(value[position]) for name, value in values.items()}}


def _check_splits(splits: Mapping[str, Sequence[int]] | None, num_frames: int) -> None:
    if splits is None:
        return
    if set(splits) != set(_SPLITS):
        raise InputError(f"splits {sorted(splits)}: nerfstudio wants train, val and test together")
    for split, positions in splits.items():
        wrong = [position for position in positions if not 0 <= position < num_frames]
        if wrong:
            raise InputError(f"split {split} names frame {wrong[0]}: there are frames 0 to {num_frames - 1}")
