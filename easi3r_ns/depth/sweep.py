"""Plane sweep: how well the neighbours of a view agree with it, for every depth that its pixels may have.

Written once for NumPy and torch, see :mod:`.arrays`. Depth is searched in inverse depth, in which steps move a pixel
evenly through the other images. Agreement is normalised cross-correlation (NCC) over a square window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .arrays import Array, Operations

NOISE = 1.0 / 255
"""Deviation of the sensor's noise, of grey values in [0, 1]: texture that is weaker says nothing."""
TINY = 1e-30
"""Against a division by zero; added to another number it changes nothing."""
LEAST_WINDOW = 0.4
"""Share of a window that must stand still and be inside the picture."""


@dataclass(frozen=True)
class SweepView:
    """One picture on a pinhole grid, pixel centres at integers, on the device."""

    image: Array
    """(H, W) grey values in [0, 1]."""
    weight: Array
    """(H, W) 1 where the picture is known and stands still, else 0."""
    sure: Array
    """(H, W) 1 where the pixels around it are so too, so that a place between them can be looked at."""
    K: np.ndarray
    """(3, 3)."""
    T_cam_world: np.ndarray
    """(4, 4)."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.image.shape
        return int(height), int(width)


@dataclass(frozen=True)
class ScoreWindow:
    """What NCC needs of the reference view, over the window around each pixel (H, W)."""

    weight: Array
    """(H, W) 1 for pixels that count, else 0."""
    weighted: Array
    """Image where the weight is 1, else 0."""
    scale: Array
    """1 / share of the window that counts, which is at least :data:`LEAST_WINDOW`."""
    mean: Array
    gain: Array
    """1 / deviation of the image in the window; 0 where too little of it counts."""
    radius: int


def make_window(ops: Operations, view: SweepView, radius: int) -> ScoreWindow:
    """Mean and deviation of a reference view, of the pixels with weight alone."""
    weighted = view.image * view.weight
    share = ops.box(view.weight, radius)
    enough = ops.mark(share >= LEAST_WINDOW)
    scale = 1.0 / ops.xp.clip(share, LEAST_WINDOW, 1.0)
    mean = ops.box(weighted, radius) * scale
    variance = ops.xp.clip(ops.box(weighted * view.image, radius) * scale - mean * mean, 0.0, 1.0)
    gain = enough / ops.xp.sqrt(variance + NOISE**2)
    return ScoreWindow(view.weight, weighted, scale, mean, gain, radius)


def correlation(ops: Operations, window: ScoreWindow, other: Array, known: Array) -> Array:
    """(H, W) NCC in [0, 1] of the reference with another picture that was brought onto its grid.

    Pixels of the reference without weight are left out of both windows. Where the rest is too little, or the other
    picture is not ``known`` (1, else 0) at all of it, and where they are anticorrelated: 0, as of unrelated pictures.
    """
    # In place where it can be: most of the time of a sweep goes into these few lines.
    weighted = other * window.weight
    mean = ops.box(weighted, window.radius)
    mean *= window.scale
    weighted *= other
    variance = ops.box(weighted, window.radius)
    variance *= window.scale
    variance -= mean * mean
    score = ops.box(window.weighted * other, window.radius)
    score *= window.scale
    mean *= window.mean
    score -= mean
    score *= window.gain
    score /= ops.xp.sqrt(ops.xp.clip(variance, 0.0, 1.0) + NOISE**2)
    score *= ops.none_within(window.weight > known, window.radius)
    return ops.xp.clip(score, 0.0, 1.0)


def best_half(ops: Operations, scores: Iterator[Array], count: int) -> Array:
    """(H, W) mean of the better half of ``count`` scores per pixel: views in which something hides it cost nothing."""
    wanted = max(1, count // 2)
    best: list[Array] = []
    for score in scores:
        for place, held in enumerate(best):
            best[place], score = ops.xp.maximum(held, score), ops.xp.minimum(held, score)
        if len(best) < wanted:
            best.append(score)
    return sum(best[1:], start=best[0]) / len(best)


def plane_scores(
    ops: Operations, reference: SweepView, others: Sequence[SweepView], inverse_depths: np.ndarray, radius: int
) -> Array:
    """(D, H, W) agreement in [0, 1] at planes of equal depth, each of which moves a picture by a homography."""
    window = make_window(ops, reference, radius)
    motions = [_motion(reference, other) for other in others]

    def scores(inverse_depth: float) -> Iterator[Array]:
        for other, (A, b) in zip(others, motions, strict=True):
            H = A.copy()
            # Pixels are (x, y, 1): what is added to all of them alike stands in the last column.
            H[:, 2] += inverse_depth * b
            warped = ops.warp(other.image, H, reference.size)
            yield correlation(ops, window, warped, ops.warp_nearest(other.sure, H, reference.size))

    return ops.xp.stack([best_half(ops, scores(float(d)), len(others)) for d in inverse_depths])


def surface_scores(
    ops: Operations,
    reference: SweepView,
    others: Sequence[SweepView],
    inverse_depth: Array,
    offsets: np.ndarray,
    radius: int,
) -> Array:
    """(N, H, W) agreement at a surface of inverse depth (H, W), moved by each of N offsets of inverse depth.

    The window follows the surface, so that slanted and curved ones match as well as those that face the camera.
    """
    window = make_window(ops, reference, radius)
    places = [seen_at(ops, reference, other) for other in others]

    def scores(inverse: Array) -> Iterator[Array]:
        for other, place in zip(others, places, strict=True):
            x, y, _ = place(inverse)
            yield correlation(ops, window, ops.look_up(other.image, x, y), ops.look_up_nearest(other.sure, x, y))

    return ops.xp.stack([best_half(ops, scores(inverse_depth + float(step)), len(others)) for step in offsets])


def peak(ops: Operations, values: Array) -> tuple[Array, Array, Array]:
    """The largest of (D, H, W) values: its plane (H, W) int64, the place of the parabola's top about it in planes
    (at most half a plane away; 0 at the first and last), and the value itself."""
    xp = ops.xp
    planes = len(values)
    index = xp.argmax(values, 0)
    inner = xp.clip(index, 1, planes - 2)
    below, top, above = (ops.take(values, inner + step) for step in (-1, 0, 1))
    bend = 2 * top - below - above
    shift = 0.5 * (above - below) / xp.clip(bend, 1e-6, 4.0)
    shift = xp.clip(shift, -0.5, 0.5) * (index == inner)
    return index, shift, ops.take(values, index)


def travel(reference: SweepView, other: SweepView, low: float, high: float) -> float:
    """Pixels by which the reference's middle moves in the other view between two inverse depths."""
    A, b = _motion(reference, other)
    height, width = reference.size
    middle = A @ [(width - 1) / 2, (height - 1) / 2, 1.0]
    ends = [middle + inverse * b for inverse in (low, high)]
    return float(np.linalg.norm(ends[0][:2] / ends[0][2] - ends[1][:2] / ends[1][2]))


