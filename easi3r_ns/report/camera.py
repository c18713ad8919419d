"""The parts of the report card about cameras: their path, the lens, whether the frames agree."""

from __future__ import annotations

from html import escape

import numpy as np

from ..core.geometry import intrinsics_to_source
from ..core.scene import INTERPOLATED, Scene
from .figures import Axes, Line, MapExtent, line_chart, map_chart
from .measures import Measured, focal_estimates
from .page import chart, charts, facts, section, table
from .pictures import png_uri
from .residuals import path_points
from .verdict import care_limit, percent
from .words import or_dash, plain, unit_of_time, x_label

_MAP_PIXELS = 340
_MAP_POINTS = 30_000


def path_section(scene: Scene, measured: Measured) -> str:
    """The camera path from above and over time."""
    m, series = measured.measures, measured.series
    if len(series.times) < 2:
        return section("path", "Camera path", "One frame has no path.", [])
    x, dots = x_label(scene), " Red dots: jumps." if series.jumps.any() else ""
    position = [
        Line(label, series.position[:, axis], f"s{axis + 1}") for axis, label in enumerate(("right", "down", "forward"))
    ]
    figures = [
        chart(
            "From above", _map(scene, measured), "Start: ring. End: dot. Wedges open where the camera looks.", "tall"
        ),
        chart(
            "Position",
            line_chart(series.times, position, Axes(x, plain, "Camera position over time", low=None)),
            "In units of the typical depth, seen from the first camera.",
        ),
        chart(
            "Speed",
            line_chart(series.times, [Line("", series.speed)], Axes(x, plain, "Camera speed over time"), series.jumps),
            f"Typical depths per {unit_of_time(scene)}.{dots}",
        ),
        chart(
            "Turning",
            line_chart(
                series.times,
                [Line("", series.rotation_speed)],
                Axes(x, lambda v: f"{v:.3g}\u00b0", "Rotation speed over time"),
                series.jumps,
            ),
            f"Degrees per {unit_of_time(scene)}.{dots}",
        ),
    ]
    if len(measured.parallax):
        figures.append(_parallax_chart(measured))
    if scene.uncertainty is not None:
        figures += _uncertainty_charts(scene, measured)
    found = "" if scene.pose_sources is None else f" {_pose_sources(scene)}"
    intro = (
        f"The camera travels {m.travel:.2g} times the typical depth of the scene; a typical background point is seen "
        f"from directions {or_dash(m.parallax, lambda v: f'{v:.1f} degrees')} apart.{escape(found)}"
    )
    return section("path", "Camera path", intro, [charts(figures)])


def lens_section(scene: Scene, measured: Measured) -> str:
    """Focal length, principal point, distortion, and how sure they are."""
    m, count = measured.measures, measured.measures.num_frames
    scale = scene.pixel_map.scale_xy[0]
    focals, estimates = scene.focals[:count] / scale, focal_estimates(scene, count) / scale
    _, _, cx, cy = intrinsics_to_source(scene.focals[0], scene.principal_point, scene.pixel_map)
    one = np.ptp(focals) < 1e-6 * focals.mean()
    rows = [
        ("focal length", f"{focals.mean():.0f} px" if one else f"{focals.min():.0f} to {focals.max():.0f} px"),
        ("field of view", f"{m.fov:.1f} degrees across"),
        ("principal point", f"{cx:.0f}, {cy:.0f} of {'x'.join(map(str, scene.pixel_map.source_wh))}"),
    ]
    if scene.uncertainty is not None and not m.focal_known:
        rows.append(("uncertainty, 1 sigma", f"{scene.uncertainty.focal[:count].mean() / scale:.1f} px"))
    if any(scene.distortion):
        rows.append(("distortion k1, k2, p1, p2", ", ".join(f"{value:.3g}" for value in scene.distortion)))
    if m.focal_known:
        intro = "The focal length was given (--focal-length) and kept."
    elif m.focal_spread is None:
        intro = "The uncertainty of the focal length was not estimated."
    else:
        rows.append(("spread between frames", f"{estimates.std():.0f} px ({percent(m.focal_spread)})"))
        intro = "Every frame has its own opinion about the focal length; their spread shows how sure it is."
    parts = [facts(rows)]
    if not m.focal_known and len(estimates) == count > 1:
        axes = Axes(x_label(scene), plain, "Focal length seen by each frame")
        drawing = line_chart(measured.series.times, [Line("seen by single frames", estimates)], axes)
        parts.append(charts([chart("Focal length", drawing, "Pixels of the source image.")]))
    return section("lens", "Lens", intro, parts)


