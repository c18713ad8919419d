"""Filling depth by stand-ins that know the truth: what comes back, what stays unknown, what is said about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.core.metric import in_metres
from easi3r_ns.core.rig import ViewRig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import DEPTH_SOURCES, Scene, rescale_scene
from easi3r_ns.core.surface import measured_only, shown_depth, solid_pixels, trusted_depth
from easi3r_ns.core.types import on_side
from easi3r_ns.depth.movers import assume_depth
from easi3r_ns.depth.prior import Predictions, fill_depth, metres_by_prior
from easi3r_ns.training.scenes import Clip, render_clip
from easi3r_ns.view.clouds import build_clouds
from easi3r_ns.view.config import ViewConfig
from tests.support.clip_scene import perfect_scene, true_points

STEREO, PRIOR = DEPTH_SOURCES.index("stereo"), DEPTH_SOURCES.index("prior")


@pytest.fixture(scope="module")
def clip() -> Clip:
    return render_clip(5, 6, 96, 128)


@pytest.fixture
def measured(clip: Clip, tmp_path: Path) -> Scene:
    """What stereo would leave: nothing of what moves, nothing of the left third, 1 % noise."""
    scene = perfect_scene(clip, tmp_path, noise=0.01)
    kept = ~clip.moving
    kept[:, :, :43] = False
    scene = replace(scene, depth=scene.depth * kept, confidence=scene.confidence * kept)
    return assume_depth(replace(scene, provenance={"stereo": "opencv"}))


def stand_in(clip: Clip, *, noise: float = 0.0, outliers: float = 0.0, seed: int = 0) -> Predictions:
    """A network that knows each frame's inverse depth up to an affine function of its own."""
    rng = np.random.default_rng(seed)
    inverse = 1 / clip.depth
    inverse = inverse * (1 + noise * rng.standard_normal(inverse.shape))
    wrong = rng.random(inverse.shape) < outliers
    inverse = np.where(wrong, rng.uniform(0, 2, inverse.shape), inverse)
    scale, shift = rng.uniform(3, 9, (len(clip), 1, 1)), rng.uniform(-1, 1, (len(clip), 1, 1))
    return Predictions((scale * inverse + shift).astype(np.float32), False, "stand-in", "Apache-2.0")


def test_views_of_a_sphere_do_not_tell_each_other_a_scale(clip: Clip, measured: Scene) -> None:
    known = measured.depth.copy()
    known[3:] = 0  # the second view shows nothing that was measured
    view = np.repeat([0, 1], 3)
    rig = ViewRig(np.tile(np.eye(4), (2, 1, 1)), 100.0, view, np.tile(np.arange(3), 2))
    for kept, missing in ((None, 0), (rig, 3)):
        scene = replace(measured, depth=known, confidence=measured.confidence * (known > 0), rig=kept)
        filled = fill_depth(replace(scene, sparse=None, assumed_depth=None), stand_in(clip), RunLog())
        assert filled.provenance["depth_prior"]["frames_not_filled"] == missing


def test_depth_of_a_prior_alone_is_not_measured(clip: Clip, measured: Scene) -> None:
    filled = fill_depth(measured, stand_in(clip), RunLog())
    assert filled.has_measured_depth and measured.has_measured_depth
    alone = replace(filled, depth=filled.depth * (filled.depth_source == PRIOR))
    assert alone.has_depth and not alone.has_measured_depth
    sparse = replace(alone, sparse=true_points(clip))
    assert len(build_clouds(sparse, ViewConfig()).static) > 0


def test_the_truth_comes_back_through_outliers(clip: Clip, measured: Scene) -> None:
    filled = fill_depth(measured, stand_in(clip, noise=0.02, outliers=0.2), log := RunLog())
    assert filled.depth_source is not None
    prior = filled.depth_source == PRIOR
    error = np.abs(filled.depth / clip.depth - 1)[prior]
    assert np.median(error) < 0.02 and np.quantile(error, 0.7) < 0.06
    assert (filled.depth[clip.moving] > 0).mean() > 0.9, "what moves has a depth"
    assert np.median(np.abs(filled.depth / clip.depth - 1)[clip.moving & prior]) < 0.03
    facts = filled.provenance["depth_prior"]
    assert facts["shares"]["prior"] == pytest.approx(prior.mean()) and facts["error"] < 0.05
    assert facts["disagreement"] < 0.1 and facts["frames_not_filled"] == 0 and not log.warnings


def test_what_was_measured_stays_and_nothing_measured_is_invented(clip: Clip, measured: Scene) -> None:
    filled = fill_depth(measured, stand_in(clip), RunLog())
    known = measured.depth > 0
    assert filled.depth_source is not None and (filled.depth_source[known] == STEREO).all()
    np.testing.assert_array_equal(filled.depth[known], measured.depth[known])
    np.testing.assert_array_equal(filled.confidence[known], measured.confidence[known])
    np.testing.assert_array_equal(measured_only(filled).depth, measured.depth)
    for frame in range(len(clip)):
        still = ~filled.dynamic.masks[frame]
        np.testing.assert_array_equal((solid_pixels(filled, frame) & still), solid_pixels(measured, frame) & still)
        assert (trusted_depth(filled, frame)[filled.depth_source[frame] == PRIOR] > 0).all()


