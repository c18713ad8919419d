"""Words for axes, captions and numbers that all parts of the report share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..core.scene import Scene
from .measures import Measures


def is_folder(scene: Scene) -> bool:
    """Whether the source was a folder of images: its times are positions in it, not seconds."""
    # The views of a sphere all have the name of their image.
    images = len(scene) if scene.rig is None else len(np.unique(scene.rig.moment))
    return bool(np.array_equal(scene.times, scene.indices)) and len(set(scene.names)) == images


def unit_of_time(scene: Scene) -> str:
    """What the clip is counted in, singular."""
    return "image" if is_folder(scene) else "second"


def x_label(scene: Scene) -> str:
    """Label of an axis over time."""
    if scene.clip is not None:
        return "images, clip after clip" if is_folder(scene) else "seconds, clip after clip"
    return "image of the folder" if is_folder(scene) else "seconds"


def when_of(scene: Scene, frame: int) -> str:
    """When a frame was taken, or its name."""
    if is_folder(scene):
        return scene.names[frame]
    clip = "" if scene.clip is None else f"{scene.names[frame]}, "
    return f"{clip}{scene.times[frame]:.1f} s"


def span_of(scene: Scene, measures: Measures) -> str:
    """How long the clip is, or what it is made of."""
    return "images" if is_folder(scene) else f"{measures.duration:.1f} s"


def plain(value: float) -> str:
    """Three significant digits, or all digits of the whole part where it has more: 0.0123, 12.3, 5250."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def in_percent(value: float) -> str:
    """A number of percent with three significant digits, for the axis of a chart."""
    return f"{value:.3g} %"


def in_degrees(value: float) -> str:
    """A number of degrees with three significant digits, for the axis of a chart."""
    return f"{value:.3g}\u00b0"


def percent(share: float) -> str:
    """0.0123 -> '1.2 %': two digits where the share is small."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 9.95 or value == int(value) else f"{value:.1f} %"


def degrees(value: float) -> str:
    """1.04 -> '1 degree': two digits where the angle is small."""
    shown = f"{value:.0f}" if value >= 9.95 else f"{value:.1f}".removesuffix(".0")
    return f"{shown} {'degree' if shown == '1' else 'degrees'}"


def or_not_measured(value: float | None, show: Callable[[float], str]) -> str:
    """A value as ``show`` shows it, or 'not measured'."""
    return "not measured" if value is None else show(value)
