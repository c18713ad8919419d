"""Time and memory of ``--depth-prior``, from random weights of the published sizes on one CPU core.

See examples/results/depth.md, "What a depth prior takes".
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ..core.config import Easi3RConfig
from ..network.models import MODELS
from .forecast import Forecast
from .geometric import GeometricForecast
from .stages import StageForecast

STAGE = "depth prior"
SECONDS = 0.7, 0.062
"""Depth Anything, per frame: for any size, and per million parameters (25 M 2.3 s, 98 M 6.4 s, 335 M 21.3 s)."""
BYTES = 0.45e9, 6.0e6
"""Its memory: activations of one picture, and per million parameters (float32, and room to load them)."""
SIZES = {"depth-anything": 25, "depth-anything-base": 98, "depth-anything-large": 335}
"""Million parameters; the indoor and outdoor models have those of the small one."""
PRO_SECONDS, PRO_BYTES = 170.0, 5.2e9
"""Depth Pro: counted, 17e12 operations at the speed of the largest of the others; and the memory that it was seen to
take."""
GPU_SPEED = 20.0
"""A GPU is taken to be so many times as fast as one core of a CPU. Not measured; the first run corrects it."""
_UNKNOWN_SIZE = 98.0

Plan = TypeVar("Plan", Forecast, GeometricForecast)


def with_prior_stage(plan: Plan, config: Easi3RConfig, factor: float) -> Plan:
    """The forecast with the stage of ``--depth-prior`` before the dataset is written; the same without one.

    Args:
        factor: how much slower this machine is than the reference.
    """
    if config.depth_prior is None:
        return plan
    seconds, memory = _cost(config.depth_prior)
    on_gpu = plan.device != "cpu"
    seconds *= plan.job.num_frames * (1 / GPU_SPEED if on_gpu else factor)
    held = plan.raw[-1].memory_bytes
    stage = StageForecast(STAGE, seconds, held if on_gpu else held + memory, memory if on_gpu else 0.0)
    raw = (*plan.raw[:-1], stage, plan.raw[-1])
    return replace(plan, stages=raw, raw=raw)


def _cost(spec: str) -> tuple[float, float]:
    """Seconds per frame, and bytes."""
    if spec == "depth-pro" or spec == MODELS["depth-pro"].hub_repo:
        return PRO_SECONDS, PRO_BYTES
    millions = SIZES.get(spec, SIZES["depth-anything"] if spec in MODELS else _size_of(spec))
    return SECONDS[0] + SECONDS[1] * millions, BYTES[0] + BYTES[1] * millions


def _size_of(spec: str) -> float:
    """Million parameters of a folder's weights; of what is not here that of a middle size."""
    weights = Path(spec).expanduser() / "model.safetensors"
    return weights.stat().st_size / 4e6 if weights.is_file() else _UNKNOWN_SIZE
