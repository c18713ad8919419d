"""The display settings of the viewer, and the points, colours and frames that they select."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .cameras import CameraTrack
from .clouds import Cloud, Clouds
from .colors import cloud_colors
from .config import ColorMode, ViewConfig

ACCENT = (20, 110, 230)
"""RGB of the camera of the chosen frame and of the trajectory."""
PLAIN = (120, 120, 120)
"""RGB of the other cameras."""
ALIGNED = (240, 140, 20)
"""RGB of cameras that bundle adjustment did not register."""
TRAIL_LEVELS = 4
"""Steps in which a trail fades; for each, the viewer keeps a point cloud of its own."""
_FADED = 0.75
"""Share of white in the colours at the end of a trail."""
_SHRUNK = 0.5
"""Size of the points there, relative to those of the chosen frame."""


@dataclass(frozen=True)
class Look:
    """The display settings at one moment: the state of the viewer's panel."""

    frame: int = 0
    trail: int = 0
    """Number of earlier frames whose moving points are shown."""
    trail_step: int = 1
    """Only every n-th of these frames is shown."""
    min_confidence: float = 0.0
    point_size: float = 1.4
    """In multiples of the points' spacing."""
    color: ColorMode = "photo"
    static: bool = True
    moving: bool = True
    cameras: Literal["current", "all", "none"] = "current"
    masks: bool = False
    """Whether what moves is tinted in the images on the cameras."""
    trajectory: bool = True


def first_look(clouds: Clouds, config: ViewConfig) -> Look:
    """The settings with which the viewer opens: all points, the first frame in which something moves."""
    moving = [frame for frame, cloud in enumerate(clouds.moving) if len(cloud)]
    latest = min(config.trail, len(clouds.moving) - 1)
    return Look(
        frame=max(latest, moving[0] if moving else 0),
        trail=latest,
        trail_step=config.trail_step,
        min_confidence=clouds.confidence_range()[0],
        point_size=config.point_size,
        color=config.color,
    )


def frames_shown(look: Look) -> list[int]:
    """Frames whose moving points are shown: the chosen one and its trail, latest first."""
    if not look.moving:
        return []
    first = max(0, look.frame - look.trail)
    return list(range(look.frame, first - 1, -look.trail_step))


def trail_level(look: Look, frame: int) -> int:
    """How far the moving points of a frame have faded: 0 for the chosen frame, TRAIL_LEVELS at the trail's end."""
    age = look.frame - frame
    return 0 if age <= 0 else min(TRAIL_LEVELS, -(-TRAIL_LEVELS * age // max(look.trail, 1)))


def camera_color(track: CameraTrack, frame: int) -> tuple[int, int, int]:
    """RGB of a camera that is not that of the chosen frame."""
    return ALIGNED if track.sources[frame] == "aligned" else PLAIN


@dataclass(frozen=True)
class Painter:
    """Applies display settings to the point clouds: filters by confidence, colours the points and gives their size."""

    clouds: Clouds
    confidence_range: tuple[float, float]

    @staticmethod
    def of(clouds: Clouds) -> Painter:
        """The painter of a scene's clouds."""
        return Painter(clouds, clouds.confidence_range())

    def static(self, look: Look) -> tuple[Cloud, np.ndarray, float]:
        """The static cloud, its (N, 3) uint8 colours and the diameter of its points in scene units."""
        return self._paint(self.clouds.static, look, None)

    def moving(self, frame: int, look: Look) -> tuple[Cloud, np.ndarray, float]:
        """The same for the moving points of a frame, faded by its age relative to the chosen frame."""
        time = frame / max(len(self.clouds.moving) - 1, 1)
        cloud, colors, size = self._paint(self.clouds.moving[frame], look, time)
        age = trail_level(look, frame) / TRAIL_LEVELS
        if age > 0:
            share = _FADED * age
            colors = np.rint(colors * (1 - share) + 255 * share).astype(np.uint8)
        return cloud, colors, size * (1 - (1 - _SHRUNK) * age)

    def _paint(self, cloud: Cloud, look: Look, time: float | None) -> tuple[Cloud, np.ndarray, float]:
        kept = cloud.above(look.min_confidence)
        return kept, cloud_colors(kept, look.color, self.confidence_range, time), look.point_size * cloud.spacing
