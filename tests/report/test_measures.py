"""What the report measures: known answers on an exact room, slow twins, and that each fault moves its measure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.core.geometry import project, transform
from easi3r_ns.core.scene import Scene, SparsePoints
from easi3r_ns.core.surface import trusted_depth, world_points
from easi3r_ns.report.measures import (
    LITTLE_MOVES,
    clip_length,
    focal_estimates,
    length_unit,
    local_median,
    measure,
    zooms,
)
from easi3r_ns.report.residuals import look_up, parallax_degrees, picture_change, static_residuals, widest_angle
from tests.support.dataset_scene import make_scene


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """12 frames of 128x96, exact cameras and depths, a ball that moves."""
    return make_scene(tmp_path_factory.mktemp("room"), (160, 120), 12)[0]


def with_masks(scene: Scene, masks: np.ndarray) -> Scene:
    return replace(scene, dynamic=replace(scene.dynamic, masks=masks))


def with_positions(scene: Scene, positions: np.ndarray) -> Scene:
    """The first camera's pose at other places (N, 3), one for each of the first N frames."""
    T = np.tile(scene.T_world_cam[0], (len(scene), 1, 1))
    T[:, :3, 3] = positions
    return replace(scene, T_world_cam=T)


def sparse_of(scene: Scene, count: int = 40) -> SparsePoints:
    """Points of the first frame, seen in every third frame."""
    rng = np.random.default_rng(3)
    points = world_points(scene, 0).reshape(-1, 3)[rng.choice(96 * 128, count, replace=False)].astype(float)
    frames = np.arange(0, len(scene), 3)
    order = rng.permutation(count * len(frames))
    return SparsePoints(
        points,
        np.zeros((count, 3), np.uint8),
        np.linspace(0.1, 1.1, count),
        np.repeat(np.arange(count), len(frames))[order],
        np.tile(frames, count)[order],
        np.zeros((len(order), 2)),
    )


def test_exact_room(room: Scene) -> None:
    measured = measure(room)
    m, r = measured.measures, measured.residuals
    assert m.num_frames == 12 and m.duration == pytest.approx(1.1)
    assert m.depth_error < 2e-3 and r.near_median < 2e-3
    assert r.colour_along < 1.5 < 10 < r.colour_still and m.colour_gain < 0.15
    assert m.jumps == 0 and m.roughness < 0.3
    assert m.coverage == pytest.approx(room.dynamic.masks.mean())
    assert 0.8 < m.usable < 1 and m.unregistered == 0 and not m.preview_weights
    # The room's camera (see dataset_scene.camera) turns by 0.04 rad a frame of 0.1 s, and by a little pitch.
    assert 22 < np.nanmedian(measured.series.rotation_speed) < 28
    assert measured.unit == pytest.approx(np.median(room.depth[~room.dynamic.masks]), rel=0.02)
    centres = room.T_world_cam[:, :3, 3]
    assert m.travel * measured.unit == pytest.approx(np.linalg.norm(centres[0] - centres[-1]), rel=1e-6)
    # 0.9 times the longer side is the focal length of the room.
    assert m.fov == pytest.approx(2 * np.degrees(np.arctan(0.5 / 0.9)))


def test_position_is_seen_from_the_first_camera(room: Scene) -> None:
    first = room.T_world_cam[0]
    forward = with_positions(room, first[:3, 3] + np.arange(12)[:, None] * first[:3, 2])
    measured = measure(forward)
    np.testing.assert_allclose(measured.series.position[:, 2] * measured.unit, np.arange(12), atol=1e-9)
    np.testing.assert_allclose(measured.series.position[:, :2], 0, atol=1e-9)
    assert measured.measures.roughness == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("factor", "expected"), [(1.2, 0.2), (0.9, 0.1)])
def test_depths_of_another_scale_disagree_by_it(room: Scene, factor: float, expected: float) -> None:
    depth = room.depth.copy()
    depth[6:] *= factor
    scaled = replace(room, depth=depth)
    lookup = look_up(scaled, 5, 6)
    assert np.median(lookup.depth_error) == pytest.approx(factor - 1, abs=0.01)
    assert static_residuals(scaled, 12).near[5] == pytest.approx(expected, abs=0.01)
    assert static_residuals(room, 12).near[5] < 2e-3


def test_look_up_is_its_naive_twin(room: Scene) -> None:
    lookup = look_up(room, 2, 5)
    errors, world = [], world_points(room, 2).astype(float)
    fx, fy = room.focals_xy[5]
    for row in range(2, 94, 9):
        for col in range(2, 126, 9):
            local = transform(np.linalg.inv(room.T_world_cam[5]), world[row, col])
            x, y = project(local, fx, fy, *room.principal_point)
            if not (0 <= x <= 127 and 0 <= y <= 95) or room.dynamic.masks[2, row, col]:
                continue
            if room.dynamic.masks[5, round(y), round(x)]:
                continue
            errors.append(trusted_depth(room, 5)[round(y), round(x)] / local[2] - 1)
    assert np.median(np.abs(errors)) == pytest.approx(np.median(np.abs(lookup.depth_error)), abs=5e-3)
    assert len(lookup.depth_error) > 500


