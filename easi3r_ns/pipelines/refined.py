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
from ..core.types import DynamicMasks, Frames, RefinedMasks, upright_again
from ..frames.preprocess import enlarged, resize_and_crop
from ..motion.corrections import apply
from ..motion.flow.dis import DISFlow
from ..motion.objects import link_objects
from ..motion.segment.propagate import METHOD, FollowedMasks, follow_objects
from ..motion.segment.sam2 import TransformersTracker, find_tracker
from ..motion.segment.tracker import ObjectTracker
from ..network.compute import choose_compute
from ..storage.cache import StageCache, Tensors, digest
from ..storage.files import read_png

STAGE = "refined masks"
OWN = ("attention", "geometry", "scene")
"""Sources of masks that a run finds by itself; those of a user stay as they are."""
_MOST_TIMES = 4
"""Pictures are read at so many times the grid of the masks at most."""
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
    dynamic: DynamicMasks, frames: Frames, config: Easi3RConfig, cache: StageCache, log: RunLog, *, stage: str
) -> DynamicMasks:
    """Masks of a look with those of ``--refine-masks`` as :attr:`~easi3r_ns.core.types.DynamicMasks.refined`.

    Its ``masks`` are then the union of both. Corrections by hand win over the model too. Without a model, and for masks
    that a user gave, nothing changes.

    Args:
        frames: those that the masks belong to; different clips are followed apart.
        stage: name under which the result is kept.
    """
    if config.refine_masks == NO_MODEL or dynamic.source not in OWN or not dynamic.masks.any():
        return dynamic
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
    masks = apply(objects > 0, frames.by_hand)
    refined = RefinedMasks(masks, said, objects if (masks == (objects > 0)).all() else None)
    return replace(dynamic, masks=apply(dynamic.masks | masks, frames.by_hand), refined=refined)


def with_final_masks(scene: Scene, log: RunLog) -> Scene:
    """The scene with the masks for its dataset, and what is said of a segmentation model in the provenance."""
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
    shorter = min(frames.images.shape[1:3])
    most = max(1, min(_MOST_TIMES, int(1 / min(frames.pixel_map.scale_xy))))
    times = int(np.clip(round(tracker.side / shorter), 1, most))
    turned = frames.turned is not None and bool(frames.turned[rows.start])

    def picture(row: int) -> np.ndarray:
        image = frames.images[rows.start + row]
        if times > 1:
            image = resize_and_crop(read_png(frames.source_paths[rows.start + row]), enlarged(frames.pixel_map, times))
        return upright_again(image) if turned else image

    if not turned:
        return follow_objects(picture, objects, tracker, advance)
    found = follow_objects(picture, np.rot90(objects, -1, axes=(1, 2)), tracker, advance)
    return replace(found, objects=np.ascontiguousarray(np.rot90(found.objects, axes=(1, 2))))


def _facts(clips: list[FollowedMasks]) -> dict[str, Any]:
    followed = [one for clip in clips for one in clip.followed]
    lost = [{"id": one.number, "lost": len(one.lost), "frames": one.frames} for one in followed if one.lost]
    return {"objects": len(followed), "left": sum(clip.left for clip in clips), "lost": lost}
