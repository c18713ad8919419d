"""Does the lens zoom? Found in the points of a model that was made with one focal length for all frames."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..core.geometry import undistort
from ..core.runlog import RunLog
from .individual import FREE_DISTORTION, ROUGH, Adjusted, adjust_focals, cameras_of, with_cameras
from .model import SparseModel
from .score import triangulate

MIN_CHANGE = 0.08
"""Relative change of the focal length that counts as a zoom. Refocusing changes it by a few per cent at most."""
MIN_SIGMAS = 5.0
"""How many of its standard deviations the change must reach."""
MIN_GAIN = 0.8
"""The points that were left out must come back with at most this share of the error of one focal length for all."""
MOST_POINTS = 1200
"""Points that are looked at, those that most frames see; every :data:`_EVERY`-th of them is left out of the fit."""
FEWEST_POINTS = 100
FEWEST_FRAMES = 4
REMEDY = "use --align.no-shared-focal, which finds a focal length for every frame"
_EVERY = 6


@dataclass(frozen=True)
class Zoom:
    """Focal lengths of the registered frames, each found on its own, against one for all."""

    focals: np.ndarray
    """(K,) source pixels. Their ratios are certain, their common factor is not: the cameras began with one focal length
    for all, which can be far off."""
    change: float
    """Largest over smallest focal length, less 1; single frames that stand out do not count."""
    sigma: float
    """Standard deviation of the change."""
    errors: tuple[float, float]
    """Median reprojection error in source pixels of the points that were left out: one focal length, one per frame."""

    @property
    def found(self) -> bool:
        """Whether the lens zooms."""
        gain = self.errors[1] <= MIN_GAIN * self.errors[0]
        return self.change >= max(MIN_CHANGE, MIN_SIGMAS * self.sigma) and gain

    @property
    def facts(self) -> dict[str, float]:
        """What the provenance of a scene with one focal length holds; ``not_modelled`` is 0 where nothing zooms."""
        return {"change": self.change, "sigma": self.sigma, "not_modelled": self.change if self.found else 0.0}

    def __str__(self) -> str:
        return (
            f"focal lengths of single frames change by {100 * self.change:.1f} % (+- {100 * self.sigma:.1g} %), error "
            f"of points left out {self.errors[0]:.2f} px with one for all, {self.errors[1]:.2f} px with one per frame"
        )


def warn_about_zoom(model: SparseModel, camera_model: str, log: RunLog) -> Zoom | None:
    """:func:`measure_zoom` of a model with one focal length, and a warning where the lens zooms."""
    with log.stage("does the lens zoom"):
        zoom = measure_zoom(model, camera_model)
    if zoom is None:
        return None
    log.detail(str(zoom))
    if zoom.found:
        first, last = zoom.focals[0], zoom.focals[-1]
        log.warn(
            f"the lens zooms (focal length about {first:.0f} -> {last:.0f} px, a change of {100 * zoom.change:.0f} %), "
            f"but one focal length was found for all frames, which turns the zoom into travel: {REMEDY}"
        )
    return zoom


def measure_zoom(model: SparseModel, camera_model: str) -> Zoom | None:
    """Give every frame a focal length of its own and adjust again; None: too few frames or points for a statement."""
    model = _best_seen(model)
    if model.registered.sum() < FEWEST_FRAMES or len(model.sparse) < FEWEST_POINTS:
        return None
    held = np.arange(len(model.sparse)) % _EVERY == 0
    seen = model.with_points(~held)
    cameras, tracks = cameras_of(seen)
    adjusted = adjust_focals(cameras, tracks, FREE_DISTORTION[camera_model], tolerance=ROUGH)
    change, sigma = _change(adjusted)
    free = with_cameras(seen, adjusted.cameras)
    left_out = model.with_points(held)
    errors = (held_out_error(model, left_out), held_out_error(free, left_out))
    return Zoom(adjusted.cameras.focal, change, sigma, errors)


def _best_seen(model: SparseModel) -> SparseModel:
    """The model with at most :data:`MOST_POINTS` points, those with the longest tracks."""
    views = np.bincount(model.sparse.point_index, minlength=len(model.sparse))
    order = np.argsort(-views, kind="stable")[:MOST_POINTS]
    chosen = np.zeros(len(views), dtype=bool)
    chosen[order] = views[order] >= 3
    return model.with_points(chosen)


def _change(adjusted: Adjusted) -> tuple[float, float]:
    """Largest over smallest of the medians of three neighbours, less 1, and its standard deviation."""
    course = np.log(adjusted.cameras.focal)
    middle = np.median(np.stack([course[:-2], course[1:-1], course[2:]]), axis=0)
    low, high = int(middle.argmin()) + 1, int(middle.argmax()) + 1
    C = adjusted.covariance
    variance = C[low, low] + C[high, high] - 2 * C[low, high]
    ratio = float(np.exp(np.ptp(middle)))
    return ratio - 1, ratio * float(np.sqrt(max(variance, 0.0)))


def held_out_error(cameras: SparseModel, points: SparseModel) -> float:
    """Median distance in source pixels between observations and their points, triangulated anew by other cameras."""
    sparse, lens = points.sparse, cameras.lens
    focal = cameras.frame_focals[sparse.frame_index, None]
    rays = undistort((sparse.pixels - lens.principal_point) / focal, lens.distortion)
    world = triangulate(cameras.T_world_cam, sparse.frame_index, sparse.point_index, rays)
    shown, depth = replace(cameras, sparse=replace(sparse, points=world)).reprojected()
    distance = np.linalg.norm(shown - sparse.pixels, axis=1)
    return float(np.median(np.where(depth > 0, distance, np.inf)))
