"""What the camera's motion alone does to the picture: a homography or a fundamental matrix, and how far flow is off.

The background is taken to be what reaches the border of the picture: the models are fitted, and chosen, there.
Pixels are (x, y) with integer centres; flow is in pixels of the same grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

Kind = Literal["homography", "fundamental"]

SAMPLE_STEP = 8
"""Pixels between the flow vectors that the models are fitted to."""
BORDER = 0.2
"""Share of the width and height, on each side, that counts as the border of the picture."""
FEWEST_SAMPLES = 20
"""Pairs with fewer consistent vectors are not used."""
NOISE_PX = 0.4
NOISE_PER_FLOW = 0.03
"""Deviation of the flow of a static surface from the model, for the choice between fits of one kind: at least NOISE_PX,
and NOISE_PER_FLOW of the median flow."""
DEVIATIONS_PER_MEDIAN = 1.4826
"""Standard deviation of a normal distribution over the median of its absolute values."""
_HOMOGRAPHY_TOLERANCE_PX = 1.0
_FUNDAMENTAL_TOLERANCE_PX = 0.5
_ITERATIONS = 2000
_CONFIDENCE = 0.999


@dataclass(frozen=True)
class Samples:
    """N flow vectors on which forward and backward flow agree."""

    start: np.ndarray
    """(N, 2) float32 pixels of the first frame."""
    end: np.ndarray
    """(N, 2) float32 pixels of the second frame."""
    border: np.ndarray
    """(N,) bool: starts near the border of the picture."""

    def __len__(self) -> int:
        return len(self.start)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) lengths of the vectors in pixels."""
        return np.linalg.norm(self.end - self.start, axis=1)

    @property
    def median_flow(self) -> float:
        """Median length of the vectors in pixels."""
        return float(np.median(self.lengths))


