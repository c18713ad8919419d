"""The least and the largest number that each option of the alignment takes: a finite result, or an error of our own."""

from __future__ import annotations

import numpy as np
import pytest

from easi3r_ns.align.align import align
from easi3r_ns.core.config import AlignConfig
from easi3r_ns.core.errors import AlignmentError, InputError
from easi3r_ns.core.runlog import RunLog
from tests.support.align_scene import AlignScene, make_scene

TINY = 1e-300
ADAM = {"solver": "adam", "iterations": 20}
ENDS = [
    {"flow_weight": 1e6},
    {"smooth_translation_weight": 1e6, "smooth_weight": TINY},
    {"depth_weight": 1e6},
    {"flow_threshold": TINY},
    {"iterations": 0, "max_pixels": 0},
    ADAM | {"learning_rate": TINY, "learning_rate_min": TINY},
    ADAM | {"flow_weight": 1e6, "flow_start": 0.0, "flow_threshold": 1e6},
    ADAM | {"smooth_weight": 1e6, "smooth_translation_weight": 0.0, "depth_weight": 1e6},
    ADAM | {"max_pixels": 10**9, "flow_start": 1.0},
]


@pytest.fixture(scope="module")
def scene() -> AlignScene:
    return make_scene(num_frames=4, size=(24, 32))


@pytest.mark.parametrize("options", ENDS, ids=str)
def test_the_ends_of_the_ranges_can_be_run(scene: AlignScene, options: dict) -> None:
    config = AlignConfig(**options)
    result = align(
        scene.predictions, principal_point=scene.principal_point, config=config, flow=scene.flow, log=RunLog()
    )
    for values in (result.T_world_cam, result.depth, result.focals):
        assert np.isfinite(values).all()
    assert (result.focals > 0).all()


def test_steps_that_are_too_long_end_in_an_error_of_our_own(scene: AlignScene) -> None:
    config = AlignConfig(**ADAM | {"learning_rate": 100.0})
    with pytest.raises(AlignmentError, match="diverged"):
        align(scene.predictions, principal_point=scene.principal_point, config=config, flow=scene.flow, log=RunLog())


@pytest.mark.parametrize("name", ["flow_weight", "smooth_weight", "depth_weight", "learning_rate", "flow_threshold"])
def test_beyond_the_ranges_nothing_is_tried(name: str) -> None:
    with pytest.raises(InputError):
        AlignConfig(**{name: 1.01e6})
