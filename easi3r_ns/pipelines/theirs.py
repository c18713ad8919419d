"""What `easi3r improve` changes of a folder of another program, and how much that is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..core.config import RefineConfig
from ..core.geometry import FisheyeDistortion
from ..core.improve import ImproveConfig
from ..core.runlog import RunLog
from ..core.scene import Scene
from ..core.similarity import align_cameras
from ..core.types import DynamicMasks
from ..refine import refine_kept
from ..refine.scene import OURS
from ..storage.cache import StageCache

_KNOWS_LOOKS = "attention"
"""Source of masks that know what something looks like: where flow does not tell, they stay."""
_ZOOMS = 1e-3
"""Relative difference of the focal lengths from which on every frame keeps one of its own."""
_TANGENTIAL = 1e-6


def as_first_look(masks: DynamicMasks, improve: ImproveConfig | None) -> DynamicMasks:
    """The folder's masks as a look that a second one corrects, unless they are to stay."""
    return masks if improve is None or improve.keep_masks else replace(masks, source=_KNOWS_LOOKS)


def as_theirs_again(scene: Scene) -> Scene:
    """The scene with the right name for masks of the folder that no second look replaced."""
    motion = scene.provenance.get("motion")
    if motion is not None and motion.get("first") == _KNOWS_LOOKS:
        scene = replace(scene, provenance=scene.provenance | {"motion": motion | {"first": "user"}})
    if scene.dynamic.source != _KNOWS_LOOKS:
        return scene
    return replace(scene, dynamic=replace(scene.dynamic, source="user"))


def with_refined_cameras(scene: Scene, improve: ImproveConfig, seed: int, cache: StageCache, log: RunLog) -> Scene:
    """The scene after ``--refine``: cameras, lens, points, and depth that agrees with them.

    Raises:
        MissingExtraError: pycolmap is not installed.
    """
    if improve.refine == "none":
        return scene
    one_focal = bool(np.ptp(scene.focals) <= _ZOOMS * np.median(scene.focals))
    config = RefineConfig(refine="colmap", camera_model=_lens_kind(scene), features=improve.features)
    return refine_kept(scene, config, log, seed, cache, shared_focal=one_focal)


def _lens_kind(scene: Scene) -> Any:
    """The lens that bundle adjustment fits: of the kind of the one that was given."""
    if isinstance(scene.distortion, FisheyeDistortion):
        return "opencv-fisheye"
    return "opencv" if np.abs(scene.distortion[2:4]).max() > _TANGENTIAL else "radial"


def change_facts(given: Scene, made: Scene, had: dict[str, bool]) -> dict[str, Any]:
    """How far a scene is from what was given, as JSON.

    Args:
        given: the scene of the folder; ``made`` has the same frames and the same grid.
        had: whether the folder had ``masks`` and ``depth``.
    """
    return {"cameras": _cameras(given, made), "masks": _masks(given, made, had), "depth": _depth(given, made, had)}


def _cameras(given: Scene, made: Scene) -> dict[str, Any]:
    refine = made.provenance.get("refine") or {}
    if "refine" not in made.provenance or refine.get("kept") == OURS:
        return {"kept": True, "why": refine.get("why")}
    over = align_cameras(made.T_world_cam, given.T_world_cam)
    centres = over.scale * made.T_world_cam[:, :3, 3] @ over.R.T + over.t
    path = np.linalg.norm(np.diff(given.T_world_cam[:, :3, 3], axis=0), axis=1).sum()
    moved = np.linalg.norm(centres - given.T_world_cam[:, :3, 3], axis=1)
    turned = np.swapaxes(given.T_world_cam[:, :3, :3], 1, 2) @ (over.R @ made.T_world_cam[:, :3, :3])
    cosine = np.clip((np.trace(turned, axis1=1, axis2=2) - 1) / 2, -1, 1)
    return {
        "kept": False,
        "by": refine.get("kept"),
        "moved": float(np.median(moved) / path) if path > 0 else None,
        "moved_most": float(moved.max() / path) if path > 0 else None,
        "turned_deg": float(np.degrees(np.arccos(cosine)).max()),
        "focal": float(np.median(made.focals) / np.median(given.focals) - 1),
    }


def _masks(given: Scene, made: Scene, had: dict[str, bool]) -> dict[str, Any]:
    theirs, ours = given.dynamic.masks, made.dynamic.masks
    both = int((theirs | ours).sum())
    return {
        "given": float(theirs.mean()) if had["masks"] else None,
        "share": float(ours.mean()),
        "agreement": float((theirs & ours).sum() / both) if both else 1.0,
        "added": float((ours & ~theirs).mean()),
        "taken": float((theirs & ~ours).mean()),
    }


def _depth(given: Scene, made: Scene, had: dict[str, bool]) -> dict[str, Any]:
    prior = (made.provenance.get("depth_prior") or {}).get("model")
    return {
        "given": float((given.depth > 0).mean()) if had["depth"] else None,
        "share": float((made.depth > 0).mean()),
        "stereo": made.provenance.get("stereo"),
        "prior": prior,
        "fitted": had["depth"] and not _cameras(given, made)["kept"],
    }
