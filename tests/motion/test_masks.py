from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from skimage.filters import threshold_multiotsu

from easi3r_ns.core.score import ScoreFormula
from easi3r_ns.motion.attention import masks as dynamic
from easi3r_ns.motion.attention.masks import (
    REFERENCE_SEED,
    clip_threshold,
    cluster_for,
    cluster_means,
    cluster_tokens,
    enlarge,
    segment_dynamic,
    token_masks,
)
from easi3r_ns.motion.attention.statistics import min_max_per_frame
from tests.support.helpers import GOLDEN, load_golden
from tests.support.pretend_cuda import pretend_cuda

REPORT = json.loads((GOLDEN / "pipeline" / "report.json").read_text())


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("name", ["pass1", "pass2"])
def test_golden_masks(name):
    golden = load_golden("pipeline", name)
    result = segment_dynamic(golden["dynamic_map"], cluster_tokens(golden["features"], seed=42), patch_size=16)
    np.testing.assert_allclose(result.score, golden["refined_dynamic_map"], atol=1e-4)
    bin_width = np.ptp(golden["upsampled_map"]) / 256
    assert abs(result.threshold - golden["threshold"]) <= bin_width
    assert iou(result.masks, golden["masks"]) >= 0.99


@pytest.mark.parametrize("name", ["pass1", "pass2"])
def test_the_seed_of_the_reference_gives_its_masks_to_the_pixel(name):
    golden = load_golden("pipeline", name)
    score, features = golden["dynamic_map"], golden["features"]

    def masks(seed: int) -> np.ndarray:
        return segment_dynamic(score, cluster_for(ScoreFormula(), features, seed), patch_size=16).masks

    np.testing.assert_array_equal(masks(REFERENCE_SEED), golden["masks"])
    np.testing.assert_array_equal(cluster_tokens(features, REFERENCE_SEED), golden["cluster_labels"])
    for seed in (0, 1, 7, REFERENCE_SEED + 1):
        assert (masks(seed) != golden["masks"]).mean() > 0.02


def test_golden_cluster_means_whatever_the_order_of_labels():
    fixture = load_golden("pipeline", "cluster_fixture")
    for seed in (0, 7):
        labels = cluster_tokens(fixture["features"], seed)
        np.testing.assert_allclose(cluster_means(fixture["dynamic_map"], labels), fixture["official_map"], atol=1e-4)


def test_cluster_means_against_a_loop():
    rng = np.random.default_rng(0)
    score, labels = rng.random((2, 3, 4)).astype(np.float32), rng.integers(0, 5, (2, 3, 4))
    slow = np.zeros_like(score)
    for label in range(5):
        slow[labels == label] = score[labels == label].mean()
    np.testing.assert_allclose(cluster_means(score, labels), min_max_per_frame(slow), atol=1e-6)


def test_several_clusterings_are_averaged():
    rng = np.random.default_rng(0)
    score, labels = rng.random((2, 3, 4)).astype(np.float32), rng.integers(0, 5, (3, 2, 3, 4))
    slow = np.zeros((3, *score.shape))
    for k, label in np.ndindex(3, 5):
        slow[k][labels[k] == label] = score[labels[k] == label].mean()
    np.testing.assert_allclose(cluster_means(score, labels), min_max_per_frame(slow.mean(0)), atol=1e-6)
    np.testing.assert_array_equal(cluster_means(score, labels[:1]), cluster_means(score, labels[0]))


def test_several_clusterings_depend_less_on_the_seed():
    rng = np.random.default_rng(1)
    features, score = rng.normal(size=(4, 12, 16, 8)).astype(np.float32), rng.random((4, 12, 16)).astype(np.float32)
    differences = {}
    for clusterings in (1, 8):
        formula = ScoreFormula(num_clusters=20, clusterings=clusterings)
        labels = [cluster_for(formula, features, seed) for seed in (0, 1)]
        assert labels[0].shape == (clusterings, 4, 12, 16) and labels[0].max() == 19
        differences[clusterings] = np.abs(np.subtract(*(cluster_means(score, one) for one in labels))).mean()
    assert differences[8] < 0.75 * differences[1], differences
    np.testing.assert_array_equal(labels[0][0], cluster_tokens(features, 0, 20))
    alone = cluster_for(ScoreFormula(num_clusters=20), features, 3)
    np.testing.assert_array_equal(alone, cluster_tokens(features, 3, 20)[None])


