"""The camera path: from above, over time, and how certain it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.metric import scale_in_words
from ...core.scene import FIXED, INTERPOLATED, TURNING, Scene
from ...core.surface import world_points
from ...core.upright import WORLD_UP, is_level, said_of
from ..contents import Chart
from ..figures import Axes, Line, MapExtent, line_chart, map_chart
from ..measures import MeasuredScene
from ..pictures import png_uri
from ..rules import care_limit
from ..sampling import evenly_spaced, static_samples
from ..words import in_degrees, or_not_measured, plain, unit_of_time, x_label

_MAP_PIXELS = 340
_MAP_POINTS = 30_000
_MAP_FRAMES = 20
"""Most frames whose depths give points of the map."""
_SOURCES = {
    "colmap": "refined by COLMAP",
    "network": "from the network",
    "aligned": "not registered by COLMAP and moved into its world",
    INTERPOLATED: "interpolated, in no split",
    FIXED: "of a camera that stands still",
    TURNING: "of a camera that only turns",
}
"""Where a camera comes from, see :attr:`easi3r_ns.core.scene.Scene.pose_sources`."""


@dataclass(frozen=True)
class CameraPathSection:
    """The path in a sentence and in charts; a sentence only for a single frame."""

    lead: str
    charts: tuple[Chart, ...]


def camera_path_section(scene: Scene, measured: MeasuredScene) -> CameraPathSection:
    """The camera path from above and over time, its parallax and its uncertainty."""
    m, series = measured.measures, measured.series
    if len(series.times) < 2:
        return CameraPathSection("One frame has no path.", ())
    parallax = or_not_measured(m.parallax, lambda v: f"{v:.1f} degrees")
    lead = (
        "The camera does not leave its place."
        if scene.stays
        else (
            f"The camera travels {m.travel:.2g} times the typical depth of the scene. The directions from which the "
            f"cameras see a typical background point span {parallax}."
        )
    )
    if scene.pose_sources is not None:
        lead += f" {_pose_sources(scene.pose_sources)}"
    lead += _elected(scene.provenance.get("mapping"))
    lead += f" In files, {said_of(scene)}. Lengths are {scale_in_words(scene)}."
    if why := (scene.provenance.get("refine") or {}).get("why"):
        lead += f" Bundle adjustment changes nothing: {why}."
    if scene.stays:
        return CameraPathSection(lead, tuple(_motion_charts(scene, measured)[-1:]))
    charts = [_map_chart(scene, measured), *_motion_charts(scene, measured)]
    if len(measured.parallax):
        charts.append(_parallax_chart(measured))
    charts += _uncertainty_charts(scene, measured)
    return CameraPathSection(lead, tuple(charts))


def _pose_sources(sources: tuple[str, ...]) -> str:
    counts = {text: sources.count(name) for name, text in _SOURCES.items()}
    return "Cameras: " + ", ".join(f"{count} {text}" for text, count in counts.items() if count) + "."


def _elected(record: Any) -> str:
    """Which mapping the cameras come from and why; nothing where none was elected."""
    return f" They come from {record['kept']}: {record['why']}." if record else ""


def _motion_charts(scene: Scene, measured: MeasuredScene) -> list[Chart]:
    """Position, speed and rotation over time."""
    series, x, per = measured.series, x_label(scene), unit_of_time(scene)
    jumps = " Red dots: jumps." if series.jumps.any() else ""
    position = [
        Line(label, series.position[:, axis], f"s{axis + 1}") for axis, label in enumerate(("right", "down", "forward"))
    ]
    position_axes = Axes(x, plain, "Camera position over time", low=None)
    speed_axes = Axes(x, plain, "Camera speed over time")
    rotation_axes = Axes(x, in_degrees, "Rotation speed over time")
    return [
        Chart(
            "Position",
            line_chart(series.times, position, position_axes),
            "In multiples of the typical depth, in the axes of the first camera.",
        ),
        Chart(
            "Speed",
            line_chart(series.times, [Line("", series.speed)], speed_axes, series.jumps),
            f"Typical depths per {per}.{jumps}",
        ),
        Chart(
            "Rotation speed",
            line_chart(series.times, [Line("", series.rotation_speed)], rotation_axes, series.jumps),
            f"Degrees per {per}.{jumps}",
        ),
    ]


def _parallax_chart(measured: MeasuredScene) -> Chart:
    share = np.linspace(0, 100, 51)
    lines = [Line("", np.quantile(measured.parallax, share / 100), filled=True)]
    alt = "Parallax of the background points, sorted"
    axes = Axes("% of the points", in_degrees, alt, limit=care_limit("parallax"))
    note = (
        "Largest angle between two cameras that see a background point, points sorted. Below the dashed line, depth is "
        "hard to measure."
    )
    return Chart("Parallax", line_chart(share, lines, axes), note)


def _uncertainty_charts(scene: Scene, measured: MeasuredScene) -> list[Chart]:
    """1 sigma of position and rotation of each camera; nothing where they were not estimated."""
    found, count = scene.uncertainty, measured.measures.num_frames
    if found is None:
        return []
    position, rotation = 100 * found.centre[:count] / measured.unit, found.rotation_deg[:count]
    unconstrained = int(np.isinf(position).sum())
    gaps = (
        f" Left out: {unconstrained} of {count} cameras, which no pair of frames constrains." if unconstrained else ""
    )
    parts: tuple[tuple[str, np.ndarray, Callable[[float], str], str], ...] = (
        ("Uncertainty of the position", position, lambda v: f"{v:.2g} %", "In percent of the typical depth"),
        ("Uncertainty of the rotation", rotation, lambda v: f"{v:.2g}\u00b0", "In degrees"),
    )
    charts = []
    for title, values, show, unit in parts:
        if np.isfinite(values).any():
            lines = [Line("", np.where(np.isfinite(values), values, np.nan), filled=True)]
            drawing = line_chart(measured.series.times, lines, Axes(x_label(scene), show, title))
            charts.append(Chart(title, drawing, f"{unit}, 1 sigma, without errors that all pairs share.{gaps}"))
    return charts


def _map_chart(scene: Scene, measured: MeasuredScene) -> Chart:
    """The path on the ground plane above the static points, in median depths from the first camera."""
    T = scene.T_world_cam[: measured.measures.num_frames]
    right, forward = _ground_axes(T, WORLD_UP if is_level(scene) else None)
    ground = np.stack([right, forward])
    path = (T[:, :3, 3] - T[0, :3, 3]) @ ground.T / measured.unit
    heading = T[:, :3, 2] @ ground.T
    heading /= np.maximum(np.linalg.norm(heading, axis=1, keepdims=True), 1e-9)
    points, colors = _map_points(scene, measured.measures.num_frames)
    flat = (points - T[0, :3, 3]) @ ground.T / measured.unit
    extent = _extent(path, flat)
    drawing = map_chart(_points_image(flat, colors, extent), path, heading, extent, "Camera path from above")
    note = "Ring: start. Dot: end. The wedges show where the camera looks."
    return Chart("From above", drawing, note, tall=True)


def _map_points(scene: Scene, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) static world points and (N, 3) uint8 colours: samples of the depths, or else the triangulated points."""
    if scene.has_measured_depth:
        frames = evenly_spaced(count, _MAP_FRAMES)
        samples = [(f, *static_samples(scene, f, _MAP_POINTS // len(frames))) for f in frames]
        points = [world_points(scene, f, where=(rows, cols)) for f, rows, cols in samples]
        colors = [scene.images[f][rows, cols] for f, rows, cols in samples]
        return np.concatenate(points), np.concatenate(colors)
    if scene.sparse is not None:
        return scene.sparse.points, scene.sparse.colors
    return np.empty((0, 3)), np.empty((0, 3), dtype=np.uint8)


def _ground_axes(T: np.ndarray, up: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Right and forward of the first camera, made level by ``up``, by default the mean 'up' of all cameras."""
    up = -T[:, :3, 1].mean(axis=0) if up is None else up
    up = up / max(float(np.linalg.norm(up)), 1e-9)
    forward = T[0, :3, 2] - up * (T[0, :3, 2] @ up)
    if np.linalg.norm(forward) < 1e-3:  # the first camera looks straight down or up
        forward = -T[0, :3, 1] + up * (T[0, :3, 1] @ up)
    forward /= max(float(np.linalg.norm(forward)), 1e-9)
    return np.cross(forward, up), forward


def _extent(path: np.ndarray, points: np.ndarray) -> MapExtent:
    """A rectangle around the path and most of the points, neither much wider than high nor the reverse."""
    near = points if len(points) else path
    low = np.minimum(path.min(axis=0), np.quantile(near, 0.05, axis=0))
    high = np.maximum(path.max(axis=0), np.quantile(near, 0.95, axis=0))
    # No more than five times the path, or the path would be a dot; the constant keeps the map of a still camera open.
    centre, reach = path.mean(axis=0), 2.5 * float(np.ptp(path, axis=0).max()) + 0.3
    low, high = np.maximum(low, centre - 2 * reach), np.minimum(high, centre + 2 * reach)
    size = np.maximum(1.12 * (high - low), 1e-6)
    middle = (low + high) / 2
    half = np.array([max(size[0], size[1] / 1.0), max(size[1], 0.6 * size[0])]) / 2
    return MapExtent(middle[0] - half[0], middle[0] + half[0], middle[1] - half[1], middle[1] + half[1])


def _points_image(flat: np.ndarray, colors: np.ndarray, extent: MapExtent) -> str | None:
    """A data URI with the (N, 2) points as pixels, transparent where there are none."""
    if not len(flat):
        return None
    width, height = _MAP_PIXELS, max(2, round(_MAP_PIXELS * extent.aspect))
    x = (flat[:, 0] - extent.left) / (extent.right - extent.left) * width
    y = (extent.front - flat[:, 1]) / (extent.front - extent.back) * height
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    image = np.zeros((height, width, 4), dtype=np.uint8)
    image[y[inside].astype(int), x[inside].astype(int), :3] = colors[inside]
    image[y[inside].astype(int), x[inside].astype(int), 3] = 150
    return png_uri(image)
