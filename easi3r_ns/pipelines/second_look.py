"""The second look of both pipelines: the found scene decides what moves, where its cameras hold."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from skimage.measure import block_reduce

from .. import __version__
from ..core.config import Easi3RConfig
from ..core.runlog import RunLog
from ..core.scene import Scene, without_moving_tracks
from ..core.types import DynamicMasks, Frames, RefinedMasks
from ..frames import enlarged, enlargement, resize_and_crop
from ..frames.near import near_places, shot
from ..motion.corrections import apply
from ..motion.cut import KEPT, cut_at
from ..motion.flow.choose import choose_flow
from ..motion.flow.remembered import RememberedFlow
from ..motion.packing import join_masks, pack_masks, unpack_masks
from ..motion.rigid import CLIP_HOLDS, METHOD, MOST_ASTRAY, has_static_depth, second_look
from ..network.compute import choose_compute
from ..storage.cache import StageCache, Tensors, digest
from ..storage.files import read_png
from .refined import refined_masks

MUCH_CHANGED = 0.05
"""Share of the pixels in which the two looks differ, from which on cameras and depth are found again."""
EXPLAINED_LESS = 0.02
"""Share of the static flow by which cameras that were found again may explain less."""


@dataclass(frozen=True)
class Looks:
    """Both looks at a scene."""

    scene: Scene
    """With the masks of the second look where it holds, and what was seen in the provenance."""
    changed: float
    """Share of the pixels in which the masks differ now from before."""

    @property
    def changed_much(self) -> bool:
        """Whether cameras and depth that were found with the old masks are out of date."""
        return self.changed > MUCH_CHANGED


def look_again(
    scene: Scene,
    frames: Frames,
    config: Easi3RConfig,
    patch: int,
    cache: StageCache,
    log: RunLog,
    *,
    hardly_travels: bool = False,
) -> Looks:
    """The scene with the masks of :func:`easi3r_ns.motion.rigid.second_look`, where there are any and they hold.

    Where flow does not tell, masks from attention stay as they are: attention knows what something looks like. Masks
    from flow stay only in frames that could not be followed at all. Corrections by hand win over both looks.

    Args:
        frames: those of the whole run; the scene may have fewer.
        patch: side of a token in pixels.
        hardly_travels: a camera that only turns is known to explain the pictures as well. Depth is uncertain then, and
            a depth that is wrong turns what moves into parallax.
    """
    if config.motion != "auto" or scene.dynamic.source not in ("attention", "geometry"):
        return Looks(scene, 0.0)
    if scene.stays:
        return _first_look_stays(scene, "the camera does not travel, so the first look sees all that there is", log)
    if hardly_travels:
        return _first_look_stays(scene, "the camera hardly travels, so depth could not tell what moves", log)
    if len(scene) < 2 or not has_static_depth(scene):
        return _first_look_stays(scene, "nothing static has a depth to predict the flow from", log)
    seen = _kept(scene, frames, config, patch, cache, log)
    if not seen.explained >= CLIP_HOLDS:
        why = (
            f"cameras and depth explain {100 * seen.explained:.0f} % of the flow of what should stand still, less than "
            f"{100 * CLIP_HOLDS:.0f} %"
        )
        return _first_look_stays(scene, why, log, warns=True)
    if seen.astray > MOST_ASTRAY:
        why = f"the path of the camera misses {100 * seen.astray:.0f} % of the flow of what should stand still"
        return _first_look_stays(scene, why, log, warns=True)
    before = scene.dynamic
    told = seen.followed if before.source == "attention" else seen.followed.any(axis=(1, 2), keepdims=True)
    by_hand = frames.by_hand and frames.by_hand.of_frames(rows_of(frames, scene))
    masks = apply(np.where(told, seen.dynamic.masks, before.masks), by_hand)
    dynamic = replace(seen.dynamic, masks=masks, maps={**(before.maps or {}), **(seen.dynamic.maps or {})})
    rows = rows_of(frames, scene)
    dynamic = refined_masks(dynamic, frames, config, cache, log, stage="refined-second-look", rows=rows)
    changed = float((dynamic.masks != before.masks).mean())
    log.info(
        f"second look: cameras and depth explain {100 * seen.explained:.0f} % of the flow of what stands still; "
        f"{100 * before.coverage.mean():.1f} % of the picture moved in the first look, "
        f"{100 * dynamic.coverage.mean():.1f} % in the second"
        + ("; flow follows no two of the frames, so the path is not judged" if np.isnan(seen.astray) else "")
    )
    facts = {
        "kept": "second",
        "explained": seen.explained,
        "depth_sigma": seen.depth_sigma,
        "astray": None if np.isnan(seen.astray) else seen.astray,
        "first": before.source,
        "first_coverage": float(before.coverage.mean()),
        "coverage": float(dynamic.coverage.mean()),
        "changed": changed,
    }
    return Looks(_with(without_moving_tracks(replace(scene, dynamic=dynamic)), facts), changed)


def explains_as_much(
    scene: Scene, frames: Frames, config: Easi3RConfig, patch: int, cache: StageCache, log: RunLog
) -> Scene | None:
    """The scene, whose cameras were found with its masks, where they explain the flow as well as those before did.

    None where they explain less: its cameras are worse.
    """
    facts = scene.provenance["motion"]
    if not has_static_depth(scene):
        return None
    seen = _kept(scene, frames, config, patch, cache, log, stage="again-second-look")
    if seen.explained < facts["explained"] - EXPLAINED_LESS or seen.astray > MOST_ASTRAY:
        return None
    return _with(scene, facts | {"explained": seen.explained, "found_again": True})


def masks_of_all(frames: Frames, first: DynamicMasks, scene: Scene) -> DynamicMasks:
    """The masks of the scene for the frames that it has, those of the first look for the others."""
    rows, seen = rows_of(frames, scene), scene.dynamic

    def filled(all_frames: np.ndarray, own: np.ndarray) -> np.ndarray:
        out = all_frames.copy()
        out[rows] = own
        return out

    return replace(
        seen,
        masks=filled(first.masks, seen.masks),
        score=filled(first.score, seen.score),
        maps={name: filled(values, (seen.maps or {})[name]) for name, values in (first.maps or {}).items()},
        first=first.masks,
        refined=_refined_of_all(rows, first, seen.refined),
    )


def _refined_of_all(rows: np.ndarray, first: DynamicMasks, seen: RefinedMasks | None) -> RefinedMasks | None:
    if seen is None:
        return None
    masks = first.final.masks.copy()
    masks[rows] = seen.masks
    # Ids of two looks have nothing to do with each other.
    return replace(seen, masks=masks, objects=seen.objects if len(rows) == len(masks) else None)


def rows_of(frames: Frames, scene: Scene) -> np.ndarray:
    """(F,) positions in ``frames`` of the frames of the scene."""
    position = {path: row for row, path in enumerate(frames.source_paths)}
    return np.array([position[path] for path in scene.source_paths])


@dataclass(frozen=True)
class _Seen:
    dynamic: DynamicMasks
    followed: np.ndarray
    explained: float
    depth_sigma: float
    astray: float


def _kept(
    scene: Scene,
    frames: Frames,
    config: Easi3RConfig,
    patch: int,
    cache: StageCache,
    log: RunLog,
    *,
    stage: str = "second-look",
) -> _Seen:
    """What :func:`second_look` sees, or saw in an earlier run."""
    kept = rows_of(frames, scene)
    flow_name = "dis" if config.flow == "auto" else config.flow

    def compute() -> Tensors:
        flow = choose_flow(flow_name, choose_compute(config.device, config.dtype, config.batch_size), log)
        flow = RememberedFlow(flow, cache.scratch)
        used, times = frames.of_frames(kept), enlargement(*scene.depth.shape[1:])
        larger, looks = larger_scene(scene, times), []
        for rows in used.clips:
            places = shot(used, rows, larger.images.__getitem__, larger.pixel_map)
            looks.append(second_look(larger, places, times * patch, log, provider=flow, first_row=rows.start))
        shares = np.concatenate([look.explained for look in looks])
        facts = [
            shares.mean() if len(shares) else 0.0,
            max(look.depth_sigma for look in looks),
            np.fmax.reduce([look.astray for look in looks]),  # NaN, not judged, only where no clip could be
        ]
        dynamic = join_masks([look.dynamic for look in looks])
        masks, kept_score = on_network(dynamic.masks, times), averaged(dynamic.over_cut, times)
        dynamic = replace(dynamic, masks=masks, first=scene.dynamic.masks, over_cut=kept_score)
        return {
            **pack_masks(dynamic),
            "followed": torch.from_numpy(on_network(np.concatenate([look.followed for look in looks]), times)),
            "facts": torch.tensor(facts, dtype=torch.float64),
        }

    points = () if scene.sparse is None else (scene.sparse.points, scene.sparse.point_index, scene.sparse.frame_index)
    lens = (scene.focals_xy, np.asarray(scene.principal_point, dtype=float), list(scene.distortion))
    seen = (scene.images, scene.depth, scene.confidence, scene.dynamic.masks, scene.T_world_cam, *lens, *points)
    key = digest(*seen, near_places(frames), kept, scene.min_confidence, flow_name, METHOD, KEPT, __version__)
    tensors = cache.stage(stage, key, compute, log)
    dynamic = cut_at(unpack_masks(tensors), scene.images, config.mask_threshold)
    return _Seen(dynamic, tensors["followed"].numpy(), *tensors["facts"].tolist())


def larger_scene(scene: Scene, times: int) -> Scene:
    """The same scene on a grid with ``times`` as many pixels a side: flow fails in the images of a small network.

    Images are read from the sources. Depth, confidence and masks are those of the pixel that a larger pixel lies in.
    """
    if times == 1:
        return scene
    pixel_map = enlarged(scene.pixel_map, times)

    def blown(values: np.ndarray) -> np.ndarray:
        return values.repeat(times, axis=1).repeat(times, axis=2)

    masks = blown(scene.dynamic.masks)
    return replace(
        scene,
        images=np.stack([resize_and_crop(read_png(path), pixel_map) for path in scene.source_paths]),
        focals=scene.focals * times,
        principal_point=(np.asarray(scene.principal_point) + 0.5) * times - 0.5,
        depth=blown(scene.depth),
        confidence=blown(scene.confidence),
        dynamic=replace(scene.dynamic, masks=masks, first=None, over_cut=None, objects=None, refined=None),
        pixel_map=pixel_map,
        contradicted=None,
        between=None,
        assumed_depth=None,
    )


def on_network(masks: np.ndarray, times: int) -> np.ndarray:
    """(F, t H, t W) bool -> (F, H, W): what holds for most of a pixel."""
    return masks if times == 1 else block_reduce(masks, (1, times, times), np.mean) > 0.5


def averaged(values: np.ndarray | None, times: int) -> np.ndarray | None:
    """(F, t H, t W) uint8 -> (F, H, W): the mean over each pixel."""
    if values is None or times == 1:
        return values
    return np.asarray(block_reduce(values, (1, times, times), np.mean)).astype(np.uint8)


def _first_look_stays(scene: Scene, why: str, log: RunLog, *, warns: bool = False) -> Looks:
    (log.warn if warns else log.info)(f"the masks are those of the first look: {why}")
    return Looks(_with(scene, {"kept": "first", "first": scene.dynamic.source, "why": why}), 0.0)


def _with(scene: Scene, facts: dict) -> Scene:
    return replace(scene, provenance=scene.provenance | {"motion": facts})
