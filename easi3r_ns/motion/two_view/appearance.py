"""Whether a pixel looks like the place at which it would be seen if it stood still.

Flow that breaks the camera's motion says that something moves only where the picture says so too: on weak texture and
over long gaps flow is off by pixels, the same in both directions, and the place that a static surface would have looks
no worse than the one that flow found.
"""

from __future__ import annotations

import cv2
import numpy as np

WINDOW_PX = 11
"""Side of the windows that are compared, about what a vector of DIS flow looks at."""
DEVIATION = 1 / np.sqrt(WINDOW_PX**2 - 3)
"""Standard deviation of a correlation of 0 over a window (Fisher, 1921); of r it is smaller by 1 - r^2."""
NOISE_VARIANCE = 4.0
"""Variance, in squared grey values, of the noise of a picture: windows that vary no more than that show nothing."""
BRIGHTNESS_STEP = 4 * float(np.sqrt(NOISE_VARIANCE))
"""Grey values by which the mean of a window may be farther off at the static place: more shows that another surface
is there, even where neither has texture."""
GAIN_STEP = 4
"""Only every fourth pixel in x and in y says how the exposure changed between the two."""


def looks_static(image: np.ndarray, other: np.ndarray, found: np.ndarray, static: np.ndarray) -> np.ndarray:
    """(H, W) bool: the static place in the other image looks as much like the pixel as the place that flow found, or
    less by no more than chance does.

    Windows are compared by their normalised cross-correlation, so that exposure does not count, and by how far their
    means are apart, so that plain surfaces count; outside the other image its border goes on.

    Args:
        image, other: (H, W, 3) uint8 RGB.
        found, static: (H, W, 2) pixels of the other image, (x, y).
    """
    own, there = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) for picture in (image, other))
    mean = _mean(own)
    spread = np.sqrt(np.maximum(_mean(own * own) - mean * mean, 0) + np.float32(NOISE_VARIANCE))

    def compared(place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(H, W) correlation with the window around that place, and (H, W) its mean."""
        x, y = (place[..., k].astype(np.float32) for k in (0, 1))
        seen = cv2.remap(there, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        mean_seen = _mean(seen)
        variance = np.maximum(_mean(seen * seen) - mean_seen * mean_seen, 0) + np.float32(NOISE_VARIANCE)
        likeness = (_mean(own * seen) - mean * mean_seen) / (spread * np.sqrt(variance))
        return likeness, mean_seen

    (right, bright), (at_rest, bright_at_rest) = compared(found), compared(static)
    gain = np.median(bright_at_rest[::GAIN_STEP, ::GAIN_STEP] / np.maximum(mean[::GAIN_STEP, ::GAIN_STEP], 1))
    as_bright = np.abs(bright_at_rest - gain * mean) <= np.abs(bright - gain * mean) + BRIGHTNESS_STEP
    return as_bright & (at_rest >= right - DEVIATION * (1 - right * right))


def _mean(values: np.ndarray) -> np.ndarray:
    return cv2.blur(values, (WINDOW_PX, WINDOW_PX))
