"""``--refine-masks`` in a run: what each look found to move, as a segmentation model sees it.

Cameras and depth are found with the union of both masks, so that neither a miss of the model nor one of the flow
reaches them; the dataset gets the model's masks. See :mod:`easi3r_ns.motion.segment.propagate` for the method.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..core.config import NO_MODEL, Easi3RConfig
from ..core.runlog import RunLog
from ..core.scene import Scene
from ..core.types import DynamicMasks, Frames, RefinedMasks
from ..motion.corrections import apply, corrected
from ..motion.flow.dis import DISFlow
from ..motion.objects import link_objects
from ..motion.segment.propagate import METHOD, FollowedMasks, follow_objects
from ..motion.segment.sam2 import TransformersTracker, find_tracker
from ..motion.segment.tracker import ObjectTracker
from ..network.compute import choose_compute
from ..network.sources import is_non_commercial
from ..storage.cache import StageCache, Tensors, digest
from .named import named_masks
from .pictures import upright_picture

STAGE = "refined masks"
OWN = ("attention", "geometry", "scene")
"""Sources of masks that a run finds by itself; those of a user stay as they are."""
_MOST_NAMED = 8


def check_tracker(config: Easi3RConfig, log: RunLog) -> None:
    """Load the model of ``--refine-masks`` and try it, where there is one, so that errors come before the work.

    Raises:
        MissingExtraError: transformers, or another library that the model needs, is not there.
        CheckpointError: the model cannot be had, is damaged, or of another class.
        MemoryLimitError: it does not fit into memory.
    """
    tracker = open_tracker(config, log)
    if tracker is not None:
        tracker.try_out()
        tracker.release()


def open_tracker(config: Easi3RConfig, log: RunLog) -> TransformersTracker | None:
    """The model of ``--refine-masks``, which is loaded when it is first used; None: none is asked for.

    Raises:
        Easi3RError: as :func:`check_tracker`, save for what loading it shows.
    """
    if config.refine_masks == NO_MODEL:
        return None
    files = find_tracker(config.refine_masks, log)
    log.once(f"--refine-masks {files.name}: {files.architecture}, licence {files.licence}")
    return TransformersTracker(files, choose_compute(config.device, "auto", 0).device)


def refined_masks(
    dynamic: DynamicMasks,
    frames: Frames,
    config: Easi3RConfig,
    cache: StageCache,
    log: RunLog,
    *,
    stage: str,
    rows: np.ndarray | None = None,
) -> DynamicMasks:
    """Masks of a look with those of ``--refine-masks``, and with the things of ``--remove`` and ``--keep``.

    Where there is a model, :attr:`~easi3r_ns.core.types.DynamicMasks.refined` has its masks and ``masks`` are the union
    of both; masks that a user gave stay. Names win over what moves, corrections by hand win over all.

    Args:
        frames: those of the whole run, in which different clips are followed apart.
        stage: name under which the result is kept.
        rows: positions in ``frames`` of those that the masks belong to; None: all.
    """
    named = named_masks(frames, config, cache, log)
    shown = frames if rows is None else frames.of_frames(rows)
    if config.tracker is not None and dynamic.source in OWN and dynamic.masks.any():
        dynamic = _by_model(dynamic, shown, config, cache, log, stage)
    if named is not None:
        dynamic = (named if rows is None else named.of_frames(rows)).applied(dynamic)
    return _by_hand(dynamic, shown)


def _by_model(
    dynamic: DynamicMasks, frames: Frames, config: Easi3RConfig, cache: StageCache, log: RunLog, stage: str
) -> DynamicMasks:
    tracker = open_tracker(config, log)
    assert tracker is not None, "it is asked for"
    facts = {name: fact for name, fact in tracker.facts.items() if name != "model"}  # how it was called does not
    clips = [rows.start for rows in frames.clips]
    key = digest(frames.images, frames.pixel_map, frames.turned, dynamic.masks, clips, facts, METHOD, __version__)

    def compute() -> Tensors:
        objects = link_objects(frames.images, dynamic.masks, frames.clips, DISFlow(), log)
        found = []
        with log.stage(STAGE, len(frames)) as advance:
            for rows in frames.clips:
                found.append(_follow_clip(objects[rows.start : rows.stop], frames, rows, tracker, advance))
        tracker.release()
        by_model = np.concatenate([one.objects for one in found])
        text = json.dumps(_facts(found)).encode()
        return {"objects": torch.from_numpy(by_model), "facts": torch.frombuffer(bytearray(text), dtype=torch.uint8)}

    tensors = cache.stage(stage, key, compute, log)
    objects = tensors["objects"].numpy()
    said = tracker.facts | json.loads(bytes(tensors["facts"].numpy()).decode())
    said |= {"own_share": float(dynamic.masks.mean()), "share": float((objects > 0).mean())}
    said |= {"non_commercial": is_non_commercial(said["licence"])}
    masks = objects > 0
    return replace(dynamic, masks=dynamic.masks | masks, refined=RefinedMasks(masks, said, objects))


def _by_hand(dynamic: DynamicMasks, frames: Frames) -> DynamicMasks:
    """The masks with what a person says of them, once more."""
    dynamic, refined = corrected(dynamic, frames.by_hand), dynamic.refined
    if refined is None:
        return dynamic
    masks = apply(refined.masks, frames.by_hand)
    same = bool((masks == refined.masks).all())
    return replace(dynamic, refined=replace(refined, masks=masks, objects=refined.objects if same else None))


def with_final_masks(scene: Scene, log: RunLog) -> Scene:
    """The scene with the masks for its dataset, and what is said of a segmentation model in the provenance."""
    if scene.dynamic.named is not None:
        scene = _with_names(scene, scene.dynamic.named, log)
    refined = scene.dynamic.refined
    if refined is None:
        return scene
    facts, dynamic = refined.facts, scene.dynamic.final
    log.info(
        f"--refine-masks {facts['model']}: {100 * facts['own_share']:.1f} % of the picture was found to move, "
        f"{100 * facts['share']:.1f} % as the model sees it"
    )
    if facts["left"]:
        log.info(f"{facts['left']} small or short-lived objects were not shown to the model and keep their own masks")
    _warn_about_lost(facts, log)
    assumed = scene.assumed_depth
    if assumed is not None:
        assumed = np.where(dynamic.masks, assumed, 0)
    provenance = scene.provenance | {"refined_masks": facts}
    return replace(scene, dynamic=dynamic, assumed_depth=assumed, provenance=provenance)


def _with_names(scene: Scene, facts: dict[str, Any], log: RunLog) -> Scene:
    """The scene with what is said of things that have a name."""
    log.info(
        f"by their names {100 * facts['added']:.1f} % of the picture is masked (--remove) and "
        f"{100 * facts['taken']:.1f} % is not (--keep)"
    )
    dynamic = replace(scene.dynamic, named=None)
    return replace(scene, dynamic=dynamic, provenance=scene.provenance | {"named_masks": facts})


def _warn_about_lost(facts: dict[str, Any], log: RunLog) -> None:
    """Name the objects that the model loses."""
    lost = facts["lost"]
    if not lost:
        return
    named = [f"object {one['id']} in {one['lost']} of {one['frames']} frames" for one in lost[:_MOST_NAMED]]
    more = f", and {len(lost) - _MOST_NAMED} more" if len(lost) > _MOST_NAMED else ""
    log.warn(f"--refine-masks {facts['model']} loses {', '.join(named)}{more}: there the masks stay as they were found")


def _follow_clip(
    objects: np.ndarray, frames: Frames, rows: range, tracker: ObjectTracker, advance: Callable[[int], None]
) -> FollowedMasks:
    """The ids (N, H, W) of one clip as the model sees them, which gets its pictures upright."""
    turned = frames.turned is not None and bool(frames.turned[rows.start])

    def picture(row: int) -> np.ndarray:
        return upright_picture(frames, rows.start + row, tracker.side)[0]

    if not turned:
        return follow_objects(picture, objects, tracker, advance)
    found = follow_objects(picture, np.rot90(objects, -1, axes=(1, 2)), tracker, advance)
    return replace(found, objects=np.ascontiguousarray(np.rot90(found.objects, axes=(1, 2))))


def _facts(clips: list[FollowedMasks]) -> dict[str, Any]:
    followed = [one for clip in clips for one in clip.followed]
    lost = [{"id": one.number, "lost": len(one.lost), "frames": one.frames} for one in followed if one.lost]
    return {"objects": len(followed), "left": sum(clip.left for clip in clips), "lost": lost}