def test_the_prediction_replaces_what_was_assumed(clip: Clip, measured: Scene) -> None:
    assert measured.assumed_depth is not None
    filled = fill_depth(measured, stand_in(clip), RunLog())
    assert filled.assumed_depth is None
    moving = clip.moving[2]
    assert np.median(np.abs(shown_depth(filled, 2) / clip.depth[2] - 1)[moving]) < 0.02
    nothing = Predictions(np.full_like(measured.depth, np.nan), False, "stand-in", "x")
    kept = fill_depth(measured, nothing, log := RunLog())
    np.testing.assert_array_equal(kept.assumed_depth, measured.assumed_depth)
    assert "fills nothing" in log.warnings[0]


def test_triangulated_points_suffice(clip: Clip, measured: Scene) -> None:
    unknown = np.zeros_like(measured.depth)
    sparse = replace(measured, depth=unknown, confidence=unknown, assumed_depth=None, sparse=true_points(clip))
    filled = fill_depth(sparse, stand_in(clip, outliers=0.1), RunLog())
    assert filled.depth_source is not None
    prior = filled.depth_source == PRIOR
    assert prior.mean() > 0.8 and np.median(np.abs(filled.depth / clip.depth - 1)[prior]) < 0.02


def test_a_prediction_that_contradicts_is_not_used(clip: Clip, measured: Scene) -> None:
    said = stand_in(clip)
    said.inverse[3] = np.random.default_rng(0).uniform(0, 1, said.inverse[3].shape)
    filled = fill_depth(measured, said, log := RunLog())
    assert filled.depth_source is not None and not (filled.depth_source[3] == PRIOR).any()
    assert (filled.depth_source[2] == PRIOR).any() and "1 frames are not filled" in log.warnings[0]


@pytest.mark.parametrize("turned", [False, True])
def test_sky_stays_unknown_and_a_far_wall_does_not(clip: Clip, measured: Scene, turned: bool) -> None:
    """The upper left corner is pale blue and very far; below it something as pale, and near, is filled."""
    images, inverse = measured.images.copy(), 1 / clip.depth
    sky = np.zeros_like(clip.moving)
    sky[:, :40, :30] = True
    if turned:
        upright = np.zeros((len(clip), 128, 96), bool)
        upright[:, :40, :30] = True
        sky = np.stack([on_side(part) for part in upright])
        measured = replace(measured, turned=np.ones(len(clip), bool))
    pale = sky.copy()
    pale[:, 60:, :30] = True
    images[pale] = (170, 200, 240)
    depth = np.where(pale, 0, measured.depth)
    scene = replace(measured, images=images, depth=depth, confidence=measured.confidence * (depth > 0))
    # Far, and not so far that it would stay unknown anyway.
    far = 0.3 * np.quantile(inverse[measured.depth > 0], 0.01)
    said = Predictions((5 * np.where(sky, far, inverse)).astype(np.float32), False, "stand-in", "x")
    filled = fill_depth(scene, said, RunLog())
    assert filled.depth_source is not None
    assert (filled.depth_source[sky] == 0).all()
    assert (filled.depth_source[pale & ~sky] == PRIOR).mean() > 0.99
    assert filled.provenance["depth_prior"]["shares"]["sky"] == pytest.approx(sky.mean(), abs=0.02)


def test_metric_predictions_give_the_scale(clip: Clip, measured: Scene) -> None:
    rng = np.random.default_rng(0)
    bias = 1 + 0.03 * rng.standard_normal((len(clip), 1, 1))
    said = Predictions((1 / (clip.depth * bias)).astype(np.float32), True, "stand-in", "x")
    scene = rescale_scene(measured, 2.7)
    found = metres_by_prior(scene, said)
    assert found is not None and found.factor * 2.7 == pytest.approx(np.median(bias), rel=0.02)
    assert 0.005 < found.sigma < 0.1
    done = in_metres(scene, found, RunLog())
    assert done.provenance["scale"]["source"] == "prior"
    # Depth that is not measured is filled in the same unit.
    filled = fill_depth(done, said, RunLog())
    assert np.median(filled.depth / clip.depth) == pytest.approx(1, abs=0.05)
    unknown = replace(scene, depth=0 * scene.depth, confidence=0 * scene.confidence, assumed_depth=None)
    assert metres_by_prior(unknown, said) is None


def test_a_camera_that_stands_still_gets_the_depth_of_a_metric_network(clip: Clip, measured: Scene) -> None:
    unknown = np.zeros_like(measured.depth)
    still = replace(
        *(measured,), depth=unknown, confidence=unknown, assumed_depth=None, pose_sources=("fixed",) * len(clip)
    )
    said = Predictions((1 / clip.depth).astype(np.float32), True, "stand-in", "x")
    np.testing.assert_allclose(fill_depth(still, said, RunLog()).depth, clip.depth, rtol=1e-4)
    relative = fill_depth(still, replace(said, metric=False), log := RunLog())
    assert not relative.has_depth and "fills nothing" in log.warnings[0]
