"""Options are refused early, with their flag, their value and what is allowed."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import pytest

from easi3r_ns.core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, option_words
from easi3r_ns.core.errors import InputError

REFUSED = [
    (FrameConfig, "num_frames_target", [1, -3], "--num-frames-target"),
    (FrameConfig, "fps", [0, -1, math.nan, math.inf], "--fps"),
    (FrameConfig, "start", [-1, math.nan, math.inf], "--start"),
    (FrameConfig, "end", [0, math.nan, math.inf], "--end"),
    (AlignConfig, "iterations", [-1], "--align.iterations"),
    (AlignConfig, "learning_rate", [0, math.nan, math.inf], "--align.learning-rate"),
    (AlignConfig, "flow_weight", [-1, math.nan, math.inf], "--align.flow-weight"),
    (AlignConfig, "flow_start", [-0.1, 1.1, math.nan], "--align.flow-start"),
    (Easi3RConfig, "focal_length", [0, -5, math.nan, math.inf], "--focal-length"),
    (Easi3RConfig, "min_confidence", [math.nan, math.inf], "--min-confidence"),
    (Easi3RConfig, "seed", [-1, 2**32], "--seed"),
    (Easi3RConfig, "max_memory", [0, -1, math.nan, math.inf], "--max-memory"),
    (Easi3RConfig, "window", [-1, 1, 3], "--window"),
    (DatasetConfig, "num_downscales", [-1, 7], "--num-downscales"),
    (DatasetConfig, "mask_growth", [-1], "--mask-growth"),
    (DatasetConfig, "max_init_points", [0], "--max-init-points"),
]


@pytest.mark.parametrize("config, name, value, flag", [(c, n, v, f) for c, n, values, f in REFUSED for v in values])
def test_impossible_values_are_refused(config, name, value, flag):
    with pytest.raises(InputError, match=flag):
        config(**{name: value})


@pytest.mark.parametrize(
    "options, words",
    [
        ({"mask_threshold": 0.8, "masks": Path("mine")}, "--mask-threshold 0.8 .* --masks leaves none"),
        ({"mask_threshold": 2.0, "no_masks": True}, "--no-masks leaves none"),
        ({"refine_masks": "sam2", "no_masks": True}, "--no-masks leaves none"),
        ({"mask_scope": "ever", "keep": "parked car"}, "mask again what --keep takes out"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        Easi3RConfig(**options)


@pytest.mark.parametrize("config", [FrameConfig, AlignConfig, Easi3RConfig, DatasetConfig])
def test_defaults_are_accepted(config):
    assert config() == config()


def test_borders_are_accepted():
    assert AlignConfig().flow_strength == 0.01 and AlignConfig(flow_weight=0.3).flow_strength == 0.3
    assert AlignConfig(iterations=0, flow_weight=0, flow_start=1, max_pixels=0).flow_start == 1
    assert Easi3RConfig(window=4, max_memory=0.5).window == 4
    assert Easi3RConfig(seed=2**32 - 1, min_confidence=0).min_confidence == 0


def test_changed_options_as_on_a_command_line():
    defaults = asdict(Easi3RConfig())
    changed = asdict(Easi3RConfig(seed=3, loop_closure=False, no_masks=True, weights="my weights.pth"))
    assert option_words(changed, defaults) == [
        "--weights 'my weights.pth'",
        "--no-masks",
        "--seed 3",
        "--no-loop-closure",
    ]
    assert option_words(asdict(AlignConfig(flow_weight=0.0)), asdict(AlignConfig()), "align.") == [
        "--align.flow-weight 0.0"
    ]
    assert option_words({"width": 4, "deep": False}, {}) == ["--width 4", "--no-deep"]
