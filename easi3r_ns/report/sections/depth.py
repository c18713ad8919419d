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
    source_picture,
)
from ..sampling import evenly_spaced
from ..words import or_not_measured, percent

SHOWN_FRAMES = 4
"""Most frames whose depth is shown."""
_WIDTH = 320
"""Pixels."""


_ASSUMED_LEAD = f" Stereo measures what stands still. {ASSUMED} It is in no picture here."


_SOURCE_WORDS = {
    "stereo": "have a measured depth",
    "network": "have that of the network that found the cameras",
    "prior": "have one that was predicted from the picture alone",
    "unknown": "have none",
}


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
            _third_picture(scene, f, high),
        )
        for f in evenly_spaced(len(measured.series.times), SHOWN_FRAMES)
    ]
    usable = or_not_measured(measured.measures.usable, percent)
    near, far = (f"{limit / measured.unit:.2g}" for limit in limits)
    return DepthSection(
        lead="All frames share one scale of colours, so a step in brightness from frame to frame is a step in depth. "
        f"Grey pixels are not trusted (confidence below {scene.min_confidence:g}). {usable} of the pixels are static, "
        "trusted and agree with the other frames."
        + ("" if scene.assumed_depth is None else _ASSUMED_LEAD)
        + _of_prior(scene),
        rows=tuple(rows),
        ramps=(
            color_ramp(DEPTH_MAP, f"far ({far} x the typical depth)", f"near ({near} x)"),
            *(() if scene.depth_source is not None else (_confidence_ramp(scene, high),)),
        ),
    )


def _third_picture(scene: Scene, frame: int, high: float) -> Picture:
    """Confidence, or where the depth came from where there is more than one source."""
    if scene.depth_source is not None:
        picture = jpeg_uri(source_picture(scene, frame), 85)
        return Picture(picture, f"Where the depth of frame {frame + 1} came from", "source")
    picture = jpeg_uri(confidence_picture(scene, frame, high), 85)
    return Picture(picture, f"Confidence of frame {frame + 1}", "confidence")


def _confidence_ramp(scene: Scene, high: float) -> ColorRamp:
    return color_ramp(CONFIDENCE_MAP, f"confidence {scene.min_confidence:.3g}", f"{high:.3g}")


def _of_prior(scene: Scene) -> str:
    """What a prior filled, and how good it is; nothing where there was none."""
    facts = scene.provenance.get("depth_prior")
    if not facts:
        return ""
    shares, said = facts["shares"], []
    for name, colour in (("stereo", "blue"), ("network", "green"), ("prior", "orange"), ("unknown", "grey")):
        if shares[name] > 0:
            said.append(f"{percent(shares[name])} {_SOURCE_WORDS[name]} ({colour})")
    text = f" Of all pixels {', '.join(said)}; the licence of {facts['model']} is {facts['licence']}."
    if facts["error"] is not None:
        text += f" Where depth is known, that of the prior differs by {percent(facts['error'])} in the median."
    if facts["disagreement"] is not None:
        text += f" Consecutive frames disagree by {percent(facts['disagreement'])} about what it filled."
    return text + " Clouds, meshes and the measures here take none of it, but for what moves."
