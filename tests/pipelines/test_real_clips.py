"""Real footage goes from end to end with the weights that ship, and what is written passes the independent checker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from easi3r_ns.core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.pipelines.run import RunConfig, process
from tests.support.helpers import shared_data

CHECKER = Path(__file__).parents[2] / "examples" / "check_dataset.py"
CLIPS = [
    "clips/dog.mp4",
    "clips/blocks.mp4",
    "davis/JPEGImages/480p/car-shadow",
    "davis/JPEGImages/480p/blackswan",
    "davis/JPEGImages/480p/horsejump-high",
    "davis/JPEGImages/480p/drift-chicane",
]


@pytest.mark.long
@pytest.mark.parametrize("clip", CLIPS)
def test_real_clip_becomes_a_dataset_that_passes_the_checker(tmp_path, clip):
    data, out, log = shared_data() / clip, tmp_path / "out", RunLog()
    config = RunConfig(
        FrameConfig(num_frames_target=12),
        Easi3RConfig(weights="tiny", device="cpu"),
        AlignConfig(iterations=100),
        DatasetConfig(num_downscales=1, report=clip == CLIPS[0]),
        RefineConfig("none"),
    )
    result = process(data, out, config, overwrite=False, log=log)
    assert len(result.scene) == 12 and result.num_source_frames >= 40
    checked = subprocess.run([sys.executable, CHECKER, out], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