def test_distorted_depth_looks_itself_up(room: Scene) -> None:
    """From the same place every pixel finds itself, whatever the lens."""
    lens = replace(room, distortion=(0.1, -0.05, 0.01, -0.02), T_world_cam=np.tile(np.eye(4), (12, 1, 1)))
    lens = replace(lens, images=np.tile(room.images[:1], (12, 1, 1, 1)), depth=np.tile(room.depth[:1], (12, 1, 1)))
    lookup = look_up(lens, 3, 4)
    assert np.abs(lookup.depth_error).max() < 1e-3 and np.abs(lookup.colour_along).max() < 0.5


def test_wrong_cameras_explain_nothing(room: Scene) -> None:
    backwards = replace(room, T_world_cam=room.T_world_cam[::-1].copy())
    assert measure(backwards).measures.colour_gain > 1.2


def test_parallax_of_depth_is_its_naive_twin(room: Scene) -> None:
    angles = parallax_degrees(room, 12)
    points = world_points(room, 6)[::7, ::7].reshape(-1, 3)[~room.dynamic.masks[6, ::7, ::7].reshape(-1)].astype(float)
    naive = []
    for point in points:
        rays = []
        for f in range(12):
            local = transform(np.linalg.inv(room.T_world_cam[f]), point)
            x, y = project(local, *room.focals_xy[f], *room.principal_point)
            if local[2] > 0 and 0 <= x <= 127 and 0 <= y <= 95:
                if abs(room.depth[f, round(y), round(x)] - local[2]) < 0.1 * local[2]:
                    rays.append(
                        (point - room.T_world_cam[f, :3, 3]) / np.linalg.norm(point - room.T_world_cam[f, :3, 3])
                    )
        naive.append(widest_angle(np.array(rays)))
    assert np.median(angles) == pytest.approx(np.median(naive), rel=0.15)


def test_parallax_of_tracks(room: Scene) -> None:
    sparse = sparse_of(room)
    angles = parallax_degrees(replace(room, sparse=sparse), 12)
    assert len(angles) == 40
    for n in (0, 17, 39):
        seen = sparse.frame_index[sparse.point_index == n]
        rays = sparse.points[n] - room.T_world_cam[seen, :3, 3]
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        widest = max(np.degrees(np.arccos(np.clip(a @ b, -1, 1))) for a in rays for b in rays)
        assert angles[n] == pytest.approx(widest, abs=1e-5)


def test_widest_angle() -> None:
    assert widest_angle(np.eye(3)) == pytest.approx(90)
    assert widest_angle(np.array([[1.0, 0, 0], [-1.0, 0, 0], [0, 1, 0]])) == pytest.approx(180)
    assert widest_angle(np.array([[1.0, 0, 0]])) == 0 == widest_angle(np.empty((0, 3)))


def test_flicker(room: Scene) -> None:
    masks = np.zeros_like(room.dynamic.masks)
    masks[:, :48] = True
    assert measure(with_masks(room, masks)).measures.flicker == 0
    growing = masks & (np.arange(128) < 10 * np.arange(12)[:, None])[:, None]
    assert measure(with_masks(room, growing)).measures.flicker == pytest.approx(0, abs=1e-6), "steady growth is calm"
    masks[::2] = False
    assert measure(with_masks(room, masks)).measures.flicker == pytest.approx(2.0)
    assert measure(with_masks(room, np.zeros_like(masks))).measures.flicker is None
    specks = np.zeros_like(masks)
    specks[::2, 0, 0] = True
    jump = 1 / masks[0].size
    assert measure(with_masks(room, specks)).measures.flicker == pytest.approx(jump / LITTLE_MOVES), "next to nothing"


def test_roughness_and_jumps(room: Scene) -> None:
    rng = np.random.default_rng(0)
    walk = with_positions(room, rng.normal(size=(12, 3)).cumsum(axis=0))
    assert 1.2 < measure(walk).measures.roughness < 4
    line = np.outer(np.arange(12), [0.1, 0, 0])
    line[7:] += [3.0, 0, 0]
    series = measure(with_positions(room, line)).series
    assert np.flatnonzero(series.jumps).tolist() == [7]
    assert measure(with_positions(room, line)).measures.jumps == pytest.approx(1 / 11)


def test_tripod(room: Scene) -> None:
    still = with_positions(room, np.tile([0.1, 0.2, -2.0], (12, 1)))
    still = replace(still, images=np.tile(room.images[:1], (12, 1, 1, 1)), depth=np.tile(room.depth[:1], (12, 1, 1)))
    m = measure(still).measures
    assert m.picture_change == 0 and m.parallax == pytest.approx(0, abs=1e-3) and m.travel == 0
    assert m.colour_gain is None and m.roughness is None


