"""How the motion was detected: the maps that the masks come from, and the score that they make."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...core.scene import Scene
from ..contents import ColorRamp, Picture
from ..pictures import SCORE_MAP, color_ramp, colored, jpeg_uri, panel_size, photo, png_uri
from ..sampling import evenly_spaced

SHOWN_FRAMES = 4
"""Most frames whose maps are shown."""
MAP_LABELS = {
    "mean_src": "A: mean, as second",
    "std_src": "B: spread, as second",
    "mean_ref": "C: mean, as first",
    "std_ref": "D: spread, as first",
}
"""The attention maps (see :class:`easi3r_ns.core.types.AttentionStats`): statistics while the frame is the second or
the first image of the pair."""
FLOW_LABELS = {"flow_residual": "E: flow residual"}
GEOMETRY_LABELS = {"mean": "flow residual", "deviation": "its spread"}
"""The maps of masks from two-view geometry."""

_MAP_PIXELS = 170
_NO_ATTENTION = {
    "user": "The masks are yours: the attention of the network was not used.",
    "none": "The run did not look for motion.",
    "scene": "These masks come from optical flow that the found cameras and depth do not predict. Bright: large.",
    "geometry": "These masks come from optical flow that no camera motion explains, not from attention. Bright: large.",
}
"""By the source of the masks."""


@dataclass(frozen=True)
class EvidenceSection:
    """Maps of a few frames; a sentence only, where there are none."""

    lead: str
    rows: tuple[tuple[Picture, ...], ...]
    """For each frame the photo, its maps and its score."""
    ramp: ColorRamp


def evidence_section(scene: Scene) -> EvidenceSection:
    """The attention or flow maps and the dynamic score of a few frames."""
    dynamic = scene.dynamic
    shows_maps = dynamic.source == "attention" or bool(dynamic.score.any())
    return EvidenceSection(
        lead=_lead(scene),
        rows=_rows(scene) if shows_maps else (),
        ramp=color_ramp(SCORE_MAP, "low", "high"),
    )


def _lead(scene: Scene) -> str:
    dynamic = scene.dynamic
    maps = dynamic.maps or {}
    if dynamic.source != "attention":
        return _NO_ATTENTION.get(dynamic.source, "These masks do not come from attention.")
    lead = (
        "The network compares frames in pairs; where its attention is unusual, something moves. A to D: how much "
        "attention each patch draws from the other frame (mean), and how much that differs from pair to pair (spread), "
        f"while this frame is the second or the first of the pair. {_formula(scene)}"
    )
    if "flow_residual" in maps:
        lead += " E: distance between the optical flow and the nearest flow that a motion of the camera explains."
        lead += " Where it is small, nothing moves."
    if not maps:
        lead += " This scene kept the score only, not the maps."
    return lead


def _formula(scene: Scene) -> str:
    """How the maps make the score, with the letters of their labels."""
    signs = (scene.provenance.get("weights") or {}).get("dynamic_score") or {}
    letters = {1: "{}", -1: "(1 - {})"}
    factors = [letters[signs[n]].format(MAP_LABELS[n][0]) for n in MAP_LABELS if signs.get(n) in letters]
    flow = [FLOW_LABELS["flow_residual"][0]] if signs.get("flow_residual") else []
    if not factors and not flow:
        return "The score combines them."
    score = f"Score = {' x '.join([*factors, *flow])}, averaged over patches that look alike."
    return score if factors else f"The score of these weights has no attention in it, only optical flow (E). {score}"


def _rows(scene: Scene) -> tuple[tuple[Picture, ...], ...]:
    maps = scene.dynamic.maps or {}
    labels = {name: label for name, label in (MAP_LABELS | FLOW_LABELS | GEOMETRY_LABELS).items() if name in maps}
    size = panel_size(scene, _MAP_PIXELS)
    rows = []
    for f in evenly_spaced(len(scene), SHOWN_FRAMES):
        row = [Picture(jpeg_uri(photo(scene, f, size), 76), f"Frame {f + 1}", f"frame {f + 1}")]
        row += [_map(maps[name][f], _range(maps[name]), label, f) for name, label in labels.items()]
        row.append(_map(scene.dynamic.score[f], (0.0, 1.0), "score", f))
        rows.append(tuple(row))
    return tuple(rows)


def _map(values: np.ndarray, limits: tuple[float, float], label: str, frame: int) -> Picture:
    return Picture(png_uri(colored(values, *limits, SCORE_MAP)), f"{label}, frame {frame + 1}", label, pixelated=True)


def _range(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.01, 0.99])
    return float(low), float(high)
