"""Bundle adjustment and mapping on exact tracks with noise: truth comes back, scores cannot be gamed, depths follow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from easi3r_ns.core.config import AlignConfig, RefineConfig
from easi3r_ns.core.errors import AlignmentError, InputError, MissingExtraError
from easi3r_ns.core.geometry import intrinsics_to_source, is_rigid, transform
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import FIXED, CameraUncertainty
from easi3r_ns.core.similarity import align_cameras, fill_missing
from easi3r_ns.core.types import PixelMap
from easi3r_ns.motion.attention.masks import static_masks
from easi3r_ns.refine import check_refine, map_static, mapping, reason_against, refine_scene
from easi3r_ns.refine.bundle import bundle_from
from easi3r_ns.refine.depths import DepthFit, apply_fit, fit_depth, sample_depth
from easi3r_ns.refine.features import MASK_GROWTH, MAX_IMAGE_SIDE, detect_features, on_static
from easi3r_ns.refine.library import load_pycolmap
from easi3r_ns.refine.mapping import map_incrementally
from easi3r_ns.refine.matching import EXHAUSTIVE_FRAMES, choose_pairs
from easi3r_ns.refine.model import Correspondences, Lens
from easi3r_ns.refine.score import (
    agreement,
    epipolar_error,
    hold_out,
    score_cameras,
    track_labels,
    triangulate,
    without_keypoints,
)
from easi3r_ns.storage.files import write_png
from tests.support.align_scene import camera_path, trajectory_errors
from tests.support.helpers import Lines
from tests.support.refine_clip import PIXEL_MAP, Tracks, disturbed, make_scene, make_tracks, walk_then_pan

BENT = (-0.1, 0.02, 0.002, -0.001)


@pytest.fixture(scope="module")
def tracks() -> Tracks:
    return make_tracks()


@pytest.fixture(scope="module")
def bent() -> Tracks:
    return make_tracks(10, 800, distortion=BENT)


def _ate(estimate: np.ndarray, truth: np.ndarray) -> float:
    return trajectory_errors(estimate, truth)["ate"]


# --- the score ---------------------------------------------------------------------------------------------------


def _epipolar_error_naive(x_i: np.ndarray, x_j: np.ndarray, T_j_i: np.ndarray) -> float:
    """One match: the epipolar line of each point drawn through the images of two points of its ray."""

    def distance(point: np.ndarray, ray: np.ndarray, T: np.ndarray) -> float:
        a, b = (transform(T, depth * np.append(ray, 1.0)) for depth in (1.0, 3.0))
        a, b = a[:2] / a[2], b[:2] / b[2]
        along = (b - a) / np.linalg.norm(b - a)
        away = point - a
        return abs(along[0] * away[1] - along[1] * away[0])

    return 0.5 * (distance(x_j, x_i, T_j_i) + distance(x_i, x_j, np.linalg.inv(T_j_i)))


def test_epipolar_error_equals_its_twin():
    rng = np.random.default_rng(0)
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = Rotation.from_rotvec([0.1, -0.2, 0.05]).as_matrix(), [0.4, 0.1, -0.05]
    x_i, x_j = rng.uniform(-0.5, 0.5, (2, 20, 2))
    naive = [_epipolar_error_naive(a, b, T) for a, b in zip(x_i, x_j)]
    np.testing.assert_allclose(epipolar_error(x_i, x_j, T), naive, atol=1e-12)
    assert min(naive) < 0.1 < max(naive)


def test_epipolar_error_without_a_baseline_is_the_distance_of_the_rays():
    T = np.eye(4)
    T[:3, :3] = Rotation.from_rotvec([0, 0.1, 0]).as_matrix()
    seen = epipolar_error(np.zeros((1, 2)), np.array([[np.tan(0.1) + 0.03, 0.04]]), T)
    np.testing.assert_allclose(seen, 0.05, atol=1e-12)


def test_tracks_are_what_matches_connect():
    keypoints = tuple(np.zeros((2, 2)) for _ in range(3))
    found = Correspondences(keypoints, np.array([[0, 1], [1, 2]]), (np.array([[0, 1]]), np.array([[1, 0], [0, 1]])))
    labels, offsets = track_labels(found)
    assert offsets.tolist() == [0, 2, 4, 6]
    # 0.0 - 1.1 - 2.0, 1.0 - 2.1, and 0.1 alone.
    assert labels[0] == labels[3] == labels[4] and labels[2] == labels[5]
    assert len({labels[0], labels[1], labels[2]}) == 3


def test_held_out_tracks_share_no_keypoint_with_the_others(tracks):
    seen, held = hold_out(tracks.found, 0.15, 0)

    def used(found: Correspondences) -> set[tuple[int, int]]:
        pairs = zip(found.pairs.tolist(), found.matches)
        return {(frame, int(k)) for pair, rows in pairs for frame, column in zip(pair, rows.T) for k in column}

    assert not used(seen) & used(held)
    assert seen.num_matches + held.num_matches == tracks.found.num_matches
    assert 0.05 < held.num_matches / tracks.found.num_matches < 0.2
    again = hold_out(tracks.found, 0.15, 0)[1]
    assert all(np.array_equal(a, b) for a, b in zip(held.matches, again.matches))
    assert hold_out(tracks.found, 0.15, 1)[1].num_matches != held.num_matches
    labels, offsets = track_labels(held)
    frame = np.repeat(np.arange(8), np.diff(offsets))
    assert len(np.unique(np.stack([labels, frame]), axis=1).T) == len(labels)  # no track visits a frame twice


def test_triangulation_is_exact_and_survives_a_wrong_ray(tracks):
    rng = np.random.default_rng(0)
    T, points = tracks.T_world_cam, rng.uniform([-1, -1, 4], [1, 1, 6], (30, 3))
    frame, track = (axis.ravel() for axis in np.meshgrid(np.arange(len(T)), np.arange(30)))
    local = np.einsum("mba,mb->ma", T[frame, :3, :3], points[track] - T[frame, :3, 3])
    rays = local[:, :2] / local[:, 2:]
    np.testing.assert_allclose(triangulate(T, frame, track, rays), points, atol=1e-6)
    wrong = rays + 1e-4 * rng.standard_normal(rays.shape)
    wrong[:: 8 * 3] += 0.05
    assert np.linalg.norm(triangulate(T, frame, track, wrong) - points, axis=1).max() < 0.05


def test_score_prefers_the_truth_and_counts_every_frame(tracks):
    held = hold_out(tracks.found, 0.15, 0)[1]
    everywhere = np.ones(8, dtype=bool)
    truth = score_cameras(tracks.T_world_cam, tracks.lens, held, everywhere)
    wrong = score_cameras(disturbed(tracks.T_world_cam, 0.3, 0.02), tracks.lens, held, everywhere)
    assert truth.epipolar_px < 0.5 and truth.track_length > 6 and truth.num_matches == held.num_matches
    assert wrong.epipolar_px > 3 * truth.epipolar_px and wrong.cost > truth.cost
    half = score_cameras(tracks.T_world_cam, tracks.lens, held, np.arange(8) < 4)
    assert half.cost == pytest.approx(2 * truth.cost)


def test_score_sees_distances_that_the_epipolar_error_does_not():
    # Along a straight path without turns, wrong distances between cameras leave every epipolar line where it is.
    clip = make_tracks(noise=0.2, wrong=0.0)
    straight = np.tile(np.eye(4), (8, 1, 1))
    straight[:, 0, 3] = np.linspace(0, 1.5, 8)
    rng = np.random.default_rng(3)
    keypoints = []
    for pose in straight:
        local = clip.points - pose[:3, 3]
        keypoints.append(local[:, :2] / local[:, 2:] * 560 + (320, 240) + 0.2 * rng.standard_normal((400, 2)))
    pairs = np.stack(np.triu_indices(8, 1), axis=1)
    held = Correspondences(tuple(keypoints), pairs, tuple(np.tile(np.arange(400)[:, None], 2) for _ in pairs))
    stretched = straight.copy()
    stretched[:, 0, 3] = 1.5 * np.linspace(0, 1, 8) ** 2
    true, gamed = (score_cameras(T, clip.lens, held, np.ones(8, bool)) for T in (straight, stretched))
    assert gamed.epipolar_px == pytest.approx(true.epipolar_px, rel=0.02)
    assert gamed.track_length < 0.8 * true.track_length and gamed.cost > true.cost


# --- bundle adjustment and mapping -------------------------------------------------------------------------------


def test_bundle_adjustment_brings_disturbed_cameras_back(tracks):
    start = disturbed(tracks.T_world_cam, 1.0, 0.05)
    config = RefineConfig(camera_model="pinhole")
    model = bundle_from(tracks.found, start, Lens.centred((640, 480), 600), config, fixed_focal=False, seed=0)
    assert model.registered.all() and is_rigid(model.T_world_cam)
    assert _ate(start, tracks.T_world_cam) > 0.03 and _ate(model.T_world_cam, tracks.T_world_cam) < 0.004
    assert model.focal == pytest.approx(560, rel=0.01)
    assert model.track_length > 5 and np.median(model.sparse.errors) < 0.6


@pytest.mark.parametrize(("name", "atol"), [("radial", [0.02, 0.03, 0, 0]), ("opencv", [0.02, 0.03, 2e-3, 2e-3])])
def test_distortion_is_found(name, atol):
    truth = np.array(BENT) * (np.array(atol) > 0)
    clip = make_tracks(10, 800, distortion=tuple(truth), wrong=0.0)
    model = map_incrementally(
        clip.found, Lens.centred((640, 480), 600), RefineConfig(camera_model=name), fixed_focal=False, seed=0
    )
    assert (np.abs(np.array(model.distortion) - truth) <= atol).all(), model.distortion
    assert model.focal == pytest.approx(560, rel=0.01)
    assert _ate(model.T_world_cam, clip.T_world_cam) < 0.004


def test_a_lens_that_nobody_makes_is_no_result(monkeypatch, tracks):
    lens, config = Lens.centred((640, 480), 560.0), RefineConfig(camera_model="pinhole")
    monkeypatch.setattr("easi3r_ns.refine.bundle.FOCAL_RANGE", (0.3, 0.8))
    assert bundle_from(tracks.found, tracks.T_world_cam, lens, config, fixed_focal=False, seed=0) is None
    assert map_incrementally(tracks.found, lens, config, fixed_focal=False, seed=0) is None


def test_a_known_focal_length_stays(tracks):
    lens = Lens.centred((640, 480), 560.0)
    for name in ("pinhole", "opencv"):
        config = RefineConfig(camera_model=name)
        adjusted = bundle_from(tracks.found, tracks.T_world_cam, lens, config, fixed_focal=True, seed=0)
        mapped = map_incrementally(tracks.found, lens, config, fixed_focal=True, seed=0)
        assert adjusted.focal == mapped.focal == 560.0


def test_the_same_input_gives_the_same_cameras(bent):
    lens, config = Lens.centred((640, 480), 620), RefineConfig()
    start = disturbed(bent.T_world_cam, 1.0, 0.05)
    mapped = [map_incrementally(bent.found, lens, config, fixed_focal=False, seed=0) for _ in range(2)]
    adjusted = [bundle_from(bent.found, start, lens, config, fixed_focal=False, seed=0) for _ in range(2)]
    for first, second in (mapped, adjusted):
        np.testing.assert_allclose(first.T_world_cam, second.T_world_cam, atol=1e-6)
        assert abs(first.focal - second.focal) < 1e-6
        np.testing.assert_allclose(first.sparse.points, second.sparse.points, atol=1e-6)


def test_a_camera_that_only_turns_is_no_map():
    assert (
        map_incrementally(
            make_tracks(travel=0.0).found, Lens.centred((640, 480), 560), RefineConfig(), fixed_focal=False, seed=0
        )
        is None
    )


@pytest.mark.long
def test_frames_on_little_parallax_join_where_the_usual_amount_loses_them(monkeypatch):
    clip, lens = walk_then_pan(), Lens.centred((640, 480), 600)
    grown = map_incrementally(clip.found, lens, RefineConfig(), fixed_focal=False, seed=0)
    assert grown.focal == pytest.approx(560, rel=0.02)
    known = grown.registered
    turns = grown.T_world_cam[known, :3, :3] @ clip.T_world_cam[known, :3, :3].transpose(0, 2, 1)
    apart = Rotation.from_matrix(turns @ turns[0].T).magnitude()
    assert np.degrees(apart).max() < 1.0
    monkeypatch.setattr(mapping, "LITTLE_PARALLAX", mapping.MIN_ANGLE)
    usual = map_incrementally(clip.found, lens, RefineConfig(), fixed_focal=False, seed=0)
    assert usual.registered.sum() + 3 <= known.sum() and known[usual.registered].all()
    monkeypatch.undo()
    monkeypatch.setattr(mapping, "MIN_AGREEMENT", 1.1)  # no camera is good enough: what was there stays
    kept = map_incrementally(clip.found, lens, RefineConfig(), fixed_focal=False, seed=0)
    np.testing.assert_array_equal(kept.registered, usual.registered)


def test_matches_agree_with_right_cameras_only(tracks):
    everywhere = np.ones(8, dtype=bool)
    right = agreement(tracks.T_world_cam, tracks.lens, tracks.found, everywhere, 4.0)
    assert right.min() > 0.95
    wrong = tracks.T_world_cam.copy()
    wrong[3] = disturbed(wrong[3:4], 3.0, 0.2)[0]
    share = agreement(wrong, tracks.lens, tracks.found, everywhere, 4.0)
    assert share[3] < 0.5 < np.delete(share, 3).min()
    without = agreement(wrong, tracks.lens, tracks.found, np.arange(8) != 3, 4.0)
    assert without[3] == 0 and np.delete(without, 3).min() > 0.95


def test_a_model_with_fewer_cameras_keeps_what_two_of_them_see(bent):
    model = map_incrementally(bent.found, Lens.centred((640, 480), 560), RefineConfig(), fixed_focal=False, seed=0)
    kept = np.arange(10) < 4
    part = model.restricted(kept)
    np.testing.assert_array_equal(part.registered, kept)
    np.testing.assert_array_equal(part.T_world_cam[4:], np.tile(np.eye(4), (6, 1, 1)))
    views = np.bincount(part.sparse.point_index, minlength=len(part.sparse))
    assert views.min() == 2 and views.max() <= 4 and set(part.sparse.frame_index) == {0, 1, 2, 3}
    for index in (0, len(part.sparse) - 1):
        twin = np.flatnonzero((model.sparse.points == part.sparse.points[index]).all(axis=1)).item()
        here, there = part.sparse.point_index == index, (model.sparse.point_index == twin)
        there &= kept[model.sparse.frame_index]
        np.testing.assert_array_equal(part.sparse.pixels[here], model.sparse.pixels[there])


# --- depths, similarity, pairs, masks ----------------------------------------------------------------------------


def test_depths_take_a_scale_and_a_shift_only_where_it_predicts():
    rng = np.random.default_rng(0)
    ours = rng.uniform(2, 8, 300)
    wanted = 1.7 * ours * (1 + 0.02 * rng.standard_normal(300))
    wanted[::6] *= rng.uniform(0.3, 3, 50)
    fit = fit_depth(ours, wanted)
    assert fit.shift == 0 and fit.scale == pytest.approx(1.7, rel=0.01) and fit.error < 0.03
    fit = fit_depth(ours, np.where(np.arange(300) % 6, 1.7 * ours - 1.0, wanted))
    assert fit.shift == pytest.approx(-1.0, abs=0.05) and fit.scale == pytest.approx(1.7, rel=0.01)
    depth = np.array([[0.0, 0.5, 4.0]])
    np.testing.assert_allclose(apply_fit(depth, DepthFit(1.7, -1.0, 300, 0.0)), [[0, 0, 5.8]])


def test_sampled_depth_is_that_of_the_pixel_and_zero_outside():
    depth = np.arange(96 * 128, dtype=float).reshape(96, 128)
    xy = np.array([[2.5, 2.5], [639.9, 479.9], [5.1, 0.0], [-3.0, 5.0], [641.0, 5.0]])
    assert sample_depth(depth, xy, PIXEL_MAP).tolist() == [0, 96 * 128 - 1, 1, 0, 0]


@pytest.mark.parametrize("straight", [False, True])
def test_cameras_are_aligned_by_their_similarity(straight):
    T = camera_path(12, 2.0, np.random.default_rng(0))
    if straight:
        T[:, :3, 3] = np.outer(np.arange(12), [0.1, 0.0, 0.2])
    R, t = Rotation.from_rotvec([0.5, -1.0, 2.0]).as_matrix(), np.array([1.0, -2, 3])
    other = T.copy()
    other[:, :3, :3], other[:, :3, 3] = R @ T[:, :3, :3], 2.5 * T[:, :3, 3] @ R.T + t
    found = align_cameras(T, other)
    assert found.scale == pytest.approx(2.5)
    np.testing.assert_allclose(found.cameras(T), other, atol=1e-9)
    other[3, :3, 3] += 50
    assert align_cameras(T, other).scale == pytest.approx(2.5, rel=0.05)


def test_missing_cameras_are_carried_by_their_neighbours():
    T = camera_path(20, 2.0, np.random.default_rng(0))
    other = T.copy()
    other[:, :3, 3] = 3 * T[:, :3, 3] + 1
    registered = ~np.isin(np.arange(20), (0, 7, 19))
    lost = np.where(registered[:, None, None], other, np.eye(4))
    filled, scales = fill_missing(T, lost, registered)
    np.testing.assert_allclose(filled, other, atol=1e-9)
    np.testing.assert_allclose(scales, 3)


def test_short_clips_are_matched_exhaustively_long_ones_where_frames_look_alike():
    rng = np.random.default_rng(0)
    few = [rng.integers(0, 255, (30, 128)).astype(np.uint8) for _ in range(4)]
    assert choose_pairs(few, 0).tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    many = [rng.integers(0, 255, (30, 128)).astype(np.uint8) for _ in range(EXHAUSTIVE_FRAMES + 20)]
    many[75] = many[12].copy()
    many[40] = many[40][:0]
    pairs = choose_pairs(many, 0)
    assert np.array_equal(pairs, np.unique(pairs, axis=0)) and (pairs[:, 0] < pairs[:, 1]).all()
    listed = {tuple(pair) for pair in pairs.tolist()}
    assert (12, 75) in listed and {(i, i + 1) for i in range(79)} <= listed and (0, 64) in listed
    assert len(listed) < 0.6 * 80 * 79 / 2
    assert np.array_equal(pairs, choose_pairs(many, 0))


@pytest.mark.parametrize("size", [(640, 96), (3 * MAX_IMAGE_SIDE // 2, 96)])
def test_keypoints_lie_where_the_image_shows_them(tmp_path, size):
    # A grid of blobs whose centres are known; the centre of the first pixel is (0.5, 0.5).
    x, y = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    centres = np.stack(np.meshgrid(np.arange(40.25, size[0] - 40, 80), [48.75]), axis=-1).reshape(-1, 2)
    blobs = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * 8**2)) for a, b in centres)
    write_png(tmp_path / "a.png", np.repeat(np.rint(200 * blobs)[..., None], 3, axis=2).astype(np.uint8))
    pixel_map = PixelMap(size, (128, 16), (0, 0, 128, 16))
    clip = replace(
        make_scene(np.eye(4)[None], 560, np.ones((1, 96, 128)), (tmp_path / "a.png",)),
        **{name: np.ones((1, 16, 128), np.float32) for name in ("depth", "confidence")},
        images=np.zeros((1, 16, 128, 3), np.uint8),
        dynamic=static_masks(1, 16, 128, 16),
        pixel_map=pixel_map,
    )
    found = detect_features(clip, RunLog()).keypoints[0]
    # The Laplacian answers strongest at the blob's own scale.
    scale = np.hypot(found[:, 2], found[:, 4])
    nearest = np.linalg.norm(found[:, None, :2] - centres, axis=2)
    assert (nearest[(scale > 5) & (scale < 12)].min(axis=0) < 0.15).all()


def test_keypoints_on_and_beside_what_moves_are_left_out():
    moving = np.zeros((96, 128), dtype=bool)
    moving[40:60, 50:70] = True
    scale = 5.0  # source pixels per network pixel
    # Pixel 69 is the last that moves; with 0.64 pixels of growth and 0.2 of radius, 70 lies further away than that.
    columns = np.array([60.0, 69.0, 70.0, 72.0])
    radius = np.array([1.0, 1.0, 1.0, 15.0])
    assert MASK_GROWTH * 128 == pytest.approx(0.64)
    rows = np.zeros((4, 6), dtype=np.float32)
    rows[:, 0], rows[:, 1] = (columns + 0.5) * scale, (50 + 0.5) * scale
    rows[:, 2] = rows[:, 5] = radius
    assert on_static(rows, moving, PIXEL_MAP).tolist() == [False, False, True, False]
    assert on_static(rows, np.zeros_like(moving), PIXEL_MAP).all()


# --- the whole ---------------------------------------------------------------------------------------------------


def _ours(clip: Tracks, folder: Path, *, angle: float = 1.0, focal: float = 600.0):
    """A scene with disturbed cameras, a wrong focal length and depths of another scale, each frame its own."""
    start = disturbed(clip.T_world_cam, angle, 0.05)
    paths = tuple(folder / f"{k}.png" for k in range(len(start)))
    for k, path in enumerate(paths):
        write_png(path, np.full((480, 640, 3), (10, 20, 30), np.uint8))
    depth = np.zeros((len(start), 96, 128))
    for k, (pose, xy) in enumerate(zip(clip.T_world_cam, clip.found.keypoints)):
        # One depth per frame at the tracks: the nearest point wins, as in an image.
        local = transform(np.linalg.inv(pose), clip.points)
        pixels = local[:, :2] / local[:, 2:] * clip.lens.focal + clip.lens.principal_point
        column, row = np.clip(np.floor(pixels / 5).astype(int), 0, (127, 95)).T
        order = np.argsort(-local[:, 2])
        depth[k, row[order], column[order]] = local[order, 2] * (0.8 + 0.05 * k)
    return make_scene(start, focal, depth, paths)


@pytest.fixture
def matched(monkeypatch):
    """Let refine_scene find the given correspondences."""

    def use(found: Correspondences) -> None:
        monkeypatch.setattr("easi3r_ns.refine.scene.find_correspondences", lambda *_, **__: found)

    return use


def test_refined_cameras_and_depths_agree(tracks, tmp_path, matched):
    matched(tracks.found)
    scene, log = _ours(tracks, tmp_path), RunLog()
    scene = replace(scene, uncertainty=CameraUncertainty(*np.ones((4, 8))))
    refined = refine_scene(scene, RefineConfig(camera_model="pinhole"), log, 0)
    assert refined.uncertainty is not None and (refined.uncertainty.rotation_deg < 0.5).all(), (
        "that of bundle adjustment"
    )
    assert 0.1 < refined.uncertainty.focal[0] < 2
    assert _ate(refined.T_world_cam, tracks.T_world_cam) < 0.1 * _ate(scene.T_world_cam, tracks.T_world_cam)
    assert intrinsics_to_source(refined.focals[0], refined.principal_point, PIXEL_MAP) == pytest.approx(
        (560, 560, 320, 240), rel=0.01
    )
    assert refined.pose_sources == ("colmap",) * 8 and not log.warnings
    # Per frame, depth and points have one scale.
    sparse = refined.sparse
    local = np.einsum(
        "mba,mb->ma",
        refined.T_world_cam[sparse.frame_index, :3, :3],
        sparse.points[sparse.point_index] - refined.T_world_cam[sparse.frame_index, :3, 3],
    )
    for frame in range(8):
        rows = sparse.frame_index == frame
        depth = sample_depth(refined.depth[frame], sparse.pixels[rows], PIXEL_MAP)
        assert np.median(depth / local[rows, 2]) == pytest.approx(1, abs=0.01)
    assert (sparse.colors == (10, 20, 30)).all()
    record = json.loads(json.dumps(refined.provenance))["refine"]
    assert record["kept"] in ("bundle adjustment", "mapping") and record["held_out_matches"] > 500
    for name in ("bundle adjustment", "mapping"):
        assert record[name]["epipolar_px"] < 0.6 < 3 < record["network"]["epipolar_px"]


def test_mapping_takes_over_where_our_cameras_do_not_hold(tracks, tmp_path, matched):
    matched(tracks.found)
    scene = _ours(tracks, tmp_path, angle=40.0)
    refined = refine_scene(scene, RefineConfig(camera_model="pinhole"), RunLog(), 0)
    assert refined.provenance["refine"]["kept"] == "mapping"
    assert _ate(refined.T_world_cam, tracks.T_world_cam) < 0.004


def test_a_frame_without_matches_keeps_our_camera_carried_along(tracks, tmp_path, matched):
    found = tracks.found
    lonely = [k for k, pair in enumerate(found.pairs.tolist()) if 5 not in pair]
    matched(Correspondences(found.keypoints, found.pairs[lonely], tuple(found.matches[k] for k in lonely)))
    log = RunLog()
    refined = refine_scene(_ours(tracks, tmp_path), RefineConfig(camera_model="pinhole"), log, 0)
    assert refined.pose_sources == ("colmap",) * 5 + ("aligned",) + ("colmap",) * 2
    assert _ate(refined.T_world_cam, tracks.T_world_cam) < 0.05
    assert any("could not place 1 of 8" in warning for warning in log.warnings)


def test_masks_that_hide_too_much_are_overruled(tracks, tmp_path, monkeypatch):
    # What the masks leave joins frames 0 to 5 only; without them every frame has its tracks.
    found = tracks.found
    near = [k for k, (_, j) in enumerate(found.pairs.tolist()) if j <= 5]
    masked = Correspondences(found.keypoints, found.pairs[near], tuple(found.matches[k] for k in near))
    monkeypatch.setattr(
        "easi3r_ns.refine.scene.find_correspondences",
        lambda scene, dynamic, *_, **__: masked if dynamic.masks.any() else found,
    )
    scene = _ours(tracks, tmp_path)
    moving = scene.dynamic.masks.copy()
    moving[:, :40] = True
    scene = replace(scene, dynamic=replace(scene.dynamic, masks=moving))
    refined = refine_scene(scene, RefineConfig(camera_model="pinhole"), RunLog(), 0)
    assert refined.provenance["refine"]["kept"] == "mapping without masks"
    assert refined.pose_sources == ("colmap",) * 8
    assert _ate(refined.T_world_cam, tracks.T_world_cam) < 0.004


def test_keypoints_that_are_held_out_are_taken_out_elsewhere_too(tracks):
    held = hold_out(tracks.found, 0.15, 0)[1]
    order = [np.random.default_rng(k).permutation(len(xy)) for k, xy in enumerate(tracks.found.keypoints)]
    back = [np.argsort(o) for o in order]
    shuffled = Correspondences(
        tuple(xy[o] for xy, o in zip(tracks.found.keypoints, order)),
        tracks.found.pairs,
        tuple(
            np.stack([back[i][m[:, 0]], back[j][m[:, 1]]], axis=1)
            for (i, j), m in zip(tracks.found.pairs.tolist(), tracks.found.matches)
        ),
    )
    left = without_keypoints(shuffled, held)
    assert left.num_matches == tracks.found.num_matches - held.num_matches


def test_too_few_matches_keep_the_scene(tracks, tmp_path, matched):
    matched(Correspondences(tracks.found.keypoints, np.zeros((0, 2), np.int64), ()))
    scene, log = _ours(tracks, tmp_path), RunLog()
    kept = refine_scene(scene, RefineConfig("colmap"), log, 0)
    np.testing.assert_array_equal(kept.T_world_cam, scene.T_world_cam)
    assert kept.sparse is None and kept.provenance["refine"]["kept"] == "network"
    assert "too little static texture" in log.warnings[0]
    quiet = Lines()
    kept = refine_scene(scene, RefineConfig(), quiet, 0)
    np.testing.assert_array_equal(kept.T_world_cam, scene.T_world_cam)
    assert not quiet.warnings and "--refine auto keeps the network's cameras: too little static" in quiet.said[-1]


@pytest.mark.slow
def test_what_is_kept_has_the_least_cost(tracks, tmp_path, matched):
    # With 8 pixels of noise no camera is exact: whatever is kept has the least cost, and ours may win.
    matched(make_tracks(noise=8.0).found)
    scene = replace(_ours(tracks, tmp_path, angle=0.0), T_world_cam=tracks.T_world_cam)
    refined = refine_scene(scene, RefineConfig(camera_model="pinhole"), RunLog(), 0)
    scores = refined.provenance["refine"]
    costs = {
        name: s["epipolar_px"] / max(s["registered"] * s["track_length"], 1e-9)
        for name, s in scores.items()
        if isinstance(s, dict) and "epipolar_px" in s
    }
    assert scores["kept"] == min(costs, key=costs.get)


def test_options_are_checked_before_any_work(monkeypatch):
    for refine in ("auto", "none"):
        check_refine(RefineConfig(refine), AlignConfig(shared_focal=False), 500.0)
    check_refine(RefineConfig("colmap"), AlignConfig(shared_focal=False))
    with pytest.raises(InputError, match="no-shared-focal"):
        check_refine(RefineConfig("colmap"), AlignConfig(shared_focal=False), 500.0)
    monkeypatch.setitem(__import__("sys").modules, "pycolmap", None)
    check_refine(RefineConfig("none"), AlignConfig())
    for refine in ("auto", "colmap"):
        with pytest.raises(MissingExtraError, match=r"pip install 'pycolmap>=4.2'.* --refine none"):
            check_refine(RefineConfig(refine), AlignConfig())


def test_a_scene_that_bundle_adjustment_cannot_help_is_told_apart(tracks, tmp_path):
    scene = _ours(tracks, tmp_path)
    for refine in ("auto", "colmap"):
        assert reason_against(RefineConfig(refine), AlignConfig(), scene) is None
        still = replace(scene, pose_sources=(FIXED,) * len(scene))
        assert "a camera that travels" in reason_against(RefineConfig(refine), AlignConfig(), still)
    per_frame = AlignConfig(shared_focal=False)
    assert reason_against(RefineConfig(), per_frame, scene) is None
    assert "no-shared-focal" in reason_against(RefineConfig(), per_frame, scene, 500.0)


def test_pycolmap_of_another_age_is_refused(monkeypatch):
    monkeypatch.delattr(load_pycolmap(), "FeatureExtractor")
    with pytest.raises(MissingExtraError, match="too old"):
        load_pycolmap()


def test_static_mapping_says_what_is_missing(tmp_path):
    from easi3r_ns.core.types import Frames

    rng = np.random.default_rng(0)
    scene = make_scene(np.tile(np.eye(4), (4, 1, 1)), 560, np.ones((4, 96, 128)))
    paths = tuple(tmp_path / f"{k}.png" for k in range(4))
    frames = Frames(scene.images, PIXEL_MAP, scene.times, scene.indices, scene.names, paths, 4)
    for path in paths:
        write_png(path, np.zeros((480, 640, 3), np.uint8))
    with pytest.raises(AlignmentError, match="texture"):
        map_static(frames, scene.dynamic, RefineConfig(), RunLog(), focal=None, seed=0)
    # The camera stands still: everything matches, nothing has depth.
    noise = np.kron(rng.integers(0, 255, (60, 80, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    for path in paths:
        write_png(path, noise)
    with pytest.raises(AlignmentError, match="sideways"):
        map_static(frames, scene.dynamic, RefineConfig(), RunLog(), focal=None, seed=0)


def test_the_log_of_colmap_stays_off_the_terminal(capfd) -> None:
    """glog writes to the file descriptor, from any thread; results and exceptions tell what goes wrong."""
    import threading

    pycolmap = load_pycolmap()
    for write in (pycolmap.logging.info, pycolmap.logging.warning, pycolmap.logging.error):
        write("a line of COLMAP")
        thread = threading.Thread(target=write, args=("a line of a thread",))
        thread.start()
        thread.join()
    out, err = capfd.readouterr()
    assert "a line of" not in out + err


def test_the_log_of_colmap_is_shown_with_ours(capfd) -> None:
    import logging

    logger = logging.getLogger("easi3r_ns")
    before = logger.level
    try:
        logger.setLevel(logging.DEBUG)
        load_pycolmap().logging.error("a line of COLMAP")
        assert "a line of COLMAP" in capfd.readouterr().err
    finally:
        logger.setLevel(before)
        load_pycolmap()
