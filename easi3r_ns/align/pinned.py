"""Depth maps of a camera that does not leave its place: one scale for all, and one depth for what stands still."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..core.geometry import pixel_grid
from ..core.scene import CameraUncertainty
from .align import AlignResult

FUSED_FRAMES = 15
"""Frames of the clip, about, whose depths make that of a static pixel."""
FEWEST_PIXELS = 100
"""Static pixels that two frames must share for a ratio of their scales."""
_SCALE_STEP = 2
"""Only every other pixel in x and in y enters the ratio of scales."""


@dataclass(frozen=True)
class PinnedCameras:
    """Cameras about one centre."""

    R: np.ndarray
    """(F, 3, 3) camera-to-world, OpenCV axes."""
    focals: np.ndarray
    """(F,) horizontal, in network pixels."""
    principal_point: np.ndarray
    """(2,) network pixels, integer pixel centres."""
    pixel_aspect: float
    """Vertical over horizontal focal length."""
    uncertainty: CameraUncertainty

    @property
    def T_world_cam(self) -> np.ndarray:
        """(F, 4, 4), in the coordinates of the first camera."""
        T = np.tile(np.eye(4), (len(self.R), 1, 1))
        T[:, :3, :3] = self.R[0].T @ self.R
        return T


def pin_cameras(aligned: AlignResult, cameras: PinnedCameras, moving: np.ndarray) -> AlignResult:
    """The alignment with other cameras, and depths that agree with each other under them.

    The depth maps of single frames are brought to a common scale by the median ratio of what stands still. A static
    pixel then gets the median of what the frames that see it say; what moves keeps the depth of its own frame.

    Args:
        moving: (F, H, W) bool.
    """
    depth = _at_one_scale(aligned.depth, cameras, moving)
    static = ~moving & (depth > 0)
    fused = np.stack([_fused(depth, static, cameras, k) for k in range(len(depth))])
    return replace(
        aligned,
        T_world_cam=cameras.T_world_cam,
        focals=cameras.focals,
        depth=np.where(static, fused, depth).astype(np.float32),
        contradicted=aligned.contradicted & ~static,
        uncertainty=cameras.uncertainty,
    )


def _at_one_scale(depth: np.ndarray, cameras: PinnedCameras, moving: np.ndarray) -> np.ndarray:
    """(F, H, W) depths, every frame times a factor; the median factor is 1."""
    static = ~moving & (depth > 0)
    rows, ratios = [], []
    for i, j in _scale_pairs(len(depth)):
        there, seen = _seen_from(depth, static, cameras, j, i, _SCALE_STEP)
        own = depth[i, ::_SCALE_STEP, ::_SCALE_STEP]
        both = seen & static[i, ::_SCALE_STEP, ::_SCALE_STEP]
        if both.sum() >= FEWEST_PIXELS:
            row = np.zeros(len(depth))
            row[i], row[j] = 1, -1
            rows.append(row)
            ratios.append(float(np.median(np.log(there[both] / own[both]))))
    if not rows:
        return depth
    # Frames that share nothing with others keep their scale: the smallest solution leaves them at 0.
    logs = np.linalg.lstsq(np.stack(rows), np.array(ratios), rcond=None)[0]
    return depth * np.exp(logs - np.median(logs))[:, None, None].astype(np.float32)


def _scale_pairs(num_frames: int) -> Iterator[tuple[int, int]]:
    gap = 1
    while gap < num_frames:
        yield from ((i, i + gap) for i in range(0, num_frames - gap, max(1, gap // 2)))
        gap *= 2


def _fused(depth: np.ndarray, static: np.ndarray, cameras: PinnedCameras, k: int) -> np.ndarray:
    """(H, W) median over frames of the depth of what stands still, as frame ``k`` sees it; its own where none is."""
    step = max(1, len(depth) // FUSED_FRAMES)
    others = [j for j in range(k % step, len(depth), step) if j != k]
    stack = [np.where(static[k], depth[k], np.inf)]
    for j in others:
        there, seen = _seen_from(depth, static, cameras, j, k)
        stack.append(np.where(seen, there, np.inf))
    ordered = np.sort(np.stack(stack), axis=0)
    count = np.isfinite(ordered).sum(axis=0)
    middle = np.take_along_axis(ordered, np.maximum(count - 1, 0)[None] // 2, axis=0)[0]
    return np.where(count > 0, middle, depth[k])


def _seen_from(
    depth: np.ndarray, static: np.ndarray, cameras: PinnedCameras, source: int, target: int, step: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """What frame ``source`` says of the pixels of frame ``target``.

    Returns:
        (h, w) z-depth in the target, of every ``step``-th pixel, and (h, w) bool: the source sees it, at rest.
    """
    height, width = depth.shape[1:]
    there, here = (cameras.focals[k] * np.array([1.0, cameras.pixel_aspect]) for k in (source, target))
    plane = (pixel_grid(height, width)[::step, ::step] - cameras.principal_point) / here
    rays = np.concatenate([plane, np.ones_like(plane[..., :1])], axis=-1)
    turned = rays @ (cameras.R[source].T @ cameras.R[target]).T
    z = np.maximum(turned[..., 2], 1e-6)
    xy = np.rint(turned[..., :2] / z[..., None] * there + cameras.principal_point)
    inside = (turned[..., 2] > 0) & (xy >= 0).all(axis=-1) & (xy < [width, height]).all(axis=-1)
    column, row = np.moveaxis(np.where(inside[..., None], xy, 0).astype(int), -1, 0)
    return depth[source, row, column] / z, inside & static[source, row, column]
