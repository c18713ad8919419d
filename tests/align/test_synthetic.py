"""Whole alignments of a synthetic scene with known cameras: accuracy, few frames, odd inputs, clear failures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from easi3r_ns.align import init
from easi3r_ns.align.align import align
from easi3r_ns.align.problem import build_problem, flow_observations, sample_pixels
from easi3r_ns.core.config import AlignConfig
from easi3r_ns.core.errors import AlignmentError, InputError
from easi3r_ns.core.geometry import is_rigid
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.types import PairGraph, PairPredictions
from tests.support.align_scene import AlignScene, depth_error, make_scene, trajectory_errors, window_graph
from tests.support.helpers import Lines

SCENE_SIZE = 4.0
"""Mean depth of the synthetic scenes."""
SHORT = AlignConfig(iterations=40)


def run(scene: AlignScene, config: AlignConfig = SHORT, log: RunLog | None = None, with_flow: bool = True, **options):
    options.setdefault("principal_point", scene.principal_point)
    flow = scene.flow if with_flow else None
    return align(scene.predictions, config=config, flow=flow, log=log or RunLog(), **options)


def assert_sound(result, frames: int) -> None:
    """Everything that later stages rely on."""
    assert result.T_world_cam.shape == (frames, 4, 4) and result.T_world_cam.dtype == np.float64
    assert is_rigid(result.T_world_cam, tolerance=1e-9)
    np.testing.assert_array_equal(result.T_world_cam[0], np.eye(4))
    for values in (result.focals, result.depth, result.confidence, result.pair_scales, result.loss_curve):
        assert np.isfinite(values).all()
    assert (result.focals > 0).all() and (result.depth >= 0).all() and (result.confidence >= 0).all()
    assert result.depth.dtype == result.confidence.dtype == np.float32
    assert result.contradicted.dtype == bool and result.contradicted.mean() < 0.9


CASES = {
    "landscape": {},
    "portrait": {"size": (48, 36)},
    "off_centre": {"principal_point": (29.0, 14.0)},
    "half_precision": {"dtype": torch.float16},
    "all_pairs": {"num_frames": 4, "graph": window_graph(4, (1, 2, 3))},
}


@pytest.mark.parametrize("name", CASES)
def test_cameras_focal_and_depth_are_recovered(name):
    scene = make_scene(**CASES[name])
    result = run(scene, AlignConfig(iterations=120))
    assert_sound(result, len(scene.depth))
    errors = trajectory_errors(result.T_world_cam, scene.T_world_cam)
    assert errors["ate"] < 0.01 * SCENE_SIZE and errors["rpe_rot_deg"] < 0.5
    assert result.focals == pytest.approx(scene.focal, rel=0.01)
    assert depth_error(result.depth, scene.depth) < 0.01


@pytest.mark.parametrize("budget", [0, 600], ids=["all pixels", "sampled"])
@pytest.mark.parametrize("aspect", [0.9, 1.1])
def test_pixels_that_are_not_square(aspect, budget):
    """The horizontal focal length, flow and depth come out right when the network's pixels are stretched."""
    scene, log = make_scene(aspect=aspect, noise=0.002), RunLog()
    config = AlignConfig(iterations=120, flow_weight=0.1, max_pixels=budget)
    result = run(scene, config, log, pixel_aspect=aspect)
    assert result.focals == pytest.approx(scene.focal, rel=0.002)
    assert depth_error(result.depth, scene.depth) < 0.005
    assert result.diagnostics.final_flow < 0.1
    assert run(scene, config, pixel_aspect=1.0).focals != pytest.approx(scene.focal, rel=0.01)


def test_flow_lands_on_stretched_pixels():
    scene = make_scene(aspect=1.1)
    sample = sample_pixels(36, 48, 500, aspect=1.1)
    problem = build_problem(scene.predictions, sample, scene.principal_point, RunLog())
    landing = flow_observations(problem, scene.flow, None, False).landing
    flow = scene.flow.flow.flatten(2)[:, :, sample.index]
    rows, cols = sample.index // 48, sample.index % 48
    torch.testing.assert_close(landing[:, 0], cols + flow[:, 0])
    torch.testing.assert_close(landing[:, 1] * 1.1, rows + flow[:, 1], atol=1e-4, rtol=1e-4)


