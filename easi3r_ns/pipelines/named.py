"""``--remove`` and ``--keep`` in a run: things with a name are found once, and win over the masks of every look."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .. import __version__
from ..core.config import Easi3RConfig
from ..core.runlog import RunLog
from ..core.types import Frames, on_side
from ..motion.segment.grounding import SEGMENTER_ROLE, TrackerAsSegmenter, find_detector, open_detector
from ..motion.segment.named import METHOD, BoxSegmenter, NamedDetector, NamedMasks, find_named
from ..motion.segment.sam2 import TransformersTracker, find_tracker
from ..motion.segment.sam3 import Sam3
from ..network.compute import choose_compute
from ..network.sources import is_non_commercial
from ..storage.cache import StageCache, Tensors, digest
from .pictures import upright_picture

STAGE = "things by name"
DEFAULT_SEGMENTER = "sam2-tiny"
"""What segments the boxes where ``--refine-masks`` names no model."""


def check_named(config: Easi3RConfig, log: RunLog) -> None:
    """Load the models of ``--remove`` and ``--keep`` and try them on a picture, before the work.

    Raises:
        Easi3RError: as :func:`~.refined.check_tracker`.
    """
    models = open_named(config, log)
    if models is not None:
        detector, segmenter = models
        blank = np.zeros((48, 64, 3), dtype=np.uint8)
        detector.detect(blank, config.all_names)
        detector.release()
        if segmenter is not None:
            segmenter.segment(segmenter.look(blank), np.array([0.2, 0.2, 0.8, 0.8], np.float32), (48, 64))
            segmenter.release()


def open_named(config: Easi3RConfig, log: RunLog) -> tuple[NamedDetector, BoxSegmenter | None] | None:
    """The models that find things and segment them, which are loaded when they are first used; None: no names.

    A detector that makes masks itself has no second one beside it.

    Raises:
        Easi3RError: as :func:`check_named`, save for what loading them shows.
    """
    if not config.all_names:
        return None
    device = choose_compute(config.device, "auto", 0).device
    boxes = find_detector(config.names_model, log)
    log.once(f"--remove/--keep {boxes.name}: {boxes.architecture}, licence {boxes.licence}")
    detector = open_detector(boxes, device)
    if isinstance(detector, Sam3):
        return detector, None
    masks = find_tracker(config.tracker or DEFAULT_SEGMENTER, log, role=SEGMENTER_ROLE)
    log.once(f"--remove/--keep {masks.name}: {masks.architecture}, licence {masks.licence}")
    return detector, TrackerAsSegmenter(TransformersTracker(masks, device, SEGMENTER_ROLE))


def named_masks(frames: Frames, config: Easi3RConfig, cache: StageCache, log: RunLog) -> NamedMasks | None:
    """Where the things of ``--remove`` and ``--keep`` are in all frames; None: no names are given.

    Warns of names that are found nowhere.
    """
    models = open_named(config, log)
    if models is None:
        return None
    detector, segmenter = models
    used = [model for model in models if model is not None]
    names, size = config.all_names, (frames.images.shape[1], frames.images.shape[2])
    facts = [{n: fact for n, fact in model.facts.items() if n != "model"} for model in used]
    key = digest(frames.images, frames.pixel_map, frames.turned, names, facts, METHOD, __version__)

    def compute() -> Tensors:
        found = {name: np.zeros((len(frames), *size), dtype=bool) for name in names}
        with log.stage(STAGE, len(frames)) as advance:
            for row in range(len(frames)):
                picture, turned = upright_picture(frames, row, detector.side)
                shown = size[::-1] if turned else size
                for name, mask in find_named(picture, names, shown, detector, segmenter).items():
                    found[name][row] = on_side(mask) if turned else mask
                advance(1)
        for model in used:
            model.release()
        return {str(number): torch.from_numpy(found[name]) for number, name in enumerate(names)}

    tensors = cache.stage("named", key, compute, log)
    found = {name: tensors[str(number)].numpy() for number, name in enumerate(names)}
    told = [_fact(name, "keep" if name in config.kept_names else "remove", found[name]) for name in names]
    for fact in told:
        if not fact["frames"]:
            log.warn(f"--{fact['option']} {fact['name']}: {detector.facts['model']} finds it in no frame")
    nothing = np.zeros((len(frames), *size), dtype=bool)
    remove, keep = nothing.copy(), nothing
    for name, masks in found.items():
        if name in config.kept_names:
            keep = keep | masks
        else:
            remove |= masks
    said = [model.facts for model in used]
    return NamedMasks(
        remove,
        keep,
        {
            "names": told,
            "models": [{"model": one["model"], "licence": one["licence"]} for one in said],
            "model": " and ".join(one["model"] for one in said),
            "licence": " and ".join(dict.fromkeys(one["licence"] for one in said)),
            "non_commercial": any(is_non_commercial(one["licence"]) for one in said),
        },
    )


def _fact(name: str, option: str, masks: np.ndarray) -> dict[str, Any]:
    frames = int(masks.any(axis=(1, 2)).sum())
    return {"name": name, "option": option, "frames": frames, "share": float(masks.mean())}
