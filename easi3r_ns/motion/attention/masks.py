"""From a dynamic score per token to masks of what moves (Easi3R, arXiv:2503.24391, section 3.2).

Letters in shapes: F frames, h x w tokens, D feature channels, H x W pixels = patch size times h x w.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from skimage.filters import threshold_multiotsu
from skimage.measure import block_reduce
from torch.nn.functional import interpolate

from ...core.score import NUM_CLUSTERS, ScoreFormula
from ...core.types import DynamicMasks
from ..cut import over_cut
from .statistics import min_max_per_frame

FITTED_TOKENS = 32_768
"""Tokens on which the clusters are fitted; of longer clips a random part, the rest only joins its nearest cluster."""
REFERENCE_SEED = 42
"""Seed of k-means in the reference implementation of Easi3R: the same features give the reference's masks."""
SEED_STEP = 2**16
"""Between the seeds of several clusterings of one clip."""
MOST_SEEDS = 2**32
"""Seeds that k-means takes, from 0 on."""
OTSU_CLASSES = (2, 3, 4)
HISTOGRAM_BINS = 256
"""Bins of the histogram in which thresholds are sought: scikit-image's default."""
LEAST_RESIDUAL = 0.25
"""Nothing moves where the mean flow residual of a cluster, in the units of
:func:`~easi3r_ns.motion.two_view.flow_residual`, is smaller. In rendered static clips about one token in twenty reaches
it, but hardly any cluster."""
ENLARGED_PIXELS = 2**22
"""Approximate number of pixels of the enlarged score that are in memory at once."""


def segment_dynamic(
    score: np.ndarray, labels: np.ndarray, patch_size: int, flow_residual: np.ndarray | None = None
) -> DynamicMasks:
    """Average a dynamic score over clusters, enlarge it and threshold it.

    Args:
        score: (F, h, w) in [0, 1].
        labels: (F, h, w) clusters of the same tokens, from :func:`cluster_tokens`, or (N, F, h, w) several
            clusterings of them, from :func:`cluster_for`.
        patch_size: pixels per token side.
        flow_residual: (F, h, w) in [0, 1], where the score has it as a factor: nothing moves where its mean over the
            clusters is below :data:`LEAST_RESIDUAL`. The score is stretched in every frame, and without this something
            would move in every frame of a static clip.

    Returns:
        Masks at the network's resolution, and the clustered score per token.
    """
    clustered = cluster_means(score, labels)
    blocks = _EnlargedBlocks(clustered, patch_size)
    threshold = _threshold_of(blocks)
    masks = np.concatenate([block > threshold for block in blocks])
    kept = np.concatenate([over_cut(block, threshold) for block in blocks])
    if flow_residual is not None:
        unexplained = _EnlargedBlocks(_means_over_clusters(flow_residual, labels), patch_size)
        masks &= np.concatenate([block > LEAST_RESIDUAL for block in unexplained])
        kept = np.minimum(kept, np.concatenate([over_cut(block, LEAST_RESIDUAL) for block in unexplained]))
    return DynamicMasks(masks=masks, score=clustered, threshold=threshold, over_cut=kept)


