"""What bundle adjustment and mapping return, free of pycolmap's types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..core.geometry import FisheyeDistortion, distort, transform
from ..core.scene import SparsePoints

FISHEYE = "opencv-fisheye"
"""Value of --camera-model."""
NONE = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Correspondences:
    """Keypoints of F frames, and the matches between them in P pairs of frames."""

    keypoints: tuple[np.ndarray, ...]
    """F arrays (K_f, 2) float64, SOURCE pixels (first pixel centre at 0.5), all on what stands still."""
    pairs: np.ndarray
    """(P, 2) int64 frames (i, j), i < j, each pair once, sorted."""
    matches: tuple[np.ndarray, ...]
    """P arrays (M_p, 2) int64: keypoint of frame i, keypoint of frame j; geometrically verified."""

    def __post_init__(self) -> None:
        if self.pairs.shape != (len(self.matches), 2):
            raise ValueError(f"{len(self.matches)} lists of matches for pairs of shape {self.pairs.shape}")
        if len(self.pairs) and not (self.pairs[:, 0] < self.pairs[:, 1]).all():
            raise ValueError("a pair of frames is not in order")

    @property
    def num_frames(self) -> int:
        """F."""
        return len(self.keypoints)

    @property
    def num_matches(self) -> int:
        """All matches of all pairs."""
        return sum(len(rows) for rows in self.matches)


@dataclass(frozen=True)
class Lens:
    """One camera for all frames, in SOURCE pixels (first pixel centre at 0.5); OpenCV's distortion."""

    width: int
    height: int
    focal: float
    principal_point: tuple[float, float]
    distortion: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """(k1, k2, p1, p2), or a :class:`~easi3r_ns.core.geometry.FisheyeDistortion`."""

    @staticmethod
    def centred(source_wh: tuple[int, int], focal: float, centre: tuple[float, float] | None = None) -> Lens:
        """No distortion; principal point at ``centre``, by default that of the image."""
        width, height = source_wh
        return Lens(width, height, float(focal), centre or (width / 2, height / 2))

    @property
    def fisheye(self) -> bool:
        """Whether it is OpenCV's fisheye lens."""
        return isinstance(self.distortion, FisheyeDistortion)

    def of_kind(self, camera_model: str) -> Lens:
        """A lens of the kind that ``--camera-model`` names, without distortion (equidistant for a fisheye)."""
        return replace(self, distortion=FisheyeDistortion(NONE) if camera_model == FISHEYE else NONE)

    def bent(self, distortion: Iterable[float]) -> Lens:
        """A lens of the same kind with this distortion."""
        first, second, third, fourth = (float(value) for value in distortion)
        values = (first, second, third, fourth)
        return replace(self, distortion=FisheyeDistortion(values) if self.fisheye else values)

    def at(self, frame: int) -> Lens:
        """The lens of a frame."""
        return self

    def shown(self, ideal: np.ndarray, frame: np.ndarray, focals: np.ndarray) -> np.ndarray:
        """(M, 2) source pixels of (M, 2) ideal normalised coordinates; focal lengths are those of the (F,) frames."""
        return distort(ideal, self.distortion) * focals[frame, None] + self.principal_point


@dataclass(frozen=True)
class Lenses:
    """The cameras of frames that were taken with several, each in its own source pixels."""

    lenses: tuple[Lens, ...]
    index: np.ndarray
    """(F,) int64 the lens of each frame."""

    @property
    def fisheye(self) -> bool:
        """Whether they are OpenCV's fisheye lens; all are of one kind."""
        return self.lenses[0].fisheye

    def at(self, frame: int) -> Lens:
        """The lens of a frame."""
        return self.lenses[self.index[frame]]

    def shown(self, ideal: np.ndarray, frame: np.ndarray, focals: np.ndarray) -> np.ndarray:
        """See :meth:`Lens.shown`; each frame through its own lens."""
        out = np.empty_like(ideal)
        for number, lens in enumerate(self.lenses):
            own = self.index[frame] == number
            out[own] = lens.shown(ideal[own], frame[own], focals)
        return out


def frame_focals(lens: Lens | Lenses, num_frames: int) -> np.ndarray:
    """(F,) focal length of every frame in source pixels."""
    return np.array([lens.at(frame).focal for frame in range(num_frames)], dtype=np.float64)


