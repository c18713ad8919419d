"""Assumed depth of what moves: where it stands on a floor of known depth, and nowhere else."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene, choose_scale, rescale_scene
from easi3r_ns.depth import movers
from easi3r_ns.depth.movers import assume_depth, depth_below, same_regions, smoothed
from easi3r_ns.depth.stereo import stereo_depth
from easi3r_ns.training.scenes import Clip
from tests.support.standing_clip import FLYING, STANDING, measured_scene, standing_clip
from tests.support.twins import depth_below_naive


@pytest.fixture(scope="module")
def clip() -> Clip:
    return standing_clip()


@pytest.fixture
def scene(clip: Clip, tmp_path: Path) -> Scene:
    return measured_scene(clip, tmp_path)


def error(found: np.ndarray, clip: Clip, thing: int) -> np.ndarray:
    """Relative errors of the assumed depth on the pixels of a thing."""
    pixels = clip.object_id == thing
    return np.abs(found[pixels] / clip.depth[pixels] - 1)


def test_a_box_on_the_floor_is_as_far_away_as_its_foot(clip: Clip, scene: Scene) -> None:
    found = assume_depth(scene)
    assert found.assumed_depth is not None and found.assumed_depth.dtype == np.float32
    standing = error(found.assumed_depth, clip, STANDING)
    print(np.quantile(standing, [0.5, 0.9, 1]))
    # The rest is the far edge of its top: the plane stands where the box begins.
    assert np.median(standing) < 0.05 and (standing < 0.1).mean() > 0.9 and standing.max() < 0.25
    # What flies is placed at the wall or floor behind it: wrong, and part of what is labelled as assumed.
    flying = clip.object_id == FLYING
    assert (found.assumed_depth[flying] > 1.2 * clip.depth[flying]).mean() > 0.9
    assert (found.assumed_depth[~clip.moving] == 0).all()
    assert scene.assumed_depth is None


def test_nothing_else_of_the_scene_changes(scene: Scene) -> None:
    found = assume_depth(scene)
    others = [field.name for field in fields(Scene) if field.name != "assumed_depth"]
    assert all(getattr(found, name) is getattr(scene, name) for name in others)
    assert choose_scale(found) == choose_scale(scene)
    assert (found.depth[found.dynamic.masks] == 0).all()
    np.testing.assert_allclose(rescale_scene(found, 3.0).assumed_depth, 3 * found.assumed_depth)


def test_after_stereo(clip: Clip, scene: Scene) -> None:
    measured = stereo_depth(scene, RunLog())
    found = assume_depth(measured)
    standing = error(found.assumed_depth, clip, STANDING)
    print(np.quantile(standing, [0.5, 0.9, 1]))
    assert np.median(standing) < 0.06 and (standing < 0.1).mean() > 0.85
    np.testing.assert_array_equal(found.depth, measured.depth)


def test_measured_depth_of_what_moves_stays(scene: Scene) -> None:
    depth = scene.depth.copy()
    depth[:, 60:] = np.where(scene.dynamic.masks[:, 60:], 1.5, depth[:, 60:])
    found = assume_depth(replace(scene, depth=depth))
    np.testing.assert_array_equal(found.depth, depth)
    assert not found.assumed_depth[:, 60:].any() and found.assumed_depth[:, :60].any()


def test_without_known_depth_nothing_is_assumed(scene: Scene) -> None:
    assert assume_depth(replace(scene, depth=np.zeros_like(scene.depth))).assumed_depth is None
    still = replace(scene.dynamic, masks=np.zeros_like(scene.dynamic.masks))
    assert assume_depth(replace(scene, dynamic=still)).assumed_depth is None


def test_a_foot_outside_the_picture_takes_the_depth_of_other_moments(scene: Scene) -> None:
    masks, depth = np.zeros_like(scene.dynamic.masks), np.full_like(scene.depth, 4.0)
    masks[:, 60:150, 100:130] = True
    masks[3:5, 60:, 100:130] = True  # reaches the lower border
    masks[:, 100:, 20:40] = masks[:, 100:-3, 10:60] = True  # always does, though most of it ends above the border
    depth[:3], depth[5:] = 2.0, 3.0
    cut = replace(scene, depth=depth * ~masks, dynamic=replace(scene.dynamic, masks=masks))
    found = assume_depth(cut).assumed_depth
    assert (found[:, 100:, 10:60] == 0).all()
    middle = found[:, 80, 110]
    np.testing.assert_allclose(middle[[0, -1]], [2, 3], rtol=1e-5)
    assert (np.diff(middle) >= -1e-6).all() and (middle[3:5] > 2).all() and (middle[3:5] < 3).all()
    assert (found[3, 60:, 100:130] == middle[3]).all(), "the whole region is one plane parallel to the picture"


def test_one_wrong_frame_does_not_show(scene: Scene) -> None:
    masks = np.zeros_like(scene.dynamic.masks)
    masks[:, 60:150, 100:130] = True
    depth = np.full_like(scene.depth, 2.0)
    depth[4] = 20.0
    found = assume_depth(replace(scene, depth=depth * ~masks, dynamic=replace(scene.dynamic, masks=masks)))
    np.testing.assert_allclose(found.assumed_depth[masks], 2.0, rtol=1e-5)


def test_smoothing_in_time() -> None:
    nan = np.nan
    assert np.isnan(smoothed(np.array([nan, nan]))).all() and smoothed(np.array([0.5])) == 0.5
    np.testing.assert_allclose(smoothed(np.array([nan, 1, nan, nan, 1, nan])), 1)
    ramp = np.linspace(0.2, 0.8, 13)
    gap = ramp.copy()
    gap[[4, 5]] = nan
    np.testing.assert_allclose(smoothed(gap)[3:-3], ramp[3:-3])
    noise = np.random.default_rng(0).normal(0, 0.1, 200)
    assert np.std(smoothed(1 + noise)) < 0.6 * np.std(noise)


def test_regions_are_followed_by_their_overlap() -> None:
    before, after = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    before[5:15, 5:15] = after[5:15, 8:18] = True
    before[20:30, 40:50] = after[20:30, 50:60] = True  # no overlap
    after[32:36, 5:15] = True  # new
    a, b = movers.regions(before), movers.regions(after)
    assert same_regions(a, b) == {a[10, 10]: b[10, 10]}
    assert same_regions(a, np.zeros_like(a)) == {} == same_regions(np.zeros_like(a), a)
    large = np.zeros((40, 60), bool)
    large[3:35, 3:58] = True  # both have become one: it goes on with neither of such small ones
    assert same_regions(a, movers.regions(large)) == {}


def test_the_depth_below_agrees_with_its_twin(rng: np.random.Generator) -> None:
    seen = 0
    for number in range(60):
        height, width = rng.integers(20, 70, 2)
        noise = cv2.GaussianBlur(rng.normal(size=(height, width)).astype(np.float32), (0, 0), 4)
        labels = movers.regions(noise > np.quantile(noise, 0.8))
        depth = np.where(rng.uniform(size=noise.shape) < 0.5, rng.uniform(1, 5, noise.shape), 0) * (labels == 0)
        for label in range(1, labels.max() + 1):
            fast, slow = (f(labels == label, depth, 4) for f in (depth_below, depth_below_naive))
            np.testing.assert_allclose(fast, slow, err_msg=str(number))
            seen += np.isfinite(fast)
    assert seen > 60


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_nothing_is_followed_from_clip_to_clip(scene: Scene) -> None:
    masks = np.zeros_like(scene.dynamic.masks)
    masks[:, 40:60, 40:60] = True
    still = replace(scene, dynamic=replace(scene.dynamic, masks=masks))
    half = len(scene) // 2
    clip = (np.arange(len(scene)) >= half).astype(np.int64)
    lengths = [[len(track) for track in movers._tracks(s)] for s in (still, replace(still, clip=clip))]
    assert lengths == [[len(scene)], [half, len(scene) - half]]