def _motion(reference: SweepView, other: SweepView) -> tuple[np.ndarray, np.ndarray]:
    """A (3, 3), b (3,): pixel p of the reference at inverse depth d is seen at A p + d b (homogeneous)."""
    T = other.T_cam_world @ np.linalg.inv(reference.T_cam_world)
    return other.K @ T[:3, :3] @ np.linalg.inv(reference.K), other.K @ T[:3, 3]


def seen_at(ops: Operations, reference: SweepView, other: SweepView) -> Callable[[Array], tuple[Array, Array, Array]]:
    """Where the other view sees the reference's pixels, as a function of their inverse depths (H, W).

    It gives x, y, and the reference's z-depth divided by that in the other view, (H, W) each.
    """
    A, b = _motion(reference, other)
    height, width = reference.size
    x, y = (axis.astype(np.float64) for axis in np.meshgrid(np.arange(width), np.arange(height)))
    across, down, depth = ops.put(np.stack([row[0] * x + row[1] * y + row[2] for row in A]))
    bx, by, bz = (float(value) for value in b)

    def place(inverse: Array) -> tuple[Array, Array, Array]:
        # What lies exactly beside the other camera, at a right angle to its axis, is seen nowhere.
        scale = 1.0 / (depth + bz * inverse + TINY)
        return (across + bx * inverse) * scale, (down + by * inverse) * scale, scale

    return place
