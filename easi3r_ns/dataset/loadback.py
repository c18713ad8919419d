"""Does a dataset load? Asked of nerfstudio's own parser, the one that training uses."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..core.errors import OutputError, shortened
from ..core.geometry import is_rigid
from ..core.optional import load_open3d
from ..core.runlog import RunLog
from ..core.unicode import is_unicode
from ..core.workers import ordered
from ..storage.names import plain_name

if TYPE_CHECKING:
    from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs

SAMPLED = 5
"""Frames of which the check at the end of a run reads every pixel; it wrote them a minute ago."""
MIN_CAMERA_SPREAD = 1e-6
"""Largest distance of a camera from their mean, in scene units, below which nerfstudio's division by it overflows."""


class _RuleBroken(OutputError):
    """What nerfstudio makes of a dataset is not right."""


def check_loads(dataset: Path, log: RunLog) -> None:
    """Load a dataset (its folder, or a JSON file in it) through nerfstudio's dataparser: all splits, every downscale.

    Counts, files, sizes, poses (rigid), intrinsics and points (finite) must be right, else OutputError; of
    :data:`SAMPLED` frames all pixels are read too, and ``log`` says of which. Says through ``log.warn`` what nerfstudio
    makes of a camera that stands still, and of a clip too short for its default split, and of a name that is not UTF-8.
    """
    try:
        load_dataset(dataset, log, sample=SAMPLED)
    except _RuleBroken as error:
        raise OutputError(f"the written dataset fails its check: {error}. This is a bug, please report it") from error


def load_colmap(dataset: Path, model: str) -> None:
    """Load a COLMAP project through nerfstudio's dataparser ``colmap``, with the model in the folder ``model`` of it.

    Raises OutputError when it does not load, or what it gives is not right.
    """
    try:
        with _quiet():
            from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig

            config = ColmapDataParserConfig(data=dataset, colmap_path=Path(model), downscale_factor=1, eval_mode="all")
            parsed = config.setup().get_dataparser_outputs("train")
    except (Exception, SystemExit) as error:
        raise OutputError(f"nerfstudio cannot load {dataset} as a COLMAP project: {error!r}") from error
    _check(parsed, "the project", 1)


def load_dataset(dataset: Path, log: RunLog, *, sample: int | None = None) -> None:
    """:func:`check_loads` for a dataset that anybody wrote.

    ``sample``: of so many frames, evenly spread, all pixels of images, masks and depth maps are read; None: of all.
    """
    file = dataset if dataset.suffix == ".json" else dataset / "transforms.json"
    meta = json.loads(file.read_text(encoding="utf-8"))
    spread = _camera_spread(meta)
    if spread < MIN_CAMERA_SPREAD:
        log.warn(
            "the camera never moves: nerfstudio-data would divide by its path; train with the easi3r-data dataparser, "
            "or give nerfstudio-data --auto-scale-poses False"
        )
    chosen = sampled_frames(len(meta["frames"]), sample)
    names = {Path(meta["frames"][k]["file_path"]).name for k in chosen}
    files: set[Path] = set()
    for factor in (1, *_downscales(file.parent, meta)):
        outputs = {split: _load(file, factor, split, spread) for split in ("train", "val", "test")}
        for split, parsed in outputs.items():
            if parsed is not None:
                files |= _check(parsed, f"{split} split at 1/{factor} size", factor, names)
        _check_counts(outputs, meta, factor)
    _require_decodable(files)
    if len(chosen) < len(meta["frames"]):
        named = ", ".join(str(k + 1) for k in chosen)
        log.info(
            f"check: headers of all {len(meta['frames'])} frames, every pixel of {len(chosen)} of them ({named}); "
            "easi3r check reads every pixel of all"
        )
    if "ply_file_path" in meta and not _open3d_takes(file):
        _check_points(file, meta)
    if not is_unicode(file):
        log.warn(
            "the name of the folder is not UTF-8: nerfstudio-data ends without a word where it reads the points there; "
            "train with the easi3r-data dataparser, or rename the folder"
        )
    if outputs["val"] is None:
        log.warn(
            f"{len(meta['frames'])} frames are too few for nerfstudio's default split to keep one for evaluation: "
            "train with --eval-mode interval (or all)"
        )


def _downscales(output_dir: Path, meta: dict[str, Any]) -> list[int]:
    names = [Path(frame["file_path"]).name for frame in meta["frames"]]
    folders = {2**k: output_dir / f"images_{2**k}" for k in range(1, 7)}
    return [factor for factor, folder in folders.items() if any((folder / name).exists() for name in names)]


