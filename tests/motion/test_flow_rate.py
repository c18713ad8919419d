"""Flow at the rate at which a clip was filmed, and a careful choice of the background's motion."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from easi3r_ns.core.geometry import pixel_grid
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.evaluate.masks import jaccard
from easi3r_ns.frames.near import Shot, near_indices
from easi3r_ns.motion.flow.dis import DISFlow
from easi3r_ns.motion.two_view import geometric_masks
from easi3r_ns.motion.two_view.background import Kind, homography_preferred, sample
from easi3r_ns.motion.two_view.plan import choose_step, plan_pairs
from easi3r_ns.motion.two_view.regions import FULL_TRUST, Region
from easi3r_ns.motion.two_view.residual import Kinds, Pictures, _model, _residuals, choose_kinds
from easi3r_ns.training.scenes import Clip, ClipOptions, correspondences, render_clip

SIZE = (192, 320)
STRIDE = 6


@pytest.fixture(scope="module")
def filmed() -> Clip:
    """A second of film."""
    return render_clip(101, 25, *SIZE, num_movers=2, options=ClipOptions(fps=24))


def sampled(images: np.ndarray, stride: int = STRIDE) -> tuple[np.ndarray, Shot]:
    """Every so many frames of a source, with the source frames around them."""
    places = np.arange(0, len(images), stride)
    return places, Shot(places, near_indices(places, np.arange(len(images))), lambda place: images[place])


@pytest.mark.slow
def test_masks_of_few_frames_are_as_good_as_those_of_all(filmed: Clip) -> None:
    places, shot = sampled(filmed.images)
    truth, chosen = filmed.moving[places], filmed.images[places]
    every = jaccard(geometric_masks(filmed.images, 16, RunLog()).masks[places], truth).mean()
    few = jaccard(geometric_masks(chosen, 16, RunLog(), shot=shot).masks, truth).mean()
    apart = jaccard(geometric_masks(chosen, 16, RunLog()).masks, truth).mean()
    assert few > every - 0.05 and few > apart + 0.1


def test_pairs_reach_source_frames_on_both_sides() -> None:
    _, shot = sampled(np.zeros((25, 64, 64, 3), np.uint8), 12)
    plan = plan_pairs(shot, (1, 2, 4), 2, (1, 4))
    assert set(plan.pairs) == {
        *((0, 2), (0, 4), (0, 8)),
        *((4, 12), (8, 12), (10, 12), (12, 14), (12, 16), (12, 20)),
        *((16, 24), (20, 24), (22, 24)),
    }
    assert plan.witnesses == {2, 8, 4, 10, 14, 20, 16, 22}
    last = [j for _, j in plan.pairs]
    assert last == sorted(last), "a frame is done soon, so that little is in memory"


def test_consecutive_frames_are_paired_as_a_window() -> None:
    plan = plan_pairs(Shot.of(np.zeros((6, 8, 8, 3), np.uint8)), (1, 2, 4), 1, (1, 4))
    assert set(plan.pairs) == {(i, i + gap) for gap in (1, 2, 4) for i in range(6 - gap)} and not plan.witnesses


def test_slow_clips_are_followed_over_longer_gaps(filmed: Clip) -> None:
    shifts = [np.float32([[1, 0, 0.5 * k], [0, 1, 0]]) for k in range(8)]
    slow = np.stack([cv2.warpAffine(filmed.images[0], shift, SIZE[::-1], borderMode=1) for shift in shifts])
    assert choose_step(Shot.of(filmed.images), DISFlow()) == 1
    assert choose_step(Shot.of(slow), DISFlow()) == 2
    unrelated = np.random.RandomState(0).randint(0, 255, slow.shape).astype(np.uint8)
    assert choose_step(Shot.of(unrelated), DISFlow()) == 1, "what cannot be followed is not slow"


def test_each_stretch_has_a_kind_of_its_own() -> None:
    times = np.arange(0.5, 40)
    kinds = Kinds(times, np.where(times < 20, 1.0, -1.0))
    assert kinds.of((3, 5)) == "homography" and kinds.of((30, 34)) == "fundamental"
    # One pair that cannot tell does not decide for itself.
    odd = np.full(40, -0.5)
    odd[10] = 1.0
    assert Kinds(times, odd).of((10, 11)) == "fundamental"


def test_pairs_that_flow_cannot_follow_have_no_vote() -> None:
    images = render_clip(5, 8, *SIZE, num_movers=0).images
    blurred = np.random.RandomState(0).randint(0, 255, images.shape).astype(np.uint8)
    shot = Shot.of(np.concatenate([images, blurred]))
    plan = plan_pairs(shot, (1, 2, 4), 1)
    kinds = choose_kinds(plan, Pictures(shot), 16, DISFlow())
    assert 0 < len(kinds._times) and kinds._times.max() < 8


def plane_and_parallax(parallax: float, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Flow of a camera that turns fast (``length`` pixels) and steps sideways, before things near and far."""
    rs = np.random.RandomState(0)
    flow = np.zeros((*SIZE, 2), np.float32)
    flow[..., 0] = length
    near = np.kron(rs.rand(SIZE[0] // 32, SIZE[1] // 32) > 0.5, np.ones((32, 32)))
    flow[..., 0] += parallax * near
    return (flow + rs.normal(0, 0.1, flow.shape)).astype(np.float32), np.ones(SIZE, dtype=bool)


def test_small_parallax_counts_in_a_fast_turn() -> None:
    """A pixel or two beside 50 pixels of flow is parallax where the flow is that exact."""
    assert (homography_preferred(sample(*plane_and_parallax(2.0, 50.0))) or 0) < 0
    assert (homography_preferred(sample(*plane_and_parallax(0.0, 50.0))) or 0) > 0


def test_a_homography_that_misses_most_of_the_picture_is_not_used() -> None:
    flow, consistent = plane_and_parallax(20.0, 10.0)
    rows = np.arange(SIZE[0])[:, None]
    flow[..., 0] += (rows % 64) * 0.4  # and things at all depths
    found = _model("homography", sample(flow, consistent))
    assert found is not None and found[0] == "fundamental"
    found = _model("homography", sample(*plane_and_parallax(0.0, 10.0)))
    assert found is not None and found[0] == "homography"


def region(pairs: int, texture: float = 0.0) -> Region:
    image = np.kron(np.random.RandomState(0).randint(0, 255, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    return Region(image, np.full((64, 64), texture, np.float32), pairs, 7)


def test_what_flow_does_not_follow_claims_nothing() -> None:
    moving, agree = np.full((64, 64), 0.8, np.float32), np.ones((64, 64), dtype=bool)
    sure, lonely, torn, smooth = region(2), region(20), region(2), region(2, texture=5.0)
    for own in (sure, torn, smooth):
        own.add(moving, agree & (own is not torn))
    lonely.add(moving, agree)
    scores = [own.verdict()[0] for own in (sure, lonely, torn, smooth)]
    trusts = [own.verdict()[1] for own in (sure, lonely, torn, smooth)]
    np.testing.assert_allclose(trusts[0], 0.5)
    np.testing.assert_allclose(scores[0], 0.8, rtol=1e-6)
    np.testing.assert_allclose(scores[1], 0.8 * 0.05 / FULL_TRUST, rtol=1e-6)
    assert not scores[2].any() and not trusts[2].any()
    np.testing.assert_allclose(scores[3], 0.8 * 0.05 / FULL_TRUST, rtol=1e-5)


def test_links_are_those_of_the_nearest_frame_where_flow_agrees() -> None:
    one, far, near = region(2), region(2), region(2)
    flow, agree = np.zeros((64, 64, 2), np.float32), np.ones((64, 64), dtype=bool)
    near.labels = near.labels + 1000
    one.link(1, 4, flow, agree, far)
    assert (one.links[:, 1] < 1000).all() and (one.links[:, 0] == -1).all()
    agree[:32] = False
    one.link(1, 1, flow, agree, near)
    linked = one.links[:, 1] >= 1000
    assert (one.links[~linked, 1] == -1).all() and linked.any() and not linked.all()
    one.link(1, 2, flow, agree, far)
    assert (one.links[linked, 1] >= 1000).all()


@pytest.mark.parametrize("kind", ["homography", "fundamental"])
def test_one_model_serves_both_directions(kind: Kind) -> None:
    clip = render_clip(5, 2, *SIZE, num_movers=1, frozen=True, options=ClipOptions(fps=1.5))
    if kind == "homography":
        turn = np.array([[1.01, 0.004, 6.0], [-0.003, 0.99, -2.0], [1e-5, -2e-5, 1.0]])
        start = np.concatenate([pixel_grid(*SIZE), np.ones((*SIZE, 1))], axis=-1)
        landings = [start @ model.T for model in (turn, np.linalg.inv(turn))]
        landings = [landing[..., :2] / landing[..., 2:] for landing in landings]
        seen = [np.ones(SIZE, dtype=bool)] * 2
    else:
        landings, seen = zip(*(correspondences(clip, *pair) for pair in ((0, 1), (1, 0))), strict=True)
    flows = [(landing - pixel_grid(*SIZE)).astype(np.float32) for landing in landings]
    flat = np.full(SIZE, 0.1, np.float32)
    residuals = _residuals(kind, (flows[0], flows[1]), seen[0], (flat, flat))
    assert residuals is not None
    for residual, visible in zip(residuals, seen, strict=True):
        assert np.quantile(residual[visible], 0.99) < 0.2
