"""Do the frames agree? Residuals of static points: of depth, of colour and of triangulation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...core.scene import Scene, SparsePoints
from ..contents import Chart
from ..figures import Axes, Bar, Line, bar_chart, line_chart
from ..measures import MeasuredScene
from ..residuals import Residuals
from ..words import in_percent, percent, plain, x_label


@dataclass(frozen=True)
class AgreementSection:
    """The residuals in a sentence each, and as charts."""

    lead: str
    charts: tuple[Chart, ...]


def agreement_section(scene: Scene, measured: MeasuredScene) -> AgreementSection:
    """What can be compared in this scene: depths where there are any, reprojection where points were triangulated."""
    charts, sentences, r = [], [], measured.residuals
    if r is not None and r.near_median is not None and r.far_median is not None:
        charts.append(_depth_chart(scene, measured, r))
        sentences.append(
            "Static points of every frame were looked up in other frames. Their depths disagree by "
            f"{percent(r.near_median)} in the next frame (one in ten by more than {percent(r.near_p90 or 0)}) and by "
            f"{percent(r.far_median)} after {r.gap} frames ({percent(r.far_p90 or 0)})."
        )
    if r is not None and r.colour_along is not None and r.colour_still is not None:
        charts.append(_colour_chart(r.colour_along, r.colour_still, r.gap))
    if scene.sparse is not None and len(scene.sparse):
        errors = scene.sparse.errors
        charts.append(_reprojection_chart(scene.sparse))
        sentences.append(
            f"{len(scene.sparse):,} triangulated points have a reprojection error of {np.median(errors):.2f} px "
            f"of the source image (median; one in ten has more than {np.quantile(errors, 0.9):.2f} px)."
        )
    if not charts:
        sentences = ["There is too little static, trusted depth to compare frames."]
    return AgreementSection(" ".join(sentences), tuple(charts))


def _depth_chart(scene: Scene, measured: MeasuredScene, residuals: Residuals) -> Chart:
    lines = [Line("next frame", 100 * residuals.near), Line(f"{residuals.gap} frames later", 100 * residuals.far, "s2")]
    axes = Axes(x_label(scene), in_percent, "Depth disagreement of each frame", least_high=1.0)
    return Chart("Depth disagreement", line_chart(measured.series.times, lines, axes), "Median over static points.")


def _colour_chart(along: float, still: float, gap: int) -> Chart:
    bars = [Bar("if the camera had stood still", still), Bar("along the estimated camera motion", along)]
    drawing = bar_chart(bars, lambda value: f"{value:.1f}", "Change of the picture with and without camera motion")
    note = (
        f"Median difference of static pixels {gap} frames later, in levels of 255. With correct cameras and depths, "
        "the second bar is much shorter than the first."
    )
    return Chart("Change of the picture", drawing, note)


def _reprojection_chart(sparse: SparsePoints) -> Chart:
    share = np.linspace(1, 100, 50)
    lines = [Line("", np.quantile(sparse.errors, share / 100), filled=True)]
    axes = Axes("% of the points", plain, "Reprojection error, sorted")
    return Chart("Reprojection error", line_chart(share, lines, axes), "Pixels of the source image, points sorted.")
