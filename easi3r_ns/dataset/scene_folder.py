"""A :class:`~easi3r_ns.core.scene.Scene` as a folder, without loss: what the exporters, the viewer and the report read.

Version 2 of the format is two files, which JSON and numpy read::

    meta = json.load(open("scene/scene.json"))
    arrays = numpy.load("scene/arrays.npz")
    depth, moving = arrays["depth"], arrays["dynamic.masks"]  # (F, H, W) float32 and bool

``scene.json``
    ``format`` ("easi3r-scene"), ``version``, ``arrays`` (name of the other file), ``pixel_map`` (``source_wh``,
    ``resized_wh``, ``crop_box``), ``names``, ``source_paths`` (relative to this folder where the images lie in the
    dataset around it, absolute elsewhere), ``min_confidence``, ``distortion`` with ``lens`` ("opencv", the default, or
    "opencv-fisheye"), ``pose_sources``, ``dynamic_source``,
    ``between`` (null, or ``names``, ``source_paths`` and ``pose_sources`` of the frames in between) and ``provenance``.
    Written last, so that a folder with it is complete.
``arrays.npz``
    The arrays of the Scene under the names of its fields, with their shapes and types: ``images``, ``T_world_cam``,
    ``focals``, ``principal_point``, ``depth``, ``confidence``, ``times``, ``indices`` and, where there are some,
    ``contradicted``, ``assumed_depth`` (of what moves, not measured: for viewing only) and ``depth_source`` (0 unknown,
    1 stereo, 2 network, 3 predicted from the picture alone). Fields of its parts have a prefix:
    ``dynamic.`` (``masks``, ``score``, ``threshold``, after a second look ``first``, and ``objects``, ids that are 0
    where nothing moves), with ``dynamic.maps.`` for the maps behind the score; ``sparse.`` (triangulated points),
    ``uncertainty.`` and ``between.`` (frames in between) where the Scene has these. ``rig.`` says, where the frames are
    views of a sphere, which ``view`` of which ``moment`` each is, and how the views stand (``T_rig_view``; ``focal`` in
    source pixels). Of frames in between, ``between.mask_bits`` holds eight pixels a byte:
    ``numpy.unpackbits(bits, axis=-1, count=W)``.

Cameras are camera-to-world with OpenCV axes in the scene's own world (y down, first camera at the origin), not in the
z-up world of ``transforms.json``; :data:`easi3r_ns.core.geometry.Z_UP_FROM_OPENCV_WORLD` leads from one to the other.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import InputError, shortened, shown
from ..core.geometry import FisheyeDistortion
from ..core.rig import ViewRig
from ..core.scene import CameraUncertainty, PosedFrames, Scene, SparsePoints
from ..core.types import DynamicMasks, PixelMap
from ..storage.files import make_folder, write_json, write_npz, writing
from ..storage.foreign import open_npz, read_json
from .scene_checks import CheckedArrays, check_scene, checked_meta

FORMAT = "easi3r-scene"
VERSION = 2
SCENE_FOLDER = "scene"
"""Its name inside a dataset."""
SCENE_JSON = "scene.json"
ARRAYS = "arrays.npz"
FISHEYE = "opencv-fisheye"
"""Value of ``lens`` for OpenCV's fisheye lens."""
SCENE_FILES = (SCENE_JSON, ARRAYS)

