"""Reasons of the verdict, the frames that cause them, and what is typed against them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.edit.verdict import causing_frames, verdict_of
from easi3r_ns.report.measures import measure
from easi3r_ns.report.rules import RULES
from tests.support.dataset_scene import make_scene


@pytest.fixture(scope="module")
def long_scene(tmp_path_factory):
    return make_scene(tmp_path_factory.mktemp("store"), (160, 120), 12)[0]


def test_a_good_dataset_has_no_reasons(long_scene):
    found = verdict_of(long_scene, Path("out"))
    assert found["level"] == 0 and found["reasons"] == [] and found["words"].startswith("Train.")


def test_masks_that_cover_too_much_name_their_frames_and_the_page(long_scene):
    masks = long_scene.dynamic.masks.copy()
    masks[4:6] = True
    masks[[2, 8]] |= np.indices(masks.shape[1:])[1] < 100
    scene = replace(long_scene, dynamic=replace(long_scene.dynamic, masks=masks))
    reasons = verdict_of(scene, Path("out"))["reasons"]
    assert {4, 5} <= set(causing_frames("coverage", scene, measure(scene)))
    assert any(reason["frames"] and "Correct the masks" in reason["remedy"] for reason in reasons)


def test_a_reason_has_the_command_that_helps_and_its_time(long_scene):
    few = replace(
        long_scene,
        provenance={"num_source_frames": 90, "source": "clip.mp4", "stages": [{"name": "a", "seconds": 95.0}]},
        **{name: getattr(long_scene, name)[:5] for name in ("images", "T_world_cam", "focals", "depth", "confidence")},
        **{name: getattr(long_scene, name)[:5] for name in ("times", "indices", "names", "source_paths")},
        dynamic=long_scene.dynamic.of_frames(np.arange(5)),
    )
    (reason,) = verdict_of(few, Path("out"))["reasons"]
    assert reason["words"] == "There are only 5 frames." and reason["frames"] == []
    assert "--data clip.mp4 --output-dir out" in reason["step"]["command"]
    assert reason["step"]["note"] == "The run before took 1 min 35 s."


def test_a_jump_names_the_frame_after_it(long_scene):
    poses = long_scene.T_world_cam.copy()
    poses[7:, :3, 3] += [1.5, 0, 0]
    scene = replace(long_scene, T_world_cam=poses)
    assert causing_frames("jumps", scene, measure(scene)) == [7]


def test_no_frame_is_named_where_all_are_alike(long_scene):
    measured = measure(long_scene)
    for rule in RULES:
        frames = causing_frames(rule.key, long_scene, measured)
        assert len(frames) <= 8 and frames == sorted(set(frames))
    assert causing_frames("jumps", long_scene, measured) == causing_frames("num_frames", long_scene, measured) == []
