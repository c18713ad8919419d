"""Masks from optical flow and epipolar geometry: known models, known movers, and nothing where nothing moves."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from skimage.measure import label

from easi3r_ns.core.errors import InputError
from easi3r_ns.core.geometry import pixel_grid
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.frames import enlargement
from easi3r_ns.frames.near import Shot
from easi3r_ns.motion.cut import STEPS
from easi3r_ns.motion.flow.dis import DISFlow
from easi3r_ns.motion.two_view import flow_residual, geometric_masks, residual
from easi3r_ns.motion.two_view.background import distance, fit, gric, homography_preferred, sample
from easi3r_ns.motion.two_view.masks import LEAST_SCORE
from easi3r_ns.motion.two_view.plan import plan_pairs
from easi3r_ns.motion.two_view.residual import Moments, Pictures, by_two_views, follow_pairs
from easi3r_ns.motion.two_view.superpixels import Superpixels, make_superpixels, vote
from easi3r_ns.motion.two_view.threshold import candidates, contour_contrast, cut_clip
from easi3r_ns.training.measure.numbers import area_under_curve
from easi3r_ns.training.scenes import ClipOptions, correspondences, film, make_scene, render_clip
from easi3r_ns.training.scenes.scene import SceneOptions

SIZE = (192, 320)


def iou(masks: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the frames; two empty masks agree."""
    union, common = (masks | truth).sum(axis=(1, 2)), (masks & truth).sum(axis=(1, 2))
    return float(np.where(union == 0, 1.0, common / np.maximum(union, 1)).mean())


