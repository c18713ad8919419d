"""k-means with PyTorch, for tokens that lie on a GPU; on a CPU scikit-learn's is as good and as fast."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

MAX_ITERATIONS = 300
TOLERANCE = 1e-4
"""Squared shift of all centres, in mean variances of the channels, below which they stand still (as scikit-learn's)."""
PART = 65_536
"""Points whose distances to all centres are in memory at once."""


def fit_centres(points: Tensor, num_clusters: int, seed: int) -> Tensor:
    """Centres (K, D) of the clusters of points (n, D) float32, on their device (Lloyd 1982, greedy k-means++ start).

    The same seed gives the same centres. A cluster that loses all points starts again at the point farthest from its
    centre.

    Raises:
        ValueError: fewer points than clusters.
    """
    if len(points) < num_clusters:
        raise ValueError(f"{len(points)} points for {num_clusters} clusters")
    # Differences of large squares lose digits: the same trick as in scikit-learn.
    offset = points.mean(dim=0)
    points = points - offset
    tolerance = TOLERANCE * float(points.var(dim=0, unbiased=False).mean())
    centres = _spread_centres(points, num_clusters, np.random.default_rng(seed))
    labels = None
    for _ in range(MAX_ITERATIONS):
        before, old = labels, centres
        labels, distances = nearest(points, centres)
        centres = _means(points, labels, distances, num_clusters)
        if (before is not None and torch.equal(labels, before)) or float((centres - old).square().sum()) <= tolerance:
            break
    return centres + offset


def nearest(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Index (n,) of the nearest centre of each point, and the squared distance (n,) to it."""
    labels, distances = [], []
    for part in points.split(PART):
        squared = _squared_distances(part, centres)
        smallest, label = squared.min(dim=1)
        labels.append(label)
        distances.append(smallest)
    return torch.cat(labels), torch.cat(distances)


def _squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    products = points @ centres.T
    lengths = points.square().sum(dim=1, keepdim=True) + centres.square().sum(dim=1)
    return (lengths - 2 * products).clamp_min(0)


def _means(points: Tensor, labels: Tensor, distances: Tensor, num_clusters: int) -> Tensor:
    # A product with a 0-1 matrix: unlike scattered additions it gives the same sums every time on a GPU.
    sums = torch.zeros(num_clusters, points.shape[1], device=points.device)
    for part, label in zip(points.split(PART), labels.split(PART)):
        sums += torch.nn.functional.one_hot(label, num_clusters).to(points.dtype).T @ part
    counts = torch.bincount(labels, minlength=num_clusters)
    centres = sums / counts.clamp_min(1)[:, None]
    empty = (counts == 0).nonzero()[:, 0]
    if len(empty):
        centres[empty] = points[distances.topk(len(empty)).indices]
    return centres


def _spread_centres(points: Tensor, num_clusters: int, rng: np.random.Generator) -> Tensor:
    """Greedy k-means++ (Arthur and Vassilvitskii 2007): of some candidates, drawn by squared distance, the best."""
    trials = 2 + int(math.log(num_clusters))
    chosen = [int(rng.integers(len(points)))]
    closest = _squared_distances(points, points[chosen])[:, 0]
    for _ in range(num_clusters - 1):
        cumulated = closest.double().cumsum(0)
        drawn = torch.from_numpy(rng.random(trials)).to(closest.device, torch.float64) * cumulated[-1]
        candidates = torch.searchsorted(cumulated, drawn).clamp_max(len(points) - 1)
        remaining = torch.minimum(closest[:, None], _squared_distances(points, points[candidates]))
        best = int(remaining.sum(dim=0).argmin())
        chosen.append(int(candidates[best]))
        closest = remaining[:, best]
    return points[chosen]