def agreement_section(scene: Scene, measured: Measured) -> str:
    """Static reprojection residuals: depth, colour, and triangulated points."""
    figures, sentences, r = [], [], measured.residuals
    if r is not None and r.near_median is not None and r.far_median is not None:
        x, lines = x_label(scene), [Line("next frame", 100 * r.near), Line(f"{r.gap} frames on", 100 * r.far, "s2")]
        axes = Axes(x, lambda v: f"{v:.3g} %", "Depth disagreement of each frame", least_high=1.0)
        figures.append(
            chart("Depth disagreement", line_chart(measured.series.times, lines, axes), "Median over static points.")
        )
        sentences.append(
            "Static points of every frame were looked up in other frames. Their depths disagree by "
            f"{percent(r.near_median)} in the next frame (one in ten by more than {percent(r.near_p90 or 0)}) and by "
            f"{percent(r.far_median)} after {r.gap} frames ({percent(r.far_p90 or 0)})."
        )
    if r is not None and r.colour_along is not None and r.colour_still is not None:
        figures.append(_colour_chart(r.colour_along, r.colour_still, r.gap))
    if scene.sparse is not None and len(scene.sparse):
        figures.append(_sparse_chart(scene))
        sentences.append(
            f"{len(scene.sparse):,} triangulated points miss their pixels by {np.median(scene.sparse.errors):.2f} px "
            f"of the source image (median; one in ten by more than {np.quantile(scene.sparse.errors, 0.9):.2f} px)."
        )
    if not figures:
        sentences = ["There is too little static, trusted depth to compare frames."]
    return section("agreement", "Do the frames agree?", " ".join(sentences), [charts(figures)])


def _map(scene: Scene, measured: Measured) -> str:
    T = scene.T_world_cam[: measured.measures.num_frames]
    right, forward = _ground_axes(T)
    ground = np.stack([right, forward])
    path = (T[:, :3, 3] - T[0, :3, 3]) @ ground.T / measured.unit
    heading = T[:, :3, 2] @ ground.T
    heading /= np.maximum(np.linalg.norm(heading, axis=1, keepdims=True), 1e-9)
    points, colors = path_points(scene, measured.measures.num_frames, _MAP_POINTS)
    flat = (points - T[0, :3, 3]) @ ground.T / measured.unit
    extent = _extent(path, flat)
    return map_chart(_splat(flat, colors, extent), path, heading, extent, "Camera path from above")


