"""Masks of what moves, drawn to the edges of colour in the picture: :func:`snap_to_edges`.

Optical flow is smooth across the border of what moves, so a mask from flow is wrong by some pixels there, mostly too
wide. Colours are not: GrabCut (Rother, Kolmogorov and Blake, SIGGRAPH 2004) decides in a band along the border.
"""

from __future__ import annotations

import cv2
import numpy as np

BAND = 0.01
"""How far the border of a mask may move, to either side, as a share of the longer side of the picture: the pixels by
which flow misses borders. See examples/results/masks.md."""
SURROUNDINGS = 0.08
"""How far around a region colours count as background, as a share of the longer side."""
ROUNDS = 1
"""Rounds of GrabCut: more change the score by 0.001."""
FEWEST_PIXELS = 50
"""Smaller regions stay as they are: there are five colours in GrabCut's mixtures."""
LEAST_KEPT = 0.5
"""A region of which GrabCut would leave less has the colours of what is behind it, and stays as it is."""


def snap_to_edges(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Masks whose borders lie where the colours change.

    Each region of each frame is cut out on its own, by its own colours and those around it. Its border moves by at most
    :data:`BAND` to either side, so a region neither vanishes nor spreads.

    Args:
        images: (F, H, W, 3) uint8 RGB.
        masks: (F, H, W) bool, True where something moves.

    Returns:
        (F, H, W) bool.
    """
    return np.stack([_snap(image, mask) for image, mask in zip(images, masks, strict=True)])


def _snap(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    longer = max(mask.shape)
    band, margin = max(2, round(BAND * longer)), round(SURROUNDINGS * longer)
    # Regions whose bands meet are one region: neither may claim the other as its background.
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(cv2.dilate(mask.astype(np.uint8), disc(band)))
    out = np.zeros_like(mask)
    for label, (x, y, width, height, _) in enumerate(boxes[1:], 1):
        window = np.s_[max(0, y - margin) : y + height + margin, max(0, x - margin) : x + width + margin]
        out[window] |= _cut_out(image[window], mask[window] & (labels[window] == label), band)
    return out


def _cut_out(image: np.ndarray, own: np.ndarray, band: int) -> np.ndarray:
    """One region (h, w) within its surroundings, by colour."""
    seeds = np.full(own.shape, cv2.GC_BGD, dtype=np.uint8)
    seeds[cv2.dilate(own.astype(np.uint8), disc(band)) > 0] = cv2.GC_PR_BGD
    seeds[own] = cv2.GC_PR_FGD
    sure = cv2.erode(own.astype(np.uint8), disc(band)) > 0
    seeds[sure] = cv2.GC_FGD
    if own.sum() < FEWEST_PIXELS or not sure.any() or not (seeds == cv2.GC_BGD).any():
        return own
    cv2.setRNGSeed(0)
    mixtures = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(np.ascontiguousarray(image), seeds, (0, 0, 1, 1), *mixtures, ROUNDS, cv2.GC_INIT_WITH_MASK)
    cut = (seeds == cv2.GC_FGD) | (seeds == cv2.GC_PR_FGD)
    return cut if (cut & own).sum() >= LEAST_KEPT * own.sum() else own


def disc(radius: int) -> np.ndarray:
    """(2 radius + 1, 2 radius + 1) uint8: 1 in a circle, for OpenCV's morphology."""
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
