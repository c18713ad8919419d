"""Small charts as inline SVG: fixed size, colours from the page's style sheet, no script.

Every chart is :data:`WIDTH` units wide and is meant to be shown at about that many pixels, on a phone and on a desk,
so that its text keeps its size. ``style.css`` defines the classes: ``axis``, ``grid``, ``s1`` ...

Not matplotlib: the colours of its SVG are fixed, so a page could not follow the dark mode, and it has no tooltips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from matplotlib.ticker import MaxNLocator

from .sampling import evenly_spaced

WIDTH = 340
HEIGHT = 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 10, 24, 30
_DIGIT = 6.2
"""Width of a character of a tick's label."""
_SCALE_BAR = 20
"""Height of the strip below a map that shows its scale."""
_BAR_STEP, _BAR_TEXT = 42, 40
"""Height of a bar with its label, and room right of the longest bar for its value."""
_MAX_TOOLTIPS = 400
"""Most frames for which every frame of a chart has a tooltip."""


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    label: str
    values: np.ndarray
    """(N,); NaN interrupts the line."""
    style: str = "s1"
    """CSS class: s1 to s4."""
    filled: bool = False
    """Fill the area down to zero."""


@dataclass(frozen=True)
class Bar:
    """One bar of a bar chart."""

    label: str
    value: float
    """Not negative."""


@dataclass(frozen=True)
class Axes:
    """What the two axes show."""

    x_label: str
    show: Callable[[float], str]
    """A value of y as text, for ticks and tooltips."""
    alt: str
    """What the chart shows, for those who cannot see it."""
    low: float | None = 0.0
    """Lower end of y; None: that of the data."""
    least_high: float = 0.0
    """The upper end of y is at least this."""
    limit: float | None = None
    """A dashed line, where it lies inside or near the data."""


@dataclass(frozen=True)
class MapExtent:
    """A rectangle on the ground, in median depths: right and forward of the first camera."""

    left: float
    right: float
    back: float
    front: float

    @property
    def aspect(self) -> float:
        """Height over width."""
        return (self.front - self.back) / (self.right - self.left)


def line_chart(x: np.ndarray, lines: Sequence[Line], axes: Axes, marks: np.ndarray | None = None) -> str:
    """An SVG of lines over (N,) increasing ``x``; ``marks`` (N,) bool puts a dot on the first line there."""
    y_ticks, low, high = _y_range(lines, axes)
    left, right = float(x[0]), float(x[-1]) if x[-1] > x[0] else float(x[0]) + 1.0
    margin = max(_LEFT, 8 + _DIGIT * max(len(axes.show(tick)) for tick in y_ticks))
    to_x = _scale(left, right, margin, WIDTH - _RIGHT)
    to_y = _scale(low, high, HEIGHT - _BOTTOM, _TOP)
    parts = [_grid(y_ticks, to_y, axes.show, margin), _x_axis(left, right, to_x, axes.x_label, margin)]
    if axes.limit is not None and low <= axes.limit <= high:
        parts.append(
            f'<line class="limit" x1="{margin:.0f}" x2="{WIDTH - _RIGHT}" y1="{to_y(axes.limit):.1f}" '
            f'y2="{to_y(axes.limit):.1f}"/>'
        )
    for line in lines:
        parts.append(_draw(x, line, to_x, to_y, low))
    if marks is not None:
        for k in np.flatnonzero(marks & np.isfinite(lines[0].values)):
            parts.append(f'<circle class="mark" cx="{to_x(x[k]):.1f}" cy="{to_y(lines[0].values[k]):.1f}" r="3.5"/>')
    parts.append(_legend(lines))
    parts.append(_tooltips(x, lines, axes, to_x))
    return svg(parts, axes.alt, HEIGHT)


def bar_chart(bars: Sequence[Bar], show: Callable[[float], str], alt: str) -> str:
    """An SVG of bars from the left, each below its label; ``show`` gives the value as text."""
    longest, most = max([*(bar.value for bar in bars), 1e-9]), WIDTH - _BAR_TEXT - _RIGHT
    parts = []
    for k, bar in enumerate(bars):
        y, width = _BAR_STEP * k, most * bar.value / longest
        parts.append(f'<text class="key" x="0" y="{y + 14}">{escape(bar.label)}</text>')
        parts.append(f'<rect class="block" x="0" y="{y + 20}" width="{width:.1f}" height="10" rx="2"/>')
        parts.append(f'<text class="tick" x="{width + 6:.1f}" y="{y + 29}">{escape(show(bar.value))}</text>')
    return svg(parts, alt, _BAR_STEP * len(bars))


def svg(parts: Sequence[str], alt: str, height: float) -> str:
    """Elements -> an SVG of the usual width, described by ``alt``."""
    body = "".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(alt)}">{body}</svg>'


def map_chart(picture: str | None, path: np.ndarray, headings: np.ndarray, extent: MapExtent, alt: str) -> str:
    """The camera path from above.

    Args:
        picture: data URI of what lies below the path, covering ``extent``; None: nothing.
        path: (N, 2) right and forward.
        headings: (N, 2) unit viewing directions in the same axes.
        extent: the part of the ground that is shown.
    """
    height = WIDTH * extent.aspect
    to_x = _scale(extent.left, extent.right, 0, WIDTH)
    to_y = _scale(extent.back, extent.front, height, 0)
    xy = np.stack([[to_x(p[0]) for p in path], [to_y(p[1]) for p in path]], axis=-1)
    parts = []
    if picture:
        parts.append(f'<image href="{picture}" x="0" y="0" width="{WIDTH}" height="{height:.1f}"/>')
    parts += [_camera(xy[k], headings[k]) for k in evenly_spaced(len(path), 12)]
    parts.append(f'<polyline class="line s1" points="{_points(xy)}"/>')
    parts.append(f'<circle class="start" cx="{xy[0, 0]:.1f}" cy="{xy[0, 1]:.1f}" r="5"/>')
    parts.append(f'<circle class="end" cx="{xy[-1, 0]:.1f}" cy="{xy[-1, 1]:.1f}" r="5"/>')
    parts.append(_scale_bar(extent, height))
    return svg(parts, alt, height + _SCALE_BAR)