def test_picture_change_leaves_movers_out(room: Scene) -> None:
    images = np.zeros_like(room.images)
    images[room.dynamic.masks] = 255
    assert picture_change(replace(room, images=images), 12) == 0
    everything = with_masks(room, np.ones_like(room.dynamic.masks))
    assert picture_change(everything, 12) is None


def test_frames_held_out_do_not_count(room: Scene) -> None:
    times = np.concatenate([np.arange(8) / 10, np.arange(4) / 10])
    assert clip_length(replace(room, times=times)) == 8
    assert clip_length(room) == 12
    measured = measure(replace(room, times=times))
    assert measured.measures.num_frames == 8 == len(measured.series.times)


def test_nothing_is_measured_from_clip_to_clip(room: Scene) -> None:
    line = np.outer(np.arange(12), [0.1, 0, 0])
    line[7:] += [3.0, 0, 0]
    masks = np.zeros_like(room.dynamic.masks)
    masks[:7, :48] = True
    times = np.concatenate([np.arange(7) / 10, np.arange(5) / 10])
    clip = np.array([0] * 7 + [2] * 5)
    two = replace(with_masks(with_positions(room, line), masks), times=times, clip=clip)
    found = measure(replace(two, provenance={"clips": [{"joined": 7}, {"joined": 0}, {"joined": 5}]}))
    assert found.measures.num_frames == 12 and found.measures.clips_left_out == 1
    assert np.allclose(found.series.times, np.arange(12) / 10)
    assert not found.series.jumps.any() and np.isnan(found.series.speed[[0, 7]]).all()
    assert found.measures.roughness == pytest.approx(0, abs=1e-6) and found.measures.flicker == 0
    focals = replace(two, focals=np.where(clip, 2.0, 1.0) * two.focals, pose_sources=("colmap",) * 12)
    assert measure(focals).measures.focal_spread is None and not zooms(focals)
    assert measure(room).measures.clips_left_out is None


def test_focal_lengths(room: Scene) -> None:
    assert measure(room).measures.focal_spread is None and not len(focal_estimates(room, 12))
    recorded = {"alignment": {"focal_estimates": [90.0, 110.0] * 6}}
    assert measure(replace(room, provenance=recorded)).measures.focal_spread == pytest.approx(0.1)
    own = replace(room, focals=np.array([80.0, 120.0] * 6), provenance=recorded)
    assert measure(own).measures.focal_spread == pytest.approx(0.2)
    mapped = replace(own, focals=np.linspace(80.0, 120.0, 12), pose_sources=("colmap",) * 12)
    assert measure(mapped).measures.focal_spread is None and zooms(mapped)
    assert not zooms(own) and not zooms(replace(mapped, focals=room.focals))
    known = replace(room, provenance=recorded | {"config": {"easi3r": {"focal_length": 144.0}}})
    assert measure(known).measures.focal_known and measure(known).measures.focal_spread is None


def test_scene_without_depth(room: Scene) -> None:
    nothing = np.zeros_like(room.depth)
    bare = replace(room, depth=nothing, confidence=nothing, sparse=sparse_of(room))
    m = measure(bare).measures
    assert m.usable is None and m.depth_error is None and m.colour_gain is None and not m.has_depth
    assert m.num_sparse == 40 and m.parallax > 3 and m.reprojection == pytest.approx(1000 * 0.6 / 160)
    assert length_unit(bare) == pytest.approx(length_unit(room), rel=0.5)
    m = measure(replace(bare, sparse=None)).measures
    assert m.parallax is None and m.num_sparse is None
    assert m.picture_change == measure(room).measures.picture_change


def test_sources_of_poses_and_weights(room: Scene) -> None:
    mixed = replace(room, pose_sources=("colmap",) * 9 + ("aligned",) * 3, provenance={"weights": {"name": "tiny"}})
    assert measure(mixed).measures.unregistered == 0.25 and measure(mixed).measures.preview_weights
    refined = replace(mixed, pose_sources=("colmap",) * 12)
    assert not measure(refined).measures.preview_weights


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_short_scenes(tmp_path: Path, count: int) -> None:
    scene = make_scene(tmp_path, (160, 120), count)[0]
    m = measure(scene).measures
    assert m.num_frames == count
    assert all(value is None or np.isfinite(value) for value in vars(m).values())


def test_untrusted_scene(room: Scene) -> None:
    lost = replace(room, confidence=np.full_like(room.confidence, 0.5))
    m = measure(lost).measures
    assert m.usable == 0 and m.parallax is None and m.depth_error is None


def test_local_median() -> None:
    values = np.array([1.0, 9.0, 2.0, np.nan, 4.0])
    np.testing.assert_allclose(local_median(values, 3), [5, 2, 5.5, 3, 4])
