"""Objects of a finished scene: what moves, told apart."""

from __future__ import annotations

from dataclasses import replace

from ..core.config import Easi3RConfig
from ..core.objects import object_facts
from ..core.runlog import RunLog
from ..core.scene import Scene, without_moving_tracks
from ..core.types import Frames
from ..motion.corrections import apply
from ..motion.flow.dis import DISFlow
from ..motion.objects import link_objects
from ..motion.scope import at_all_times
from .second_look import rows_of


def in_scope(scene: Scene, frames: Frames, config: Easi3RConfig, log: RunLog) -> Scene:
    """The scene with masks of ``--mask-scope``, without points on what they hold now.

    Args:
        frames: those of the whole run; the scene may have fewer.
    """
    if config.mask_scope == "now":
        return scene
    before, shown = scene.dynamic.masks, frames.of_frames(rows_of(frames, scene))
    masks = apply(at_all_times(scene.images, before, shown.clips, DISFlow(), log), shown.by_hand)
    facts = {"scope": config.mask_scope, "added": float((masks & ~before).mean())}
    log.info(
        f"--mask-scope ever: {100 * before.mean():.1f} % of the picture moves, {100 * masks.mean():.1f} % is masked "
        "because it moves at some time"
    )
    dynamic = replace(scene.dynamic, masks=masks, objects=None)
    provenance = scene.provenance | {"mask_scope": facts}
    return without_moving_tracks(replace(scene, dynamic=dynamic, provenance=provenance))


def with_objects(scene: Scene, frames: Frames, log: RunLog) -> Scene:
    """The scene with ids of what its masks show, and what is said of them in the provenance.

    The ids under which a segmentation model followed the objects stay.

    Args:
        frames: those of the whole run; the scene may have fewer.
    """
    clips = frames.of_frames(rows_of(frames, scene)).clips
    objects = scene.dynamic.objects if "refined_masks" in scene.provenance else None
    if objects is None:
        objects = link_objects(scene.images, scene.dynamic.masks, clips, DISFlow(), log)
    facts = object_facts(objects)
    if facts:
        log.info(f"{len(facts)} {'object moves' if len(facts) == 1 else 'objects move'}: ids in masks_objects/")
    told = replace(scene, dynamic=replace(scene.dynamic, objects=objects))
    return replace(told, provenance=scene.provenance | {"objects": facts})
