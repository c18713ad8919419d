"""Objects of a finished scene: what moves, told apart."""

from __future__ import annotations

from dataclasses import replace

from ..core.objects import object_facts
from ..core.runlog import RunLog
from ..core.scene import Scene
from ..core.types import Frames
from ..motion.flow.dis import DISFlow
from ..motion.objects import link_objects
from .second_look import rows_of


def with_objects(scene: Scene, frames: Frames, log: RunLog) -> Scene:
    """The scene with ids of what its masks show, and what is said of them in the provenance.

    Args:
        frames: those of the whole run; the scene may have fewer.
    """
    clips = frames.of_frames(rows_of(frames, scene)).clips
    objects = link_objects(scene.images, scene.dynamic.masks, clips, DISFlow(), log)
    facts = object_facts(objects)
    if facts:
        log.info(f"{len(facts)} {'object moves' if len(facts) == 1 else 'objects move'}: ids in masks_objects/")
    told = replace(scene, dynamic=replace(scene.dynamic, objects=objects))
    return replace(told, provenance=scene.provenance | {"objects": facts})