def test_cameras_and_depth_share_one_scale():
    """The distance between the cameras, in units of the depth, is the true one."""
    scene = make_scene()
    result = run(scene, AlignConfig(iterations=120))
    scale = np.median(scene.depth / result.depth)
    moved = np.linalg.norm(result.T_world_cam[-1, :3, 3]) * scale
    true = np.linalg.norm(scene.T_world_cam[-1, :3, 3] - scene.T_world_cam[0, :3, 3])
    assert moved == pytest.approx(true, rel=0.03)
    assert len(result.pair_scales) == len(scene.predictions.graph)


@pytest.mark.parametrize("frames", [2, 3])
def test_few_frames(frames):
    scene = make_scene(num_frames=frames, graph=window_graph(frames))
    result = run(scene, AlignConfig(iterations=120))
    assert_sound(result, frames)
    assert result.focals == pytest.approx(scene.focal, rel=0.01)
    true = np.linalg.inv(scene.T_world_cam[0]) @ scene.T_world_cam[1]
    scale = np.median(scene.depth / result.depth)
    np.testing.assert_allclose(result.T_world_cam[1][:3, 3] * scale, true[:3, 3], atol=0.01 * SCENE_SIZE)
    np.testing.assert_allclose(result.T_world_cam[1][:3, :3], true[:3, :3], atol=0.01)


def test_known_focal_stays_fixed():
    scene = make_scene()
    result = run(scene, focal=47.0)
    np.testing.assert_allclose(result.focals, 47.0, rtol=1e-6)
    with pytest.raises(InputError, match="must be a positive"):
        run(scene, focal=0.0)


def test_one_focal_per_frame():
    scene = make_scene()
    result = run(scene, AlignConfig(iterations=100, shared_focal=False))
    assert result.focals == pytest.approx(scene.focal, rel=0.02)
    assert np.ptp(result.focals) > 0
    assert np.ptp(run(scene).focals) == 0


def test_wrong_principal_point_is_felt():
    """Guards the tests above: the principal point does reach the rays."""
    scene = make_scene(principal_point=(29.0, 14.0))
    wrong = run(scene, principal_point=np.array([24.0, 18.0]))
    assert abs(wrong.focals[0] / scene.focal - 1) > 0.03


def test_principal_point_per_frame_equals_the_shared_one():
    scene = make_scene(num_frames=3, graph=window_graph(3))
    shared = run(scene, AlignConfig(iterations=10))
    each = run(scene, AlignConfig(iterations=10), principal_point=np.tile(scene.principal_point, (3, 1)))
    np.testing.assert_array_equal(shared.T_world_cam, each.T_world_cam)
    with pytest.raises(AlignmentError, match="principal_point"):
        run(scene, principal_point=np.zeros(3))


