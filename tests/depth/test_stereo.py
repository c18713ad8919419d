"""Depth of rendered clips by stereo, against their truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from easi3r_ns.core.geometry import distort, pixel_grid, undistort
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene
from easi3r_ns.depth import stereo
from easi3r_ns.depth.arrays import OpenCVOperations
from easi3r_ns.depth.neighbours import spread, surroundings
from easi3r_ns.depth.pinhole import pinhole_grid
from easi3r_ns.depth.stereo import StereoConfig, stereo_depth
from easi3r_ns.depth.views import SceneViews
from easi3r_ns.storage.cache import StageCache
from easi3r_ns.training.scenes import Clip, render_clip
from tests.support.clip_scene import perfect_scene, true_points

LENS = (-0.2, 0.05, 0.0, 0.0)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return render_clip(3, 10, 168, 224)


@pytest.fixture
def scene(clip: Clip, tmp_path: Path) -> Scene:
    """True cameras, masks and points; no depth."""
    return without_depth(replace(perfect_scene(clip, tmp_path), sparse=true_points(clip)))


def without_depth(scene: Scene) -> Scene:
    unknown = np.zeros_like(scene.depth)
    return replace(scene, depth=unknown, confidence=unknown)


def errors(found: Scene, truth: np.ndarray) -> tuple[float, float, float]:
    """Share of the static pixels with a depth, their mean relative error, and the share that is wrong by 10 %."""
    still, known = ~found.dynamic.masks, found.depth > 0
    error = np.abs(found.depth / truth - 1)[known]
    return float(known[still].mean()), float(error.mean()), float((error > 0.1).mean())


def test_depth_is_true(clip: Clip, scene: Scene) -> None:
    log = RunLog()
    found = stereo_depth(scene, log)
    coverage, error, wrong = errors(found, clip.depth)
    print(coverage, error, wrong)
    assert coverage > 0.75 and error < 0.01 and wrong < 0.015
    assert [stage.name for stage in log.stages] == ["stereo", "stereo agreement"]
    assert not scene.has_depth


def test_what_moves_has_no_depth_and_the_rest_is_trusted(clip: Clip, scene: Scene) -> None:
    assert clip.moving.any()
    found = stereo_depth(scene, RunLog())
    assert (found.depth[clip.moving] == 0).all() and (found.confidence[clip.moving] == 0).all()
    known = found.depth > 0
    assert (found.confidence[known] >= max(2, scene.min_confidence)).all() and (found.confidence[~known] == 0).all()
    assert found.confidence.max() <= StereoConfig().views


@pytest.mark.slow
def test_how_a_mover_looks_does_not_matter(clip: Clip, scene: Scene) -> None:
    noise = np.random.default_rng(0).integers(0, 256, clip.images.shape).astype(np.uint8)
    repainted = np.where(clip.moving[..., None], noise, clip.images)
    a, b = (stereo_depth(replace(scene, images=images), RunLog()) for images in (clip.images, repainted))
    np.testing.assert_allclose(a.depth, b.depth, rtol=1e-3)


@pytest.mark.slow
def test_lens_distortion(clip: Clip, scene: Scene) -> None:
    # The pinhole picture as a lens shows it: where its corners lie outside, black, unknown and moving.
    ideal = undistort((pixel_grid(*clip.depth.shape[1:]) - clip.principal_point) / clip.focal, LENS)
    x, y = np.moveaxis(ideal * clip.focal + clip.principal_point, -1, 0).astype(np.float32)
    images = np.stack([cv2.remap(image, x, y, cv2.INTER_CUBIC) for image in clip.images])
    truth = np.stack([cv2.remap(depth, x, y, cv2.INTER_NEAREST) for depth in clip.depth])
    moving = np.stack([cv2.remap(m.astype(np.uint8), x, y, cv2.INTER_NEAREST, borderValue=1) for m in clip.moving]) > 0
    dynamic = replace(scene.dynamic, masks=moving | (truth == 0))
    found = stereo_depth(replace(scene, images=images, dynamic=dynamic, distortion=LENS), RunLog())
    truth[truth == 0] = 1
    coverage, error, wrong = errors(found, truth)
    print(coverage, error, wrong)
    assert coverage > 0.7 and error < 0.012 and wrong < 0.015
    ignored = stereo_depth(replace(scene, images=images, dynamic=dynamic), RunLog())
    assert errors(ignored, truth)[1] > 2 * error


@pytest.mark.parametrize("lens", [LENS, (0.15, 0.0, 0.002, -0.001)])
def test_a_plane_comes_back_from_the_pinhole_grid(scene: Scene, lens) -> None:
    bent = replace(scene, distortion=lens)
    grid = pinhole_grid(bent, 0)
    normal = np.array([0.1, -0.2, 0.5])
    rays = (pixel_grid(*grid.size) - grid.K[:2, 2]) / grid.K[[0, 1], [0, 1]]
    inverse = (np.dstack([rays, np.ones(grid.size)]) @ normal).astype(np.float32)
    back, support = grid.back(inverse, np.ones(grid.size, dtype=np.float32))
    own = undistort((pixel_grid(*scene.depth.shape[1:]) - scene.principal_point) / scene.focals_xy[0], lens)
    np.testing.assert_allclose(distort(own, lens)[0, 0], -scene.principal_point / scene.focals_xy[0], atol=1e-6)
    wanted = np.dstack([own, np.ones(own.shape[:2])]) @ normal
    assert (support == 1).all()
    np.testing.assert_allclose(back, wanted, rtol=2e-3)


def test_a_killed_run_goes_on_where_it_stopped(scene: Scene, tmp_path: Path, monkeypatch) -> None:
    quick = StereoConfig(passes=((0.5, 1),), views=3)
    cache, whole, calls = StageCache(tmp_path / "stages"), stereo.measure, []

    def counted(*arguments):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(stereo, "measure", counted)
    with pytest.raises(KeyboardInterrupt):
        stereo_depth(scene, RunLog(), cache, config=quick)
    found = stereo_depth(scene, RunLog(), cache, config=quick)
    assert len(calls) == 5 + len(scene) - 4
    np.testing.assert_array_equal(found.depth, stereo_depth(scene, RunLog(), config=quick).depth)
    calls.clear()
    for changed in (replace(scene, T_world_cam=scene.T_world_cam + 1e-6), replace(scene, distortion=LENS)):
        with pytest.raises(KeyboardInterrupt):
            stereo_depth(changed, RunLog(), cache, config=quick)
        calls.clear()


def test_few_pictures_are_in_memory(scene: Scene) -> None:
    config = StereoConfig(views=2, passes=((0.5, 1),))
    pictures = stereo.SceneViews(scene, OpenCVOperations(), 3)
    for frame in range(len(scene)):
        pictures[frame]
    assert len(pictures._held) == 3 and stereo_depth(scene, RunLog(), config=config).has_depth


def test_without_points_there_is_no_depth(scene: Scene) -> None:
    assert not stereo_depth(replace(scene, sparse=None), RunLog()).has_depth


def test_the_searched_depths_hold_all_points(scene: Scene) -> None:
    for frame, near in enumerate(surroundings(scene, 4)):
        assert near is not None and frame not in near.neighbours and len(set(near.neighbours)) == 4
        own = scene.sparse.points[scene.sparse.point_index[scene.sparse.frame_index == frame]]
        depths = (own - scene.T_world_cam[frame, :3, 3]) @ scene.T_world_cam[frame, :3, 2]
        assert near.nearest < np.quantile(depths, 0.02) and near.farthest > np.quantile(depths, 0.98)


def test_a_neighbour_counts_for_what_the_others_do_not_see() -> None:
    worth = np.zeros((5, 18))
    worth[1, :10], worth[2, :10], worth[3, :10], worth[4, 10:] = 1.0, 0.9, 0.8, 0.5
    assert spread(worth, 2) == [1, 4]
    assert spread(worth, 9) == [1, 4, 2, 3]


def test_a_limit_on_memory_sets_the_threads(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def in_order(work, items, workers):
        asked.append(workers)
        return map(work, items)

    monkeypatch.setattr(stereo, "ordered", in_order)
    views = SceneViews(scene, OpenCVOperations(), 2)
    keep = stereo._Keep(StageCache(None), "stereo", "key")
    assert stereo._swept([None], views, StereoConfig(), keep, RunLog(), 3) == [None] and asked == [3]
