"""What the report measures in a scene: numbers for the verdict, series over the frames for the charts.

Lengths are in multiples of the median static depth, so that they mean the same in every clip. Frames that
``--eval-data`` added are left out: they are not part of the camera path. Of views of a sphere the path is that of the
first view; what moves, and how much is known, is measured in all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.end_to_end import clip_starts
from ..core.geometry import FisheyeDistortion, undistort
from ..core.scene import FIXED, TURNING, Scene, SparsePoints
from ..core.surface import measured_only, trusted_depth
from .residuals import Residuals, parallax_degrees, picture_change, static_residuals

PREVIEW_WEIGHTS = ("tiny",)
"""Weights that are not meant for real footage."""

LEAST_AROUND = 0.1
"""Moving share of the picture below which it is not asked whether it lies around what stands still: noise at the rim of
a picture is often marked."""
FLAT_DEGREES = 1.0
"""Parallax in degrees below which the clip does not constrain a point's depth, and only the network estimates it."""
LITTLE_MOVES = 0.01
"""Share of the picture to which jumps of smaller masks are compared: the masks of a static scene come and go."""
_LOCAL_WINDOW = 7
"""Steps over which the local median speed of the camera is taken."""
_JUMP_FACTOR = 6.0
"""A step is a jump when it is this many times faster than the local median and larger than one of the limits below."""
_JUMP_LENGTH = 0.05
"""Median depths."""
_JUMP_DEGREES = 5.0


@dataclass(frozen=True)
class Series:
    """Per frame of the clip (N frames)."""

    times: np.ndarray
    """(N,) seconds, increasing."""
    coverage: np.ndarray
    """(N,) share of the pixels that move."""
    flicker: np.ndarray
    """(N,) difference between a frame's masked area and the mean of its two neighbours', relative to the mean area over
    the clip; NaN at the ends."""
    position: np.ndarray
    """(N, 3) camera centres in the axes of the first camera (right, down, forward), in median depths."""
    speed: np.ndarray
    """(N,) median depths per second since the frame before; NaN for the first."""
    rotation_speed: np.ndarray
    """(N,) degrees per second since the frame before; NaN for the first."""
    jumps: np.ndarray
    """(N,) bool: the camera jumps between the frame before and this one."""
    fov_degrees: np.ndarray
    """(N,) horizontal field of view of the source image."""


@dataclass(frozen=True)
class Measures:
    """The numbers that the verdict is made of; None where a scene does not allow the measurement."""

    num_frames: int
    duration: float
    """Seconds from the first to the last frame."""
    coverage: float
    """Mean share of the pixels that move."""
    coverage_max: float
    flicker: float | None
    """Mean of :attr:`Series.flicker`; None for fewer than three frames or when nothing moves."""
    usable: float | None
    """Share of all pixels that are static and have a trusted depth; None without depth."""
    num_sparse: int | None
    """Number of triangulated points; None where bundle adjustment did not run."""
    travel: float
    """Largest distance between two cameras, in median depths."""
    parallax: float | None
    """Median over static points of the widest angle between two cameras that see the point, in degrees."""
    jumps: float
    """Share of the steps in which the camera jumps."""
    roughness: float | None
    """Second over first differences of the camera path (medians): 0 for a straight line, 2 for a random walk."""
    picture_change: float | None
    """Median colour difference (0 to 255) of the same static pixel a fifth of the clip later; needs no camera."""
    depth_error: float | None
    """Median relative difference between a static point's depth and the depth map a fifth of the clip later."""
    colour_gain: float | None
    """Colour residual: colour difference between a static point's pixels in two frames, relative to the difference
    without camera motion. Below 1 the cameras explain the picture. None without depth, or when the picture hardly
    changes."""
    reprojection: float | None
    """Median reprojection error of the triangulated points, in thousandths of the source image's longer side."""
    fov: float
    """Mean horizontal field of view in degrees."""
    focal_spread: float | None
    """Relative spread (standard deviation over mean) of the focal lengths seen by single frames; None if unknown."""
    focal_known: bool
    unregistered: float
    """Share of the frames whose camera the bundle adjustment did not register."""
    has_depth: bool
    preview_weights: bool
    """Whether a camera is the work of preview weights (see :data:`PREVIEW_WEIGHTS`); cameras of bundle adjustment are
    not: they were compared with the network's on held-out matches."""
    position_sigma: float | None = None
    """Median uncertainty of a camera's position, 1 sigma in median depths; None where it was not estimated."""
    rotation_sigma: float | None = None
    """Median uncertainty of a camera's rotation, 1 sigma in degrees."""
    unconstrained: float = 0.0
    """Share of the frames whose camera no pair of frames constrains: its uncertainty is infinite."""
    stays: bool = False
    """Whether the camera was found not to leave its place."""
    moving_outside: float | None = None
    """Share of a ring around the masks that moves like what is inside; None where the run did not measure it."""
    focal_sigma: float | None = None
    """Largest uncertainty of a focal length by bundle adjustment, 1 sigma relative to it, at most 1; None where there
    was none or the focal length is given."""
    fov_without_fisheye: float | None = None
    """The field of view, where the lens is neither modelled as a fisheye nor known."""
    no_parallax: float | None = None
    """Share of the static points seen from directions less than :data:`FLAT_DEGREES` apart."""
    clips_left_out: int | None = None
    """How many of several clips could not be joined to the others; None: there is one."""
    rim: float = 0.0
    """Mean share of the picture's outermost pixels that move."""
    surrounds: float = 0.0
    """How much more of the rim than of the picture moves, without the side of which most moves: an object that reaches
    into the picture has less of the other sides, what lies behind a large object has more. 0 where little moves."""
    focal_change: float | None = None
    """Largest over smallest focal length of single frames, less 1, where it counts as a zoom that the cameras do not
    have; None where the run did not measure it."""
    depth_order: float | None = None
    """Rank correlation of height in the picture with depth where it speaks for a scene that is inside out, and the
    pictures do not decide; else None."""