@dataclass(frozen=True)
class SparseModel:
    """Cameras and triangulated points of a clip; OpenCV axes, the world of the first registered camera or a given one.

    From :func:`easi3r_ns.refine.map_static` the unit is such that the median depth of the points is 4.
    """

    T_world_cam: np.ndarray
    """(F, 4, 4) float64 camera-to-world; identity where a frame is not registered."""
    registered: np.ndarray
    """(F,) bool."""
    lens: Lens
    sparse: SparsePoints
    """Tracks; pixels as observed in the (distorted) source images."""
    focals: np.ndarray | None = None
    """(F,) focal length of every frame in source pixels, interpolated where a frame is not registered; ``lens`` then
    holds their median. None: all have that of ``lens``."""
    record: Mapping[str, Any] | None = None
    """Which mapping it comes from and why that one was elected, as JSON; None where nothing was elected."""
    lenses: Lenses | None = None
    """Where the frames were taken with several cameras; ``lens`` then is that of most registered frames. None: all
    have ``lens``."""

    def __post_init__(self) -> None:
        if self.T_world_cam.shape != (len(self.registered), 4, 4):
            raise ValueError(f"T_world_cam has shape {self.T_world_cam.shape} for {len(self.registered)} frames")
        if self.focals is not None and self.focals.shape != (len(self.registered),):
            raise ValueError(f"focals have shape {self.focals.shape} for {len(self.registered)} frames")

    @property
    def optics(self) -> Lens | Lenses:
        """The lens of all frames, or those of the frames."""
        return self.lenses or self.lens

    @property
    def frame_focals(self) -> np.ndarray:
        """(F,) focal length of every frame in source pixels."""
        return frame_focals(self.optics, len(self.registered)) if self.focals is None else self.focals

    @property
    def focal(self) -> float:
        """Focal length in source pixels, the same in x and y."""
        return self.lens.focal

    @property
    def principal_point(self) -> tuple[float, float]:
        """(cx, cy) in source pixels, first pixel centre at 0.5."""
        return self.lens.principal_point

    @property
    def distortion(self) -> tuple[float, float, float, float]:
        """(k1, k2, p1, p2), as in :class:`~easi3r_ns.core.scene.Scene`."""
        return self.lens.distortion

    @property
    def track_length(self) -> float:
        """Mean number of frames that see a point; 0 without points."""
        return len(self.sparse.point_index) / len(self.sparse) if len(self.sparse) else 0.0

    def moved(self, scale: float, R: np.ndarray, t: np.ndarray) -> SparseModel:
        """The model in another world: x' = scale R x + t."""
        T = self.T_world_cam.copy()
        T[:, :3, :3] = R @ self.T_world_cam[:, :3, :3]
        T[:, :3, 3] = scale * self.T_world_cam[:, :3, 3] @ R.T + t
        T[~self.registered] = np.eye(4)
        points = scale * self.sparse.points @ R.T + t
        return replace(self, T_world_cam=T, sparse=replace(self.sparse, points=points))

    def restricted(self, kept: np.ndarray) -> SparseModel:
        """The model with the cameras of (F,) bool ``kept`` only, and the points that two of these still see."""
        T = self.T_world_cam.copy()
        T[~kept] = np.eye(4)
        sparse = self.sparse.observed(kept[self.sparse.frame_index])
        return replace(self, T_world_cam=T, registered=self.registered & kept, sparse=sparse)

    def reprojected(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the cameras show the points: (M, 2) source pixels and (M,) depths, one for every observation."""
        sparse = self.sparse
        T = np.linalg.inv(self.T_world_cam)[sparse.frame_index]
        local = np.einsum("mab,mb->ma", T[:, :3, :3], sparse.points[sparse.point_index]) + T[:, :3, 3]
        with np.errstate(divide="ignore", invalid="ignore"):
            ideal = local[:, :2] / local[:, 2:]
        return self.optics.shown(ideal, sparse.frame_index, self.frame_focals), local[:, 2]

    def without_outliers(self, max_error: float) -> SparseModel:
        """The model without observations that lie further than ``max_error`` source pixels from their points."""
        shown, depth = self.reprojected()
        good = (depth > 0) & (np.linalg.norm(shown - self.sparse.pixels, axis=1) <= max_error)
        return replace(self, sparse=self.sparse.observed(good))

    def with_points(self, chosen: np.ndarray) -> SparseModel:
        """The model with the points that (N,) bool names only; all cameras stay."""
        return replace(self, sparse=self.sparse.observed(chosen[self.sparse.point_index]))

    def observed_depth(self) -> np.ndarray:
        """(M,) z-depth of every observation's point in the camera that observes it."""
        world = self.sparse.points[self.sparse.point_index]
        out = np.zeros(len(world))
        for frame in np.unique(self.sparse.frame_index):
            seen = self.sparse.frame_index == frame
            out[seen] = transform(np.linalg.inv(self.T_world_cam[frame]), world[seen])[:, 2]
        return out
