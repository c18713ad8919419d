"""The refined scene as a finished stage on disk, so that a killed run does not refine again."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
import torch

from .. import __version__
from ..core.config import RefineConfig
from ..core.geometry import FisheyeDistortion
from ..core.runlog import RunLog
from ..core.scene import CameraUncertainty, Scene, SparsePoints
from ..storage.cache import StageCache, Tensors, digest
from ..storage.files import jsonable
from .scene import refine_scene

_ARRAYS = ("T_world_cam", "focals", "principal_point", "depth", "confidence")
_JSON = ("distortion", "pose_sources")
_TEXT = "text"
_SIGMA, _SIGMAS = "uncertainty.", tuple(CameraUncertainty.__dataclass_fields__)


def refine_kept(
    scene: Scene,
    config: RefineConfig,
    log: RunLog,
    seed: int,
    cache: StageCache,
    *,
    fixed_focal: bool = False,
    stage: str = "refine",
    start_focal: float | None = None,
    shared_focal: bool = True,
) -> Scene:
    """:func:`~easi3r_ns.refine.scene.refine_scene`, or what it returned for this very scene before, with its warnings.

    ``stage``: name under which the cache keeps it; a run that refines twice needs two.

    Raises:
        MissingExtraError: pycolmap is not installed; OutputError: the result cannot be kept.
    """

    options = {"fixed_focal": fixed_focal, "start_focal": start_focal, "shared_focal": shared_focal}

    def compute() -> Tensors:
        told = len(log.warnings)
        refined = refine_scene(scene, config, log, seed, **options)
        return _pack(scene, refined, log.warnings[told:])

    decisive = (
        __version__,
        config,
        seed,
        *options.values(),
        scene.pixel_map,
        list(scene.distortion),
        scene.min_confidence,
    )
    arrays = [np.asarray(getattr(scene, name)) for name in _ARRAYS]
    kept = cache.stage(stage, digest(scene.images, scene.dynamic.masks, *arrays, *decisive), compute)
    return _unpack(scene, kept, log)


def _pack(scene: Scene, refined: Scene, warnings: list[str]) -> Tensors:
    tensors = {name: torch.from_numpy(np.ascontiguousarray(getattr(refined, name))) for name in _ARRAYS}
    if refined.sparse is not None:
        tensors |= {f"sparse.{f.name}": torch.from_numpy(getattr(refined.sparse, f.name)) for f in fields(SparsePoints)}
    if refined.uncertainty is not None:
        tensors |= {f"{_SIGMA}{n}": torch.from_numpy(getattr(refined.uncertainty, n)) for n in _SIGMAS}
    text = {name: getattr(refined, name) for name in _JSON}
    text |= {
        "provenance": refined.provenance.get("refine"),
        "same_uncertainty": refined.uncertainty is scene.uncertainty,
        "warnings": warnings,
        "fisheye": isinstance(refined.distortion, FisheyeDistortion),
    }
    encoded = json.dumps(jsonable(text)).encode()
    return tensors | {_TEXT: torch.frombuffer(bytearray(encoded), dtype=torch.uint8)}


def _unpack(scene: Scene, tensors: Tensors, log: RunLog) -> Scene:
    text = json.loads(bytes(tensors[_TEXT].numpy()))
    for warning in text["warnings"]:
        log.warn(warning)
    sparse = {f.name: tensors.get(f"sparse.{f.name}") for f in fields(SparsePoints)}
    sigmas = {name: tensors.get(f"{_SIGMA}{name}") for name in _SIGMAS}
    found = None if sigmas["focal"] is None else CameraUncertainty(**{n: t.numpy() for n, t in sigmas.items()})
    return replace(
        scene,
        **{name: tensors[name].numpy() for name in _ARRAYS},
        distortion=(FisheyeDistortion if text["fisheye"] else tuple)(text["distortion"]),
        pose_sources=tuple(text["pose_sources"]) if text["pose_sources"] is not None else None,
        sparse=None if sparse["points"] is None else SparsePoints(**{n: t.numpy() for n, t in sparse.items()}),
        uncertainty=scene.uncertainty if text["same_uncertainty"] else found,
        provenance=scene.provenance | {"refine": text["provenance"]},
    )