def test_neighbouring_seeds_share_no_clustering(monkeypatch):
    used = []
    monkeypatch.setattr(dynamic, "cluster_tokens", lambda features, seed, k: used.append(seed) or np.zeros((1, 1, 1)))
    formula = ScoreFormula(clusterings=8)
    for seed in (*range(40, 60), 2**32 - 1):
        cluster_for(formula, np.zeros((1, 1, 1, 1)), seed)
        assert used[-8] == seed
    assert len(set(used)) == len(used) and 0 <= min(used) and max(used) < 2**32


def blobs(num_points: int, num_blobs: int, dim: int, spread: float) -> np.ndarray:
    """Points around random centres, far from the origin."""
    rng = np.random.default_rng(0)
    centres = 30 + rng.normal(size=(num_blobs, dim))
    return (centres[rng.integers(num_blobs, size=num_points)] + spread * rng.normal(size=(num_points, dim))).astype(
        np.float32
    )


def test_clear_clusters_are_found():
    points, rng = blobs(40, 40, 8, 0.0), np.random.default_rng(1)
    own = np.unique(points, axis=0)
    whose = rng.integers(len(own), size=(1, 30, 30))
    features = own[whose] + 0.01 * rng.normal(size=(1, 30, 30, 8)).astype(np.float32)
    labels = cluster_tokens(features, 0, num_clusters=len(own))
    assert len(set(zip(labels.ravel().tolist(), whose.ravel().tolist()))) == len(own)


def test_the_seed_decides():
    features = blobs(500, 20, 4, 0.5).reshape(5, 10, 10, 4)
    np.testing.assert_array_equal(cluster_tokens(features, 3, 8), cluster_tokens(features, 3, 8))
    assert (cluster_tokens(features, 3, 8) != cluster_tokens(features, 4, 8)).any()


@pytest.mark.parametrize("fitted", [500, 32_768])
def test_features_of_half_precision_are_clustered(monkeypatch, fitted):
    """As the network leaves them: not contiguous, perhaps a slice of a file, and in parts where they are many."""
    features = torch.from_numpy(blobs(1200, 30, 8, 0.05).reshape(3, 20, 20, 8)).half()
    sizes, on_cpu = [], dynamic._on_cpu
    monkeypatch.setattr(dynamic, "_on_cpu", lambda tokens: sizes.append(len(tokens)) or on_cpu(tokens))
    monkeypatch.setattr(dynamic, "FITTED_TOKENS", fitted)
    labels = cluster_tokens(features.transpose(1, 2), 0, num_clusters=30)
    assert labels.shape == (3, 20, 20) and len(np.unique(labels)) == 30
    assert max(sizes) <= fitted


def test_features_on_a_gpu_give_the_labels_of_the_cpu_and_are_copied_once():
    features = torch.from_numpy(blobs(2400, 12, 16, 0.02).reshape(6, 20, 20, 16))
    formula = ScoreFormula(num_clusters=12, clusterings=3)
    with pretend_cuda() as counts:
        labels = cluster_for(formula, features.cuda(), 0)
        assert counts.to_host == 1
    np.testing.assert_array_equal(labels, cluster_for(formula, features, 0))


def test_fewer_tokens_than_clusters():
    features = np.arange(12, dtype=np.float32).reshape(1, 3, 4, 1) // 2
    assert len(np.unique(cluster_tokens(features, 0))) == 6


@pytest.mark.filterwarnings("error")
def test_a_plain_clip_is_clustered_without_a_word():
    features = np.zeros((20, 4, 4, 8), np.float32)
    features[:, 0, 0] = np.random.default_rng(0).normal(size=(20, 8))
    assert len(np.unique(cluster_tokens(features, 0)[:, 1:])) == 1


def test_a_long_clip_is_clustered_as_well_from_a_part_of_its_tokens(monkeypatch):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(150, 24))
    tokens = (centres[rng.integers(150, size=12_000)] + 0.4 * rng.normal(size=(12_000, 24))).astype(np.float32)
    features = tokens.reshape(30, 20, 20, 24)

    def scatter(labels: np.ndarray) -> float:
        groups = [tokens[labels.ravel() == k] for k in np.unique(labels)]
        return sum(((group - group.mean(axis=0)) ** 2).sum() for group in groups)

    whole = cluster_tokens(features, seed=0)
    monkeypatch.setattr("easi3r_ns.motion.attention.masks.FITTED_TOKENS", 6400)
    part = cluster_tokens(features, seed=0)
    assert part.shape == whole.shape and (part != whole).any()
    assert scatter(part) < 1.03 * scatter(whole)
    np.testing.assert_array_equal(part, cluster_tokens(features, seed=0))


