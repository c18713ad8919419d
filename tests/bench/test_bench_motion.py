"""The stand-in that movers drag, and the table of what masks and flow do."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from easi3r_ns.core.geometry import is_rigid
from easi3r_ns.training.measure.motion import make_clip
from easi3r_ns.training.measure.paths import PathRow
from easi3r_ns.training.scenes import Clip
from tests.bench import bench_motion as bench
from tests.support.dragged_standin import DraggedStandIn, Errors, landing_error, rigid_fit

EXACT = Errors(warp=0, rotation_deg=0, translation=0, focal=0, grain=0)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return make_clip(20_003, "held_out", 5)


def tokens(stand_in: DraggedStandIn, *frames: int) -> list[torch.Tensor]:
    return [stand_in._tokens(frame) for frame in frames]


def test_movers_drag_the_pose_unless_their_tokens_are_silenced(clip):
    assert 0.05 < clip.moving.mean() < 0.4
    stand_in = DraggedStandIn(clip, EXACT)
    dragged = stand_in.fitted_pose(0, 2, None)
    heard = stand_in.fitted_pose(0, 2, tokens(stand_in, 0, 2))
    errors = [landing_error(stand_in, 0, 2, T) for T in (dragged, heard)]
    assert is_rigid(dragged) and errors[0] > 0.5 and errors[1] < 0.3 * errors[0]
    every = [torch.zeros_like(t) for t in tokens(stand_in, 0, 2)]
    np.testing.assert_allclose(stand_in.fitted_pose(0, 2, every), dragged)
    np.testing.assert_allclose(stand_in.relative_pose(0, 2, None), dragged)


def test_a_frozen_clip_drags_nothing():
    frozen = make_clip(20_003, "held_out", 3, frozen=True)
    stand_in = DraggedStandIn(frozen, EXACT)
    truth = np.linalg.inv(frozen.T_world_cam[0]) @ frozen.T_world_cam[2]
    np.testing.assert_allclose(stand_in.fitted_pose(0, 2, None), truth, atol=1e-5)


def test_errors_are_as_large_as_they_say(clip):
    stand_in = DraggedStandIn(clip, Errors(dragged=False))
    truth = np.linalg.inv(clip.T_world_cam[0]) @ clip.T_world_cam[2]
    pose = stand_in.relative_pose(0, 2, None)
    assert is_rigid(pose) and 0.05 < landing_error(stand_in, 0, 2, pose) < 2
    np.testing.assert_array_equal(pose, stand_in.relative_pose(0, 2, None))
    assert not np.allclose(pose, truth, atol=1e-5)
    ratio = stand_in.points[..., 2] / clip.depth
    assert 0.005 < ratio.std() < 0.06


def test_the_check_leaves_the_better_part_of_the_flow(clip):
    errors = bench.flow_errors([clip])
    assert list(errors) == ["1", "2", "3"]
    for found in errors.values():
        assert found["kept"] < found["all"] and 0 < found["share_kept"] < 1
    assert errors["1"]["all"] < errors["3"]["all"]


def test_rigid_fit_recovers_a_motion():
    rng = np.random.default_rng(0)
    T = np.eye(4)
    T[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    T[:3, :3] *= np.sign(np.linalg.det(T[:3, :3]))
    T[:3, 3] = 1, 2, 3
    source = rng.normal(size=(50, 3))
    np.testing.assert_allclose(rigid_fit(source, source @ T[:3, :3].T + T[:3, 3]), T, atol=1e-9)


def row(ate: float) -> PathRow:
    return PathRow(ate, ate * 10, ate, 0.1, 0.1, np.array([0.5, 0.7]), 1.0)


def test_differences_are_paired_and_failures_counted():
    rows = {"none": [row(0.3), row(0.1), None], "masks": [row(0.2), row(0.05), row(0.1)]}
    result = bench.summarise(rows)
    assert result["means"]["none"]["failed"] == 1 and result["means"]["masks"]["mask_overlap"] == 0.6
    gain = result["differences"]["none -> masks"]["ate"]
    assert gain["value"] == pytest.approx(-0.075) and gain["interval"] == pytest.approx([-0.1, -0.05])
    assert list(result["differences"]) == ["none -> masks"]
    shown = "\n".join(bench.table(result))
    assert "**-7.50 % [-10.00, -5.00]**" in shown and "| masks | 11.67 %" in shown
    assert "**" not in bench.cell({"value": -0.1, "interval": [-0.2, 0.1]}, "ate", signed=True)
    assert bench.cell({"value": None, "interval": [None, None]}, "ate") == "-"


def test_networks_of_an_earlier_run_stay_on_the_page(tmp_path):
    setup = {"clips": 2, "frames": 5, "moving": 0.1, "still_ate": 0.3}
    errors = {"1": {"all": 3.0, "kept": 1.0, "share_kept": 0.5}}
    part = {"clips": 2, "flow_weight": 0.1, "weight_from": "as given"} | bench.summarise({"none": [row(0.1), row(0.2)]})

    def written(names: tuple[str, ...], clips: int) -> list[str]:
        made = {
            "command": "c",
            "setup": setup | {"clips": clips},
            "flow_errors": errors,
            "networks": dict.fromkeys(names, part),
        }
        bench.write(made, tmp_path)
        return list(json.loads((tmp_path / "motion.json").read_text())["networks"])

    assert written(("dragged",), 2) == ["dragged"]
    assert written(("tiny",), 2) == ["tiny", "dragged"]
    assert bench.TITLES["dragged"] in (tmp_path / "motion.md").read_text()
    assert written(("tiny",), 3) == ["tiny"]


@pytest.mark.long
def test_masks_and_flow_undo_what_movers_do():
    """Mean ATE over three clips: flow lowers it a little, masks to less than half."""
    args = SimpleNamespace(frames=8, clips=3, skip=0, networks=["dragged"], flow_weight=0.01, selection=0)
    args.variants, args.command, args.results = ["none", "masks", "flow", "both"], "", None
    means = bench.measure(args)["networks"]["dragged"]["means"]
    ate = {name: means[name]["ate"]["value"] for name in args.variants}
    assert max(ate["masks"], ate["both"]) < 0.5 * min(ate["none"], ate["flow"]) and ate["flow"] < ate["none"]
