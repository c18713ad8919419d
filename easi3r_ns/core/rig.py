"""Views that are cut out of frames which show everything around the camera: cameras that stand fixed to one another."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class ViewRig:
    """Which view of which moment the images of a clip are; all views have one lens and one centre."""

    T_rig_view: np.ndarray
    """(V, 4, 4) float64 camera-to-rig, OpenCV axes, rotations only. The rig looks at the middle of the sphere."""
    focal: float
    """Of every view, in source pixels; known, because the views are computed."""
    view: np.ndarray
    """(F,) int64 view that an image is, from 0."""
    moment: np.ndarray
    """(F,) int64 frame that it was cut out of, counted from 0 among those that are used."""

    def __post_init__(self) -> None:
        count = len(self.T_rig_view)
        if self.T_rig_view.shape != (count, 4, 4) or self.view.shape != self.moment.shape or self.view.ndim != 1:
            raise ValueError(f"rig {self.T_rig_view.shape}, views {self.view.shape}, moments {self.moment.shape}")
        if len(self.view) and not 0 <= self.view.min() <= self.view.max() < count:
            raise ValueError(f"a view is not one of {count}")
        if not self.focal > 0 or (len(self.moment) and self.moment.min() < 0):
            raise ValueError(f"focal length {self.focal}, first moment {self.moment.min()}")

    def __len__(self) -> int:
        return len(self.view)

    @property
    def num_views(self) -> int:
        """V."""
        return len(self.T_rig_view)

    def of_frames(self, kept: np.ndarray) -> ViewRig:
        """Those of some images only, by their positions."""
        return replace(self, view=self.view[kept], moment=self.moment[kept])

    def stem(self, position: int, start: str = "frame") -> str:
        """Name of an image in a dataset: ``frame_00001_view2``."""
        return f"{start}_{self.moment[position] + 1:05d}_view{self.view[position] + 1}"

    def rig_poses(self, T_world_cam: np.ndarray) -> np.ndarray:
        """(F, 4, 4) rig-to-world for (F, 4, 4) camera-to-world of the images."""
        return T_world_cam @ np.linalg.inv(self.T_rig_view)[self.view]