def sample(flow: np.ndarray, consistent: np.ndarray) -> Samples:
    """A lattice of the (H, W, 2) flow where it is ``consistent`` (H, W)."""
    height, width = consistent.shape
    lattice = np.zeros_like(consistent)
    lattice[SAMPLE_STEP // 2 :: SAMPLE_STEP, SAMPLE_STEP // 2 :: SAMPLE_STEP] = True
    rows, columns = np.nonzero(lattice & consistent)
    start = np.stack([columns, rows], axis=1).astype(np.float32)
    across, down = (columns + 0.5) / width, (rows + 0.5) / height
    border = (np.minimum(across, 1 - across) < BORDER) | (np.minimum(down, 1 - down) < BORDER)
    return Samples(start, start + flow[rows, columns], border)


def fit(kind: Kind, samples: Samples) -> np.ndarray | None:
    """(3, 3) model of the background's motion by MAGSAC (Barath et al., CVPR 2020), or None where there is none.

    Of the fits to all vectors and to those at the border, the one that explains more of the border. Something that
    moves may fill the middle, and a border may be sky only, so neither fit alone is safe.
    """
    candidates = [_magsac(kind, samples.start, samples.end)]
    if samples.border.sum() >= FEWEST_SAMPLES:
        candidates.append(_magsac(kind, samples.start[samples.border], samples.end[samples.border]))
    found = [model for model in candidates if model is not None]
    judged = samples.border if samples.border.sum() >= FEWEST_SAMPLES else np.ones(len(samples), dtype=bool)

    def unexplained(model: np.ndarray) -> float:
        error = distance(kind, model, samples.start[judged], samples.end[judged])
        return float(np.minimum(error / noise(samples), 2).sum())

    return min(found, key=unexplained) if found else None


def distance(kind: Kind, model: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(...) pixels by which (..., 2) -> (..., 2) disagrees with a model.

    For a homography the transfer error per axis; for a fundamental matrix the Sampson distance (Hartley and Zisserman,
    Multiple View Geometry, section 11.4.3).
    """
    if kind == "homography":
        place = static_place(kind, model, start, end)
        across, down = place[..., 0] - end[..., 0], place[..., 1] - end[..., 1]
        return np.sqrt((across * across + down * down) / 2)
    x, y, along = _mapped(model, start)
    x_back, y_back, _ = _mapped(model.T, end)
    off = x * end[..., 0] + y * end[..., 1] + along
    return np.abs(off) / np.sqrt(x * x + y * y + x_back * x_back + y_back * y_back + np.float32(1e-12))


def static_place(kind: Kind, model: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(..., 2) pixels at which (..., 2) ``start`` is seen if it stands still: of these places the nearest to ``end``.

    For a homography there is one; for a fundamental matrix a line.
    """
    x, y, z = _mapped(model, start)
    if kind == "homography":
        depth = np.where(np.abs(z) < 1e-6, np.float32(1e-6), z)
        return np.stack([x / depth, y / depth], axis=-1)
    off = (x * end[..., 0] + y * end[..., 1] + z) / np.maximum(x * x + y * y, np.float32(1e-20))
    return np.stack([end[..., 0] - x * off, end[..., 1] - y * off], axis=-1)


def _mapped(model: np.ndarray, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """model @ (x, y, 1), coordinate by coordinate: NumPy is slow over an axis of two or three."""
    x, y = xy[..., 0].astype(np.float32), xy[..., 1].astype(np.float32)
    first, second, third = (row[0] * x + row[1] * y + row[2] for row in model.astype(np.float32))
    return first, second, third


def noise(samples: Samples) -> float:
    """Pixels by which the flow of a static surface may miss a model of the background."""
    return max(NOISE_PX, NOISE_PER_FLOW * samples.median_flow)


def gric(kind: Kind, error: np.ndarray, deviation: float) -> float:
    """Geometric robust information criterion (Torr, 1998) per vector: smaller is the better model.

    ``error`` in pixels, ``deviation`` its scale. A homography fixes two of the four coordinates of a vector, a
    fundamental matrix one: for that it pays ln 4 more per vector.
    """
    dimension, parameters = {"homography": (2, 8), "fundamental": (3, 7)}[kind]
    misfit = np.minimum((error / deviation) ** 2, 2 * (4 - dimension)).sum()
    count = len(error)
    return float((misfit + np.log(4) * dimension * count + np.log(4 * count) * parameters) / count)


def homography_preferred(samples: Samples) -> float | None:
    """By how much GRIC prefers a homography to a fundamental matrix on the border of a pair; None: cannot tell."""
    if samples.border.sum() < FEWEST_SAMPLES:
        return None
    start, end = samples.start[samples.border], samples.end[samples.border]
    errors: dict[Kind, np.ndarray] = {}
    for kind in ("homography", "fundamental"):
        model = fit(kind, samples)
        if model is None:
            return None
        errors[kind] = distance(kind, model, start, end)
    # The fundamental matrix explains parallax and no parallax: what it leaves is the noise of this pair's flow. Flow
    # that is long need not be noisy: to call a share of its length noise would hide parallax of a pixel or two.
    deviation = max(NOISE_PX, DEVIATIONS_PER_MEDIAN * float(np.median(errors["fundamental"])))
    return gric("fundamental", errors["fundamental"], deviation) - gric("homography", errors["homography"], deviation)


def _magsac(kind: Kind, start: np.ndarray, end: np.ndarray) -> np.ndarray | None:
    if len(start) < FEWEST_SAMPLES:
        return None
    try:
        if kind == "homography":
            model, _ = cv2.findHomography(
                start, end, cv2.USAC_MAGSAC, _HOMOGRAPHY_TOLERANCE_PX, maxIters=_ITERATIONS, confidence=_CONFIDENCE
            )
        else:
            model, _ = cv2.findFundamentalMat(
                start, end, cv2.USAC_MAGSAC, _FUNDAMENTAL_TOLERANCE_PX, _CONFIDENCE, _ITERATIONS
            )
    except cv2.error:
        # Degenerate vectors (all on one line) make some OpenCV versions throw where others return nothing.
        return None
    return model if model is not None and model.shape == (3, 3) and np.isfinite(model).all() else None
