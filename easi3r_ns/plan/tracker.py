"""Time and memory of ``--refine-masks``, from random weights of the published sizes on one CPU core.

See examples/results/masks.md, "What a model that follows objects takes".
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ..core.config import NO_MODEL, Easi3RConfig
from .forecast import Forecast
from .geometric import GeometricForecast
from .prior import GPU_SPEED
from .stages import StageForecast

STAGE = "refined masks"
PICTURE = {"sam2-tiny": 5.8, "sam2": 7.2, "sam2-base": 14.4, "sam2-large": 36.4, "edgetam": 1.9}
"""Seconds for what the model sees in a picture."""
OBJECT = {"edgetam": 2.6}
"""Seconds to tell and to predict an object in one frame; those of SAM 2 do not depend on its size."""
_SAM2_OBJECT = 9.0
OBJECTS = 2
"""Objects that are taken to move at a time: what moves is not known before a run."""
BYTES = 0.85e9, 4.0e6
"""Activations of one picture and the memories, and per million parameters."""
SIZES = {"sam2-tiny": 39, "sam2": 46, "sam2-base": 81, "sam2-large": 224, "edgetam": 14}
"""Million parameters."""
_UNKNOWN = "sam2"

NAMES_STAGE = "things by name"
DETECTOR = {"grounding-dino": 35.0, "grounding-dino-base": 45.0}
"""Seconds to look for names in a picture of 1066x800 pixels."""
SAM3 = 101.0, 10.3
"""Seconds for what it sees in a picture, and for each name in it."""
SAM3_BYTES = 4.5e9
THINGS = 3
"""Boxes that a picture is taken to have."""
_BOX_SECONDS = 0.5
"""To segment one of them."""
DETECTOR_BYTES = 2.5e9

Plan = TypeVar("Plan", Forecast, GeometricForecast)


def with_tracker_stage(plan: Plan, config: Easi3RConfig, factor: float, looks: int) -> Plan:
    """The forecast with the stage of ``--refine-masks`` before the dataset is written; the same without one.

    Args:
        factor: how much slower this machine is than the reference.
        looks: how often masks are found, and refined.
    """
    if config.refine_masks == NO_MODEL or not looks:
        return plan
    name = _like(config.refine_masks)
    seconds = looks * plan.job.num_frames * (PICTURE[name] + OBJECTS * OBJECT.get(name, _SAM2_OBJECT))
    memory = BYTES[0] + BYTES[1] * _millions(config.refine_masks, name)
    on_gpu = plan.device != "cpu"
    seconds *= 1 / GPU_SPEED if on_gpu else factor
    held = plan.raw[-1].memory_bytes
    stage = StageForecast(STAGE, seconds, held if on_gpu else held + memory, memory if on_gpu else 0.0)
    raw = (*plan.raw[:-1], stage, plan.raw[-1])
    return replace(plan, stages=raw, raw=raw)


def with_names_stage(plan: Plan, config: Easi3RConfig, factor: float) -> Plan:
    """The forecast with the stage of ``--remove`` and ``--keep``; the same without names. ``factor`` as above."""
    if not config.all_names:
        return plan
    if config.names_model == "sam3":
        seconds, needed = SAM3[0] + SAM3[1] * len(config.all_names), SAM3_BYTES
    else:
        seconds, needed = DETECTOR.get(config.names_model, DETECTOR["grounding-dino"]), DETECTOR_BYTES
        seconds += PICTURE[_like(config.tracker or "sam2-tiny")] + THINGS * _BOX_SECONDS
    on_gpu = plan.device != "cpu"
    seconds *= plan.job.num_frames * (1 / GPU_SPEED if on_gpu else factor)
    held = plan.raw[-1].memory_bytes
    stage = StageForecast(NAMES_STAGE, seconds, held if on_gpu else held + needed, needed if on_gpu else 0.0)
    raw = (*plan.raw[:-1], stage, plan.raw[-1])
    return replace(plan, stages=raw, raw=raw)


def _like(spec: str) -> str:
    """The published model whose size is nearest to that of a folder's weights."""
    if spec in SIZES:
        return spec
    millions = _millions(spec, _UNKNOWN)
    return min(SIZES, key=lambda name: abs(SIZES[name] - millions))


def _millions(spec: str, otherwise: str) -> float:
    weights = Path(spec).expanduser() / "model.safetensors"
    return weights.stat().st_size / 4e6 if weights.is_file() else SIZES[otherwise]
