"""The stage of --depth-prior in a forecast."""

from __future__ import annotations

from pathlib import Path

import pytest

from easi3r_ns.core.config import Easi3RConfig
from easi3r_ns.plan.geometric import GeometricJob, forecast_geometric
from easi3r_ns.plan.prior import SIZES, STAGE, with_prior_stage

PLAN = forecast_geometric(GeometricJob(20, (512, 384), 1920 * 1080))


def test_without_a_prior_nothing_changes() -> None:
    assert with_prior_stage(PLAN, Easi3RConfig(), 1.0) is PLAN


@pytest.mark.parametrize(("name", "seconds"), [("depth-anything", 2.25), ("depth-anything-large", 21.31)])
def test_larger_networks_take_longer(name: str, seconds: float) -> None:
    plan = with_prior_stage(PLAN, Easi3RConfig(depth_prior=name), 2.0)
    stage = plan.stages[-2]
    assert stage.name == STAGE and stage.seconds == pytest.approx(2 * 20 * seconds, rel=0.05)
    assert plan.memory_bytes >= PLAN.memory_bytes and stage.memory_bytes > PLAN.stages[-1].memory_bytes
    assert plan.raw == plan.stages and plan.stages[-1] == PLAN.stages[-1]


def test_a_folder_is_judged_by_its_weights(tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(4_000_000 * SIZES["depth-anything-large"])
    own, known, hub = (
        with_prior_stage(PLAN, Easi3RConfig(depth_prior=name), 1.0).stages[-2].seconds
        for name in (str(tmp_path), "depth-anything-large", "someone/something")
    )
    assert own == pytest.approx(known) and 0 < hub < known
