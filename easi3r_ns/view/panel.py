"""The panel of the viewer: viser's inputs, and the display settings that they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..core.scene import ASSUMED
from .cameras import CameraTrack
from .config import CAMERA_MODES, COLOR_MODES, MAX_POINT_SIZE
from .look import Look, Painter

if TYPE_CHECKING:
    import viser

_MAX_FPS = 30.0


class Panel:
    """All inputs of the viewer; :meth:`look` reads the display settings from them."""

    def __init__(self, gui: viser.GuiApi, painter: Painter, look: Look, times: np.ndarray, title: str) -> None:
        """``times`` (F,) seconds of the frames; ``title`` is markdown."""
        last = len(times) - 1
        gui.add_markdown(title)
        self._low = painter.confidence_range[0]
        with gui.add_folder("Time"):
            self.frame = gui.add_slider("frame", 0, max(last, 1), 1, look.frame, disabled=last == 0)
            self.play = gui.add_button("Play", disabled=last == 0)
            self.pause = gui.add_button("Pause", visible=False)
            self.speed = gui.add_slider("speed", 1.0, _MAX_FPS, 1.0, _rate(times), hint="frames per second")
            trail, step = look.trail, look.trail_step
            self.trail = gui.add_slider("trail", 0, max(last, 1), 1, trail, hint="earlier frames", disabled=last == 0)
            self.trail_step = gui.add_slider("every", 1, max(last, step, 2), 1, step, hint="n-th frame of the trail")
        with gui.add_folder("Points"):
            self.confidence = self._confidence_slider(gui, painter.confidence_range)
            self.point_size = gui.add_slider("size", 0.1, MAX_POINT_SIZE, 0.1, max(look.point_size, 0.1))
            self.color = gui.add_dropdown("colour", COLOR_MODES, look.color)
            self.static = gui.add_checkbox("static", look.static)
            self.moving = gui.add_checkbox("moving", look.moving)
        with gui.add_folder("Cameras"):
            self.cameras = gui.add_dropdown("show", CAMERA_MODES, look.cameras)
            self.masks = gui.add_checkbox("mask overlay", look.masks)
            self.trajectory = gui.add_checkbox("trajectory", look.trajectory)
            self.step_in = gui.add_button("Look through this camera")
            self.home = gui.add_button("Back to the first view")
        with gui.add_folder("Turntable"):
            self.arc = gui.add_slider(
                "arc", 0, 360, 10, 60, hint="degrees that the camera swings; 360 goes once around"
            )
            self.seconds = gui.add_slider("seconds", 1, 30, 1, 8)
            self.record = gui.add_button("Record mp4", hint="from the present viewpoint, with the present settings")

    @property
    def inputs(self) -> tuple[viser.GuiInputHandle, ...]:
        """The inputs that are display settings."""
        return (
            self.frame,
            self.trail,
            self.trail_step,
            self.confidence,
            self.point_size,
            self.color,
            self.static,
            self.moving,
            self.cameras,
            self.masks,
            self.trajectory,
        )

    def look(self) -> Look:
        """The present display settings."""
        lowest = self.confidence.value <= self.confidence_floor
        return Look(
            frame=int(self.frame.value) if not self.frame.disabled else 0,
            trail=int(self.trail.value),
            trail_step=max(1, int(self.trail_step.value)),
            min_confidence=self._low if lowest else float(self.confidence.value),
            point_size=float(self.point_size.value),
            color=self.color.value,
            static=bool(self.static.value),
            moving=bool(self.moving.value),
            cameras=self.cameras.value,
            masks=bool(self.masks.value),
            trajectory=bool(self.trajectory.value),
        )

    def _confidence_slider(self, gui: viser.GuiApi, bounds: tuple[float, float]) -> viser.GuiInputHandle[float]:
        low, high = bounds
        same = high - low <= 1e-3 * max(abs(high), 1.0)
        step = 0.1 if same else 10.0 ** float(np.floor(np.log10((high - low) / 50)))
        self.confidence_floor = float(np.round(low, 1)) if same else float(np.floor(low / step) * step)
        top = max(float(np.ceil(high / step) * step), self.confidence_floor + step)
        return gui.add_slider(
            "confidence",
            self.confidence_floor,
            top,
            step,
            self.confidence_floor,
            disabled=same,
            hint="points below this are hidden; same scale as --min-confidence of a run",
        )


def panel_title(track: CameraTrack, painter: Painter) -> str:
    """Markdown above the inputs."""
    moving = sum(len(cloud) for cloud in painter.clouds.moving)
    counts = f"{len(track)} frames, {len(painter.clouds.static):,} static and {moving:,} moving points"
    return f"{counts}\n\n{ASSUMED}" if painter.clouds.assumed else counts


def _rate(times: np.ndarray) -> float:
    """Frames per second at which the clip was sampled, within the range of the slider; 10 where unknown."""
    steps = np.diff(times)
    usual = float(np.median(steps)) if len(steps) else 0.0
    return float(np.clip(round(1 / usual), 1, _MAX_FPS)) if usual > 1e-3 else 10.0