@dataclass(frozen=True)
class MeasuredScene:
    """All that was measured of one scene."""

    measures: Measures
    series: Series
    residuals: Residuals | None
    parallax: np.ndarray
    """(M,) degrees: the widest angle between two cameras that see a static point, for a sample of the points."""
    unit: float
    """Scene units of one median depth."""

    @property
    def moves(self) -> bool:
        """Whether anything moves at all."""
        return bool(self.series.coverage.any())


def measure(scene: Scene) -> MeasuredScene:
    """Measure a scene of at least one frame; takes a second or two for fifty frames.

    Depth that a prior filled takes no part: it says nothing about the cameras.
    """
    scene = measured_only(scene)
    count = clip_length(scene)
    unit = length_unit(scene)
    series = _series(scene, count, unit)
    residuals = static_residuals(scene, count) if scene.has_depth and count > 1 else None
    parallax = parallax_degrees(scene, count)
    known = scene.rig is not None or bool(_config(scene, "easi3r").get("focal_length"))
    triangulated = scene.sparse if scene.sparse is not None and len(scene.sparse) else None
    sources = scene.pose_sources or ()
    sigma, lens_known = scene.uncertainty, scene.rig is not None or isinstance(scene.distortion, FisheyeDistortion)
    measures = Measures(
        num_frames=count,
        duration=float(series.times[-1] - series.times[0]),
        coverage=float(series.coverage.mean()),
        coverage_max=float(series.coverage.max()),
        flicker=_nan_mean(series.flicker) if series.coverage.any() else None,
        usable=_usable(scene, count),
        num_sparse=None if scene.sparse is None else len(scene.sparse),
        travel=_widest(series.position),
        parallax=float(np.median(parallax)) if len(parallax) else None,
        jumps=float(series.jumps[1:].mean()) if count > 1 else 0.0,
        roughness=_roughness(series.position, scene.clip),
        picture_change=picture_change(scene, count),
        depth_error=None if residuals is None else residuals.far_median,
        colour_gain=None if residuals is None else residuals.colour_gain,
        reprojection=None if triangulated is None else _reprojection(triangulated, scene),
        fov=float(series.fov_degrees.mean()),
        fov_without_fisheye=None if lens_known else float(series.fov_degrees.mean()),
        focal_spread=None if known else _focal_spread(scene, count),
        focal_known=known,
        unregistered=sum(source == "aligned" for source in sources) / len(sources) if sources else 0.0,
        has_depth=scene.has_depth,
        stays=scene.stays,
        preview_weights=_weights_name(scene) in PREVIEW_WEIGHTS and not all(s == "colmap" for s in sources or ("",)),
        position_sigma=None if sigma is None else _finite_median(sigma.centre[:count] / unit),
        rotation_sigma=None if sigma is None else _finite_median(sigma.rotation_deg[:count]),
        unconstrained=_unconstrained(scene, count),
        moving_outside=scene.provenance.get("moving_outside_masks"),
        focal_sigma=None if known else _focal_sigma(scene, count),
        no_parallax=float((parallax < FLAT_DEGREES).mean()) if len(parallax) else None,
        clips_left_out=_clips_left_out(scene),
        rim=_rim(scene.dynamic.masks[:count]),
        surrounds=_surrounds(scene.dynamic.masks[:count]),
        focal_change=_zoom_not_modelled(scene),
        depth_order=(scene.provenance.get("mapping") or {}).get("depth_order"),
    )
    return MeasuredScene(measures, series, residuals, parallax, unit)