def ticks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round numbers that cover the range."""
    return [float(v) for v in MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]


def _y_range(lines: Sequence[Line], axes: Axes) -> tuple[list[float], float, float]:
    values = np.concatenate([line.values for line in lines])
    values = values[np.isfinite(values)]
    low = axes.low if axes.low is not None else float(values.min()) if len(values) else 0.0
    high = max(float(values.max(initial=low)), axes.least_high)
    if high <= low:
        high = low + 1.0
    found = ticks(low, high, 4)
    # Where zero is the lower end, no tick lies below it.
    kept = [tick for tick in found if axes.low is None or tick >= axes.low - 1e-9]
    return kept, min(low, kept[0]), max(high, kept[-1])


def _scale(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    return lambda value: start + (stop - start) * (value - low) / (high - low)


def _grid(values: Sequence[float], to_y: Callable[[float], float], show: Callable[[float], str], margin: float) -> str:
    parts = []
    for value in values:
        y = to_y(value)
        parts.append(f'<line class="grid" x1="{margin:.0f}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{margin - 5:.0f}" y="{y + 3.5:.1f}" text-anchor="end">{escape(show(value))}</text>'
        )
    return "".join(parts)


def _x_axis(left: float, right: float, to_x: Callable[[float], float], label: str, margin: float) -> str:
    base = HEIGHT - _BOTTOM
    parts = [f'<line class="axis" x1="{margin:.0f}" x2="{WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>']
    inside = [t for t in ticks(left, right, 5) if left - 1e-9 <= t <= right + 1e-9]
    for tick in inside:
        parts.append(f'<text class="tick" x="{to_x(tick):.1f}" y="{base + 14}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text class="label" x="{WIDTH - _RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{escape(label)}</text>')
    return "".join(parts)


def _draw(x: np.ndarray, line: Line, to_x: Callable[[float], float], to_y: Callable[[float], float], low: float) -> str:
    parts = []
    for run in _runs(np.isfinite(line.values)):
        xy = np.array([(to_x(x[k]), to_y(line.values[k])) for k in run])
        if line.filled and len(run) > 1:
            corners = np.concatenate([[(xy[0, 0], to_y(low))], xy, [(xy[-1, 0], to_y(low))]])
            parts.append(f'<polygon class="area {line.style}" points="{_points(corners)}"/>')
        if len(run) > 1:
            parts.append(f'<polyline class="line {line.style}" points="{_points(xy)}"/>')
        else:
            parts.append(f'<circle class="dot {line.style}" cx="{xy[0, 0]:.1f}" cy="{xy[0, 1]:.1f}" r="2"/>')
    return "".join(parts)


def _runs(known: np.ndarray) -> list[list[int]]:
    runs: list[list[int]] = []
    for k in np.flatnonzero(known).tolist():
        if runs and runs[-1][-1] == k - 1:
            runs[-1].append(k)
        else:
            runs.append([k])
    return runs


def _legend(lines: Sequence[Line]) -> str:
    parts, x = [], float(_LEFT)
    for line in lines:
        if line.label:
            parts.append(f'<line class="line {line.style}" x1="{x:.0f}" x2="{x + 14:.0f}" y1="9" y2="9"/>')
            parts.append(f'<text class="key" x="{x + 18:.0f}" y="12.5">{escape(line.label)}</text>')
            x += 30 + 6.2 * len(line.label)
    return "".join(parts)


def _tooltips(x: np.ndarray, lines: Sequence[Line], axes: Axes, to_x: Callable[[float], float]) -> str:
    if len(x) > _MAX_TOOLTIPS:
        return ""
    edges = np.concatenate([[x[0]], (x[1:] + x[:-1]) / 2, [x[-1]]])
    parts = []
    for k, at in enumerate(x):
        shown = [f"{line.label} {axes.show(line.values[k])}".strip() for line in lines if np.isfinite(line.values[k])]
        title = f"frame {k + 1} ({at:.4g} {axes.x_label}): {', '.join(shown) or 'nothing to compare'}"
        start, stop = to_x(edges[k]), to_x(edges[k + 1])
        parts.append(
            f'<rect class="hit" x="{start:.1f}" y="{_TOP}" width="{max(stop - start, 0.5):.1f}" '
            f'height="{HEIGHT - _TOP - _BOTTOM}"><title>{escape(title)}</title></rect>'
        )
    return "".join(parts)


def _camera(at: np.ndarray, heading: np.ndarray) -> str:
    forward = np.array([heading[0], -heading[1]])
    side = np.array([-forward[1], forward[0]])
    corners = np.stack([at, at + 15 * forward + 8 * side, at + 15 * forward - 8 * side])
    return f'<polygon class="camera" points="{_points(corners)}"/>'


def _scale_bar(extent: MapExtent, height: float) -> str:
    span = extent.right - extent.left
    length = next(t for t in reversed(ticks(0, span / 3, 3)) if t <= span / 3 + 1e-9)
    pixels = WIDTH * length / span
    y = height + _SCALE_BAR / 2
    return (
        f'<path class="scalebar" d="M10 {y - 4:.1f}v8m0 -4h{pixels:.1f}m0 -4v8"/>'
        f'<text class="key" x="{16 + pixels:.1f}" y="{y + 3.5:.1f}">{length:g} x the typical depth</text>'
    )


def _points(xy: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in xy)
