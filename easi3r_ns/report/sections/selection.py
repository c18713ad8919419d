"""Which frames of the clip are used, and how sharp they are among their neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.scene import Scene
from ..contents import Chart
from ..figures import Axes, Line, line_chart
from ..words import x_label

_BLURRED = 0.8
"""Energy, over that of the frames around, below which a frame counts as notably less sharp."""


@dataclass(frozen=True)
class SelectionSection:
    """The choice in a sentence, and the sharpness over time."""

    lead: str
    charts: tuple[Chart, ...]


def selection_section(scene: Scene) -> SelectionSection | None:
    """Sharpness of the clip's frames over time with those in use marked; None where it was not measured."""
    found: Mapping[str, Any] = scene.provenance.get("sharpness") or {}
    times, values = (np.asarray(found.get(name) or (), dtype=float) for name in ("times", "values"))
    if len(times) < 3 or len(times) != len(values):
        return None
    used = np.isclose(times[:, None], scene.times[None], rtol=0, atol=1e-9).any(axis=1)
    blurred = int((values[used] < _BLURRED).sum())
    lead = (
        "Near each of the evenly spaced times the sharpest frame is used."
        if not blurred
        else f"Near each of the evenly spaced times the sharpest frame is used; {blurred} of {int(used.sum())} are "
        "blurred all the same, since nothing sharper is near."
    )
    axes = Axes(x_label(scene), lambda v: f"{v:.2g}", "Sharpness of the frames over time", least_high=1.2)
    note = (
        "Energy of the picture's gradient, over that of the frames around; motion blur lowers it. Red dots: frames in "
        "use."
    )
    return SelectionSection(lead, (Chart("Sharpness", line_chart(times, [Line("", values)], axes, used), note),))
