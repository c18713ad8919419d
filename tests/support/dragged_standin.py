"""A stand-in that errs as DUSt3R does when things move: what moves drags the relative pose of a pair along."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from easi3r_ns.core.geometry import transform
from easi3r_ns.core.types import PixelMap
from easi3r_ns.network.config import DUSt3RConfig
from easi3r_ns.training.scenes import Clip, correspondences
from tests.support.align_scene import smooth_field
from tests.support.standin import StandIn

NETWORK = DUSt3RConfig(8, 16, 1, 1, 16, 1, 1, head_type="linear", image_size=128)


@dataclass(frozen=True)
class Errors:
    """How wrong the network is, beside the movers.

    Rotation and translation each move the picture by about a quarter of a pixel at 128 pixels, one at 512.
    """

    warp: float = 0.02
    """Deviation of a smooth relative error of every frame's depths, the same in all its pairs."""
    rotation_deg: float = 0.15
    """Deviation of the relative rotation of a pair about each axis."""
    translation: float = 0.002
    """Deviation of the relative position of a pair along each axis, in units of the clip's median depth."""
    focal: float = 0.02
    """Relative deviation of the focal length that the points of a clip tell."""
    grain: float = 0.003
    """Relative deviation of every single point."""
    dragged: bool = True
    """Whether movers drag the relative pose along, unless their tokens are silenced."""


class DraggedStandIn(StandIn):
    """True pointmaps with errors; the pose of view j is a least-squares fit over what both views show.

    A network that takes the world for rigid finds the motion that brings the points of view j to those of view i, over
    static and moving surfaces alike. Points in silenced tokens of either view take no part. With the true masks the
    fit is exact, with none it is dragged by the movers, with poor masks it is in between.
    """

    def __init__(self, clip: Clip, errors: Errors = Errors()) -> None:
        height, width = clip.depth.shape[1:]
        pixel_map = PixelMap((width, height), (width, height), (0, 0, width, height))
        super().__init__(clip, pixel_map, NETWORK, errors.grain)
        self.clip, self.errors = clip, errors
        self.true_points = self.points
        rng = np.random.default_rng([clip.seed % 2**32, 5])
        warps = np.stack([smooth_field(height, width, rng) for _ in range(len(clip))])
        self.points = self.points * (1 + errors.warp * warps[..., None])
        self.points[..., :2] *= 1 + errors.focal * rng.standard_normal()
        self.unit = float(np.median(clip.depth))

    def relative_pose(self, i: int, j: int, silenced: list[torch.Tensor] | None) -> np.ndarray:
        """See :meth:`StandIn.relative_pose`."""
        T = self.fitted_pose(i, j, silenced) if self.errors.dragged else super().relative_pose(i, j, silenced)
        rng = np.random.default_rng([self.clip.seed % 2**32, i, j, 6])
        wrong = np.eye(4)
        wrong[:3, :3] = Rotation.from_rotvec(rng.normal(0, np.radians(self.errors.rotation_deg), 3)).as_matrix()
        wrong[:3, 3] = rng.normal(0, self.errors.translation * self.unit, 3)
        return T @ wrong

    def fitted_pose(self, i: int, j: int, silenced: list[torch.Tensor] | None) -> np.ndarray:
        """(4, 4) least-squares rigid motion of the points of view j to those of view i, over what both views show."""
        clip = self.clip
        landing, used = correspondences(clip, i, j)
        motion = clip.T_world_object[j] @ np.linalg.inv(clip.T_world_object[i])
        to_j = np.linalg.inv(clip.T_world_cam[j]) @ motion[clip.object_id[i]]
        in_j = (to_j[..., :3, :3] @ clip.points(i)[..., None])[..., 0] + to_j[..., :3, 3]
        if silenced is not None:
            heard = [~self._pixels(tokens) for tokens in silenced]
            column, row = np.moveaxis(np.where(used[..., None], np.round(landing), 0).astype(int), -1, 0)
            heard_both = used & heard[0] & heard[1][row, column]
            used = heard_both if heard_both.sum() > 100 else used
        return rigid_fit(in_j[used], self.true_points[i][used])

    def _pixels(self, tokens: torch.Tensor) -> np.ndarray:
        """(N,) bool -> (H, W) bool."""
        patch = self.config.patch_size
        grid = [side // patch for side in self.clip.depth.shape[1:]]
        return tokens.reshape(grid).numpy().repeat(patch, axis=0).repeat(patch, axis=1)


def rigid_fit(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(4, 4) rigid motion that brings (N, 3) source points nearest to the target points (Kabsch 1976)."""
    mean_s, mean_t = source.mean(axis=0), target.mean(axis=0)
    U, _, Vt = np.linalg.svd((target - mean_t).T @ (source - mean_s))
    T = np.eye(4)
    T[:3, :3] = U @ np.diag([1, 1, np.linalg.det(U @ Vt)]) @ Vt
    T[:3, 3] = mean_t - T[:3, :3] @ mean_s
    return T


def landing_error(stand_in: DraggedStandIn, i: int, j: int, T_i_j: np.ndarray) -> float:
    """Root mean square distance in pixels between where a relative pose and the truth send static pixels of view j."""
    clip = stand_in.clip
    still = ~clip.moving[j]
    truth = np.linalg.inv(clip.T_world_cam[i]) @ clip.T_world_cam[j]
    seen = [transform(T, stand_in.true_points[j][still]) for T in (T_i_j, truth)]
    pixels = [clip.focal * x[:, :2] / x[:, 2:] for x in seen]
    return float(np.sqrt(np.square(pixels[0] - pixels[1]).sum(axis=1).mean()))
