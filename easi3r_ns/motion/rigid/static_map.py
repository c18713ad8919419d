"""What all frames together say of the depth at which something static may stand in one of them.

A frame's own depth bounds it; and where other frames have measured a surface that this frame would see, nothing static
can lie behind it here. A depth that other frames look through belongs to something that was there for a while.
"""

from __future__ import annotations

import cv2
import numpy as np

from ...core.geometry import transform
from ...core.scene import Scene, sparse_depths
from ...core.surface import trusted_depth
from .prediction import DepthRange
from .rays import Rays

STEP = 2
"""Every second pixel in x and in y is carried from frame to frame."""
FRAME_GAPS = (1, 2, 4, 8, 16, 32)
"""Frames before and after that are compared: near ones see the same places, far ones when other things stood there."""
FEWEST_WITNESSES = 3
"""Frames that must have measured a surface in front, or must look through a depth."""
DEVIATIONS = 2.0
"""Deviations of the measured depth by which a surface may be nearer or farther."""
EDGE = 11
"""Side of the square in which the nearest and the farthest depth count: at an edge either surface may be meant."""
NEARER = 2.0
"""Factor by which something static may be nearer than the nearest of what was measured."""
NEAREST_QUANTILE = 0.005


def measured_still(scene: Scene) -> np.ndarray:
    """(F, H, W) bool: pixels whose depth is trusted and that do not move."""
    return np.stack([trusted_depth(scene, frame) > 0 for frame in range(len(scene))]) & ~scene.dynamic.masks


def has_static_depth(scene: Scene) -> bool:
    """Whether any depth or point of something static is there to predict flow from."""
    return bool(measured_still(scene).any()) or len(sparse_depths(scene)) > 0


