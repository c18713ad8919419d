"""The sweep against its textbook twin, and torch against OpenCV."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from easi3r_ns.depth.agree import Measured, agreement, without_speckles
from easi3r_ns.depth.arrays import OpenCVOperations, Operations, TorchOperations
from easi3r_ns.depth.choose import Stereo
from easi3r_ns.depth.smooth import Smoothness, smoothed
from easi3r_ns.depth.stereo import StereoConfig, measure
from easi3r_ns.depth.sweep import SweepView, best_half, peak, plane_scores, surface_scores
from easi3r_ns.depth.views import SceneViews, sweep_view
from easi3r_ns.training.scenes import Clip, render_clip
from tests.support import stereo_twin
from tests.support.clip_scene import perfect_scene
from tests.support.stereo_twin import TwinView

RADIUS = 2
OPENCV, TORCH = OpenCVOperations(), TorchOperations(torch.device("cpu"))
# OpenCV looks between pixels in steps of 1/32 pixel.
TOLERANCE = {OPENCV: 0.03, TORCH: 2e-3}


@pytest.fixture(scope="module")
def clip() -> Clip:
    return render_clip(5, 4, 24, 32)


def views(clip: Clip, ops: Operations) -> list[SweepView]:
    K = np.array([[clip.focal, 0, clip.principal_point[0]], [0, clip.focal, clip.principal_point[1]], [0, 0, 1]])
    made = []
    for frame in range(len(clip)):
        still = (~clip.moving[frame]).astype(np.float32)
        still[4:9, 20:26] = 0  # something moves for certain
        grey = clip.images[frame].mean(axis=-1).astype(np.float32) / 255
        made.append(sweep_view(ops, grey, still, K, clip.T_world_cam[frame]))
    return made


def twins(clip: Clip) -> list[TwinView]:
    return [TwinView(v.image, v.weight, v.sure, v.K, v.T_cam_world) for v in views(clip, OPENCV)]


@pytest.mark.parametrize("ops", [OPENCV, TORCH], ids=["opencv", "torch"])
def test_scores_are_those_of_the_textbook(clip: Clip, ops: Operations) -> None:
    reference, *others = views(clip, ops)
    planes = 1 / np.array([6.0, 3.0, 2.0])
    fast = ops.get(plane_scores(ops, reference, others, planes, RADIUS))
    own, *seen = twins(clip)
    slow = np.stack([stereo_twin.scores(own, seen, np.full(own.image.shape, d), RADIUS) for d in planes])
    assert slow.max() > 0.9 and (slow == 0).any()
    # A pixel exactly between two may fall to either side when the nearest is asked for.
    error = np.abs(fast - slow)
    assert np.quantile(error, 0.99) < TOLERANCE[ops] and (error > 0.1).mean() < 0.005

    true = (1 / clip.depth[0]).astype(np.float32)
    at_truth = ops.get(surface_scores(ops, reference, others, ops.put(true), np.array([0.0, 0.02]), RADIUS))
    error = np.abs(at_truth[1] - stereo_twin.scores(own, seen, true + 0.02, RADIUS))
    assert np.quantile(error, 0.99) < TOLERANCE[ops] and (error > 0.1).mean() < 0.005
    still = own.weight > 0
    assert at_truth[0][still].mean() > at_truth[1][still].mean()


@pytest.mark.parametrize("ops", [OPENCV, TORCH], ids=["opencv", "torch"])
def test_smoothing_is_that_of_the_textbook(ops: Operations) -> None:
    rng = np.random.default_rng(0)
    scores, image = rng.random((5, 7, 9)).astype(np.float32), rng.random((7, 9)).astype(np.float32)
    fast = ops.get(smoothed(ops, ops.put(scores), ops.put(image), Smoothness()))
    np.testing.assert_allclose(fast, stereo_twin.smoothed(scores, image, Smoothness()), atol=1e-5)


def test_smoothing_fills_what_says_nothing_along_a_slope() -> None:
    planes, height, width = 12, 8, 24
    true = np.tile(np.linspace(1, 10, width).round().astype(int), (height, 1))
    scores = np.zeros((planes, height, width), dtype=np.float32)
    np.put_along_axis(scores, true[None], 0.9, axis=0)
    scores[:, 2:6, 8:14] = 0
    image = np.full((height, width), 0.5, dtype=np.float32)
    found, _, _ = peak(OPENCV, smoothed(OPENCV, scores, image, Smoothness()))
    assert np.abs(found - true).max() <= 1


@pytest.mark.parametrize("ops", [OPENCV, TORCH], ids=["opencv", "torch"])
def test_agreement_is_that_of_the_textbook(clip: Clip, ops: Operations) -> None:
    rng = np.random.default_rng(1)
    inverse = (1 / clip.depth * (1 + 0.008 * rng.standard_normal(clip.depth.shape))).astype(np.float32)
    inverse[rng.random(inverse.shape) < 0.1] = 0
    own, *others = (Measured(v, ops.put(i)) for v, i in zip(views(clip, ops), inverse))
    mean, count = (ops.get(values) for values in agreement(ops, own, others))
    reference, *seen = twins(clip)
    slow = stereo_twin.agreeing(reference, inverse[0], list(zip(seen, inverse[1:])))
    assert set(np.unique(slow)) == {0, 1, 2, 3}
    assert (count == slow).mean() > 0.98
    true = 1 / clip.depth[0]
    all_agree = slow == 3
    before, after = (np.abs(values / true - 1)[all_agree].mean() for values in (inverse[0], mean))
    assert after < 0.8 * before


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_best_half(count: int) -> None:
    values = np.random.default_rng(count).random((count, 3, 4)).astype(np.float32)
    wanted = np.sort(values, axis=0)[::-1][: max(1, count // 2)].mean(axis=0)
    np.testing.assert_allclose(best_half(OPENCV, iter(values), count), wanted, rtol=1e-6)


@pytest.mark.parametrize(("top", "plane", "shift"), [(2.3, 2, 0.3), (1.6, 2, -0.4), (-1.0, 0, 0.0), (9.0, 4, 0.0)])
def test_peak_lies_between_planes(top: float, plane: int, shift: float) -> None:
    values = (1 - 0.02 * (np.arange(5.0) - top) ** 2).astype(np.float32)[:, None, None]
    found = peak(OPENCV, values)
    assert found[0].item() == plane and found[1].item() == pytest.approx(shift, abs=1e-3)
    assert found[2].item() == values.max()


def test_torch_measures_what_opencv_measures(tmp_path) -> None:
    scene = perfect_scene(render_clip(7, 5, 72, 96), tmp_path)
    config = StereoConfig()
    depths = []
    for ops in (OPENCV, TORCH):
        pictures = SceneViews(scene, ops, 5)
        depths.append(measure(ops, [pictures[k] for k in (2, 0, 1, 3, 4)], 1.0, 12.0, config))
    opencv, torched = depths
    assert (opencv > 0).mean() > 0.7
    assert ((opencv > 0) == (torched > 0)).mean() > 0.97
    both = (opencv > 0) & (torched > 0)
    difference = np.abs(opencv[both] / torched[both] - 1)
    assert np.median(difference) < 0.003 and (difference < 0.03).mean() > 0.95


def test_a_cpu_uses_opencv_and_a_gpu_torch() -> None:
    assert isinstance(Stereo.on(torch.device("cpu")).operations, OpenCVOperations)
    assert isinstance(Stereo.on(torch.device("meta")).operations, TorchOperations)


def test_speckles_go_and_surfaces_stay() -> None:
    depth = np.zeros((40, 60), dtype=np.float32)
    depth[:, :30] = np.linspace(2, 3, 30)  # a slope
    depth[:, 30:45] = 5
    depth[10:15, 32:37] = 9  # 25 pixels inside it
    depth[20:24, 50:54] = 4  # 16 pixels on their own
    kept = without_speckles(depth)
    assert (kept[:, :30] > 0).all()
    assert (kept[:, 30:45] == 5).sum() == 40 * 15 - 25
    assert not (kept == 9).any() and not (kept == 4).any()
    assert (without_speckles(np.zeros_like(depth)) == 0).all()


def test_what_moves_in_a_view_changes_no_score(clip: Clip) -> None:
    rng = np.random.default_rng(3)
    plain = views(clip, OPENCV)
    changed = [
        SweepView(
            np.where(v.weight > 0, v.image, rng.random(v.image.shape)).astype(np.float32), v.weight, v.sure, *rest
        )
        for v in plain
        for rest in [(v.K, v.T_cam_world)]
    ]
    planes = 1 / np.array([4.0, 2.0])
    a, b = (plane_scores(OPENCV, shown[0], shown[1:], planes, RADIUS) for shown in (plain, changed))
    np.testing.assert_allclose(a, b, atol=2e-3)