def _ground_axes(T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right and forward of the first camera, made level by the mean 'up' of all cameras."""
    up = -T[:, :3, 1].mean(axis=0)
    up /= max(float(np.linalg.norm(up)), 1e-9)
    forward = T[0, :3, 2] - up * (T[0, :3, 2] @ up)
    if np.linalg.norm(forward) < 1e-3:  # the first camera looks straight down or up
        forward = -T[0, :3, 1] + up * (T[0, :3, 1] @ up)
    forward /= max(float(np.linalg.norm(forward)), 1e-9)
    return np.cross(forward, up), forward


def _extent(path: np.ndarray, points: np.ndarray) -> MapExtent:
    """The path and most of the points, not much wider than high nor the reverse."""
    near = points if len(points) else path
    low = np.minimum(path.min(axis=0), np.quantile(near, 0.05, axis=0))
    high = np.maximum(path.max(axis=0), np.quantile(near, 0.95, axis=0))
    # No more than five times the path, or it would be a dot; and never nothing.
    centre, reach = path.mean(axis=0), 2.5 * float(np.ptp(path, axis=0).max()) + 0.3
    low, high = np.maximum(low, centre - 2 * reach), np.minimum(high, centre + 2 * reach)
    size = np.maximum(1.12 * (high - low), 1e-6)
    middle = (low + high) / 2
    half = np.array([max(size[0], size[1] / 1.0), max(size[1], 0.6 * size[0])]) / 2
    return MapExtent(middle[0] - half[0], middle[0] + half[0], middle[1] - half[1], middle[1] + half[1])


def _splat(flat: np.ndarray, colors: np.ndarray, extent: MapExtent) -> str | None:
    """A picture of the (N, 2) points, transparent where there are none."""
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


def _colour_chart(along: float, still: float, gap: int) -> str:
    top = max(along, still, 1e-9)
    rows = [
        (escape(name), f"{value:.1f}", f'<span class="bar" style="width:{100 * value / top:.0f}%"></span>')
        for name, value in (("if the camera had stood still", still), ("along the cameras found", along))
    ]
    note = f"Levels of 255 by which static pixels differ {gap} frames on. The lower bar should be much shorter."
    return chart("Change of the picture", table(("", "", ""), rows, "bars"), note)


def _parallax_chart(measured: Measured) -> str:
    share = np.linspace(0, 100, 51)
    lines = [Line("", np.quantile(measured.parallax, share / 100), filled=True)]
    axes = Axes(
        "% of the points",
        lambda v: f"{v:.3g}\u00b0",
        "Parallax of the background points, sorted",
        limit=care_limit("parallax"),
    )
    note = "Widest change of view of each background point, sorted. Below the dashed line, depth is hard to measure."
    return chart("Parallax", line_chart(share, lines, axes), note)


def _uncertainty_charts(scene: Scene, measured: Measured) -> list[str]:
    """How far position and rotation of each camera may be off."""
    found, count, x = scene.uncertainty, measured.measures.num_frames, x_label(scene)
    if found is None:
        return []
    unheld = int(np.isinf(found.centre[:count]).sum())
    gaps = f" Left out: {unheld} of {count} cameras, which nothing holds." if unheld else ""
    position, rotation = (
        np.where(np.isfinite(values), values, np.nan)
        for values in (100 * found.centre[:count] / measured.unit, found.rotation_deg[:count])
    )
    parts = (
        ("Uncertainty of the position", position, lambda v: f"{v:.2g} %", "In percent of the typical depth"),
        ("Uncertainty of the rotation", rotation, lambda v: f"{v:.2g}\u00b0", "In degrees"),
    )
    note = ", 1 sigma; what all pairs of frames get wrong alike is not in it."
    return [
        chart(
            title,
            line_chart(measured.series.times, [Line("", values, filled=True)], Axes(x, show, title)),
            start + note + gaps,
        )
        for title, values, show, start in parts
        if np.isfinite(values).any()
    ]


def _sparse_chart(scene: Scene) -> str:
    errors = np.sort(scene.sparse.errors) if scene.sparse is not None else np.empty(0)
    share = np.linspace(1, 100, 50)
    lines = [Line("", np.quantile(errors, share / 100), filled=True)]
    axes = Axes("% of the points", lambda v: f"{v:.3g}", "Reprojection error, sorted")
    return chart("Reprojection error", line_chart(share, lines, axes), "Pixels of the source image, points sorted.")


def _pose_sources(scene: Scene) -> str:
    counts = {name: (scene.pose_sources or ()).count(name) for name in ("colmap", "network", "aligned", INTERPOLATED)}
    words = {
        "colmap": "refined by COLMAP",
        "network": "from the network",
        "aligned": "moved along, not confirmed",
        INTERPOLATED: "interpolated, in no split",
    }
    return "Cameras: " + ", ".join(f"{n} {words[name]}" for name, n in counts.items() if n) + "."
