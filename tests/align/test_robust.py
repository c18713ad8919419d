"""Pointmaps that are wrong: the right cameras, a clear warning, or a clear error; never a quiet failure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from easi3r_ns.align.align import AlignResult, align
from easi3r_ns.align.consensus import contradicting, interpolate, pair_residuals, screen
from easi3r_ns.align.init import edge_scores, place_frames, register, robust_register
from easi3r_ns.align.problem import build_problem, sample_pixels
from easi3r_ns.core.config import AlignConfig
from easi3r_ns.core.errors import AlignmentError
from easi3r_ns.core.geometry import is_rigid
from easi3r_ns.core.runlog import RunLog
from tests.support.align_scene import AlignScene, make_scene, window_graph
from tests.support.hostile_scenes import (
    follows_a_mover,
    garbage,
    misplaced,
    with_points,
    without_confidence,
    wrong_pixels,
)

pytestmark = pytest.mark.usefixtures("one_thread")

NUM_FRAMES = 8
DEPTH = 4.0
"""Mean depth of the scenes."""
CONFIG = AlignConfig(iterations=100, flow_weight=0.0)
NEAR_ONES = tuple((4, k) for k in range(NUM_FRAMES))


def scene_of(T_world_cam: np.ndarray | None = None, num_frames: int = NUM_FRAMES, **options) -> AlignScene:
    graph = window_graph(num_frames, (1, 2, 3))
    return make_scene(num_frames=num_frames, size=(30, 40), focal=42.0, graph=graph, T_world_cam=T_world_cam, **options)


@pytest.fixture(scope="module")
def good() -> AlignScene:
    return scene_of()


def run(scene: AlignScene, log: RunLog | None = None, config: AlignConfig = CONFIG, **options) -> AlignResult:
    log = log if log is not None else RunLog()
    result = align(scene.predictions, principal_point=scene.principal_point, config=config, log=log, **options)
    assert is_rigid(result.T_world_cam, tolerance=1e-9)
    for values in (result.focals, result.depth, result.confidence, result.pair_scales, result.loss_curve):
        assert np.isfinite(values).all()
    return result


def errors(scene: AlignScene, result: AlignResult) -> tuple[np.ndarray, np.ndarray]:
    """(F,) degrees and (F,) shares of the depth by which cameras are off, seen from the first one.

    The scale comes from the depths: nothing is fitted to the cameras.
    """
    known = result.depth > 0
    scale = np.median(scene.depth[known] / result.depth[known])
    truth = np.linalg.inv(scene.T_world_cam[0]) @ scene.T_world_cam
    turn = Rotation.from_matrix(np.swapaxes(truth[:, :3, :3], 1, 2) @ result.T_world_cam[:, :3, :3]).magnitude()
    shift = np.linalg.norm(scale * result.T_world_cam[:, :3, 3] - truth[:, :3, 3], axis=1)
    return np.degrees(turn), shift / DEPTH


def assert_right(scene: AlignScene, result: AlignResult, degrees: float = 1.0, share: float = 0.03) -> None:
    turn, shift = errors(scene, result)
    assert turn.max() < degrees and shift.max() < share
    assert result.focals == pytest.approx(scene.focal, rel=0.02)


OUTLIERS = {
    "one pair misplaced": lambda s: misplaced(s, [(3, 4)]),
    "three pairs misplaced": lambda s: misplaced(s, [(3, 4), (1, 3), (5, 6)]),
    "two neighbours misplaced": lambda s: misplaced(s, [(3, 4), (4, 5)]),
    "three pairs of noise": lambda s: garbage(s, [(3, 4), (1, 3), (5, 6)]),
    "noise that is sure of itself": lambda s: garbage(s, [(3, 4)], confidence=20.0),
    "noise about the first frame": lambda s: garbage(s, [(0, 1)], confidence=20.0),
}


@pytest.mark.parametrize("name", OUTLIERS)
def test_wrong_pairs_are_found_named_and_do_not_bend_the_rest(name, good):
    log = RunLog()
    scene = OUTLIERS[name](good)
    result = run(scene, log)
    assert_right(scene, result)
    changed = (good.predictions.points_j - scene.predictions.points_j).abs().amax(dim=(1, 2, 3)) > 0
    wrong = {tuple(edge) for edge in good.predictions.graph.edges[changed.numpy()].tolist()}
    assert set(result.diagnostics.contradicted_pairs) == wrong
    assert (result.pair_scales > 0).sum() == len(changed) - len(wrong)
    (warning,) = [w for w in log.warnings if "contradict" in w]
    i, j = min(wrong)
    assert f"{len(wrong)} of 36" in warning and f"{i}-{j}" in warning


def test_messages_call_the_frames_by_their_names(good):
    log = RunLog()
    spoilt = garbage(misplaced(good, [(1, 3)]), [(6, k) for k in range(NUM_FRAMES)], 1.1)
    run(spoilt, log, numbers=range(100, 108))
    assert any("101-103, 103-101" in w for w in log.warnings) and any("frame 106 fits" in w for w in log.warnings)


def test_good_pairs_are_left_alone(good):
    log = RunLog()
    result = run(good, log)
    assert_right(good, result)
    assert not log.warnings and not result.diagnostics.contradicted_pairs and not result.diagnostics.weak_frames
    problem = build_problem(good.predictions, sample_pixels(30, 40, 0), good.principal_point, RunLog())
    screened = screen(problem, range(NUM_FRAMES), RunLog())
    assert screened.problem is problem and screened.placement is None and screened.residual < 0.02


@pytest.mark.parametrize("noise", [0.03, 0.08])
def test_noise_is_no_contradiction(noise):
    log = RunLog()
    result = run(scene_of(noise=noise), log)
    assert not result.diagnostics.contradicted_pairs and not log.warnings


def test_a_fifth_of_the_pixels_wrong(good):
    scene = wrong_pixels(good, 0.2)
    result = run(scene)
    assert_right(scene, result)
    off = np.abs(result.depth / scene.depth / np.median(result.depth / scene.depth) - 1)
    assert np.median(off) < 0.02


def test_hopeless_pointmaps_are_an_error(good):
    with pytest.raises(AlignmentError, match="contradict each other.*pairs do not fit.*--graph"):
        run(wrong_pixels(good, 0.5))
    with pytest.raises(AlignmentError):
        run(garbage(good, [(i, j) for i in range(8) for j in range(i)]))


@pytest.mark.parametrize("confidence", [1.0, 1.2, None], ids=["no confidence", "little", "as much as others"])
def test_a_black_frame_is_interpolated_and_named(confidence, good):
    """What a network makes of a black frame: noise in every pair, more or less sure of itself."""
    log = RunLog()
    result = run(garbage(good, NEAR_ONES, confidence), log)
    turn, shift = errors(good, result)
    others = np.arange(NUM_FRAMES) != 4
    assert turn[others].max() < 1.0 and shift[others].max() < 0.03
    assert turn[4] < 2.0 and shift[4] < 0.05
    between = result.T_world_cam[[3, 5], :3, 3].mean(axis=0)
    np.testing.assert_allclose(result.T_world_cam[4, :3, 3], between, atol=1e-9)
    assert result.diagnostics.weak_frames == (4,)
    assert not result.depth[4].any() and not result.confidence[4].any() and (result.depth[others] > 0).any()
    assert any("no pair of frame 4 fits" in w and "interpolated" in w for w in log.warnings)
    assert result.focals == pytest.approx(good.focal, rel=0.02)


@pytest.mark.parametrize("black", [(0,), (7,), (3, 4)], ids=["first", "last", "two in the middle"])
def test_black_frames_anywhere(black, good):
    result = run(garbage(good, [(k, other) for k in black for other in range(NUM_FRAMES)], 1.1))
    assert result.diagnostics.weak_frames == black
    np.testing.assert_array_equal(result.T_world_cam[0], np.eye(4))
    strong = [k for k in range(NUM_FRAMES) if k not in black]
    first = strong[0]
    truth = np.linalg.inv(good.T_world_cam[first]) @ good.T_world_cam[strong]
    found = np.linalg.inv(result.T_world_cam[first]) @ result.T_world_cam[strong]
    scale = np.median(good.depth[strong] / result.depth[strong])
    assert np.linalg.norm(scale * found[:, :3, 3] - truth[:, :3, 3], axis=1).max() < 0.03 * DEPTH
    assert Rotation.from_matrix(np.swapaxes(truth, 1, 2)[:, :3, :3] @ found[:, :3, :3]).magnitude().max() < 0.02


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_frame_whose_confidence_is_no_number_is_an_error_that_names_it(value, good):
    with pytest.raises(AlignmentError, match=r"2 groups \(0, 1, 2, 3, 5, 6, 7; 4\)"):
        run(without_confidence(good, 4, value))


def test_a_frame_of_least_confidence_is_placed_and_named(good):
    log = RunLog()
    result = run(without_confidence(good, 4, 1.0), log)
    assert_right(good, result)
    assert result.diagnostics.unsure_frames == (4,) and any("confidence in frame 4:" in w for w in log.warnings)


@pytest.mark.parametrize("solver", ["newton", "adam"])
def test_pairs_without_any_weight_do_not_run_away_with_the_scale(solver, good):
    scene = without_confidence(without_confidence(good, 3, 1.0), 4, 1.0)
    result = run(scene, config=AlignConfig(iterations=100, flow_weight=0.0, solver=solver))
    assert_right(scene, result)
    assert result.pair_scales.max() < 3 * np.median(result.pair_scales)


def test_no_confidence_anywhere():
    scene = scene_of(num_frames=3)
    for frame in range(3):
        scene = without_confidence(scene, frame, 1.0)
    result = run(scene)
    assert_right(scene, result)
    assert result.diagnostics.unsure_frames == (0, 1, 2)


def path(good: AlignScene, name: str) -> np.ndarray:
    T = good.T_world_cam.copy()
    if name == "turning":
        T[:, :3, 3] = 0
    elif name == "fixed":
        T[:] = np.eye(4)
    elif name == "duplicates":
        T[3] = T[4] = T[2]
    elif name == "stops":
        T[3:] = T[3]
    return T


@pytest.mark.parametrize("name", ["turning", "fixed"])
def test_without_parallax_the_message_says_why(name, good):
    log = RunLog()
    scene = scene_of(path(good, name))
    result = run(scene, log)
    assert_right(scene, result)
    (warning,) = [w for w in log.warnings if "parallax" in w]
    assert ("turns" in warning) == (name == "turning") and ("stands still" in warning) == (name == "fixed")
    assert result.diagnostics.low_parallax


def test_a_camera_that_stops_is_named(good):
    log = RunLog()
    scene = scene_of(path(good, "stops"))
    result = run(scene, log)
    assert_right(scene, result)
    assert result.diagnostics.still_frames and set(result.diagnostics.still_frames) <= set(range(3, 8))
    assert any("part of the clip" in w for w in log.warnings) and not result.diagnostics.low_parallax


def test_duplicate_frames(good):
    log = RunLog()
    scene = scene_of(path(good, "duplicates"))
    result = run(scene, log)
    assert_right(scene, result)
    assert not log.warnings


def test_a_frame_full_of_movers_stays_near_and_is_named(good):
    log = RunLog()
    scene, masks = follows_a_mover(good, frame=4, share=0.9)
    result = run(scene, log, dynamic_masks=masks)
    turn, shift = errors(scene, result)
    others = np.arange(NUM_FRAMES) != 4
    assert turn[others].max() < 1.0 and shift[others].max() < 0.03
    assert shift[4] < 0.5 / DEPTH, "no farther off than the mover moved"
    assert any("frame 4 moves" in w for w in log.warnings)


@pytest.mark.parametrize("frames", [2, 3])
def test_few_frames(frames):
    scene = scene_of(num_frames=frames)
    assert_right(scene, run(scene))


def test_two_frames_whose_orders_contradict_each_other():
    with pytest.raises(AlignmentError, match="contradict each other"):
        run(misplaced(scene_of(num_frames=2), [(0, 1)]))


def test_three_frames_two_of_which_fit():
    log = RunLog()
    scene = misplaced(scene_of(num_frames=3), [(0, 2)])
    result = run(scene, log)
    assert_right(scene, result)
    assert set(result.diagnostics.contradicted_pairs) == {(0, 2), (2, 0)}


def test_every_frame_the_same(good):
    """The same picture everywhere: every pair predicts one pointmap twice."""

    def same(points_i, conf_i, points_j, conf_j):
        points_i[:] = points_j[:] = points_i[:1].clone()

    log = RunLog()
    result = run(with_points(good, same), log)
    assert np.abs(result.T_world_cam - np.eye(4)).max() < 0.02
    assert any("stands still" in w for w in log.warnings)


def test_flow_of_a_black_frame_does_not_count(good):
    flow = good.flow.flow.clone()
    touched = torch.from_numpy((good.predictions.graph.edges == 4).any(axis=1))
    flow[touched] += 3.0
    spoilt = type(good.flow)(good.flow.graph, flow, good.flow.consistent)
    result = run(garbage(good, NEAR_ONES, 1.1), config=AlignConfig(iterations=60, flow_weight=0.01), flow=spoilt)
    assert result.diagnostics.final_flow < 0.2


def test_robust_registration():
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(3, 3, 200, generator=generator)
    R = torch.from_numpy(Rotation.from_rotvec([0.3, -0.2, 0.5]).as_matrix()).float()
    target = 1.7 * R @ points + torch.tensor([1.0, 2.0, 3.0])[:, None]
    spoilt = target.clone()
    spoilt[:, :, :60] += 5 * torch.rand(3, 3, 60, generator=generator)
    weight = torch.ones(3, 200)
    for found, tolerance in ((robust_register(points, spoilt, weight), 1e-3), (register(points, target, weight), 1e-5)):
        torch.testing.assert_close(found[0], torch.full((3,), 1.7), atol=tolerance, rtol=0)
        torch.testing.assert_close(found[1], R.expand(3, 3, 3), atol=tolerance, rtol=0)
    assert (register(points, spoilt, weight)[2] - robust_register(points, spoilt, weight)[2]).norm(dim=1).min() > 0.1


def test_residuals_of_pairs(good):
    problem = build_problem(
        misplaced(good, [(3, 4)]).predictions, sample_pixels(30, 40, 0), good.principal_point, RunLog()
    )
    world = torch.from_numpy(np.stack([frame_points(good, k) for k in range(NUM_FRAMES)])).float()
    residual = pair_residuals(problem, world, torch.ones(NUM_FRAMES, 1200, dtype=torch.bool))
    assert problem.edges[contradicting(residual)].tolist() == [[3, 4], [4, 3]]
    assert float(residual.median()) < 0.02
    tree = place_frames(problem, edge_scores(problem))
    assert tree.points.shape == world.shape


def frame_points(scene: AlignScene, frame: int) -> np.ndarray:
    """(3, P) true world points of a frame."""
    height, width = scene.depth.shape[1:]
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    rays = np.stack([(x - scene.principal_point[0]) / scene.focal, (y - scene.principal_point[1]) / scene.focal])
    local = np.concatenate([rays, np.ones((1, height, width))]) * scene.depth[frame]
    T = scene.T_world_cam[frame]
    return T[:3, :3] @ local.reshape(3, -1) + T[:3, 3:]


def test_interpolated_cameras(good):
    T = good.T_world_cam
    assert interpolate(T, ()) is T
    filled = interpolate(T, (0, 3, 4, 7))
    assert is_rigid(filled)
    np.testing.assert_array_equal(filled[[1, 2, 5, 6]], T[[1, 2, 5, 6]])
    np.testing.assert_allclose(filled[0], T[1], atol=1e-12)
    np.testing.assert_allclose(filled[7], T[6], atol=1e-12)
    np.testing.assert_allclose(filled[3, :3, 3], T[2, :3, 3] * 2 / 3 + T[5, :3, 3] / 3)