_ARRAYS = ("images", "T_world_cam", "focals", "principal_point", "depth", "confidence", "times", "indices")
_BETWEEN = ("T_world_cam", "focals", "after", "mask_bits", "times", "indices")
_DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What the readers of JSON and npz, and the checks of the Scene, raise for a file that is not what it should be."""


def write_scene(scene: Scene, path: Path) -> Path:
    """Write ``scene`` as the folder ``path`` and return it; the same scene gives identical bytes.

    Until the last file is in place the folder holds no ``scene.json``. The provenance is kept as JSON keeps it: tuples
    become lists, NaN becomes null. Raises OutputError.
    """
    make_folder(path)
    with writing(path / SCENE_JSON):
        (path / SCENE_JSON).unlink(missing_ok=True)
    write_npz(path / ARRAYS, _arrays(scene))
    meta = {
        "format": FORMAT,
        "version": VERSION,
        "arrays": ARRAYS,
        "pixel_map": {name: value for name, value in asdict(scene.pixel_map).items() if name != "cut"},
        "names": scene.names,
        "source_paths": [_to_text(source, path) for source in scene.source_paths],
        "min_confidence": scene.min_confidence,
        "distortion": scene.distortion,
        "lens": FISHEYE if isinstance(scene.distortion, FisheyeDistortion) else "opencv",
        "pose_sources": scene.pose_sources,
        "dynamic_source": scene.dynamic.source,
        "between": None if scene.between is None else _between_meta(scene.between, path),
        "provenance": scene.provenance,
    }
    write_json(path / SCENE_JSON, meta)
    return path


def read_scene(path: Path) -> Scene:
    """The Scene that :func:`write_scene` wrote into the folder ``path``; its source images need not exist.

    Raises InputError when it is missing, damaged, or of another version.
    """
    file = path / SCENE_JSON
    if not file.is_file():
        raise InputError(f"{path} holds no {SCENE_JSON}: give a dataset of easi3r, or the {SCENE_FOLDER} folder in it")
    try:
        meta = read_json(file)
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}): write the dataset again") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise InputError(f"{file} is not a scene of easi3r: its format is not {FORMAT!r}")
    if meta.get("version") != VERSION:
        raise InputError(f"{file} {_other_version(meta)}")
    try:
        checked_meta(meta)
        if meta["arrays"] != ARRAYS:
            raise ValueError(f"arrays = {shown(meta['arrays'])}, not {ARRAYS}")
        with open_npz(path / ARRAYS) as archive:
            scene = _scene(meta, CheckedArrays(archive), path)
        check_scene(scene)
        return scene
    except _DAMAGED as error:
        reason = shortened(str(error))
        raise InputError(f"{path} is damaged ({type(error).__name__}: {reason}): write the dataset again") from error


def dataset_folder(path: Path) -> Path:
    """The dataset that ``path`` belongs to: its folder, a file in it, its scene folder, or a file in that."""
    folder = path if path.is_dir() else path.parent
    return folder.parent if folder.name == SCENE_FOLDER else folder


def find_scene(path: Path) -> Scene:
    """The Scene of a dataset folder, of its ``transforms.json``, or of a scene folder.

    Raises InputError when there is none.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist: give the --output-dir of a run of easi3r")
    folder = path if path.is_dir() else path.parent
    for candidate in (folder, folder / SCENE_FOLDER):
        if (candidate / SCENE_JSON).is_file():
            return read_scene(candidate)
    raise InputError(
        f"{folder} holds no {SCENE_FOLDER}/{SCENE_JSON}: easi3r run writes it; other people's results come in through "
        "easi3r import"
    )


def _other_version(meta: dict[str, Any]) -> str:
    version, provenance = meta.get("version"), meta.get("provenance")
    writer = provenance.get("version") if isinstance(provenance, dict) else None
    own = f"the easi3r-ns that wrote it{f' ({shortened(str(writer), 40)})' if writer else ''}"
    if isinstance(version, int) and version < VERSION:
        remedy = f"run easi3r run (or easi3r import) again with --overwrite, or use {own}"
    else:
        remedy = f"use {own}, or a newer one"
    return f"has version {shown(version)} of the format, this easi3r-ns reads {VERSION}: {remedy}"


def _arrays(scene: Scene) -> dict[str, np.ndarray]:
    arrays = {name: np.asarray(getattr(scene, name)) for name in _ARRAYS}
    if scene.contradicted is not None:
        arrays["contradicted"] = scene.contradicted
    if scene.assumed_depth is not None:
        arrays["assumed_depth"] = scene.assumed_depth
    for name in ("clip", "turned", "depth_source"):
        if (values := getattr(scene, name)) is not None:
            arrays[name] = values
    dynamic = scene.dynamic
    arrays |= {"dynamic.masks": dynamic.masks, "dynamic.score": dynamic.score}
    if dynamic.first is not None:
        arrays["dynamic.first"] = dynamic.first
    if dynamic.objects is not None:
        arrays["dynamic.objects"] = dynamic.objects
    arrays["dynamic.threshold"] = np.float64(dynamic.threshold)
    arrays |= {f"dynamic.maps.{name}": values for name, values in (dynamic.maps or {}).items()}
    if scene.sparse is not None:
        arrays |= {f"sparse.{name}": getattr(scene.sparse, name) for name in SparsePoints.__dataclass_fields__}
    if scene.uncertainty is not None:
        arrays |= {f"uncertainty.{n}": getattr(scene.uncertainty, n) for n in CameraUncertainty.__dataclass_fields__}
    if scene.rig is not None:
        arrays |= {f"rig.{name}": np.asarray(getattr(scene.rig, name)) for name in ViewRig.__dataclass_fields__}
    if scene.between is not None:
        arrays |= {f"between.{name}": getattr(scene.between, name) for name in _BETWEEN}
    return arrays


