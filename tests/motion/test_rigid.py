"""The second look: flow against the flow that cameras and depth predict."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from easi3r_ns.core.geometry import pixel_grid
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene, SparsePoints
from easi3r_ns.frames.near import Shot
from easi3r_ns.motion.rigid import SecondLook, prediction, second_look
from easi3r_ns.motion.rigid.look import RigidFlow
from easi3r_ns.motion.rigid.pose import adjust_pose
from easi3r_ns.motion.rigid.prediction import DepthRange, misses, nearest_prediction
from easi3r_ns.motion.rigid.rays import Rays
from easi3r_ns.motion.rigid.static_map import StaticMap
from easi3r_ns.motion.two_view import geometric_masks
from easi3r_ns.motion.two_view.residual import Pictures
from easi3r_ns.training.scenes import correspondences
from tests.motion.test_two_view import iou
from tests.support.drive_clip import SIZE, as_scene, drive
from tests.support.twins import nearest_prediction_by_search

FOCAL = np.array([260.0, 260.0])


def motion(angle: float, shift: tuple[float, float, float]) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = Rotation.from_rotvec([0.3 * angle, angle, -0.2 * angle]).as_matrix(), shift
    return T


def seen_points(clip, scene: Scene, i: int, j: int) -> tuple[np.ndarray, ...]:
    """Rays, ends, true inverse depth and truth of what moves, of the pixels of frame i that frame j sees."""
    landing, seen = correspondences(clip, i, j)
    seen &= ((landing >= 0) & (landing <= np.array(SIZE[::-1]) - 1)).all(axis=-1)
    rays = Rays(scene)
    ends = rays.at(landing, clip.focal)
    return rays.of(clip.focal)[seen], ends[seen], (1 / clip.depth[i][seen]).astype(np.float32), clip.moving[i][seen]


def relative(scene: Scene, i: int, j: int) -> np.ndarray:
    return np.linalg.inv(scene.T_world_cam[j]) @ scene.T_world_cam[i]


@pytest.mark.parametrize("shift", [(0.3, 0.05, 0.02), (0.02, 0.0, -0.6), (0.0, 0.0, 0.5), (0.0, 0.0, 0.0)])
def test_nearest_prediction_is_that_of_a_search(shift: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(1)
    rays, T = rng.uniform(-0.6, 0.6, (60, 2)).astype(np.float32), motion(0.05, shift)
    bounds = DepthRange(np.full(60, 0.05, np.float32), rng.uniform(0.06, 1.0, 60).astype(np.float32))
    at = rng.uniform(0.02, 1.2, 60)
    moved = np.concatenate([rays, np.ones((60, 1))], axis=1) @ T[:3, :3].T + at[:, None] * T[:3, 3]
    ends = (moved[:, :2] / moved[:, 2:] + rng.normal(0, 0.004, (60, 2))).astype(np.float32)
    point, w = nearest_prediction(rays, ends, bounds, T)
    found = np.linalg.norm(point[:, :2] / point[:, 2:] - ends, axis=1)
    best = nearest_prediction_by_search(rays, ends, bounds, T)
    assert (w >= bounds.low).all() and (w <= bounds.high).all()
    np.testing.assert_allclose(found, best, atol=2e-5)


def test_flow_far_off_its_line_is_compared_with_the_nearest_point_in_the_picture(monkeypatch) -> None:
    """The algebraic point alone would be wrong by most of a pixel."""
    clip = drive("ahead")
    scene = as_scene(clip, clip.depth)
    rays, ends, w, _ = seen_points(clip, scene, 6, 10)
    off = np.random.default_rng(0).normal(0, 0.02, ends.shape)
    measured = rays, (ends + off).astype(np.float32), DepthRange(0 * w, 0 * w + 2), relative(scene, 6, 10), FOCAL
    found = misses(*measured)
    monkeypatch.setattr(prediction, "GAUSS_NEWTON_STEPS", 12)
    np.testing.assert_array_less(np.quantile(found - misses(*measured), 0.99), 0.01)


def test_exact_flow_of_what_stands_still_is_predicted_and_that_of_the_car_is_not() -> None:
    clip = drive("ahead")
    scene = as_scene(clip, clip.depth)
    rays, ends, w, moving = seen_points(clip, scene, 6, 8)
    known = misses(rays, ends, DepthRange(w * 0.99, w * 1.01), relative(scene, 6, 8), FOCAL)
    unknown = misses(rays, ends, DepthRange(0 * w, 0 * w + 2), relative(scene, 6, 8), FOCAL)
    assert known[~moving].max() < 0.02 and unknown[~moving].max() < 0.02
    # Without its depth the car could be something very far away, if the camera did not sway.
    assert np.median(known[moving]) > max(5, 2 * np.median(unknown[moving]))


def test_a_camera_that_is_off_is_adjusted_although_a_fifth_moves() -> None:
    clip = drive("ahead")
    scene = as_scene(clip, clip.depth)
    rays, ends, w, moving = (values[::37] for values in seen_points(clip, scene, 6, 7))
    truth = relative(scene, 6, 7)
    start = motion(0.02, (0.03, -0.02, 0.04)) @ truth
    bounds = DepthRange(w * 0.98, w * 1.02)
    assert moving.mean() > 0.1 and np.median(misses(rays, ends, bounds, start, FOCAL)) > 2
    found = adjust_pose(start, rays, ends, bounds, FOCAL, np.full(len(w), 0.3), float(np.median(w)))
    turned = Rotation.from_matrix(found[:3, :3] @ truth[:3, :3].T).magnitude()
    assert np.degrees(turned) < 0.05
    assert np.linalg.norm(found[:3, 3] - truth[:3, 3]) < 0.01
    assert np.median(misses(rays, ends, bounds, found, FOCAL)) < 0.05


def test_bounds_hold_the_true_depth_although_the_car_was_not_measured() -> None:
    clip = drive("ahead")
    scene = as_scene(clip, np.where(clip.moving, 0, clip.depth))
    bounds, w = StaticMap(scene, Rays(scene), 0.01).bounds(8), 1 / clip.depth[8]
    inside = (bounds.low <= w) & (w <= bounds.high)
    assert inside[~clip.moving[8]].mean() > 0.995 and inside[clip.moving[8]].mean() > 0.99


@pytest.mark.parametrize("measured", [0.0, 200.0, 0.4])
def test_other_frames_bound_what_a_frame_has_not_measured_or_measured_wrong(measured: float) -> None:
    """``measured``: the depth of the parked car in one frame: unknown, far behind, too near (times the truth)."""
    clip = drive("parked")
    car = clip.object_id[5] == 1
    depth = clip.depth.copy()
    depth[5][car] *= measured
    scene = as_scene(clip, depth)
    bounds = StaticMap(scene, Rays(scene), 0.01).bounds(5)
    w = 1 / clip.depth[5]
    assert car.mean() > 0.02
    held = (bounds.low > 0.9 * w) & (bounds.low < w) & (bounds.high > w)
    assert held[car].mean() > 0.8


def looked_at(kind: str, depth: np.ndarray, sparse: SparsePoints | None = None) -> SecondLook:
    clip = drive(kind)
    scene = replace(as_scene(clip, depth), sparse=sparse)
    return second_look(scene, Shot.of(clip.images), 16, RunLog())


@pytest.mark.slow
def test_a_car_ahead_is_found_where_depth_is_known_and_where_its_own_is_not() -> None:
    clip = drive("ahead")
    first = geometric_masks(clip.images, 16, RunLog())
    known, not_on_it = looked_at("ahead", clip.depth), looked_at("ahead", np.where(clip.moving, 0, clip.depth))
    assert iou(first.masks, clip.moving) < 0.5
    assert iou(known.dynamic.masks, clip.moving) > 0.68
    assert iou(not_on_it.dynamic.masks, clip.moving) > 0.68
    assert known.dynamic.source == "scene" and not known.dynamic.first.any()
    assert known.followed[clip.moving].mean() > 0.7


@pytest.mark.slow
def test_a_car_that_comes_is_found_where_its_depth_is_known() -> None:
    clip = drive("oncoming")
    found = looked_at("oncoming", clip.depth).dynamic.masks
    late = clip.moving.mean(axis=(1, 2)) > 0.03
    assert iou(found[late], clip.moving[late]) > 0.5


@pytest.mark.slow
def test_a_parked_car_stands_still() -> None:
    clip = drive("parked")
    look = looked_at("parked", clip.depth)
    assert look.share > 0.9 and look.dynamic.masks.mean() < 0.03


@pytest.mark.slow
def test_a_scene_that_does_not_fit_the_flow_does_not_hold() -> None:
    clip = drive("parked")
    depth = np.flip(clip.depth, axis=(1, 2)) * np.linspace(0.3, 3, clip.depth.shape[2], dtype=np.float32)
    wrong = looked_at("parked", depth)
    assert wrong.share < looked_at("parked", clip.depth).share - 0.1


@pytest.mark.long
def test_a_wrong_path_does_not_hold_although_every_pair_can_be_adjusted_to_its_flow() -> None:
    clip = drive("parked")
    scene = as_scene(clip, clip.depth)
    order = np.random.default_rng(0).permutation(len(scene))
    wrong = second_look(replace(scene, T_world_cam=scene.T_world_cam[order]), Shot.of(clip.images), 16, RunLog())
    right = looked_at("parked", clip.depth)
    assert right.holds and right.astray < 0.1
    assert wrong.astray > 0.5 and not wrong.holds


@pytest.mark.long
def test_depth_noise_is_measured() -> None:
    clip = drive("parked")
    noisy = clip.depth * np.exp(0.15 * np.random.default_rng(0).standard_normal(clip.depth.shape)).astype(np.float32)
    assert looked_at("parked", clip.depth).depth_sigma < 0.03
    assert 0.08 < looked_at("parked", noisy).depth_sigma < 0.25


def test_rays_undo_the_lens() -> None:
    scene = replace(as_scene(drive("parked"), drive("parked").depth), distortion=(-0.12, 0.03, 0.001, -0.002))
    rays = Rays(scene)
    grid = pixel_grid(*scene.depth.shape[1:])
    np.testing.assert_allclose(rays.pixels(rays.of(260.0), 260.0), grid, atol=1e-2)
    at = rays.at((grid + 0.5).astype(np.float32), 260.0)[50, 60]
    np.testing.assert_allclose(rays.pixels(at, 260.0), [60.5, 50.5], atol=1e-2)


def test_a_pair_whose_flow_fits_no_static_scene_says_nothing() -> None:
    clip = drive("parked")
    scene = as_scene(clip, clip.depth)
    shot = Shot.of(clip.images)
    rigid = RigidFlow(scene, shot, Pictures(shot))
    landing, seen = correspondences(clip, 6, 7)
    right = (landing - pixel_grid(*SIZE)).astype(np.float32)
    torn = (right + np.random.default_rng(0).uniform(-20, 20, right.shape)).astype(np.float32)
    clear = np.zeros(SIZE, np.float32)
    for flow, says in ((right, True), (torn, False)):
        assert (rigid.explain((6, 7), (flow, -flow), (seen, seen), (clear, clear)) is not None) is says
    assert rigid.explained[0] > 0.95 and rigid.explained[1] < 0.5
