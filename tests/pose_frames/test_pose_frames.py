"""Frames that were sampled away: cameras near the truth, nothing that moves unmasked, no guess that is not marked."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.core.geometry import is_rigid, network_to_source, pixel_grid, project, transform, unproject
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import PNP, Scene, SparsePoints, rescale_scene
from easi3r_ns.core.types import DynamicMasks, Frames, PixelMap, SkippedFrames
from easi3r_ns.pose_frames import interpolate_pose, pose_between, without_camera
from easi3r_ns.pose_frames.camera import Intrinsics, Matches, find_camera
from easi3r_ns.pose_frames.neighbours import _rendered, neighbour_in_scene
from easi3r_ns.pose_frames.poser import _from_both_ends
from easi3r_ns.storage.files import write_png
from easi3r_ns.training.scenes import Clip, ClipOptions, flow, look_at, render_clip

SIZE = (120, 160)
NUM_FRAMES = 13
NO_LENS = (0.0, 0.0, 0.0, 0.0)


@functools.lru_cache
def clip(seed: int) -> Clip:
    return render_clip(seed, NUM_FRAMES, *SIZE, options=ClipOptions(fps=12))


def write_images(images: np.ndarray, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{k}.png" for k in range(len(images))]
    for path, image in zip(paths, images):
        write_png(path, image)
    return paths


def sampled(
    truth: Clip, keys: list[int], folder: Path, images: np.ndarray | None = None
) -> tuple[Scene, SkippedFrames]:
    """The scene that a perfect run makes of the frames ``keys``, and the others."""
    images = truth.images if images is None else images
    height, width = truth.depth.shape[1:]
    paths = write_images(images, folder)
    others = np.setdiff1d(np.arange(len(truth)), keys)
    scene = Scene(
        images=images[keys],
        T_world_cam=truth.T_world_cam[keys],
        focals=np.full(len(keys), truth.focal),
        principal_point=truth.principal_point,
        depth=truth.depth[keys],
        confidence=np.full((len(keys), height, width), 3.0, np.float32),
        dynamic=DynamicMasks(truth.moving[keys], np.zeros((len(keys), 1, 1), np.float32), 0.5),
        pixel_map=PixelMap((width, height), (width, height), (0, 0, width, height)),
        times=truth.times[keys],
        indices=np.array(keys),
        names=("clip",) * len(keys),
        source_paths=tuple(paths[k] for k in keys),
    )
    skipped = SkippedFrames(truth.times[others], others, ("clip",) * len(others), tuple(paths[k] for k in others))
    return scene, skipped


def errors(found: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(G,) distance of the centres and (G,) angle in degrees."""
    cosine = (np.trace(np.swapaxes(found[:, :3, :3], 1, 2) @ truth[:, :3, :3], axis1=1, axis2=2) - 1) / 2
    return np.linalg.norm(found[:, :3, 3] - truth[:, :3, 3], axis=1), np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def masks(scene: Scene) -> np.ndarray:
    return np.stack([scene.between.moving(k, scene.images.shape[2]) for k in range(len(scene.between))])