def _between_meta(between: PosedFrames, folder: Path) -> dict[str, Any]:
    sources = [_to_text(source, folder) for source in between.source_paths]
    return {"names": between.names, "source_paths": sources, "pose_sources": between.pose_sources}


def _between(meta: dict[str, Any], arrays: Mapping[str, np.ndarray], folder: Path) -> PosedFrames | None:
    texts = meta.get("between")
    if texts is None:
        return None
    return PosedFrames(
        **{name: arrays[f"between.{name}"] for name in _BETWEEN},
        names=tuple(str(name) for name in texts["names"]),
        source_paths=tuple(_to_path(text, folder) for text in texts["source_paths"]),
        pose_sources=tuple(str(name) for name in texts["pose_sources"]),
    )


def _scene(meta: dict[str, Any], arrays: Mapping[str, np.ndarray], folder: Path) -> Scene:
    sizes = {name: tuple(int(value) for value in values) for name, values in meta["pixel_map"].items()}
    sparse = None
    if "sparse.points" in arrays:
        sparse = SparsePoints(**{name: arrays[f"sparse.{name}"] for name in SparsePoints.__dataclass_fields__})
    uncertainty = None
    if "uncertainty.centre" in arrays:
        uncertainty = CameraUncertainty(
            **{n: arrays[f"uncertainty.{n}"] for n in CameraUncertainty.__dataclass_fields__}
        )
    rig = None
    if "rig.T_rig_view" in arrays:
        rig = ViewRig(**{name: arrays[f"rig.{name}"] for name in ViewRig.__dataclass_fields__})
        rig = replace(rig, focal=float(rig.focal))
    maps = {name[len("dynamic.maps.") :]: arrays[name] for name in arrays if name.startswith("dynamic.maps.")}
    dynamic = DynamicMasks(
        masks=arrays["dynamic.masks"],
        score=arrays["dynamic.score"],
        threshold=float(arrays["dynamic.threshold"]),
        source=str(meta["dynamic_source"]),
        maps=maps or None,
        first=arrays["dynamic.first"] if "dynamic.first" in arrays else None,
        objects=arrays["dynamic.objects"] if "dynamic.objects" in arrays else None,
    )
    return Scene(
        **{name: arrays[name] for name in _ARRAYS},
        contradicted=arrays["contradicted"] if "contradicted" in arrays else None,
        assumed_depth=arrays["assumed_depth"] if "assumed_depth" in arrays else None,
        clip=arrays["clip"] if "clip" in arrays else None,
        turned=arrays["turned"] if "turned" in arrays else None,
        depth_source=arrays["depth_source"] if "depth_source" in arrays else None,
        dynamic=dynamic,
        pixel_map=PixelMap(**sizes),
        names=tuple(str(name) for name in meta["names"]),
        source_paths=tuple(_to_path(text, folder) for text in meta["source_paths"]),
        between=_between(meta, arrays, folder),
        min_confidence=float(meta["min_confidence"]),
        distortion=_distortion(meta),
        sparse=sparse,
        uncertainty=uncertainty,
        rig=rig,
        pose_sources=None if meta["pose_sources"] is None else tuple(str(name) for name in meta["pose_sources"]),
        provenance=_provenance(meta["provenance"]),
    )


def _provenance(found: Any) -> dict[str, Any]:
    """The provenance, whose parts that pages and messages read are what they should be. Raises ValueError."""
    provenance = dict(found)
    for name in ("weights", "mapping", "motion", "refine"):
        if not isinstance(provenance.get(name), (dict, type(None))):
            raise ValueError(f"provenance.{name} is no object")
    stages = provenance.get("stages") or []
    numbers = ("seconds", "cpu_seconds", "peak_memory_bytes")
    if not isinstance(stages, list) or not all(
        isinstance(stage, dict) and "name" in stage and all(isinstance(stage.get(n), (int, float)) for n in numbers)
        for stage in stages
    ):
        raise ValueError("provenance.stages is no list of stages with their seconds and memory")
    return provenance


def _distortion(meta: dict[str, Any]) -> tuple[float, float, float, float]:
    k1, k2, third, fourth = (float(value) for value in meta["distortion"])
    values = (k1, k2, third, fourth)
    return FisheyeDistortion(values) if meta.get("lens") == FISHEYE else values


def _to_text(source: Path, folder: Path) -> str:
    """A path inside the dataset around ``folder`` relative to ``folder``, so that the dataset can be moved."""
    source, folder = Path(os.path.abspath(source)), Path(os.path.abspath(folder))
    return Path(os.path.relpath(source, folder)).as_posix() if folder.parent in source.parents else str(source)


def _to_path(text: Any, folder: Path) -> Path:
    return Path(os.path.normpath(folder / str(text)))
