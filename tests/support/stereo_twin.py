"""Textbook twin of the plane sweep: one pixel, one view, one plane at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from easi3r_ns.depth.agree import SAME, SURFACE
from easi3r_ns.depth.smooth import Smoothness
from easi3r_ns.depth.sweep import LEAST_WINDOW, NOISE


@dataclass(frozen=True)
class TwinView:
    """As :class:`easi3r_ns.depth.sweep.SweepView`, arrays on the CPU."""

    image: np.ndarray
    weight: np.ndarray
    sure: np.ndarray
    K: np.ndarray
    T_cam_world: np.ndarray


def seen_at(reference: TwinView, other: TwinView, x: int, y: int, inverse: float) -> tuple[float, float, float]:
    """Pixel of the reference at an inverse depth -> x, y and z-depth in the other view."""
    depth = 1 / inverse
    ray = np.linalg.inv(reference.K) @ np.array([x, y, 1.0])
    world = np.linalg.inv(reference.T_cam_world) @ np.append(depth * ray, 1.0)
    local = (other.T_cam_world @ world)[:3]
    u, v, w = other.K @ local
    return u / w, v / w, local[2]


def bilinear(image: np.ndarray, x: float, y: float) -> float:
    height, width = image.shape
    left, top = math.floor(x), math.floor(y)
    total = 0.0
    for row, row_share in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, share in ((left, 1 - (x - left)), (left + 1, x - left)):
            total += row_share * share * image[min(max(row, 0), height - 1), min(max(column, 0), width - 1)]
    return total


def nearest(image: np.ndarray, x: float, y: float) -> float:
    row, column = round(y), round(x)
    inside = 0 <= row < image.shape[0] and 0 <= column < image.shape[1]
    return float(image[row, column]) if inside else 0.0


def scores(reference: TwinView, others: Sequence[TwinView], inverse: np.ndarray, radius: int) -> np.ndarray:
    """(H, W) agreement at a surface of inverse depth (H, W): mean NCC of the better half of the views."""
    height, width = reference.image.shape
    of_views = []
    for other in others:
        seen, known = np.zeros((height, width)), np.zeros((height, width))
        for y in range(height):
            for x in range(width):
                u, v, _ = seen_at(reference, other, x, y, inverse[y, x])
                seen[y, x], known[y, x] = bilinear(other.image, u, v), nearest(other.sure, u, v)
        of_views.append(_correlations(reference, seen, known, radius))
    best = np.sort(np.stack(of_views), axis=0)[::-1][: max(1, len(others) // 2)]
    return best.mean(axis=0)


def _correlations(reference: TwinView, seen: np.ndarray, known: np.ndarray, radius: int) -> np.ndarray:
    height, width = reference.image.shape
    found = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            window = np.s_[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
            still = reference.weight[window] > 0
            if still.sum() < LEAST_WINDOW * (2 * radius + 1) ** 2 or not known[window][still].all():
                continue
            a, b = reference.image[window][still], seen[window][still]
            covariance = np.mean((a - a.mean()) * (b - b.mean()))
            found[y, x] = np.clip(covariance / np.sqrt((a.var() + NOISE**2) * (b.var() + NOISE**2)), 0, 1)
    return found


def smoothed(values: np.ndarray, image: np.ndarray, s: Smoothness) -> np.ndarray:
    """(D, H, W) scores -> the same, smoothed along eight directions; recursion as in Hirschmueller's equation 13."""
    planes, height, width = values.shape
    cost, total = 1 - values, np.zeros_like(values)
    for dy, dx in ((1, 0), (1, 1), (1, -1), (-1, 0), (-1, 1), (-1, -1), (0, 1), (0, -1)):
        path = np.zeros_like(cost)
        for y in range(height)[:: -1 if dy < 0 else 1]:
            for x in range(width)[:: -1 if dx < 0 else 1]:
                path[:, y, x] = cost[:, y, x]
                if not (0 <= y - dy < height and 0 <= x - dx < width):
                    continue
                before = path[:, y - dy, x - dx]
                jump = s.jump / (1 + abs(image[y, x] - image[y - dy, x - dx]) / s.edge)
                jump = min(max(jump, s.least_jump), s.jump)
                for d in range(planes):
                    ways = [before[d], before.min() + jump]
                    ways += [before[near] + s.step for near in (d - 1, d + 1) if 0 <= near < planes]
                    path[d, y, x] += min(ways) - before.min()
        total += path
    return 1 - total / 8


def agreeing(reference: TwinView, inverse: np.ndarray, others: Sequence[tuple[TwinView, np.ndarray]]) -> np.ndarray:
    """(H, W) number of other views that measured the same depth of the same point."""
    count = np.zeros(inverse.shape, dtype=int)
    for y, x in np.argwhere(inverse > 0):
        for other, measured in others:
            u, v, depth = seen_at(reference, other, x, y, inverse[y, x])
            there, between = nearest(measured, u, v), bilinear(measured, u, v)
            there = between if abs(between - there) < SURFACE * there else there
            # Relative to the depth that the other view measured.
            count[y, x] += there > 0 and abs(1 / there - depth) < SAME * depth
    return count
