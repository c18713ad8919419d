"""Focal length, principal point and distortion, and how certain they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...core.geometry import distortion_names, intrinsics_to_source, is_distorted
from ...core.scene import Scene
from ..contents import Chart, Fact
from ..figures import Axes, Line, line_chart
from ..measures import MeasuredScene, focal_estimates, zooms
from ..words import percent, plain, x_label


@dataclass(frozen=True)
class LensSection:
    """The lens in numbers, and the focal lengths of single frames."""

    lead: str
    facts: tuple[Fact, ...]
    charts: tuple[Chart, ...]


def lens_section(scene: Scene, measured: MeasuredScene) -> LensSection:
    """The lens in pixels of the source image."""
    m, count = measured.measures, measured.measures.num_frames
    estimates = focal_estimates(scene, count) / scene.pixel_map.scale_xy[0]
    if m.focal_known:
        lead = "The focal length was given (--focal-length) and kept."
    elif zooms(scene):
        lead = "Every frame has a focal length of its own, for a lens that zooms (--align.no-shared-focal)."
    elif (scene.provenance.get("camera_motion") or {}).get("focal") == "turn":
        lead = "The turn of the camera shows the focal length."
    elif (scene.provenance.get("camera_motion") or {}).get("focal") == "metadata":
        lead = "The focal length is what the clip's file says: nothing in the pictures shows it."
    elif scene.stays and not scene.has_depth:
        lead = (
            "Nothing in the pictures shows the focal length: it is a guess. Give --focal-length if the lens is known."
        )
    elif m.focal_sigma is not None:
        lead = (
            f"Bundle adjustment finds the focal length to within {percent(m.focal_sigma)} (1 sigma), if the lens is of "
            "the kind that was fitted and the shutter does not roll."
        )
    elif m.focal_spread is None:
        lead = "The uncertainty of the focal length was not estimated."
    else:
        lead = "Each frame gives an estimate of the focal length of its own; their spread shows how certain it is."
    charts: tuple[Chart, ...] = ()
    if not m.focal_known and len(estimates) == count > 1:
        axes = Axes(x_label(scene), plain, "Focal length estimated from each frame")
        drawing = line_chart(measured.series.times, [Line("estimate of each frame", estimates)], axes)
        charts = (Chart("Focal length", drawing, "Pixels of the source image."),)
    return LensSection(lead, _facts(scene, measured, estimates), charts)


def _facts(scene: Scene, measured: MeasuredScene, estimates: np.ndarray) -> tuple[Fact, ...]:
    m, count, scale = measured.measures, measured.measures.num_frames, scene.pixel_map.scale_xy[0]
    focals = scene.focals[:count] / scale
    _, _, cx, cy = intrinsics_to_source(scene.focals[0], scene.principal_point, scene.pixel_map)
    shared = np.ptp(focals) < 1e-6 * focals.mean()
    facts = [
        Fact("focal length", f"{focals.mean():.0f} px" if shared else f"{focals.min():.0f} to {focals.max():.0f} px"),
        Fact("field of view", f"{m.fov:.1f} degrees across"),
        Fact("principal point", f"{cx:.0f}, {cy:.0f} of {'x'.join(map(str, scene.pixel_map.source_wh))}"),
    ]
    if scene.uncertainty is not None and not m.focal_known:
        facts.append(Fact("uncertainty, 1 sigma", f"{scene.uncertainty.focal[:count].mean() / scale:.1f} px"))
    if is_distorted(scene.distortion):
        names = ", ".join(distortion_names(scene.distortion))
        facts.append(Fact(f"distortion {names}", ", ".join(f"{value:.3g}" for value in scene.distortion)))
    if not m.focal_known and m.focal_spread is not None:
        facts.append(Fact("spread between frames", f"{estimates.std():.0f} px ({percent(m.focal_spread)})"))
    return tuple(facts)