@pytest.mark.parametrize(("seed", "step"), [(3, 2), (8, 4), (5, 6)])
def test_cameras_are_those_of_the_truth(tmp_path, seed, step):
    truth, log = clip(seed), RunLog()
    scene, skipped = sampled(truth, list(range(0, NUM_FRAMES, step)), tmp_path)
    out = pose_between(scene, skipped, log, clip=range(len(scene)))
    between = out.between
    assert between.pose_sources == (PNP,) * len(skipped) and not log.warnings
    assert between.indices.tolist() == skipped.indices.tolist() and between.source_paths == skipped.source_paths
    assert between.after.tolist() == [k // step for k in skipped.indices]
    assert is_rigid(between.T_world_cam) and (between.focals == truth.focal).all()
    shift, turn = errors(between.T_world_cam, truth.T_world_cam[skipped.indices])
    assert shift.max() < 0.005 and turn.max() < 0.15, "metres over a path of about a metre, degrees"
    assert out.provenance["between"] == {"pnp": len(skipped), "interpolated": 0, "left_out": 0}


@pytest.mark.parametrize(("seed", "step"), [(3, 2), (8, 4), (5, 6)])
def test_what_moves_is_masked(tmp_path, seed, step):
    truth = clip(seed)
    scene, skipped = sampled(truth, list(range(0, NUM_FRAMES, step)), tmp_path)
    found, moving = masks(pose_between(scene, skipped, RunLog(), clip=range(len(scene)))), truth.moving[skipped.indices]
    assert moving.mean() > 0.04, "something moves"
    assert (moving & ~found).sum() < 0.03 * moving.sum(), "hardly any of it is taken for static"
    assert (found & ~moving).mean() < 0.06, "and most of the rest is kept"


def test_cameras_between_inexact_ones_are_no_worse(tmp_path):
    truth, rng = clip(3), np.random.default_rng(0)
    scene, skipped = sampled(truth, list(range(0, NUM_FRAMES, 2)), tmp_path)
    noise = rng.normal(0, 0.01, (len(scene), 3))
    poses = scene.T_world_cam.copy()
    poses[:, :3, 3] += noise
    depth = scene.depth * np.exp(rng.normal(0, 0.02, (len(scene), 1, 1))).astype(np.float32)
    out = pose_between(replace(scene, T_world_cam=poses, depth=depth), skipped, RunLog(), clip=range(len(scene)))
    assert set(out.between.pose_sources) == {PNP}
    shift, turn = errors(out.between.T_world_cam, truth.T_world_cam[skipped.indices])
    assert shift.mean() < 1.5 * np.linalg.norm(noise, axis=1).mean() and turn.mean() < 0.5


def test_blank_frames_are_interpolated_and_marked(tmp_path):
    truth, log = clip(3), RunLog()
    images = truth.images.copy()
    images[5:8] = 0
    scene, skipped = sampled(truth, [0, 4, 8, 12], tmp_path, images)
    out = pose_between(scene, skipped, log, clip=range(4))
    sources = dict(zip(out.between.indices.tolist(), out.between.pose_sources))
    assert {k for k, source in sources.items() if source == "interpolated"} == {5, 6, 7}
    assert len(log.warnings) == 1 and log.warnings[0].startswith("3 of 9 frames in between")
    for row, index in enumerate(out.between.indices.tolist()):
        if index in (5, 6, 7):
            expected = interpolate_pose(truth.T_world_cam[4], truth.T_world_cam[8], (index - 4) / 4)
            np.testing.assert_allclose(out.between.T_world_cam[row], expected, atol=1e-9)
            assert masks(out)[row].all(), "what is not seen is not static"


def test_outside_of_the_key_frames_one_neighbour_must_do(tmp_path):
    truth, log = clip(3), RunLog()
    images = truth.images.copy()
    images[12] = 0
    scene, skipped = sampled(truth, [3, 8], tmp_path, images)
    between = pose_between(scene, skipped, log, clip=range(2)).between
    assert between.indices.tolist() == [0, 1, 2, 4, 5, 6, 7, 9, 10, 11] and set(between.pose_sources) == {PNP}
    assert between.after.tolist() == [-1] * 3 + [0] * 4 + [1] * 3
    shift, turn = errors(between.T_world_cam, truth.T_world_cam[between.indices])
    assert shift.max() < 0.01 and turn.max() < 0.3
    assert any("1 frames before the first or after the last" in warning for warning in log.warnings)


class TrueFlow:
    """The clip's exact flow between frames at most ``reach`` apart; nonsense between others."""

    name = "truth"

    def __init__(self, truth: Clip, reach: int) -> None:
        self.truth, self.reach = truth, reach
        self.index = {image.tobytes(): k for k, image in enumerate(truth.images)}
        self.rng = np.random.default_rng(0)

    def flow(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        fields = []
        for a, b in zip(source, target):
            i, j = self.index[a.tobytes()], self.index[b.tobytes()]
            field = np.nan_to_num(flow(self.truth, i, j), nan=1e4)
            fields.append(field if abs(i - j) <= self.reach else self.rng.uniform(-40, 40, field.shape))
        return np.stack(fields).astype(np.float32)


def test_far_frames_are_reached_through_those_in_between(tmp_path):
    truth = clip(3)
    scene, skipped = sampled(truth, [0, 12], tmp_path)
    between = pose_between(scene, skipped, RunLog(), clip=range(2), provider=TrueFlow(truth, 2)).between
    assert set(between.pose_sources) == {PNP}
    shift, turn = errors(between.T_world_cam, truth.T_world_cam[between.indices])
    assert shift.max() < 0.01 and turn.max() < 0.2, "and nothing adds up on the way"
    none = pose_between(scene, skipped, RunLog(), clip=range(2), provider=TrueFlow(truth, 0)).between
    assert set(none.pose_sources) == {"interpolated"}


def test_tracks_do_where_there_is_no_depth(tmp_path):
    truth, keys = clip(3), list(range(0, NUM_FRAMES, 3))
    scene, skipped = sampled(truth, keys, tmp_path)
    rows, columns = (axis.ravel() for axis in np.mgrid[4 : SIZE[0] : 7, 4 : SIZE[1] : 7])
    points, frame, pixels = [], [], []
    for k, index in enumerate(keys):
        static = ~truth.moving[index][rows, columns]
        points.append(truth.points(index)[rows, columns][static])
        pixels.append(network_to_source(np.stack([columns, rows], -1)[static], scene.pixel_map))
        frame.append(np.full(static.sum(), k))
    n = sum(map(len, points))
    sparse = SparsePoints(
        points=np.concatenate(points),
        colors=np.zeros((n, 3), np.uint8),
        errors=np.zeros(n),
        point_index=np.arange(n),
        frame_index=np.concatenate(frame),
        pixels=np.concatenate(pixels),
    )
    nothing = np.zeros_like(scene.depth)
    bare = replace(scene, depth=nothing, confidence=nothing, sparse=sparse)
    between = pose_between(bare, skipped, RunLog(), clip=range(len(scene))).between
    assert set(between.pose_sources) == {PNP}
    assert errors(between.T_world_cam, truth.T_world_cam[skipped.indices])[0].max() < 0.01


def test_without_masks_nothing_moves(tmp_path):
    scene, skipped = sampled(clip(3), [0, 6, 12], tmp_path)
    still = DynamicMasks(np.zeros_like(scene.dynamic.masks), scene.dynamic.score, np.nan, "none")
    assert not masks(pose_between(replace(scene, dynamic=still), skipped, RunLog(), clip=range(3))).any()


def test_masks_that_the_user_knows_are_those_of_the_frames_in_between(tmp_path):
    truth = clip(3)
    scene, skipped = sampled(truth, [0, 6, 12], tmp_path)
    own = pose_between(scene, skipped, RunLog(), clip=range(3), masks=lambda row: truth.moving[skipped.indices[row]])
    np.testing.assert_array_equal(masks(own), truth.moving[own.between.indices])


def test_evaluation_views_are_no_neighbours(tmp_path):
    truth = clip(3)
    scene, skipped = sampled(truth, [0, 6, 12], tmp_path)
    far = scene.T_world_cam.copy()
    far[2, :3, 3] += 50
    scene = replace(scene, T_world_cam=far, indices=np.array([0, 6, 3]))
    between = pose_between(scene, skipped, RunLog(), clip=[0, 1]).between
    inside = between.indices < 6
    assert (between.after[inside] == 0).all() and (between.after[~inside] == 1).all()
    assert errors(between.T_world_cam, truth.T_world_cam[between.indices])[0].max() < 0.02


def test_what_has_no_camera_is_asked_for(tmp_path):
    scene, skipped = sampled(clip(3), [0, 4, 8, 12], tmp_path)
    frames = Frames(
        images=scene.images,
        pixel_map=scene.pixel_map,
        times=scene.times,
        indices=scene.indices,
        names=scene.names,
        source_paths=scene.source_paths,
        num_source_frames=NUM_FRAMES,
        skipped=skipped,
    )
    assert without_camera(frames, scene, 4).indices.tolist() == skipped.indices.tolist()
    fewer = replace(sampled(clip(3), [0, 8, 12], tmp_path)[0])
    asked = without_camera(frames, fewer, 4)
    assert asked.indices.tolist() == sorted([*skipped.indices, 4])
    assert asked.source_paths[asked.indices.tolist().index(4)] == scene.source_paths[1]
    assert without_camera(replace(frames, skipped=None), fewer, 4).indices.tolist() == [4]
    assert without_camera(replace(frames, skipped=None), fewer, 1) is None, "a lost evaluation view is not the clip's"


# The pieces


def test_interpolation_keeps_the_ends_and_halves_the_way():
    first, second = look_at(np.array([2.0, 0, 1]), np.zeros(3)), look_at(np.array([0, 2.0, 1]), np.zeros(3))
    np.testing.assert_allclose(interpolate_pose(first, second, 0.0), first, atol=1e-12)
    np.testing.assert_allclose(interpolate_pose(first, second, 1.0), second, atol=1e-12)
    middle = interpolate_pose(first, second, 0.5)
    assert is_rigid(middle)
    np.testing.assert_allclose(middle[:3, 3], [1, 1, 1])
    (_, before), (_, after) = (errors(middle[None], end[None]) for end in (first, second))
    np.testing.assert_allclose(before, after)


LENS = (-0.12, 0.03, 0.004, -0.002)


def intrinsics(distortion=LENS) -> Intrinsics:
    return Intrinsics(np.array([[140.0, 0, 79.5], [0, 141.0, 59.5], [0, 0, 1]]), distortion)


@functools.lru_cache
def _world() -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) points and the camera that sees them."""
    pose = look_at(np.array([0.3, -2.0, 1.2]), np.array([0.0, 1.0, 0.8]))
    rng = np.random.default_rng(0)
    local = np.stack([rng.uniform(-1, 1, 400), rng.uniform(-0.7, 0.7, 400), rng.uniform(2, 4, 400)], -1)
    return transform(pose, local), pose


def matches(points: np.ndarray, pixels: np.ndarray) -> Matches:
    nothing = np.zeros(SIZE, dtype=bool)
    return Matches(points, pixels, nothing, ~nothing)


def test_the_lens_bends_as_the_scene_says():
    depth = np.full(SIZE, 3.0)
    local = unproject(depth, np.array([140.0, 141.0]), np.array([79.5, 59.5]), LENS)
    pixels = intrinsics().project(np.eye(4), local.reshape(-1, 3))
    np.testing.assert_allclose(pixels, pixel_grid(*SIZE).reshape(-1, 2), atol=1e-3)
    straight = project(local.reshape(-1, 3), 140.0, 141.0, 79.5, 59.5)
    assert np.abs(pixels - straight).max() > 2
    assert np.isnan(intrinsics().project(np.eye(4), np.array([[0, 0, -1.0]]))).all()


@pytest.mark.parametrize("outliers", [0.0, 0.4])
def test_a_camera_is_found_through_its_lens(outliers):
    points, pose = _world()
    rng = np.random.default_rng(1)
    pixels = intrinsics().project(pose, points) + rng.normal(0, 0.2, (400, 2))
    wrong = rng.random(400) < outliers
    pixels[wrong] += rng.uniform(-40, 40, (int(wrong.sum()), 2))
    found = find_camera([matches(points[:200], pixels[:200]), matches(points[200:], pixels[200:])],
                                intrinsics(), pose, 1.0, 0.5)  # fmt: skip
    shift, turn = errors(found[None], pose[None])
    assert shift[0] < 0.01 and turn[0] < 0.1


def test_a_camera_on_which_the_neighbours_do_not_agree_is_refused():
    points, pose = _world()
    pixels = intrinsics().project(pose, points)
    both = [matches(points[:280], pixels[:280]), matches(points[280:] + [0.5, 0, 0.3], pixels[280:])]
    assert find_camera(both[:1], intrinsics(), pose, 1.0, 0.5) is not None
    assert find_camera(both, intrinsics(), pose, 1.0, 0.5) is None


def test_too_few_points_and_a_camera_too_far_off_are_refused():
    points, pose = _world()
    pixels = intrinsics().project(pose, points)
    assert find_camera([matches(points[:39], pixels[:39])], intrinsics(), pose, 1.0, 0.5) is None
    assert find_camera([matches(points[:0], pixels[:0])], intrinsics(), pose, 1.0, 0.5) is None
    away = pose.copy()
    away[:3, 3] += 0.6
    assert find_camera([matches(points, pixels)], intrinsics(), away, 1.0, 0.5) is None


def test_static_surfaces_are_seen_from_elsewhere(tmp_path):
    truth = clip(5)
    scene, _ = sampled(truth, [0, 6, 12], tmp_path)
    K = np.diag([truth.focal, truth.focal, 1.0])
    K[:2, 2] = truth.principal_point
    neighbour = neighbour_in_scene(scene, 0)
    for frame, most in ((0, 1.0), (2, 12.0)):
        seen = _rendered(neighbour, truth.T_world_cam[frame], Intrinsics(K, NO_LENS))
        there = np.isfinite(seen).all(axis=-1)
        assert there.mean() > 0.75
        off = np.abs(seen - truth.images[frame])[there & ~truth.moving[frame]]
        assert np.median(off) < most
    assert np.isnan(_rendered(replace(neighbour, surface=None), neighbour.T_world_cam, Intrinsics(K, NO_LENS))).all()


def test_rows_come_from_the_outside_in():
    order = list(_from_both_ends([1, 2, 3, 4, 5], True, True))
    assert order == [(1, "left"), (5, "right"), (2, "left"), (4, "right"), (3, "left")]
    assert [row for row, _ in _from_both_ends([1, 2, 3], True, False)] == [1, 2, 3]
    assert [row for row, _ in _from_both_ends([1, 2, 3], False, True)] == [3, 2, 1]


def test_units_change_together(tmp_path):
    scene, skipped = sampled(clip(3), [0, 6, 12], tmp_path)
    out = pose_between(scene, skipped, RunLog(), clip=range(3))
    twice = rescale_scene(out, 2.0)
    np.testing.assert_allclose(twice.between.T_world_cam[:, :3, 3], 2 * out.between.T_world_cam[:, :3, 3])
    np.testing.assert_allclose(twice.between.T_world_cam[:, :3, :3], out.between.T_world_cam[:, :3, :3])


def test_a_frame_that_has_disappeared_is_an_error(tmp_path):
    scene, skipped = sampled(clip(3), [0, 6, 12], tmp_path)
    skipped.source_paths[2].unlink()
    with pytest.raises(OSError, match="No such file"):
        pose_between(scene, skipped, RunLog(), clip=range(3))