def _load(file: Path, factor: int, split: str, spread: float) -> DataparserOutputs | None:
    """What the parser makes of a split; None for an evaluation split that is empty."""
    with _quiet():
        from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    config = NerfstudioDataParserConfig(
        data=file,
        downscale_factor=factor,
        load_3D_points=factor == 1 and _open3d_takes(file),
        auto_scale_poses=spread >= MIN_CAMERA_SPREAD,
    )
    meta = json.loads(file.read_text(encoding="utf-8"))
    if split != "train" and _eval_is_empty(meta, config.train_split_fraction, split):
        return None
    try:
        with _quiet():
            return config.setup().get_dataparser_outputs(split)
    except Exception as error:
        # The parser is not ours and checks with assert and whatever torch raises: each means that it does not load.
        raise OutputError(f"nerfstudio cannot load {file.parent} ({split}, 1/{factor} size): {error!r}") from error


def _eval_is_empty(meta: dict[str, Any], train_fraction: float, split: str) -> bool:
    if f"{split}_filenames" in meta:
        return not meta[f"{split}_filenames"]
    return int(np.ceil(len(meta["frames"]) * train_fraction)) == len(meta["frames"])


def sampled_frames(count: int, sample: int | None) -> list[int]:
    """Positions of ``sample`` of ``count`` frames, evenly spread, the first and the last among them; None: of all."""
    wanted = count if sample is None else min(count, sample)
    return sorted(set(np.linspace(0, count - 1, wanted).round().astype(int).tolist()))


def _check(parsed: DataparserOutputs, what: str, factor: int, chosen: Collection[str] = ()) -> set[Path]:
    """Returns the files of the frames whose images are called as ``chosen`` says."""
    count = len(parsed.image_filenames)
    cameras = parsed.cameras
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3] = cameras.camera_to_worlds.numpy()
    _require(count > 0 and len(cameras) == count, f"{what}: {len(cameras)} cameras for {count} images")
    _require(is_rigid(poses), f"{what}: a pose is not rigid or not finite")
    for name in ("fx", "fy", "cx", "cy"):
        values = getattr(cameras, name).numpy()
        _require(bool(np.isfinite(values).all() and (values > 0).all()), f"{what}: {name} is not positive")
    files = {"image": parsed.image_filenames, "mask": parsed.mask_filenames}
    files["depth"] = parsed.metadata.get("depth_filenames")
    sizes = list(zip(cameras.width[:, 0].tolist(), cameras.height[:, 0].tolist()))
    for kind, paths in files.items():
        _require(paths is None or len(paths) == count, f"{what}: {len(paths or [])} {kind} files for {count} images")
        for path, size in zip(paths or [], sizes):
            _require(path.is_file(), f"{what}: {path} is missing")
            with Image.open(path) as image:
                _require(image.size == size, f"{what}: {path} is {image.size}, its camera {size}")
    points = parsed.metadata.get("points3D_xyz")
    _require(points is None or bool(np.isfinite(points.numpy()).all()), f"{what}: a point is not finite")
    rows = [k for k, path in enumerate(parsed.image_filenames) if path.name in chosen]
    return {paths[k] for paths in files.values() if paths is not None for k in rows}


def _require_decodable(files: Collection[Path]) -> None:
    """Read every pixel of some images: a header may be whole where the rest is not."""
    for path, problem in ordered(_undecodable, sorted(files)):
        _require(problem is None, f"{path} cannot be decoded: {problem}")


def _undecodable(path: Path) -> tuple[Path, str | None]:
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")
            image.load()  # OpenCV gives a file that ends too early without a word
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return path, shortened(str(error))
    return path, None


def _check_points(file: Path, meta: dict[str, Any]) -> None:
    """What the parser would check, for a path whose letters Open3D, which it calls, may not know."""
    cloud = file.parent / meta["ply_file_path"]
    _require(cloud.is_file(), f"{cloud} is missing")
    with plain_name(cloud) as plain:
        points = np.asarray(load_open3d().io.read_point_cloud(str(plain)).points)
    _require(bool(np.isfinite(points).all()), "a point is not finite")


def _open3d_takes(file: Path) -> bool:
    return str(file.absolute()).isascii()


def _check_counts(outputs: dict[str, DataparserOutputs | None], meta: dict[str, Any], factor: int) -> None:
    seen = {path.name for parsed in outputs.values() if parsed for path in parsed.image_filenames}
    if "train_filenames" in meta:
        expected = {Path(file).name for split in outputs for file in meta[f"{split}_filenames"]}
    else:
        expected = {Path(frame["file_path"]).name for frame in meta["frames"]}
    _require(seen == expected, f"1/{factor} size: nerfstudio sees {len(seen)} of {len(expected)} frames")


def _camera_spread(meta: dict[str, Any]) -> float:
    try:
        centres = np.array([frame["transform_matrix"] for frame in meta["frames"]], dtype=float)[:, :3, 3]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise _RuleBroken("a frame has no transform_matrix of 4x4 numbers") from error
    return float(np.abs(centres - centres.mean(axis=0)).max())


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise _RuleBroken(message)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nerfstudio.utils.rich_utils import CONSOLE

        before, CONSOLE.quiet = CONSOLE.quiet, True
        try:
            yield
        finally:
            CONSOLE.quiet = before