def clip_length(scene: Scene) -> int:
    """Number of frames of the clip itself, or of several; held-out frames of another source follow and start with
    earlier times."""
    if scene.clip is not None:
        return len(scene)
    backwards = np.flatnonzero(np.diff(scene.times) <= 0)
    return int(backwards[0]) + 1 if len(backwards) else len(scene)


def length_unit(scene: Scene) -> float:
    """Scene units of the median static depth (or distance to the triangulated points; 1 when there are neither)."""
    by_frame = [(trusted_depth(scene, f)[::3, ::3], scene.dynamic.masks[f, ::3, ::3]) for f in range(len(scene))]
    depths = np.concatenate([depth[(depth > 0) & ~moving] for depth, moving in by_frame])
    if not len(depths):
        depths = np.concatenate([depth[depth > 0] for depth, _ in by_frame])
    if not len(depths) and scene.sparse is not None and len(scene.sparse):
        centre = scene.T_world_cam[:, :3, 3].mean(axis=0)
        depths = np.linalg.norm(scene.sparse.points - centre, axis=1)
    return float(np.median(depths)) if len(depths) else 1.0


def focal_estimates(scene: Scene, count: int) -> np.ndarray:
    """(N,) focal lengths in network pixels, each estimated from a single frame; empty where none are known.

    The frames' own focal lengths where they differ, else the first estimates of the alignment.
    """
    focals = scene.focals[:count]
    if np.ptp(focals) > 1e-9 * focals.mean():
        return focals
    recorded = (scene.provenance.get("alignment") or {}).get("focal_estimates") or ()
    return np.array([value for value in recorded if value], dtype=float)


def local_median(values: np.ndarray, window: int) -> np.ndarray:
    """(N,) median over a centred window that shrinks at the ends; NaN values do not count."""
    half = window // 2
    return np.array([np.nanmedian(values[max(0, k - half) : k + half + 1]) for k in range(len(values))])


def _series(scene: Scene, count: int, unit: float) -> Series:
    T = scene.T_world_cam[:count]
    times, coverage = scene.clock[:count].astype(float), _coverage(scene, count)
    position = (T[:, :3, 3] - T[0, :3, 3]) @ T[0, :3, :3] / unit
    steps = np.linalg.norm(np.diff(position, axis=0), axis=1)
    cosine = (np.einsum("nij,nij->n", T[:-1, :3, :3], T[1:, :3, :3]) - 1) / 2
    # The skew part keeps small angles exact, where the cosine alone loses half its digits.
    skew = np.swapaxes(T[:-1, :3, :3], 1, 2) @ T[1:, :3, :3]
    sine = np.linalg.norm(skew - np.swapaxes(skew, 1, 2), axis=(1, 2)) / 8**0.5
    turns = np.degrees(np.arctan2(sine, cosine))
    seconds = np.maximum(np.diff(times), 1e-9)
    jumps = _jumps(steps / seconds, steps, _JUMP_LENGTH) | _jumps(turns / seconds, turns, _JUMP_DEGREES)
    if scene.clip is not None:  # from clip to clip nothing moves
        between = clip_starts(scene.clip)[1:] - 1
        steps[between], turns[between], jumps[between] = np.nan, np.nan, False
    half_width = scene.pixel_map.source_wh[0] * scene.pixel_map.scale_xy[0] / 2
    edge = np.stack([half_width / scene.focals[:count], np.zeros(count)], axis=1)
    if isinstance(scene.distortion, FisheyeDistortion):
        edge = undistort(edge, scene.distortion)
    return Series(
        times=times,
        coverage=coverage,
        flicker=_flicker(coverage, scene.clip),
        position=position,
        speed=np.concatenate([[np.nan], steps / seconds]),
        rotation_speed=np.concatenate([[np.nan], turns / seconds]),
        jumps=np.concatenate([[False], jumps]),
        fov_degrees=np.degrees(2 * np.arctan(edge[:, 0])),
    )


def _coverage(scene: Scene, count: int) -> np.ndarray:
    """(N,) share of the pixels that move: of a frame, or of all views of its moment."""
    share, rig = scene.dynamic.coverage, scene.rig
    if rig is None:
        return share[:count]
    of_moment = np.bincount(rig.moment, weights=share) / np.maximum(np.bincount(rig.moment), 1)
    return of_moment[rig.moment[:count]]


