"""The key figures at the top of the report."""

from __future__ import annotations

from collections.abc import Callable

from ...core.scene import Scene
from ..contents import Tile
from ..measures import MeasuredScene
from ..words import percent, span_of


def key_figures(scene: Scene, measured: MeasuredScene) -> tuple[Tile, ...]:
    """Six numbers that sum a dataset up."""
    m = measured.measures
    size = "x".join(map(str, scene.pixel_map.source_wh))
    if m.depth_error is None and m.reprojection is not None:
        agreement = Tile("Reprojection error", f"{m.reprojection:.2f} px", "per 1000 px of the picture")
    else:
        agreement = _tile("Depth disagreement", m.depth_error, percent, "between frames, where nothing moves")
    return (
        Tile("Frames", str(m.num_frames), f"{span_of(scene, m)}, {size}"),
        Tile("Moving", percent(m.coverage), f"of the picture; at most {percent(m.coverage_max)}"),
        _tile("Parallax", m.parallax, lambda v: f"{v:.1f}\u00b0", "between the views of a background point"),
        Tile("Field of view", f"{m.fov:.0f}\u00b0", "across, as given" if m.focal_known else "across, as estimated"),
        agreement,
        _tile("Colour residual", m.colour_gain, percent, "of the change in the picture remains"),
    )


def _tile(name: str, value: float | None, show: Callable[[float], str], remark: str) -> Tile:
    return Tile(name, "-", "not measured") if value is None else Tile(name, show(value), remark)
