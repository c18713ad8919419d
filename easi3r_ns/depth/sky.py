"""Where a picture shows the sky: as far as a network predicts anything, of a sky's colour, and open to the top."""

from __future__ import annotations

import cv2
import numpy as np

FARTHEST = 0.05
"""Share of the range of the prediction, from its farthest end, within which a pixel may be sky."""
BEYOND, TYPICAL = 0.5, 0.05
"""Most inverse depth of the sky, as a share of the farthest and of the median that is known in the frame, whichever
allows more: a far wall is not sky, and far away the fit errs by more than what is seen there."""
NEAREST_SKY = 20.0
"""Metres: the same where nothing is known but metric predictions."""
BRIGHT, PALE, BLUE = 0.35, 0.25, 1.05
"""Least value of a sky's colour; saturation up to which it counts as cloud; least ratio of blue to red above that."""
ROUGH = 0.06
"""Most change of the grey value from pixel to pixel, smoothed: branches and roofs change more."""
RIM = 4
"""Pixels around smooth sky that belong to it where they are as far."""
LEAST_SHARE = 0.002
"""Of the picture: smaller pieces are no sky."""


def most_inverse(known: np.ndarray) -> float:
    """Inverse depth above which nothing is sky, by the (N,) inverse depths that are known in a frame."""
    if not len(known):
        return 1 / NEAREST_SKY
    return max(BEYOND * float(np.quantile(known, 0.02)), TYPICAL * float(np.median(known)))


def sky_pixels(image: np.ndarray, predicted: np.ndarray, inverse: np.ndarray, most: float) -> np.ndarray:
    """(H, W) bool: pixels of the sky in an upright picture.

    Args:
        image: (H, W, 3) uint8 RGB.
        predicted: (H, W) what the network says; larger is nearer.
        inverse: (H, W) inverse depth by the prediction, in scene units; NaN where there is none.
        most: see :func:`most_inverse`.
    """
    low, high = np.quantile(predicted, [0.0, 0.99])
    far = (predicted <= low + FARTHEST * (high - low)) & ~(inverse > most)
    candidate = far & sky_coloured(image)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(candidate.astype(np.uint8), connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= LEAST_SHARE * candidate.size
    top = stats[:, cv2.CC_STAT_TOP] <= 1
    open_to_top = large & top
    open_to_top[0] = False  # what is no candidate
    if count == 1:
        return np.zeros_like(candidate)
    # Beside a roof the sky is as far, and not smooth.
    grown = cv2.dilate(open_to_top[labels].astype(np.uint8), np.ones((2 * RIM + 1, 2 * RIM + 1), np.uint8))
    return (grown > 0) & far


def sky_coloured(image: np.ndarray) -> np.ndarray:
    """(H, W) bool: smooth, and bright grey or blue."""
    rgb = image.astype(np.float32) / 255
    value, least = rgb.max(axis=-1), rgb.min(axis=-1)
    saturation = np.divide(value - least, value, out=np.zeros_like(value), where=value > 0)
    pale = (saturation <= PALE) & (value >= max(BRIGHT, 0.55))
    blue = (rgb[..., 2] >= BLUE * rgb[..., 0]) & (rgb[..., 2] >= rgb[..., 1]) & (value >= BRIGHT)
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255, (0, 0), 1.5)
    change = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0, scale=0.125), cv2.Sobel(grey, cv2.CV_32F, 0, 1, scale=0.125))
    return (pale | blue) & (change <= ROUGH)