def _jumps(speed: np.ndarray, size: np.ndarray, limit: float) -> np.ndarray:
    if len(speed) < 3:
        return np.zeros(len(speed), dtype=bool)
    return (size > limit) & (speed > _JUMP_FACTOR * local_median(speed, _LOCAL_WINDOW))


def _flicker(coverage: np.ndarray, clip: np.ndarray | None) -> np.ndarray:
    """(F,) jump of the masked share against the mean of both neighbours, relative to the mean share of the clip."""
    flicker = np.full(len(coverage), np.nan)
    if coverage.any():
        middle = (coverage[:-2] + coverage[2:]) / 2
        flicker[1:-1] = np.abs(coverage[1:-1] - middle) / max(coverage.mean(), LITTLE_MOVES)
    if clip is not None:
        starts = clip_starts(clip)[1:]
        flicker[starts] = flicker[starts - 1] = np.nan
    return flicker


def _usable(scene: Scene, count: int) -> float | None:
    if not scene.has_depth:
        return None
    contradicted = scene.contradicted if scene.contradicted is not None else np.zeros_like(scene.dynamic.masks)
    rows = range(count if scene.rig is None else len(scene))
    keeps = [(trusted_depth(scene, f) > 0) & ~scene.dynamic.masks[f] & ~contradicted[f] for f in rows]
    return float(np.mean(keeps))


def _reprojection(points: SparsePoints, scene: Scene) -> float:
    return 1000 * float(np.median(points.errors)) / max(scene.pixel_map.source_wh)


def _widest(position: np.ndarray) -> float:
    return float(max(np.linalg.norm(position - p, axis=1).max() for p in position))


def _roughness(position: np.ndarray, clip: np.ndarray | None = None) -> float | None:
    if len(position) < 5:
        return None
    bends = np.linalg.norm(position[2:] - 2 * position[1:-1] + position[:-2], axis=1)
    strides = np.linalg.norm(position[2:] - position[:-2], axis=1) / 2
    if clip is not None:
        inside = clip[2:] == clip[:-2]
        bends, strides = bends[inside], strides[inside]
        if not len(bends):
            return None
    stride = float(np.median(strides))
    return float(np.median(bends)) / stride if stride > 0 else None


def zooms(scene: Scene) -> bool:
    """Whether every frame has a focal length of its own that was measured on static points: their course is a zoom."""
    if scene.clip is not None:
        return False  # clips have focal lengths of their own
    focals, sources = scene.focals, set(scene.pose_sources or ())
    return bool(np.ptp(focals) > 1e-9 * focals.mean()) and bool(sources & {"colmap", FIXED, TURNING})


def _focal_spread(scene: Scene, count: int) -> float | None:
    if zooms(scene) or scene.clip is not None:
        return None
    estimates = focal_estimates(scene, count)
    return float(estimates.std() / estimates.mean()) if len(estimates) > 1 else None


def _rim(masks: np.ndarray) -> float:
    sides = masks[:, 0], masks[:, -1], masks[:, 1:-1, 0], masks[:, 1:-1, -1]
    return float(np.concatenate(sides, axis=1).mean())


def _surrounds(masks: np.ndarray) -> float:
    share = float(masks.mean())
    if share < LEAST_AROUND:
        return 0.0
    sides = sorted(float(side.mean()) for side in (masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]))
    return max(0.0, float(np.mean(sides[:3])) - share)


def _zoom_not_modelled(scene: Scene) -> float | None:
    found = scene.provenance.get("zoom") or (scene.provenance.get("refine") or {}).get("zoom") or {}
    return found.get("not_modelled")


def _focal_sigma(scene: Scene, count: int) -> float | None:
    if scene.uncertainty is None or "colmap" not in (scene.pose_sources or ()):
        return None
    return min(1.0, float((scene.uncertainty.focal[:count] / scene.focals[:count]).max()))


def _unconstrained(scene: Scene, count: int) -> float:
    """Share of the frames that nothing constrains; those that COLMAP could not place count as such elsewhere."""
    if scene.uncertainty is None:
        return 0.0
    placed = [source != "aligned" for source in (scene.pose_sources or ("network",) * len(scene))[:count]]
    return float((np.isinf(scene.uncertainty.centre[:count]) & placed).mean())


def _finite_median(values: np.ndarray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else None


def _nan_mean(values: np.ndarray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def _clips_left_out(scene: Scene) -> int | None:
    clips = scene.provenance.get("clips")
    return sum(not clip["joined"] for clip in clips) if clips else None


def _weights_name(scene: Scene) -> str | None:
    return (scene.provenance.get("weights") or {}).get("name")


def _config(scene: Scene, group: str) -> dict:
    return (scene.provenance.get("config") or {}).get(group) or {}