def exact_pair(seed: int, frozen: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exact flow of a rendered clip, where it is seen in both frames, and what moves."""
    clip = render_clip(seed, 2, *SIZE, num_movers=1, frozen=frozen, options=ClipOptions(fps=1.5))
    landing, seen = correspondences(clip, 0, 1)
    return (landing - pixel_grid(*SIZE)).astype(np.float32), seen, clip.moving[0]


def flow_of_homography(model: np.ndarray) -> np.ndarray:
    start = pixel_grid(*SIZE)
    landed = np.concatenate([start, np.ones_like(start[..., :1])], axis=-1) @ model.T
    return (landed[..., :2] / landed[..., 2:] - start).astype(np.float32)


TURN = np.array([[1.01, 0.004, 6.0], [-0.003, 0.99, -2.0], [1e-5, -2e-5, 1.0]])


def test_background_homography_is_found_beside_a_mover_in_the_middle() -> None:
    flow = flow_of_homography(TURN)
    flow[50:140, 80:240] += [15.0, 4.0]
    samples = sample(flow, np.ones(SIZE, dtype=bool))
    model = fit("homography", samples)
    assert model is not None
    start = pixel_grid(*SIZE)
    error = distance("homography", model, start, start + flow)
    assert error[:40].max() < 0.1
    np.testing.assert_allclose(error[60:130, 90:230], np.hypot(15, 4) / np.sqrt(2), rtol=0.02)
    assert (homography_preferred(samples) or 0) > 0.5


@pytest.mark.parametrize("error", [0.0, 1.5])
def test_flow_that_is_inexact_everywhere_is_no_motion(error: float) -> None:
    rng = np.random.default_rng(0)
    flow = flow_of_homography(TURN) + cv2.GaussianBlur(rng.normal(0, 1, (*SIZE, 2)), (0, 0), 5) * 17.7 * error
    back = flow_of_homography(np.linalg.inv(TURN))
    mover = np.zeros(SIZE, bool)
    mover[60:110, 120:200] = True
    flow[mover] += [60.0, 20.0]
    kinds = residual.Kinds(np.array([0.5]), np.array([1.0]))
    everywhere, flat = np.ones(SIZE, bool), np.zeros(SIZE, np.float32)
    maps = by_two_views(kinds)((0, 1), (flow.astype(np.float32), back), (everywhere, everywhere), (flat, flat))
    assert maps is not None and np.median(maps[0][mover]) > 0.75
    assert np.median(maps[0][~mover]) < 0.25


def test_epipolar_distance_shows_the_mover_and_not_the_parallax() -> None:
    flow, seen, moving = exact_pair(5, frozen=False)
    samples = sample(flow, seen)
    model = fit("fundamental", samples)
    assert model is not None
    start = pixel_grid(*SIZE)
    error = distance("fundamental", model, start, start + flow)
    assert np.quantile(error[seen & ~moving], 0.99) < 0.5
    assert np.median(error[moving & seen]) > 5 * np.quantile(error[seen & ~moving], 0.99)


def test_parallax_asks_for_a_fundamental_matrix() -> None:
    flow, seen, _ = exact_pair(5, frozen=True)
    assert (homography_preferred(sample(flow, seen)) or 0) < -0.2


def test_sampson_distance_of_a_known_matrix() -> None:
    # Pure translation along x: rows are epipolar lines, so a step of d rows is d / sqrt(2) off in the four coordinates.
    model = np.array([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    start = np.array([[10.0, 20.0], [30.0, 40.0]])
    np.testing.assert_allclose(distance("fundamental", model, start, start + [5, 0]), 0, atol=1e-6)
    np.testing.assert_allclose(distance("fundamental", model, start, start + [5, 3]), 3 / np.sqrt(2), rtol=1e-6)


def test_gric_prefers_the_simpler_of_two_perfect_models() -> None:
    error = np.zeros(100)
    assert gric("homography", error, 1.0) < gric("fundamental", error, 1.0)
    assert gric("homography", error + 3, 1.0) > gric("fundamental", error, 1.0)


def test_too_few_vectors_give_no_model() -> None:
    few = np.zeros(SIZE, dtype=bool)
    few[:10, :10] = True
    samples = sample(np.zeros((*SIZE, 2), dtype=np.float32), few)
    assert fit("homography", samples) is None
    assert homography_preferred(samples) is None


def test_moments_equal_those_of_all_values_at_once() -> None:
    rs = np.random.RandomState(0)
    values, weights = rs.rand(6, 4, 5).astype(np.float32), rs.uniform(0.1, 1, (6, 4, 5)).astype(np.float32)
    moments = Moments((4, 5))
    for value, weight in zip(values, weights, strict=True):
        moments.add(value, weight)
    mean = np.average(values, axis=0, weights=weights)
    np.testing.assert_allclose(moments.mean, mean, atol=1e-6)
    np.testing.assert_allclose(
        moments.deviation, np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weights)), atol=1e-5
    )
    np.testing.assert_allclose(moments.weight, weights.sum(axis=0), rtol=1e-6)
    nothing = Moments((4, 5))
    nothing.add(values[0], np.zeros((4, 5), np.float32))
    assert not nothing.mean.any() and not nothing.deviation.any(), "a pixel without weight knows nothing"


def test_superpixels_cover_the_clip_and_average_exactly() -> None:
    images = np.random.RandomState(0).randint(0, 255, (2, 64, 96, 3)).astype(np.uint8)
    superpixels = make_superpixels(images)
    assert np.array_equal(np.unique(superpixels.labels), np.arange(len(superpixels)))
    assert superpixels.labels[0].max() < superpixels.labels[1].min()
    values = np.random.RandomState(1).rand(2, 64, 96)
    naive = [values[superpixels.labels == k].mean() for k in range(len(superpixels))]
    np.testing.assert_allclose(superpixels.mean(values), naive, atol=1e-9)
    np.testing.assert_allclose(superpixels.paint(superpixels.mean(values)).mean(), values.mean(), atol=1e-3)


def test_vote_gives_untrusted_regions_the_word_of_their_like() -> None:
    # Two looks; the regions of the second look move, one of them is not trusted and claims not to.
    count = 80
    look = np.repeat([0.0, 10.0], count // 2)
    jitter = np.random.RandomState(0).rand(count, 9) * 0.01
    features = np.concatenate([look[:, None], jitter], axis=1).astype(np.float32)
    superpixels = Superpixels(np.arange(count).reshape(1, 1, count), features, np.zeros((count, 2), np.float32))
    own, trust = np.repeat([0.0, 1.0], count // 2), np.ones(count)
    own[-1], trust[-1] = 0.0, 0.0
    no_links = np.full((count, 2), -1)
    opinion = vote(superpixels, own, trust, no_links, 30)
    assert opinion[-1] > 0.8 and opinion[: count // 2].max() < 0.2
    # Where it flows to can say the opposite.
    linked = no_links.copy()
    linked[0] = [count - 2, count - 3]
    assert vote(superpixels, own, trust, linked, 30)[0] > opinion[0] + 0.02


def test_threshold_is_the_cut_with_the_clearest_contour() -> None:
    score = np.full((1, 200, 200), 0.02)
    score[:, :, 100:] += np.linspace(0, 0.25, 100)
    score[:, 50:130, 10:90] = 0.8
    threshold, _, _ = cut_clip(score.astype(np.float32), LEAST_SCORE)
    assert 0.25 < threshold < 0.8
    assert contour_contrast(score, 0.5) > contour_contrast(score, 0.16)


def test_nothing_moves_below_the_floor() -> None:
    score = np.random.RandomState(0).rand(2, 32, 32).astype(np.float32) * 0.9 * LEAST_SCORE
    for nothing in (score, np.zeros((2, 32, 32), np.float32)):
        threshold, above, kept = cut_clip(nothing, LEAST_SCORE)
        assert threshold == LEAST_SCORE and not above.any() and kept.max() < STEPS


def two_movers() -> Iterator[np.ndarray]:
    """A score with a fast one, slow ones beside it and apart, and a hill without a border; what moves."""
    rows, columns = np.mgrid[:120, :160]
    score = 0.02 + 0.45 * np.exp(-((rows - 110) ** 2 + (columns - 60) ** 2) / 2000)
    score[10:50, 100:140] = 0.6
    score[10:40, 10:50] = score[20:45, 80:100] = 0.35
    return (np.repeat(values[None], 2, axis=0) for values in (score.astype(np.float32), np.isin(score, [0.6, 0.35])))


def cut_naive(score: np.ndarray, least: float) -> np.ndarray:
    """What moves: parts are grown pixel by pixel, and their contours walked."""
    cuts = candidates(score, least)
    threshold = max(cuts, key=lambda cut: contour_contrast(score, cut))
    above = score > threshold

    def border(frame: np.ndarray, inside: np.ndarray, others: np.ndarray) -> list[float]:
        """Steps between a pixel of ``inside`` and one of ``others``."""
        height, width = frame.shape
        near = ((0, 1), (1, 0), (0, -1), (-1, 0))
        pairs = [((y, x), (y + v, x + u)) for y, x in zip(*np.nonzero(inside)) for v, u in near]
        pairs = [(a, b) for a, b in pairs if 0 <= b[0] < height and 0 <= b[1] < width and others[b]]
        return [abs(float(frame[a]) - float(frame[b])) for a, b in pairs]

    step = np.mean([value for frame, inside in zip(score, above) for value in border(frame, inside, ~inside)]) / 2
    for level in sorted({cut for cut in (*cuts, least) if cut < threshold}, reverse=True):
        for frame, moving in zip(score, above):
            before = moving.copy()
            labels = label((frame > level) & ~before, connectivity=1)
            for number in range(1, labels.max() + 1):
                part = labels == number
                own, shared = border(frame, part, ~part & ~before), border(frame, part, before)
                clear = sum(own) - sum(shared) > step * (len(own) - len(shared))
                moving |= part & clear & (len(own) > len(shared))
    return above


def test_a_slow_mover_beside_a_fast_one_moves_too_and_a_hill_does_not() -> None:
    score, moves = two_movers()
    threshold, above, kept = cut_clip(score, LEAST_SCORE)
    assert 0.35 < threshold < 0.6
    assert (above != moves).mean() < 0.001 and score[~above].max() > 0.4
    assert (kept[above] >= STEPS).all() and (kept[~above] <= STEPS).all(), "a cut at 1 gives the same masks"


@pytest.mark.parametrize("seed", range(3))
def test_the_cut_is_that_of_parts_one_by_one(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0, 1, (2, 40, 56)).astype(np.float32)
    score = np.stack([cv2.GaussianBlur(frame, (0, 0), 3) for frame in noise])
    score = np.float32(0.1) * np.round(np.abs(score) * 40)
    _, above, _ = cut_clip(score, LEAST_SCORE)
    np.testing.assert_array_equal(above, cut_naive(score, LEAST_SCORE))


@pytest.fixture(scope="module")
def moving_clip() -> tuple[np.ndarray, np.ndarray]:
    clip = render_clip(5, 8, *SIZE, num_movers=1)
    return clip.images, clip.moving


def test_mover_before_a_moving_camera(moving_clip: tuple[np.ndarray, np.ndarray]) -> None:
    images, moving = moving_clip
    dynamic = geometric_masks(images, 16, RunLog())
    assert dynamic.source == "geometry"
    assert dynamic.score.shape == (8, SIZE[0] // 16, SIZE[1] // 16) and 0 <= dynamic.score.min()
    assert dynamic.score.max() <= 1 and set(dynamic.maps or {}) == {"mean", "deviation"}
    assert iou(dynamic.masks, moving) > 0.5


def test_same_images_give_the_same_masks(moving_clip: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = (geometric_masks(moving_clip[0][:4], 16, RunLog()) for _ in range(2))
    assert np.array_equal(first.masks, second.masks) and first.threshold == second.threshold


@pytest.mark.parametrize("fixed", [False, True])
def test_nothing_moves_in_a_static_clip(fixed: bool) -> None:
    images = render_clip(5, 6, *SIZE, num_movers=1, frozen=True).images
    if fixed:
        noise = np.random.RandomState(0).normal(0, 1.5, images.shape)
        images = np.clip(images[:1] + noise, 0, 255).astype(np.uint8)
    dynamic = geometric_masks(images, 16, RunLog())
    assert dynamic.coverage.mean() < (0.001 if fixed else 0.03)


def test_mover_before_a_fixed_camera() -> None:
    still = render_clip(5, 2, *SIZE, num_movers=1)
    times = np.arange(6) / 12
    scene = make_scene(5, SceneOptions("held_out", 1, times[-1], True, None))
    poses = np.repeat(still.T_world_cam[:1], len(times), axis=0)
    clip = film(scene, scene.mover_ids, poses, still.focal, SIZE, times)
    assert iou(geometric_masks(clip.images, 16, RunLog()).masks, clip.moving) > 0.5


def test_unrelated_frames_are_told() -> None:
    images = np.random.RandomState(0).randint(0, 255, (4, 96, 128, 3)).astype(np.uint8)
    images = np.stack([cv2.GaussianBlur(image, (0, 0), 3) for image in images])
    log = RunLog()
    assert geometric_masks(images, 16, log).coverage.max() < 0.05
    assert "optical flow follows few of the frames" in log.warnings[0]


def test_one_frame_is_refused() -> None:
    with pytest.raises(InputError, match="at least two"):
        geometric_masks(np.zeros((1, 64, 64, 3), np.uint8), 16, RunLog())


def residual_of(images: np.ndarray) -> np.ndarray:
    """Per token of 16 pixels."""
    return flow_residual(Shot.of(images), 16, DISFlow(), RunLog())


def test_residual_per_token_shows_what_moves_and_rests_with_it(moving_clip: tuple[np.ndarray, np.ndarray]) -> None:
    images, moving = moving_clip
    residual = residual_of(images)
    height, width = SIZE[0] // 16, SIZE[1] // 16
    assert residual.shape == (8, height, width) and residual.dtype == np.float32
    assert residual.min() >= 0 and residual.max() <= 1
    truth = moving.reshape(8, height, 16, width, 16).mean(axis=(2, 4)) > 0.5
    assert area_under_curve(residual, truth) > 0.95
    at_rest = residual_of(render_clip(5, 8, *SIZE, num_movers=1, frozen=True).images)
    assert at_rest[truth].mean() < 0.6 * residual[truth].mean()


def residual_naive(images: np.ndarray) -> np.ndarray:
    """:func:`residual_of` with every residual of the clip in memory, and plain means."""
    shot = Shot.of(images)
    plan, pictures = plan_pairs(shot, (1, 2, 3), 1), Pictures(shot)
    kinds = residual.choose_kinds(plan, pictures, len(images), DISFlow())
    seen: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in images]
    for motion in follow_pairs(plan, pictures, by_two_views(kinds), DISFlow(), lambda n: None):
        for place, values, agree in zip(motion.pair, motion.residuals or (), motion.agree):
            seen[place].append((values, np.where(agree, 1.0, 0.1)))
    means = []
    for own in seen:
        values, weights = (np.stack(column) for column in zip(*own, strict=True))
        means.append(np.average(values, axis=0, weights=weights))
    return np.stack(means).reshape(len(images), SIZE[0] // 16, 16, SIZE[1] // 16, 16).mean(axis=(2, 4))


def test_residual_in_one_pass_is_that_of_the_whole_clip_in_memory(moving_clip: tuple[np.ndarray, np.ndarray]) -> None:
    images, _ = moving_clip
    np.testing.assert_allclose(residual_of(images), residual_naive(images), atol=1e-6)


def test_few_images_are_held() -> None:
    """However long the clip: those that were asked for last."""
    images = np.zeros((40, 64, 64, 3), np.uint8)
    pictures = Pictures(Shot.of(images))
    for place in (*range(40), *range(40)):
        pictures.image(place)
        assert len(pictures._kept) <= residual._IMAGES_KEPT


def test_images_are_enlarged_to_where_flow_was_tried() -> None:
    assert [enlargement(*size) for size in ((96, 128), (128, 96), (288, 512), (224, 224), (64, 64))] == [3, 3, 1, 2, 6]
