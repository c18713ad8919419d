"""Long clips window by window: the whole road behind a network that drifts, on a rendered closed path."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from easi3r_ns.align.long.loops import describe_frames, loop_candidates
from easi3r_ns.align.long.windows import OwnFocal, common_focal, gathered_warnings
from easi3r_ns.core.budget import UNBOUNDED
from easi3r_ns.core.config import AlignConfig, Easi3RConfig
from easi3r_ns.core.errors import AlignmentError, InputError
from easi3r_ns.core.geometry import is_rigid
from easi3r_ns.core.pairs import make_pairs
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene
from easi3r_ns.core.windows import cut_windows
from easi3r_ns.pipelines import network as network_pipeline
from easi3r_ns.pipelines.network import _plan_windows, reconstruct
from easi3r_ns.storage.cache import StageCache
from easi3r_ns.training.scenes import Clip
from tests.support.align_scene import trajectory_errors
from tests.support.long_clip import LongStandIn, closed_clip, frames_of

NUM_FRAMES = 48
WINDOW = 18
GRAPH = "swinstride-2-noncyclic"
ALIGN = AlignConfig(flow_weight=0.0, max_pixels=256)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return closed_clip(NUM_FRAMES)


def run(
    clip: Clip, network: LongStandIn, folder=None, *, log=None, num_eval=0, align=ALIGN, spill=False, **options
) -> Scene:
    config = Easi3RConfig(weights="stand-in", device="cpu", **{"graph": GRAPH, **options})
    budget = replace(UNBOUNDED, spill=spill)
    cache = StageCache(folder)
    return reconstruct(
        frames_of(clip), network, config, align, cache, log or RunLog(), num_eval=num_eval, budget=budget
    )


def ate(scene: Scene, clip: Clip) -> float:
    """In units of the clip (its path is 15 long)."""
    return trajectory_errors(scene.T_world_cam, clip.T_world_cam)["ate"]


@pytest.fixture(scope="module")
def whole(clip) -> Scene:
    """Aligned as one."""
    return run(clip, LongStandIn(clip))


@pytest.fixture(scope="module")
def windowed(clip) -> Scene:
    return run(clip, LongStandIn(clip), window=WINDOW, loop_closure=False)


@pytest.mark.slow
def test_windows_come_close_to_the_whole(clip, whole, windowed):
    assert ate(windowed, clip) < max(2 * ate(whole, clip), 0.01)
    assert len(windowed.provenance["windows"]["windows"]) > 3
    uncertainty = windowed.uncertainty
    assert uncertainty is not None and len(uncertainty) == NUM_FRAMES and 0 < uncertainty.focal[0] < 5
    assert len(windowed) == NUM_FRAMES and is_rigid(windowed.T_world_cam, 1e-9)
    assert np.ptp(windowed.focals) == 0 and windowed.focals[0] == pytest.approx(clip.focal, rel=0.01)
    scale = clip.depth / np.where(windowed.depth > 0, windowed.depth, np.nan)
    per_frame = np.nanmedian(scale, axis=(1, 2))
    assert per_frame.max() / per_frame.min() < 1.03, "one scale for all windows"


def test_masks_do_not_depend_on_the_windows(whole, windowed):
    assert windowed.dynamic.threshold == whole.dynamic.threshold
    np.testing.assert_array_equal(windowed.dynamic.masks, whole.dynamic.masks)
    assert whole.dynamic.masks.any()


@pytest.mark.long
def test_a_loop_closes_the_drift(clip):
    drift = {"turn": 0.003, "growth": 0.003}
    log = RunLog()
    before = run(clip, LongStandIn(clip, **drift), window=WINDOW, loop_closure=False)
    after = run(clip, LongStandIn(clip, **drift), window=WINDOW, log=log)
    assert ate(before, clip) > 0.1
    assert ate(after, clip) < 0.4 * ate(before, clip)
    loops = np.array(after.provenance["windows"]["loops"])
    assert len(loops) > 0 and (loops[:, 1] - loops[:, 0] > NUM_FRAMES // 2).all()


def test_a_straight_path_has_no_loop(clip):
    """Half the way around, nothing comes back."""
    names = ("images", "depth", "object_id", "moving", "would_move", "T_world_cam", "T_world_object", "times")
    half = replace(clip, **{name: getattr(clip, name)[:24] for name in names})
    scene = run(half, LongStandIn(half), window=10)
    assert scene.provenance["windows"]["loops"] == []


def test_loops_are_wanted_or_not(windowed):
    assert windowed.provenance["windows"]["loop_candidates"] == 0


def test_a_clip_that_fits_a_window_is_not_cut():
    graph = make_pairs(GRAPH, NUM_FRAMES)
    for size in (0, NUM_FRAMES, NUM_FRAMES + 1):
        assert _plan_windows(graph, size, 0, RunLog()) is None
    assert len(_plan_windows(graph, NUM_FRAMES - 1, 0, RunLog())) == 2


class Killed(BaseException):
    """Stands for Ctrl-C."""


@pytest.mark.slow
def test_a_killed_run_resumes_at_the_window(clip, tmp_path, monkeypatch, windowed):
    calls = []
    solve = network_pipeline.align

    def counted(*args, **kwargs):
        if len(calls) == 2 and not resumed:
            raise Killed
        calls.append(kwargs["focal"])
        return solve(*args, **kwargs)

    monkeypatch.setattr("easi3r_ns.pipelines.network.align", counted)
    resumed = False
    with pytest.raises(Killed):
        run(clip, LongStandIn(clip), tmp_path, window=WINDOW, loop_closure=False)
    assert len(calls) == 2
    resumed, network = True, LongStandIn(clip)
    scene = run(clip, network, tmp_path, window=WINDOW, loop_closure=False, spill=True)
    assert network.encoded == 0, "the network's stages are not computed again"
    assert calls.count(None) == len(scene.provenance["windows"]["windows"]), "nor the windows that were finished"
    np.testing.assert_allclose(scene.T_world_cam, windowed.T_world_cam, atol=1e-6)
    np.testing.assert_allclose(scene.depth, windowed.depth, rtol=1e-5, err_msg="nor does it matter where they lie")


@pytest.mark.long
def test_flow_takes_part_window_by_window(clip):
    scene = run(
        clip, LongStandIn(clip), window=WINDOW, align=AlignConfig(flow_weight=0.01, max_pixels=256), loop_closure=False
    )
    assert ate(scene, clip) < 0.02
    assert scene.provenance["flow"] and scene.provenance["alignment"]["final_flow"] > 0


def test_a_window_that_fails_names_its_frames(clip, monkeypatch):
    network = LongStandIn(clip)
    spoil = range(26, 32)
    decode = network.decode

    def flat(features_i, features_j, grid, silence=None):
        output = decode(features_i, features_j, grid, silence)
        for row, pair in enumerate(zip(network._frames(features_i), network._frames(features_j))):
            if set(pair) & set(spoil):
                output.points_i[row] = output.points_j[row] = 0.0
        return output

    monkeypatch.setattr(network, "decode", flat)
    with pytest.raises(AlignmentError, match=r"frames \d+ to \d+ of the clip could not be aligned"):
        run(clip, network, window=WINDOW)


@pytest.mark.long
def test_evaluation_views_join_the_windows(clip):
    views = [7, 22, 33, 41]
    order = [f for f in range(NUM_FRAMES) if f not in views] + views
    names = ("images", "depth", "object_id", "moving", "would_move", "T_world_cam", "T_world_object", "times")
    moved = replace(clip, **{name: getattr(clip, name)[order] for name in names})
    network = LongStandIn(moved)
    network.reach = 0
    scene = run(moved, network, window=WINDOW, num_eval=len(views), loop_closure=False)
    assert len(scene) == NUM_FRAMES
    assert ate(scene, moved) < 0.05


def test_pairs_that_no_window_holds_are_said():
    log = RunLog()
    _plan_windows(make_pairs("logwin-6-noncyclic", 60), 20, 0, log)
    assert any("join frames that share no window of 20 frames" in warning for warning in log.warnings)


def test_a_star_of_pairs_cannot_be_cut(clip):
    with pytest.raises(InputError, match="oneref-0: its pairs do not join"):
        run(clip, LongStandIn(clip), window=WINDOW, graph="oneref-0")


# Pure parts


def test_frames_that_show_the_same_are_candidates():
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, 80)
    described = np.stack([np.cos(angle), np.sin(angle), 0.05 * rng.normal(size=80)], axis=1)
    described /= np.linalg.norm(described, axis=1, keepdims=True)
    found = loop_candidates(described, make_pairs("swin-3-noncyclic", 80), gap=20, most=3)
    assert len(found) > 0 and (found[:, 1] - found[:, 0] > 60).all()
    np.testing.assert_array_equal(np.diff(found, axis=1) >= 20, True)
    line = np.linalg.qr(rng.normal(size=(80, 80)))[0]
    assert len(loop_candidates(line, make_pairs("swin-3-noncyclic", 80), gap=20)) == 0


def test_what_moves_does_not_describe_a_frame():
    import torch

    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(5, 12, 4))).float()
    moving = np.zeros((5, 12), bool)
    moving[:, :3] = True
    plain = describe_frames(features, moving)
    features[:, :3] += 100
    np.testing.assert_allclose(describe_frames(features, moving), plain)
    np.testing.assert_allclose(np.linalg.norm(plain, axis=1), 1)
    assert np.isfinite(describe_frames(features, np.ones((5, 12), bool))).all()


def test_windows_that_travel_decide_the_focal_length():
    low, high, odd = OwnFocal(50.0, 0.5, 1.0), OwnFocal(51.0, 0.5, 1.0), OwnFocal(90.0, 0.0, 1.0)
    assert common_focal([low, high, odd])[0] in (50, 51)
    assert common_focal([replace(low, travel=0), replace(high, travel=0), replace(odd, travel=1)])[0] == 90
    assert common_focal([low]) == (50, 1)
    assert common_focal([low, low, low, low])[1] == pytest.approx(0.5), "four windows know twice as much as one"
    assert common_focal([low, replace(low, focal=70.0)])[1] > 5, "unless they differ"


def test_windows_say_the_same_once():
    windows = cut_windows(make_pairs(GRAPH, 40), 16).windows
    said = gathered_warnings(
        {0: ["moves by 1.5 %"], 1: ["moves by 2 %", "dark"], 2: ["moves by 3 %", "moves by 4 %"]}, windows
    )
    assert len(said) == 2
    assert said[0].startswith("moves by 1.5 % (this or the like, in 3 of ") and str(windows[2]) in said[0]
    assert said[1] == f"dark (in 1 of {len(windows)} windows: {windows[1]})"
    assert gathered_warnings({0: []}, windows) == []
