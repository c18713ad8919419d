"""Options of the viewer; a field's docstring is its help text on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..core.bounds import LARGEST_COUNT, check_bounds
from ..core.config import MOST_FRAMES
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
    """Colours: of the photos, moving points tinted (mask; several objects each in its colour), dynamic score,
    confidence, or moving points by time."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("max_static_points", 1, LARGEST_COUNT),
            ("max_moving_points", 1, LARGEST_COUNT),
            ("trail", 0, MOST_FRAMES),
            ("trail_step", 1, MOST_FRAMES),
        ):
            check_bounds(f"--{name.replace('_', '-')}", getattr(self, name), low, high)
        check_bounds("--point-size", self.point_size, 0, MAX_POINT_SIZE, open_low=True)


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
        check_bounds("--orbit.seconds", self.seconds, 0, 600, open_low=True)
        check_bounds("--orbit.fps", self.fps, 1, 120)
        check_bounds("--orbit.arc", self.arc, 0, 360)
        for name in ("width", "height"):
            size = getattr(self, name)
            check_bounds(f"--orbit.{name}", size, 16, 4096)
            if size % 2:
                raise InputError(f"--orbit.{name} {size}: give an even number of pixels")
