"""What the quickstart makes of the example clip, with the options that it leaves at their defaults."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.core.config import Easi3RConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.pipelines.run import RunConfig, process
from easi3r_ns.report.rules import Level
from tests.support.helpers import align_sim3

EXAMPLES = Path(__file__).parents[2] / "examples"
MOST_ERROR = 0.003
"""Of the length of the camera path; the weights alone reach 0.094."""


@pytest.mark.slow
def test_quickstart_ends_with_the_verdict_train(tmp_path: Path) -> None:
    assert '--data examples/clip/clip.mp4 --output-dir "$output" --weights tiny --overwrite' in (
        EXAMPLES / "quickstart.sh"
    ).read_text(encoding="utf-8")
    config, log = RunConfig(easi3r=Easi3RConfig(weights="tiny")), RunLog()
    result = process(EXAMPLES / "clip" / "clip.mp4", tmp_path / "out", config, overwrite=True, log=log)
    assert result.card.verdict.level is Level.TRAIN and not log.warnings
    frames = json.loads((EXAMPLES / "clip" / "truth.json").read_text(encoding="utf-8"))["frames"]
    truth = np.array([frames[k]["T_world_cam"] for k in result.scene.indices])[:, :3, 3]
    path = np.linalg.norm(np.diff(truth, axis=0), axis=1).sum()
    assert len(truth) == 24 and align_sim3(result.scene.T_world_cam[:, :3, 3], truth).rmse < MOST_ERROR * path
    first = int(result.scene.indices[0])
    up = result.scene.T_world_cam[0, :3, :3] @ np.array(frames[first]["T_world_cam"])[:3, :3].T @ [0, 0, 1]
    assert result.scene.provenance["up"]["method"] == "plane"
    assert np.degrees(np.arccos(-up[1])) < 1.5
