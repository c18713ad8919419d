"""k-means with PyTorch against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from easi3r_ns.motion.attention import masks as dynamic
from easi3r_ns.motion.attention.kmeans import fit_centres, nearest


def blobs(num_points: int, num_blobs: int, dim: int, spread: float) -> np.ndarray:
    """Points around random centres, far from the origin."""
    rng = np.random.default_rng(0)
    centres = 30 + rng.normal(size=(num_blobs, dim))
    return (centres[rng.integers(num_blobs, size=num_points)] + spread * rng.normal(size=(num_points, dim))).astype(
        np.float32
    )


def test_as_compact_as_scikit_learn_s():
    points = blobs(6000, 150, 32, 0.4)
    ours = [
        float(nearest(torch.from_numpy(points), fit_centres(torch.from_numpy(points), 64, s))[1].sum()) for s in (0, 1)
    ]
    theirs = [KMeans(64, n_init=1, random_state=seed).fit(points).inertia_ for seed in range(4)]
    assert np.mean(ours) < 1.01 * np.mean(theirs)


def test_clear_clusters_are_found_exactly():
    points, rng = blobs(40, 40, 8, 0.0), np.random.default_rng(1)
    many = torch.from_numpy(points[rng.integers(40, size=900)] + 0.01 * rng.normal(size=(900, 8)).astype(np.float32))
    labels, distances = nearest(many, fit_centres(many, len(np.unique(points, axis=0)), 0))
    assert float(distances.max()) < 0.02
    whose = torch.cdist(many, torch.from_numpy(np.unique(points, axis=0))).argmin(dim=1)
    assert len(set(zip(labels.tolist(), whose.tolist()))) == len(np.unique(points, axis=0))


def test_the_seed_decides(monkeypatch):
    points = torch.from_numpy(blobs(500, 20, 4, 0.5))
    assert torch.equal(fit_centres(points, 8, 3), fit_centres(points, 8, 3))
    assert not torch.equal(fit_centres(points, 8, 3), fit_centres(points, 8, 4))
    whole = fit_centres(points, 8, 3)
    monkeypatch.setattr("easi3r_ns.motion.attention.kmeans.PART", 64)
    torch.testing.assert_close(fit_centres(points, 8, 3), whole)


def test_nearest_against_all_distances():
    points, centres = torch.randn(50, 6), torch.randn(7, 6)
    labels, squared = nearest(points, centres)
    distances = torch.cdist(points, centres)
    assert torch.equal(labels, distances.argmin(dim=1))
    torch.testing.assert_close(squared, distances.amin(dim=1).square(), atol=1e-5, rtol=1e-4)


def test_plain_tokens_and_too_few_points():
    plain = torch.zeros(200, 3)
    plain[:3] = torch.eye(3)
    centres = fit_centres(plain, 8, 0)
    assert bool(torch.isfinite(centres).all())
    assert float(nearest(plain, centres)[1].max()) < 1e-6
    with pytest.raises(ValueError, match="3 points for 4 clusters"):
        fit_centres(torch.zeros(3, 2), 4, 0)


def test_tokens_on_another_device_are_clustered_there(monkeypatch):
    """The device's path, run on the CPU: the labels group as those of the CPU's path do."""
    points = blobs(2400, 12, 16, 0.02)
    features = torch.from_numpy(points.reshape(6, 20, 20, 16))
    on_cpu = dynamic.cluster_tokens(features, 0, num_clusters=12)

    monkeypatch.setattr(dynamic, "_labels_on_cpu", dynamic._labels_on_gpu)
    ours = dynamic.cluster_tokens(features, 0, num_clusters=12)
    inertia = []
    for labels in (on_cpu, ours):
        groups = [points[labels.ravel() == k] for k in np.unique(labels)]
        inertia.append(sum(((group - group.mean(axis=0)) ** 2).sum() for group in groups))
    assert inertia[1] < 1.01 * inertia[0]


def test_features_of_half_precision_are_clustered_in_parts(monkeypatch):
    points = blobs(1200, 30, 8, 0.05)
    features = torch.from_numpy(points.reshape(3, 20, 20, 8))
    monkeypatch.setattr(dynamic, "FITTED_TOKENS", 500)
    labels = dynamic.cluster_tokens(features.half(), 0, num_clusters=30)
    assert labels.shape == (3, 20, 20) and len(np.unique(labels)) == 30
