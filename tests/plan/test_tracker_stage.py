"""The stage of --refine-masks in a forecast."""

from __future__ import annotations

from pathlib import Path

import pytest

from easi3r_ns.core.config import Easi3RConfig
from easi3r_ns.motion.segment.sam2 import ROLE
from easi3r_ns.plan.geometric import GeometricJob, forecast_geometric
from easi3r_ns.plan.tracker import NAMES_STAGE, SIZES, STAGE, with_names_stage, with_tracker_stage

PLAN = forecast_geometric(GeometricJob(20, (512, 384), 1920 * 1080))


def seconds(spec: str, looks: int = 1, factor: float = 1.0) -> float:
    return with_tracker_stage(PLAN, Easi3RConfig(refine_masks=spec), factor, looks).stages[-2].seconds


def test_without_a_model_or_a_look_nothing_changes() -> None:
    assert with_tracker_stage(PLAN, Easi3RConfig(), 1.0, 2) is PLAN
    assert with_tracker_stage(PLAN, Easi3RConfig(refine_masks="sam2"), 1.0, 0) is PLAN


def test_every_look_takes_its_time_and_larger_models_more() -> None:
    plan = with_tracker_stage(PLAN, Easi3RConfig(refine_masks="sam2-large"), 1.0, 1)
    assert plan.stages[-2].name == STAGE and plan.stages[-2].memory_bytes > PLAN.stages[-1].memory_bytes
    assert plan.raw == plan.stages and plan.stages[-1] == PLAN.stages[-1]
    assert seconds("sam2", 3, 2.0) == pytest.approx(6 * seconds("sam2"))
    assert seconds("edgetam") < seconds("sam2-tiny") < seconds("sam2") < seconds("sam2-base") < seconds("sam2-large")
    assert set(SIZES) == set(ROLE.names)


def test_a_folder_is_judged_by_its_weights(tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(4_000_000 * 220)
    assert seconds(str(tmp_path)) == seconds("sam2-large") and seconds("some/where") == seconds("sam2")


def test_names_take_their_time() -> None:
    assert with_names_stage(PLAN, Easi3RConfig(), 1.0) is PLAN
    small, large = (
        with_names_stage(PLAN, Easi3RConfig(remove="dog", names_model=name), 1.0).stages[-2]
        for name in ("grounding-dino", "grounding-dino-base")
    )
    assert small.name == NAMES_STAGE and 0 < small.seconds < large.seconds
    assert small.memory_bytes > PLAN.stages[-1].memory_bytes
    one, two = (
        with_names_stage(PLAN, Easi3RConfig(remove=names, names_model="sam3"), 1.0).stages[-2]
        for names in ("dog", "dog, cat")
    )
    assert large.seconds < one.seconds < two.seconds < 2 * one.seconds and one.memory_bytes > small.memory_bytes
