"""Depth and confidence of a few frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...core.scene import ASSUMED, Scene
from ..contents import ColorRamp, Picture
from ..measures import MeasuredScene
from ..pictures import (
    CONFIDENCE_MAP,
    DEPTH_MAP,
    color_ramp,
    confidence_picture,
    depth_picture,
    depth_range,
    jpeg_uri,
    panel_size,
    photo,
)
from ..sampling import evenly_spaced
from ..words import or_not_measured, percent

SHOWN_FRAMES = 4
"""Most frames whose depth is shown."""
_WIDTH = 320
"""Pixels."""


_ASSUMED_LEAD = f" Stereo measures what stands still. {ASSUMED} It is in no picture here."


@dataclass(frozen=True)
class DepthSection:
    """Frame, depth and confidence side by side; a sentence only for a scene without depth."""

    lead: str
    rows: tuple[tuple[Picture, ...], ...]
    ramps: tuple[ColorRamp, ...]


def depth_section(scene: Scene, measured: MeasuredScene) -> DepthSection:
    """A few frames over the whole clip, all on one scale of colours."""
    if not scene.has_depth:
        if scene.sparse is None:
            return DepthSection("This scene has neither depth maps nor points: a network would give them.", (), ())
        count = len(scene.sparse)
        return DepthSection(
            f"This scene has no depth maps; training starts from {count:,} triangulated points.", (), ()
        )
    size, limits = panel_size(scene, _WIDTH), depth_range(scene)
    high = float(np.quantile(scene.confidence[:, ::4, ::4], 0.98))
    rows = [
        (
            Picture(jpeg_uri(photo(scene, f, size), 76), f"Frame {f + 1}", f"frame {f + 1}"),
            Picture(jpeg_uri(depth_picture(scene, f, limits), 85), f"Depth of frame {f + 1}", "depth"),
            Picture(jpeg_uri(confidence_picture(scene, f, high), 85), f"Confidence of frame {f + 1}", "confidence"),
        )
        for f in evenly_spaced(len(measured.series.times), SHOWN_FRAMES)
    ]
    usable = or_not_measured(measured.measures.usable, percent)
    near, far = (f"{limit / measured.unit:.2g}" for limit in limits)
    return DepthSection(
        lead="All frames share one scale of colours, so a step in brightness from frame to frame is a step in depth. "
        f"Grey pixels are not trusted (confidence below {scene.min_confidence:g}). {usable} of the pixels are static, "
        "trusted and agree with the other frames." + ("" if scene.assumed_depth is None else _ASSUMED_LEAD),
        rows=tuple(rows),
        ramps=(
            color_ramp(DEPTH_MAP, f"far ({far} x the typical depth)", f"near ({near} x)"),
            color_ramp(CONFIDENCE_MAP, f"confidence {scene.min_confidence:.3g}", f"{high:.3g}"),
        ),
    )
