"""Words for axes, captions and numbers that all parts of the report share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..core.scene import Scene
from .measures import Measures


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` positions, evenly spread, the first and the last among them."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))


def is_folder(scene: Scene) -> bool:
    """Whether the source was a folder of images: its times are positions in it, not seconds."""
    return bool(np.array_equal(scene.times, scene.indices)) and len(set(scene.names)) == len(scene)


def unit_of_time(scene: Scene) -> str:
    """What the clip is counted in, singular."""
    return "image" if is_folder(scene) else "second"


def x_label(scene: Scene) -> str:
    """Label of an axis over time."""
    return "image of the folder" if is_folder(scene) else "seconds"


def when_of(scene: Scene, frame: int) -> str:
    """When a frame was taken, or its name."""
    return scene.names[frame] if is_folder(scene) else f"{scene.times[frame]:.1f} s"


def span_of(scene: Scene, measures: Measures) -> str:
    """How long the clip is, or what it is made of."""
    return "images" if is_folder(scene) else f"{measures.duration:.1f} s"


def plain(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}"


def or_dash(value: float | None, show: Callable[[float], str]) -> str:
    """A value as ``show`` shows it, or 'not measured'."""
    return "not measured" if value is None else show(value)
