"""The parts of the report card about verdict, motion and depth; each takes a Scene and gives HTML."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape

import numpy as np

from ..core.scene import Scene
from .figures import Axes, Line, line_chart
from .measures import Measured
from .page import chart, charts, code, folded, picture, section, table, tiles
from .pictures import (
    CONFIDENCE_MAP,
    DEPTH_MAP,
    SCORE_MAP,
    colored,
    confidence_picture,
    depth_picture,
    depth_range,
    jpeg_uri,
    overlay,
    panel_size,
    photo,
    png_uri,
)
from .verdict import Check, Level, Verdict, care_limit, percent
from .words import or_dash, span_of, spread, when_of, x_label

SHEET_FRAMES = 12
"""Most frames in the contact sheet."""
ROW_FRAMES = 4
"""Most frames whose depth and attention are shown."""
MAP_LABELS = {
    "mean_src": "A: mean, as second",
    "std_src": "B: spread, as second",
    "mean_ref": "C: mean, as first",
    "std_ref": "D: spread, as first",
}
"""The attention maps in plain words (see :class:`easi3r_ns.core.types.AttentionStats`)."""
FLOW_LABELS = {"flow_residual": "E: motion no camera explains"}
GEOMETRY_LABELS = {"mean": "unexplained motion", "deviation": "its spread"}
"""The maps of masks from geometry."""

_TONES = {Level.TRAIN: "good", Level.CARE: "care", Level.STOP: "stop"}
_BADGES = {Level.TRAIN: "fine", Level.CARE: "care", Level.STOP: "stop"}
_SHEET_WIDTH = 400
_ROW_WIDTH = 320
_MAP_PIXELS = 170


def verdict_section(verdict: Verdict, command: str) -> str:
    """The verdict with its reasons and remedies, the command that trains, and every check."""
    tone = _TONES[verdict.level]
    reasons = "".join(_reason(check) for check in verdict.against)
    speaking_for = "" if verdict.against else f"<p>{escape(_in_favour(verdict))}</p>"
    training = "" if verdict.level is Level.STOP else f"<h3>Train on it</h3>{code(command)}"
    rows = [
        (
            f'<span class="{_TONES[check.level]}"><span class="badge">{_badge(check)}</span></span>'
            f"{escape(check.rule.title)}",
            escape(check.shown),
            escape(check.rule.limits()),
        )
        for check in verdict.checks
    ]
    checks = folded(f"All {len(rows)} checks with their limits", table(("check", "here", "fine when"), rows))
    return (
        f'<section id="verdict" class="{tone}"><h2>{verdict.level.words}</h2><p>{escape(verdict.summary)}</p>'
        f"{speaking_for}{f'<ul>{reasons}</ul>' if reasons else ''}{training}{checks}</section>"
    )


def key_figures(scene: Scene, measured: Measured) -> str:
    """Six numbers to remember."""
    m = measured.measures
    agreement = _figure("Depths disagree by", m.depth_error, percent, "between frames, on what stands still")
    if m.depth_error is None and m.reprojection is not None:
        agreement = ("Points miss by", f"{m.reprojection:.2f} px", "per 1000 px of picture")
    return tiles(
        [
            ("Frames", str(m.num_frames), f"{span_of(scene, m)}, {'x'.join(map(str, scene.pixel_map.source_wh))}"),
            ("Moving", percent(m.coverage), f"of the picture; at most {percent(m.coverage_max)}"),
            _figure("Parallax", m.parallax, lambda v: f"{v:.1f}\u00b0", "change of view of a background point"),
            ("Field of view", f"{m.fov:.0f}\u00b0", "across, as given" if m.focal_known else "across, as found"),
            agreement,
            _figure("Left unexplained", m.colour_gain, percent, "of the change in the picture"),
        ]
    )


def motion_section(scene: Scene, measured: Measured) -> str:
    """Contact sheet with masks, how much is masked, how steadily."""
    series, size = measured.series, panel_size(scene, _SHEET_WIDTH)
    cells = []
    for f in spread(len(series.times), SHEET_FRAMES):
        shown = overlay(photo(scene, f, size), scene.dynamic.masks[f])
        when = f"{when_of(scene, f)}, {percent(series.coverage[f])} masked"
        cells.append(picture(jpeg_uri(shown, 76), f"Frame {f + 1} with what moves tinted red", when))
    narrow = " narrow" if size[1] > size[0] else ""
    intro = {
        "none": "Nothing was masked in this run (--no-masks).",
        "user": "Tinted red: your masks. Training leaves these pixels out.",
    }.get(scene.dynamic.source, "Tinted red: what was found to move. Training leaves these pixels out.")
    parts = [f'<div class="sheet{narrow}">{"".join(cells)}</div>']
    if measured.moves and len(series.times) > 1:
        parts.append(charts([_coverage_chart(scene, measured), _flicker_chart(scene, measured)]))
    return section("motion", "What moves", intro, parts)


def attention_section(scene: Scene) -> str:
    """The attention maps and the dynamic score of a few frames, or a sentence why there are none."""
    title, dynamic = "How it was noticed", scene.dynamic
    maps = dynamic.maps or {}
    if dynamic.source != "attention":
        why = {
            "user": "The masks are yours: no attention was looked at.",
            "none": "Motion was not looked for.",
            "geometry": "These masks come from optical flow that no camera motion explains, not from attention. Bright "
            "is much.",
        }.get(dynamic.source, "These masks do not come from attention.")
        return section("attention", title, why, [_score_rows(scene, maps)] if dynamic.score.any() else [])
    intro = (
        "The network compares frames in pairs; where its attention is unusual, something moves. A to D: how much "
        "attention each patch draws from the other frame, and how much that differs from pair to pair (spread), while "
        f"this frame is the second or the first of the pair. {escape(_formula(scene))}"
    )
    if "flow_residual" in maps:
        intro += (
            " E: how far optical flow is from what any motion of the camera explains; where that is little, nothing "
            "moves."
        )
    if not maps:
        intro += " This scene kept the score only, not the maps."
    return section("attention", title, intro, [_score_rows(scene, maps), _ramp(SCORE_MAP, "low", "high")])


def depth_section(scene: Scene, measured: Measured) -> str:
    """Frame, depth and confidence of a few frames."""
    title = "Depth and trust"
    if not scene.has_depth:
        count = 0 if scene.sparse is None else len(scene.sparse)
        return section(
            "depth", title, f"This scene has no depth maps; training starts from {count:,} triangulated points.", []
        )
    size, limits = panel_size(scene, _ROW_WIDTH), depth_range(scene)
    high = float(np.quantile(scene.confidence[:, ::4, ::4], 0.98))
    rows = []
    for f in spread(len(measured.series.times), ROW_FRAMES):
        cells = [
            picture(jpeg_uri(photo(scene, f, size), 76), f"Frame {f + 1}", f"frame {f + 1}"),
            picture(jpeg_uri(depth_picture(scene, f, limits), 85), f"Depth of frame {f + 1}", "depth"),
            picture(jpeg_uri(confidence_picture(scene, f, high), 85), f"Confidence of frame {f + 1}", "confidence"),
        ]
        rows.append(f'<div class="row three">{"".join(cells)}</div>')
    usable = or_dash(measured.measures.usable, percent)
    intro = (
        "All frames share one scale of colours, so a step in brightness from frame to frame is a step in depth. Grey "
        f"pixels are not trusted (confidence below {scene.min_confidence:g}). {usable} of the pixels stand still, are "
        "trusted and agree with the other frames."
    )
    near, far = (f"{limit / measured.unit:.2g}" for limit in limits)
    ramps = _ramp(DEPTH_MAP, f"far ({far} x the typical depth)", f"near ({near} x)")
    ramps += _ramp(CONFIDENCE_MAP, f"confidence {scene.min_confidence:.3g}", f"{high:.3g}")
    return section("depth", title, intro, [f'<div class="rows pair">{"".join(rows)}</div>', ramps])


def _figure(name: str, value: float | None, show: Callable[[float], str], remark: str) -> tuple[str, str, str]:
    return (name, "-", "not measured") if value is None else (name, show(value), remark)


def _in_favour(verdict: Verdict) -> str:
    """The measures that matter most, with their limits, as one sentence."""
    decisive = ("parallax", "coverage", "usable", "num_sparse", "depth_error", "colour_gain", "reprojection")
    shown = [c for c in verdict.checks if c.rule.key in decisive and c.value is not None]
    return "; ".join(f"{c.rule.title.lower()}: {c.shown} (fine: {c.rule.limits()})" for c in shown).capitalize() + "."


def _reason(check: Check) -> str:
    return (
        f'<li class="{_TONES[check.level]}"><p><span class="badge">{_badge(check)}</span>{escape(check.reason)}</p>'
        f'<p class="remedy">{_with_code(check.rule.remedy)}</p></li>'
    )


def _with_code(text: str) -> str:
    """HTML of a sentence in which options stand out."""
    return re.sub(r"(--[a-z][a-z.-]*[a-z](?: (?:dust3r|colmap))?)", r"<code>\1</code>", escape(text))


def _badge(check: Check) -> str:
    return "none" if check.value is None else _BADGES[check.level]


def _coverage_chart(scene: Scene, measured: Measured) -> str:
    axes = Axes(x_label(scene), lambda v: f"{v:.3g} %", "Masked share of each frame", least_high=5.0)
    drawing = line_chart(measured.series.times, [Line("", 100 * measured.series.coverage, filled=True)], axes)
    return chart("Masked part of the picture", drawing)


def _flicker_chart(scene: Scene, measured: Measured) -> str:
    limit = care_limit("flicker") or 0.0
    axes = Axes(
        x_label(scene), lambda v: f"{v:.3g} %", "Flicker of the masks", limit=100 * limit, least_high=100 * limit
    )
    drawing = line_chart(measured.series.times, [Line("", 100 * measured.series.flicker, filled=True)], axes)
    return chart("Flicker", drawing, "How far the masked area is from that of the frames around it.")


def _score_rows(scene: Scene, maps: dict[str, np.ndarray]) -> str:
    labels = {name: label for name, label in (MAP_LABELS | FLOW_LABELS | GEOMETRY_LABELS).items() if name in maps}
    rows = []
    for f in spread(len(scene), ROW_FRAMES):
        cells = [
            picture(jpeg_uri(photo(scene, f, panel_size(scene, _MAP_PIXELS)), 76), f"Frame {f + 1}", f"frame {f + 1}")
        ]
        for name, label in labels.items():
            shown = png_uri(colored(maps[name][f], *_range(maps[name]), SCORE_MAP))
            cells.append(picture(shown, f"{label}, frame {f + 1}", label, "pixels"))
        shown = png_uri(colored(scene.dynamic.score[f], 0.0, 1.0, SCORE_MAP))
        cells.append(picture(shown, f"Dynamic score of frame {f + 1}", "score", "pixels"))
        width = "seven" if len(cells) > 6 else "six"
        rows.append(f'<div class="row {width}">{"".join(cells)}</div>')
    return f'<div class="rows">{"".join(rows)}</div>'


def _range(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.01, 0.99])
    return float(low), float(high)


def _formula(scene: Scene) -> str:
    signs = (scene.provenance.get("weights") or {}).get("dynamic_score") or {}
    letters = {1: "{}", -1: "(1 - {})"}
    factors = [letters[signs[n]].format(MAP_LABELS[n][0]) for n in MAP_LABELS if signs.get(n) in letters]
    if not factors:
        return "The score joins them."
    if signs.get("flow_residual"):
        factors.append(FLOW_LABELS["flow_residual"][0])
    return f"Score = {' x '.join(factors)}, averaged over patches that look alike."


def _ramp(colormap: int, low: str, high: str) -> str:
    shown = png_uri(colored(np.linspace(0, 1, 64)[None].repeat(2, axis=0), 0, 1, colormap))
    return f'<p class="ramp"><span>{escape(low)}</span><img src="{shown}" alt=""><span>{escape(high)}</span></p>'
