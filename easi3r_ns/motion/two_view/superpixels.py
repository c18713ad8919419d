"""Superpixels of a clip, and a vote of each superpixel with those that look alike.

After "Video segmentation by non-local consensus voting" (Faktor and Irani, BMVC 2014): a region's motion is uncertain,
but the same surface is seen in many frames. N superpixels over the whole clip.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import cKDTree
from skimage.segmentation import slic

PIXELS_PER_SEGMENT = 250
COLOUR_SCALE = 10.0
CONTRAST_SCALE = 17.0
EDGE_SCALE = 67.0
PLACE_SCALE = 0.08
"""Differences that weigh the same: Lab mean, Lab deviation, mean gradient (all in 8-bit units), and position (share of
the longer side)."""
NEIGHBOUR_SHARE = 0.8
"""Weight of the neighbours' mean score against a superpixel's own score."""
FLOW_LINK = 1.0
"""Weight of the superpixel that one flows to; a neighbour that looks exactly the same has weight 1."""
ROUNDS = 10


@dataclass(frozen=True)
class Superpixels:
    """N regions over all frames."""

    labels: np.ndarray
    """(F, H, W) int32 region of every pixel, counted through the clip."""
    features: np.ndarray
    """(N, 10) float32: Lab mean, Lab deviation, gradients and position, in comparable units."""
    centres: np.ndarray
    """(N, 2) float32 mean (x, y) in pixels."""

    def __len__(self) -> int:
        return len(self.features)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """(F, H, W) -> (N,) mean over each region."""
        flat = self.labels.ravel()
        sums = np.bincount(flat, weights=values.ravel(), minlength=len(self))
        return sums / np.maximum(np.bincount(flat, minlength=len(self)), 1)

    def paint(self, values: np.ndarray) -> np.ndarray:
        """(N,) -> (F, H, W) float32."""
        return values.astype(np.float32)[self.labels]


def make_superpixels(images: np.ndarray) -> Superpixels:
    """SLIC (Achanta et al., PAMI 2012) on every frame of (F, H, W, 3) uint8 RGB."""
    labels, features, centres, total = [], [], [], 0
    for image in images:
        own, columns, place = segment(image)
        features.append(columns)
        centres.append(place)
        labels.append((own + total).astype(np.int32))
        total += len(columns)
    return Superpixels(np.stack(labels), np.concatenate(features), np.concatenate(centres))


def segment(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One frame (H, W, 3) -> labels (H, W) from 0, features (K, 10) and centres (K, 2)."""
    own = slic(
        image,
        n_segments=max(1, image.shape[0] * image.shape[1] // PIXELS_PER_SEGMENT),
        compactness=12,
        sigma=0.7,
        max_num_iter=6,
        start_label=0,
        channel_axis=-1,
    )
    return own, *_describe(image, own)


def vote(
    superpixels: Superpixels, own: np.ndarray, trust: np.ndarray, links: np.ndarray, num_neighbours: int
) -> np.ndarray:
    """(N,) score of each region, averaged with the regions that look alike and those that it flows to.

    Args:
        own: (N,) each region's own score.
        trust: (N,) in [0, 1]: weight of each region's own score; with 0 it takes the mean of its neighbours.
        links: (N, L) region that each flows to in other frames, -1 for none.
        num_neighbours: regions that look alike and are asked.
    """
    count = min(num_neighbours + 1, len(superpixels))
    distances, neighbours = cKDTree(superpixels.features).query(superpixels.features, np.arange(1, count + 1))
    scale = max(float(np.median(distances[:, -1])), 1e-6)
    weights = np.exp(-((distances / scale) ** 2))
    weights[neighbours == np.arange(len(own))[:, None]] = 0
    neighbours = np.concatenate([neighbours, np.maximum(links, 0)], axis=1)
    weights = np.concatenate([weights, FLOW_LINK * (links >= 0)], axis=1) * trust[neighbours]
    total = weights.sum(axis=1, keepdims=True)
    weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    self_share = (1 - NEIGHBOUR_SHARE) * trust
    self_share = self_share / (self_share + NEIGHBOUR_SHARE)
    self_share = np.where(total[:, 0] > 0, self_share, 1.0)
    opinion = own
    for _ in range(ROUNDS):
        opinion = self_share * own + (1 - self_share) * (weights * opinion[neighbours]).sum(axis=1)
    return opinion


def _describe(image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features (K, 10) and centres (K, 2) of the K regions of one frame."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    height, width = labels.shape
    size = np.maximum(np.bincount(labels.ravel()), 1)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(labels.ravel(), weights=values.ravel(), minlength=len(size)) / size

    colour = [mean(lab[..., c]) for c in range(3)]
    contrast = [np.sqrt(np.maximum(mean(lab[..., c] ** 2) - colour[c] ** 2, 0)) for c in range(3)]
    edges = [mean(np.abs(cv2.Sobel(lab[..., 0], cv2.CV_32F, *order))) for order in ((1, 0), (0, 1))]
    rows, columns = np.mgrid[0:height, 0:width]
    centre = np.stack([mean(columns), mean(rows)], axis=1)
    parts = [
        np.stack(colour, axis=1) / COLOUR_SCALE,
        np.stack(contrast, axis=1) / CONTRAST_SCALE,
        np.stack(edges, axis=1) / EDGE_SCALE,
        centre / (PLACE_SCALE * max(height, width)),
    ]
    return np.concatenate(parts, axis=1).astype(np.float32), centre.astype(np.float32)