def test_golden_enlarged_map():
    golden = load_golden("pipeline", "pass1")
    np.testing.assert_allclose(enlarge(golden["refined_dynamic_map"], 16), golden["upsampled_map"], atol=1e-5)


@pytest.mark.parametrize("name", REPORT["otsu_standalone"])
def test_golden_thresholds(name):
    score = load_golden("pipeline", "otsu_inputs")[name]
    assert clip_threshold(score) == pytest.approx(REPORT["otsu_standalone"][name]["threshold"], abs=np.ptp(score) / 256)


def test_constant_score_means_that_nothing_moves():
    score = np.zeros((2, 3, 4), dtype=np.float32)
    assert clip_threshold(score) == float("inf")
    assert not segment_dynamic(score, np.zeros((2, 3, 4), dtype=int), 8).masks.any()


def test_two_values_are_separated():
    score = np.zeros((1, 4, 4))
    score[0, 1, 1] = 1
    assert 0 <= clip_threshold(score) < 1


def test_golden_token_masks():
    pixels = load_golden("pipeline", "pass1")["masks"]
    np.testing.assert_array_equal(token_masks(pixels, 16), load_golden("pipeline", "pass2")["token_masks"])


def test_one_moving_pixel_moves_its_token():
    masks = np.zeros((1, 4, 6), dtype=bool)
    masks[0, 3, 5] = True
    np.testing.assert_array_equal(token_masks(masks, 2), [[[0, 0, 0], [0, 0, 1]]])


def threshold_naive(score: np.ndarray) -> float:
    """All at once, by the image itself: the plain twin of what goes through a clip in blocks."""
    best_separation, best_threshold = -np.inf, float("inf")
    for classes in (2, 3, 4):
        if classes > len(np.unique(score)):
            break
        thresholds = threshold_multiotsu(score, classes)
        labels = np.digitize(score, thresholds).ravel()
        counts = np.bincount(labels, minlength=classes)
        sums = np.bincount(labels, weights=score.ravel(), minlength=classes)
        separation = (sums[counts > 0] / counts[counts > 0]).var() / np.sqrt(classes)
        if separation > best_separation:
            best_separation, best_threshold = separation, float(thresholds[-1])
    return best_threshold


@pytest.mark.parametrize("seed", range(6))
def test_a_clip_in_blocks_gets_the_threshold_of_the_whole(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    score = rng.random((9, 6, 8)).astype(np.float32) ** rng.integers(1, 4)
    score[rng.random(score.shape) < 0.2] += np.float32(0.7)
    labels = rng.integers(0, 20, score.shape)
    whole = segment_dynamic(score, labels, 8)
    assert whole.threshold == threshold_naive(enlarge(cluster_means(score, labels), 8))
    monkeypatch.setattr(dynamic, "ENLARGED_PIXELS", 2 * 6 * 8 * 64)
    assert len(list(dynamic._EnlargedBlocks(score, 8))) == 5
    in_blocks = segment_dynamic(score, labels, 8)
    assert in_blocks.threshold == whole.threshold
    np.testing.assert_array_equal(in_blocks.masks, whole.masks)


def test_nothing_moves_where_flow_is_explained():
    rs = np.random.RandomState(0)
    score, labels = rs.rand(3, 6, 8).astype(np.float32), rs.randint(0, 40, (2, 3, 6, 8))
    plain = segment_dynamic(score, labels, 8)
    assert plain.masks.any()
    ones = np.ones_like(score)
    for residual, expected in ((ones, plain.masks), (0.9 * dynamic.LEAST_RESIDUAL * ones, False)):
        found = segment_dynamic(score, labels, 8, residual)
        np.testing.assert_array_equal(found.masks, np.broadcast_to(expected, plain.masks.shape))
        np.testing.assert_array_equal(found.score, plain.score)
    own = np.arange(score.size).reshape(1, *score.shape)
    half = ones.copy()
    half[:, :, :4] = 0
    found, all_of_it = (segment_dynamic(score, own, 8, r).masks for r in (half, None))
    assert not found[:, :, :28].any() and found[:, :, 36:].any()
    np.testing.assert_array_equal(found[:, :, 36:], all_of_it[:, :, 36:])
    one = np.zeros_like(labels[:1])
    np.testing.assert_array_equal(segment_dynamic(score, one, 8, half).masks, segment_dynamic(score, one, 8).masks)