@dataclass(frozen=True)
class _EnlargedBlocks:
    """The enlarged score, some frames at a time: that of a long clip would fill the memory several times over."""

    score: np.ndarray
    """(F, h, w)."""
    patch_size: int

    def __iter__(self) -> Iterator[np.ndarray]:
        frames = max(1, ENLARGED_PIXELS // (self.score[0].size * self.patch_size**2))
        for start in range(0, len(self.score), frames):
            yield enlarge(self.score[start : start + frames], self.patch_size)


def cluster_for(formula: ScoreFormula, features: np.ndarray | torch.Tensor, seed: int) -> np.ndarray:
    """The clusterings that a formula asks for: (F, h, w, D) encoder features -> (N, F, h, w) labels.

    Args:
        seed: of the first clustering, see :func:`cluster_tokens`; that of clustering k is k * :data:`SEED_STEP` larger.
            Two seeds have no clustering in common unless they differ by a multiple of that.
    """
    features = torch.as_tensor(features).cpu()  # once for all clusterings
    seeds = [(seed + k * SEED_STEP) % MOST_SEEDS for k in range(formula.clusterings)]
    return np.stack([cluster_tokens(features, s, formula.num_clusters) for s in seeds])


def cluster_tokens(features: np.ndarray | torch.Tensor, seed: int, num_clusters: int = NUM_CLUSTERS) -> np.ndarray:
    """k-means over all tokens of the clip: (F, h, w, D) encoder features -> (F, h, w) int32 labels.

    scikit-learn's, on the CPU wherever the features are, with one k-means++ start drawn with ``seed`` and features as
    they are (not standardised). With :data:`REFERENCE_SEED` that is the call of the reference implementation, and the
    labels are the same.

    The labels depend on the features only, so both passes share them. Clips with fewer distinct tokens than clusters
    get one cluster per distinct token. The centres are fitted on at most :data:`FITTED_TOKENS` tokens: 500 a cluster
    place them as well as all do. Features in half precision, memory-mapped or on a GPU are converted in parts of that
    size.
    """
    # 100 MB and a second, which a run without a network saves.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    tokens = torch.as_tensor(features).flatten(0, 2)
    distinct = len(torch.unique(tokens, dim=0)) if len(tokens) <= 4 * num_clusters else num_clusters
    fitted = tokens
    if len(tokens) > FITTED_TOKENS:
        rows = np.sort(np.random.default_rng(seed).choice(len(tokens), FITTED_TOKENS, replace=False))
        fitted = tokens[torch.from_numpy(rows).to(tokens.device)]
    kmeans = KMeans(min(num_clusters, distinct), n_init=1, random_state=seed)
    with warnings.catch_warnings():
        # Fewer distinct tokens than clusters (a clip with much plain black): the surplus clusters stay empty.
        warnings.simplefilter("ignore", ConvergenceWarning)
        kmeans.fit(_on_cpu(fitted))
    if fitted is tokens:
        labels = kmeans.labels_
    else:
        parts = tokens.tensor_split(-(-len(tokens) // FITTED_TOKENS))
        labels = np.concatenate([kmeans.predict(_on_cpu(part)) for part in parts])
    return labels.reshape(features.shape[:-1])


def _on_cpu(tokens: torch.Tensor) -> np.ndarray:
    """(n, D) float32, contiguous."""
    return tokens.to("cpu", torch.float32).contiguous().numpy()


def cluster_means(score: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Give every token the mean score of its cluster over the whole clip; (F, h, w), stretched to [0, 1] per frame.

    Of several clusterings, ``labels`` (N, F, h, w), the mean.
    """
    return min_max_per_frame(_means_over_clusters(score, labels))


def _means_over_clusters(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(F, h, w) -> the same shape, not stretched."""
    clusterings = labels.reshape(-1, *values.shape)
    total = np.zeros(values.shape)
    for one in clusterings:
        flat = one.ravel()
        means = np.bincount(flat, weights=values.ravel()) / np.maximum(np.bincount(flat), 1)
        total += means[one]
    return total / len(clusterings)


def enlarge(score: np.ndarray, patch_size: int) -> np.ndarray:
    """(F, h, w) tokens -> (F, H, W) pixels, bilinear, with token centres where they are (align_corners=False)."""
    tokens = torch.from_numpy(np.ascontiguousarray(score, dtype=np.float32))[:, None]
    return interpolate(tokens, scale_factor=patch_size, mode="bilinear", align_corners=False)[:, 0].numpy()


def clip_threshold(score: np.ndarray) -> float:
    """One threshold for the clip: multi-Otsu with 2, 3 and 4 classes; of the best separated, the highest threshold.

    The separation is var(class means) / sqrt(classes). A score with less than two values has nothing to separate:
    infinity, so that nothing moves.
    """
    return _threshold_of([score])


def _threshold_of(blocks: Iterable[np.ndarray]) -> float:
    """:func:`clip_threshold` of a score that comes in blocks, which can be gone through several times."""
    ranges = [(block.min(), block.max()) for block in blocks]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    values: set[float] = set()
    counts = np.zeros(HISTOGRAM_BINS, dtype=np.int64)
    for block in blocks:
        if len(values) < max(OTSU_CLASSES):
            values.update(np.unique(block)[: max(OTSU_CLASSES)].tolist())
        in_block, edges = np.histogram(block, bins=HISTOGRAM_BINS, range=(low, high))
        counts += in_block
    best_separation, best_threshold = -np.inf, float("inf")
    for classes in OTSU_CLASSES:
        if classes > len(values):
            break
        thresholds = threshold_multiotsu(classes=classes, hist=(counts, (edges[:-1] + edges[1:]) / 2))
        means = _class_means(blocks, thresholds)
        separation = means.var() / np.sqrt(classes)
        if separation > best_separation:
            best_separation, best_threshold = separation, float(thresholds[-1])
    return best_threshold


def _class_means(blocks: Iterable[np.ndarray], thresholds: np.ndarray) -> np.ndarray:
    """Mean of the values between the thresholds, for every class that has any."""
    classes = len(thresholds) + 1
    counts, sums = np.zeros(classes, dtype=np.int64), np.zeros(classes)
    for block in blocks:
        labels = np.digitize(block, thresholds).ravel()
        counts += np.bincount(labels, minlength=classes)
        sums += np.bincount(labels, weights=block.ravel(), minlength=classes)
    return sums[counts > 0] / counts[counts > 0]


def token_masks(masks: np.ndarray, patch_size: int) -> np.ndarray:
    """(F, H, W) bool -> (F, h, w) bool: a token moves as soon as one of its pixels does."""
    return block_reduce(masks, (1, patch_size, patch_size), np.max)


def static_masks(num_frames: int, height: int, width: int, patch_size: int) -> DynamicMasks:
    """Masks in which nothing moves."""
    score = np.zeros((num_frames, height // patch_size, width // patch_size), dtype=np.float32)
    return DynamicMasks(np.zeros((num_frames, height, width), dtype=bool), score, float("nan"), source="none")