def test_same_seed_same_result():
    scene = make_scene()
    config = AlignConfig(iterations=20, max_pixels=400)
    first, second, other = (run(scene, config, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.T_world_cam, second.T_world_cam)
    np.testing.assert_array_equal(first.depth, second.depth)
    assert not np.array_equal(first.T_world_cam, other.T_world_cam)


def test_sampled_alignment_is_as_good_as_the_full_one():
    scene = make_scene(size=(60, 80), focal=80.0)
    config = AlignConfig(iterations=120)
    full, sampled = run(scene, replace(config, max_pixels=0)), run(scene, replace(config, max_pixels=1200))
    assert full.diagnostics.sampled_pixels == 4800 and sampled.diagnostics.sampled_pixels == 1200
    errors = [trajectory_errors(r.T_world_cam, scene.T_world_cam)["ate"] for r in (full, sampled)]
    assert errors[1] < errors[0] + 0.002 * SCENE_SIZE
    assert sampled.focals == pytest.approx(scene.focal, rel=0.005)
    assert depth_error(sampled.depth, scene.depth) < 1.05 * depth_error(full.depth, scene.depth)


def test_fixed_camera_is_recognised():
    log = RunLog()
    result = run(make_scene(travel=0.0), AlignConfig(iterations=120), log)
    assert_sound(result, 6)
    assert result.diagnostics.low_parallax and any("parallax" in w for w in log.warnings)
    assert not run(make_scene()).diagnostics.low_parallax


def with_points(scene: AlignScene, change) -> AlignScene:
    """A copy of the scene whose predictions ``change(points_i, conf_i, points_j, conf_j)`` edited in place."""
    p = scene.predictions
    tensors = [x.clone() for x in (p.points_i, p.conf_i, p.points_j, p.conf_j)]
    change(*tensors)
    return replace(scene, predictions=PairPredictions(p.graph, *tensors))


def test_identical_frames():
    """The same picture six times: every pair predicts the same pointmap twice."""

    def same(points_i, conf_i, points_j, conf_j):
        points_i[:] = points_i[:1]
        points_j[:] = points_i[:1]

    log = RunLog()
    result = run(with_points(make_scene(noise=0.0), same), log=log, with_flow=False)
    assert_sound(result, 6)
    assert result.diagnostics.low_parallax
    assert np.abs(result.T_world_cam - np.eye(4)).max() < 0.02


def test_pixels_without_a_finite_point_are_ignored():
    def spoil(points_i, conf_i, points_j, conf_j):
        points_i[:, 3:9, 5:9] = torch.nan
        points_j[:, 20, :] = torch.inf
        conf_j[:, :2] = torch.nan
        conf_i[2, 12] = torch.inf
        points_j[1, 30] = 1e20

    clean, log = make_scene(), RunLog()
    scene = with_points(clean, spoil)
    for config in (AlignConfig(iterations=120), AlignConfig(iterations=150, max_pixels=600)):
        result = run(scene, config, log)
        assert_sound(result, 6)
        assert trajectory_errors(result.T_world_cam, scene.T_world_cam)["ate"] < 0.01 * SCENE_SIZE
    assert any("not finite" in w for w in log.warnings)


def test_outlier_pointmaps_do_not_bend_the_rest():
    """Pairs between frames 1 and 4 are nonsense, which their confidence does not admit."""

    def spoil(points_i, conf_i, points_j, conf_j):
        edges = make_scene().predictions.graph.edges.tolist()
        for row in (edges.index([1, 4]), edges.index([4, 1])):
            points_j[row] = points_j[row].flip(0).flip(1) * 3

    scene = with_points(make_scene(), spoil)
    result = run(scene, AlignConfig(iterations=120))
    assert_sound(result, 6)
    assert trajectory_errors(result.T_world_cam, scene.T_world_cam)["ate"] < 0.03 * SCENE_SIZE


def test_frame_without_confidence():
    def doubt(points_i, conf_i, points_j, conf_j):
        edges = make_scene().predictions.graph.edges
        conf_i[edges[:, 0] == 2] = 1.0
        conf_j[edges[:, 1] == 2] = 1.0

    scene = with_points(make_scene(), doubt)
    for config in (SHORT, replace(SHORT, max_pixels=600)):
        result = run(scene, config)
        assert_sound(result, 6)
        assert depth_error(result.depth[2], scene.depth[2]) < 0.05


def test_flat_pair_is_dropped_and_named():
    def flatten(points_i, conf_i, points_j, conf_j):
        points_j[3] = 1.0

    scene, log = make_scene(), RunLog()
    result = run(with_points(scene, flatten), log=log)
    assert_sound(result, 6)
    edge = tuple(scene.predictions.graph.edges[3].tolist())
    assert result.diagnostics.dropped_pairs == (edge,) and result.pair_scales[3] == 0
    assert any("left out" in w for w in log.warnings)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_no_usable_pointmap_is_a_clear_error(value):
    def flatten(points_i, conf_i, points_j, conf_j):
        points_i[:] = value

    with pytest.raises(AlignmentError, match="fall apart into 6 groups"):
        run(with_points(make_scene(), flatten))


def test_frames_that_no_pair_joins_are_named():
    graph = PairGraph(np.array([[0, 1], [1, 0], [2, 3], [3, 2]]), 4)
    with pytest.raises(AlignmentError, match=r"2 groups \(0, 1; 2, 3\).*denser --graph"):
        run(make_scene(num_frames=4, graph=graph))


def test_points_behind_the_cameras_are_a_clear_error():
    def mirror(points_i, conf_i, points_j, conf_j):
        points_i[..., 2] *= -1
        points_j[..., 2] *= -1

    with pytest.raises(AlignmentError, match="focal length|behind"):
        run(with_points(make_scene(), mirror))


def test_failed_pnp_falls_back_to_the_best_pair_and_says_so(monkeypatch):
    monkeypatch.setattr(init, "pnp", lambda *args: None)
    scene, log = make_scene(), RunLog()
    result = run(scene, AlignConfig(iterations=0), log)
    assert "similarity" in result.diagnostics.registered_by
    assert any("PnP" in w for w in log.warnings)
    assert trajectory_errors(result.T_world_cam, scene.T_world_cam)["ate"] < 0.02 * SCENE_SIZE


def test_pnp_refuses_points_that_fit_no_camera():
    rng = np.random.default_rng(0)
    pixels = rng.uniform(0, 48, (200, 2))
    assert init.pnp(rng.normal(size=(200, 3)) + [0, 0, 4], pixels, 50.0, np.array([24, 18])) is None
    assert init.pnp(np.zeros((3, 3)), pixels[:3], 50.0, np.array([24, 18])) is None


def test_spanning_tree_takes_the_best_pairs():
    edges = np.array([[0, 1], [1, 0], [1, 2], [2, 1], [0, 2], [2, 0]])
    tree = init.spanning_tree(edges, np.array([1.0, 2.0, 5.0, 1.0, 3.0, 4.0]), 3)
    assert tree == [(1, 2), (2, 0)]


def test_moving_pixels_do_not_enter_the_flow_term():
    scene = make_scene()
    moving = np.zeros(scene.depth.shape, dtype=bool)
    moving[:, 10:20, 10:30] = True
    flow = scene.flow.flow.clone()
    flow[:, :, 10:20, 10:30] += 7.0
    spoilt = replace(scene, flow=replace(scene.flow, flow=flow))
    masked, unmasked = run(spoilt, dynamic_masks=moving), run(spoilt)
    assert masked.diagnostics.final_flow < 0.1 < unmasked.diagnostics.final_flow
    consistent = torch.from_numpy(~moving)[scene.predictions.graph.edges[:, 0]]
    checked = replace(spoilt, flow=replace(spoilt.flow, consistent=consistent))
    assert run(checked).diagnostics.final_flow < 0.1
    assert run(checked, replace(SHORT, flow_check=False)).diagnostics.final_flow > 0.1


def test_flow_corrects_what_the_pointmaps_get_wrong():
    """With noisy pointmaps and exact flow, the flow term improves the rotations (what it is for)."""
    scene = make_scene(noise=0.04, seed=3)
    config = AlignConfig(iterations=200)
    errors = [trajectory_errors(run(scene, config, with_flow=f).T_world_cam, scene.T_world_cam) for f in (False, True)]
    assert errors[1]["rpe_rot_deg"] < 0.9 * errors[0]["rpe_rot_deg"]


def test_useless_flow_is_left_out_and_reported():
    scene, log = make_scene(), RunLog()
    random = replace(
        scene.flow, flow=40 * torch.randn(scene.flow.flow.shape, generator=torch.Generator().manual_seed(0))
    )
    result = run(replace(scene, flow=random), replace(SHORT, iterations=20), log)
    without = run(scene, replace(SHORT, iterations=20), with_flow=False)
    np.testing.assert_allclose(result.T_world_cam, without.T_world_cam, atol=1e-6)
    assert any("the optical flow still disagrees" in w for w in log.warnings)


def test_flow_over_gaps_that_it_cannot_follow_is_left_out():
    """Flow of far pairs is noise, of which a quarter agrees there and back by chance; flow of near pairs is exact."""
    scene, config = make_scene(noise=0.04, seed=3), AlignConfig(iterations=200)
    edges = torch.from_numpy(scene.predictions.graph.edges)
    far = (edges[:, 0] - edges[:, 1]).abs() > 1
    assert 0 < far.sum() < len(far)
    noise = torch.Generator().manual_seed(1)
    flow, consistent = scene.flow.flow.clone(), scene.flow.consistent.clone()
    flow[far] = flow[far] + 3 * torch.randn(flow[far].shape, generator=noise)
    consistent[far] = torch.rand(consistent[far].shape, generator=noise) < 0.25
    log = Lines()
    spoilt = run(replace(scene, flow=replace(scene.flow, flow=flow, consistent=consistent)), config, log)
    assert any(f"cannot follow {far.sum()} of {len(far)} ordered pairs" in line for line in log.said)
    none = torch.zeros_like(consistent[far])
    consistent[far] = none
    without = run(replace(scene, flow=replace(scene.flow, consistent=consistent)), config)
    np.testing.assert_allclose(spoilt.T_world_cam, without.T_world_cam, atol=1e-9)


def test_a_fast_pan_is_followed_where_the_picture_stays():
    """Two thirds of the picture leave it; in the rest there and back agree."""
    scene = make_scene()
    problem = build_problem(scene.predictions, sample_pixels(36, 48, 0), scene.principal_point, RunLog())
    flow, consistent = torch.zeros_like(scene.flow.flow), torch.zeros_like(scene.flow.consistent)
    flow[:, 0], consistent[..., :16] = 32.0, True
    pan = replace(scene.flow, flow=flow, consistent=consistent)
    used = flow_observations(problem, pan, None, check=True).used
    assert torch.equal(used, consistent.flatten(1))
    moving = np.zeros(scene.depth.shape, dtype=bool)
    moving[:, :, :16] = True
    assert not flow_observations(problem, pan, moving, check=True).used.any(), "nothing static stays in the picture"


def test_flow_rows_follow_the_pairs_that_are_left():
    scene = make_scene()
    problem = build_problem(scene.predictions, sample_pixels(36, 48, 0), scene.principal_point, RunLog())
    fewer = replace(problem, edges=problem.edges[[2, 5]], kept=torch.tensor([2, 5]))
    observed = flow_observations(fewer, scene.flow, None, check=False)
    torch.testing.assert_close(
        observed.landing - problem.sample.xy, scene.flow.flow[[2, 5]].flatten(2), atol=1e-5, rtol=0
    )


def test_smoothness_and_depth_prior_act():
    scene = make_scene(noise=0.03)
    base = run(scene, with_flow=False)
    smooth = run(scene, replace(SHORT, smooth_weight=1.0), with_flow=False)
    prior = run(scene, replace(SHORT, depth_weight=100.0), with_flow=False)
    start = run(scene, replace(SHORT, iterations=0), with_flow=False)

    def step(result) -> float:
        return float(np.linalg.norm(np.diff(result.T_world_cam[:, :3, 3], axis=0), axis=1).sum())

    assert step(smooth) < step(base)
    shape = [r.depth / np.median(r.depth, axis=(1, 2), keepdims=True) for r in (start, base, prior)]
    assert np.abs(shape[2] - shape[0]).mean() < 0.5 * np.abs(shape[1] - shape[0]).mean()


def test_wrong_shapes_are_refused():
    scene = make_scene(num_frames=3, graph=window_graph(3))
    with pytest.raises(AlignmentError, match="dynamic masks have shape"):
        run(scene, dynamic_masks=np.zeros((3, 10, 10), dtype=bool))
    other = make_scene(num_frames=4)
    with pytest.raises(AlignmentError, match="other pairs"):
        align(scene.predictions, principal_point=scene.principal_point, config=SHORT, flow=other.flow)


def test_progress_is_reported():
    steps = []

    class Counting(RunLog):
        from contextlib import contextmanager

        @contextmanager
        def _display(self, name, total):
            steps.append((name, total))
            yield lambda n=1: steps.append(n)

    log = Counting()
    run(make_scene(num_frames=2, graph=window_graph(2)), AlignConfig(iterations=7), log)
    assert steps[0] == ("global alignment", 7) and sum(steps[1:]) == 7
    assert log.stages[0].name == "global alignment"
