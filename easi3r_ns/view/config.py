"""Options of the viewer; a field's docstring is its help text on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..core.errors import InputError

ColorMode = Literal["photo", "mask", "score", "confidence", "time"]
COLOR_MODES: tuple[ColorMode, ...] = ("photo", "mask", "score", "confidence", "time")
CAMERA_MODES = ("current", "all", "none")
MAX_POINT_SIZE = 8.0


@dataclass(frozen=True)
class ViewConfig:
    """What the viewer shows when it opens; its panel changes most of it later."""

    max_static_points: int = 300_000
    """Most points of the static scene; more are thinned by averaging over voxels."""
    max_moving_points: int = 10_000
    """Most moving points of a frame; long clips get fewer per frame, so that they load fast."""
    trail: int = 0
    """Show the moving points of this many earlier frames too, paler and smaller with their age."""
    trail_step: int = 1
    """Of the earlier frames, show every n-th."""
    point_size: float = 1.4
    """Diameter of the points in multiples of their distance to each other."""
    color: ColorMode = "photo"
    """Colours: of the photos, moving points tinted red (mask), dynamic score, confidence, or moving points by time."""

    def __post_init__(self) -> None:
        for name, low in (("max_static_points", 1), ("max_moving_points", 1), ("trail", 0), ("trail_step", 1)):
            if getattr(self, name) < low:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: give at least {low}")
        if not 0 < self.point_size <= MAX_POINT_SIZE:
            raise InputError(f"--point-size {self.point_size:g}: give a number above 0 and at most {MAX_POINT_SIZE:g}")


@dataclass(frozen=True)
class TurntableConfig:
    """A video of the scene from a camera that swings around it while the clip plays."""

    seconds: float = 8.0
    """Length of the video."""
    fps: int = 30
    """Frames per second of the video."""
    arc: float = 60.0
    """Degrees that the camera swings from side to side and back; 360 goes once around."""
    width: int = 1280
    """Width in pixels, even."""
    height: int = 720
    """Height in pixels, even."""

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 600:
            raise InputError(f"seconds {self.seconds:g}: give a number above 0 and at most 600")
        if not 1 <= self.fps <= 120:
            raise InputError(f"fps {self.fps}: give a number from 1 to 120")
        if not 0 <= self.arc <= 360:
            raise InputError(f"arc {self.arc:g}: give degrees from 0 to 360")
        for name in ("width", "height"):
            size = getattr(self, name)
            if size % 2 or not 16 <= size <= 4096:
                raise InputError(f"{name} {size}: give an even number of pixels from 16 to 4096")