class StaticMap:
    """Bounds of the depth of what stands still, frame by frame."""

    def __init__(self, scene: Scene, rays: Rays, sigma: float) -> None:
        """``sigma``: relative deviation of the scene's depth."""
        self._scene, self._rays, self._sigma = scene, rays, sigma
        self.known = measured_still(scene)
        """(F, H, W) bool: the depth of something static was measured."""
        depths = scene.depth[self.known] if self.known.any() else sparse_depths(scene)
        if not len(depths):
            raise ValueError("nothing static of the scene has a depth")
        self.typical = float(1 / np.median(depths))
        """Inverse depth in the middle of what is known."""
        self.largest = float(NEARER / np.quantile(depths, NEAREST_QUANTILE))
        """Inverse depth of the nearest static thing that is thought possible."""

    def own(self, frame: int) -> DepthRange:
        """(H, W) bounds by the frame's own depth alone."""
        known = self.known[frame]
        w = np.where(known, 1 / np.where(known, self._scene.depth[frame], 1), 0).astype(np.float32)
        window = np.ones((EDGE, EDGE), dtype=np.uint8)
        lowest = cv2.erode(np.where(known, w, np.float32(np.inf)), window)
        highest = cv2.dilate(w, window)
        slack = np.float32(np.exp(DEVIATIONS * self._sigma))
        return DepthRange(
            np.where(known, lowest / slack, 0).astype(np.float32),
            np.where(known, highest * slack, self.largest).astype(np.float32),
        )

    def bounds(self, frame: int) -> DepthRange:
        """(H, W) bounds by all frames."""
        own, known = self.own(frame), self.known[frame]
        farthest, front, through, agree = self._seen_by_others(frame)
        slack = np.float32(np.exp(DEVIATIONS * self._sigma))
        floor = np.where(np.isfinite(farthest), 1 / (farthest * slack), 0).astype(np.float32)
        surface = np.where(np.isfinite(farthest), slack / farthest, self.largest).astype(np.float32)
        gone = known & (through >= FEWEST_WITNESSES) & (through > agree)
        behind = known & (own.high < floor) & (front >= np.maximum(agree, FEWEST_WITNESSES))
        low = np.where(gone | behind, floor, np.maximum(own.low, np.minimum(floor, own.high)))
        high = np.where(gone, surface, np.where(behind, self.largest, own.high))
        return DepthRange(low.astype(np.float32), np.maximum(high, low).astype(np.float32))

    def _seen_by_others(self, frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of each pixel: depth behind which nothing static lies (inf where unknown); how many other frames have a
        surface in front of its own depth, look through it, and agree with it."""
        scene, shape = self._scene, self._scene.depth.shape[1:]
        small = tuple(-(-side // STEP) for side in shape)
        surfaces, through, agree = [], np.zeros(small, np.int32), np.zeros(small, np.int32)
        for other in self._others(frame):
            T = np.linalg.inv(scene.T_world_cam[frame]) @ scene.T_world_cam[other]
            surfaces.append(self._carried(other, frame, T))
            seen_through, agrees = self._compared(frame, other, np.linalg.inv(T))
            through += seen_through
            agree += agrees
        farthest = np.full(small, np.inf, dtype=np.float32)
        if len(surfaces) >= FEWEST_WITNESSES:
            nearest = np.partition(np.stack(surfaces), FEWEST_WITNESSES - 1, axis=0)[FEWEST_WITNESSES - 1]
            # At an edge the farther surface.
            farthest = np.asarray(cv2.dilate(nearest, np.ones((3, 3), np.uint8)), dtype=np.float32)
        own = np.where(self.known[frame], scene.depth[frame], np.float32(np.inf))[::STEP, ::STEP]
        front = np.zeros(small, np.int32)
        for surface in surfaces:
            front += surface * np.float32(np.exp(DEVIATIONS * self._sigma)) < own

        def full(values: np.ndarray) -> np.ndarray:
            return np.asarray(cv2.resize(values, shape[::-1], interpolation=cv2.INTER_NEAREST))

        return full(farthest), full(front), full(through), full(agree)

    def _others(self, frame: int) -> list[int]:
        wanted = (frame + side * gap for gap in FRAME_GAPS for side in (-1, 1))
        return [other for other in wanted if 0 <= other < len(self._scene)]

    def _points(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """(h, w, 3) points of every STEP-th pixel in the frame's camera, and (h, w) where they are known."""
        depth = self._scene.depth[frame][::STEP, ::STEP]
        rays = self._rays.of(float(self._scene.focals[frame]))[::STEP, ::STEP]
        points = np.concatenate([rays, np.ones_like(rays[..., :1])], axis=-1) * depth[..., None]
        return points, self.known[frame][::STEP, ::STEP]

    def _landing(self, points: np.ndarray, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """(N, 2) int pixels of the frame's full grid, and (N,) whether they lie in front of it and inside."""
        height, width = self._scene.depth.shape[1:]
        front = points[:, 2] > 0
        ideal = points[:, :2] / np.where(front, points[:, 2], 1)[:, None]
        pixels = self._rays.pixels(ideal, float(self._scene.focals[frame]))
        at = np.rint(np.clip(np.nan_to_num(pixels, nan=-1.0), -1, width + height)).astype(int)
        return at, front & (at >= 0).all(axis=1) & (at < (width, height)).all(axis=1)

    def _carried(self, other: int, frame: int, T_frame_other: np.ndarray) -> np.ndarray:
        """(h, w) depth in ``frame`` of the nearest surface that ``other`` measured; inf where it measured none."""
        points, known = self._points(other)
        moved = transform(T_frame_other, points[known].astype(float))
        at, inside = self._landing(moved, frame)
        near = np.full(known.shape, np.inf, dtype=np.float32)
        rows, columns = at[inside, 1] // STEP, at[inside, 0] // STEP
        np.minimum.at(near, (rows, columns), moved[inside, 2].astype(np.float32))
        return near

    def _compared(self, frame: int, other: int, T_other_frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(h, w) bool: ``other`` looks through the depth of ``frame``; it agrees with it."""
        points, known = self._points(frame)
        moved = transform(T_other_frame, points[known].astype(float))
        at, inside = self._landing(moved, other)
        depth = np.where(self.known[other], self._scene.depth[other], np.float32(np.inf))
        nearest = cv2.erode(depth, np.ones((3, 3), np.uint8))
        seen = nearest[at[inside, 1], at[inside, 0]]
        slack = np.exp(np.sqrt(2) * DEVIATIONS * self._sigma)
        ratio = seen / moved[inside, 2]
        through, agree = np.zeros(known.shape, bool), np.zeros(known.shape, bool)
        rows, columns = (axis[inside] for axis in np.nonzero(known))
        through[rows, columns] = np.isfinite(seen) & (ratio > slack)
        agree[rows, columns] = (ratio <= slack) & (ratio >= 1 / slack)
        return through, agree
