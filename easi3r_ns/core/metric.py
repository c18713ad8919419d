"""A scene in metres: by a distance that was measured in a picture, or by the height of the camera above the ground.

Pictures alone do not show how large a scene is. What is known of it from elsewhere gives one factor for all lengths,
which is applied with :func:`~.scene.rescale_scene`: cameras, depths, points and so everything that is made of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .config import DatasetConfig
from .errors import InputError
from .geometry import distort, network_to_source, source_to_network, undistort
from .reference import MetricReference
from .runlog import RunLog
from .scene import Scene, rescale_scene
from .surface import measured_depth, trusted_depth
from .upright import up_by_plane

METRE = "metre"
CLICK_SIGMA = 1.0
"""Source pixels, 1 sigma, by which people miss what they point at."""
WINDOW = 3
"""Pixels to either side whose depths are joined to that of a point."""
SAME_SURFACE = 0.05
"""Relative difference of depth up to which neighbours in the picture lie on one surface."""
SAME_POINT = 0.1
"""Relative difference of depth up to which another frame is taken to see the point, and not what hides it."""
FARTHEST, COARSE = 65.535, 0.2
"""Metres: what a 16-bit depth map with steps of a millimetre holds; and the median depth below which a step is coarser
than half a percent."""
LEAST_HEIGHT = 0.02
"""Least height of the cameras above the plane, in multiples of the median depth."""


@dataclass(frozen=True)
class Metres:
    """How many metres a scene unit has."""

    factor: float
    sigma: float
    """Relative, 1 sigma."""
    source: str
    """'reference', 'camera-height' or 'prior'."""
    facts: dict[str, Any]


def metric_scene(scene: Scene, config: DatasetConfig, pictures: Mapping[str, int | None], log: RunLog) -> Scene:
    """The scene in metres, where the options say how large it is; ``provenance["scale"]`` says what is known.

    It has ``unit`` ('metre' or 'arbitrary'), and in metres ``source``, ``sigma`` (relative, 1 sigma), ``factor``
    (metres per unit of before) and what the measurement was made of.

    Args:
        pictures: name in the dataset, without the ending: position in the scene; None for a frame without depth.

    Raises:
        InputError: the depth at the reference is unknown or moves, or no ground plane is seen.
    """
    if config.metric_reference is not None:
        found = metres_by_reference(scene, MetricReference.parse(config.metric_reference), pictures)
    elif config.camera_height is not None:
        found = metres_by_height(scene, config.camera_height)
    else:
        facts = {"scale": scene.provenance.get("scale") or {"unit": "arbitrary"}}
        return replace(scene, provenance=scene.provenance | facts)
    return in_metres(scene, found, log)


def in_metres(scene: Scene, found: Metres, log: RunLog) -> Scene:
    """The scene with all lengths times the factor; warns where a depth map in whole millimetres does not suit it."""
    scene = rescale_scene(scene, found.factor)
    facts = {"unit": METRE, "source": found.source, "sigma": found.sigma, "factor": found.factor} | found.facts
    scene = replace(scene, provenance=scene.provenance | {"scale": facts})
    log.info(f"lengths are {scale_in_words(scene)}; one unit of before is {found.factor:.4g} m")
    depth = scene.depth[:: max(1, len(scene) // 20)]
    known = depth[depth > 0]
    if len(known) and (far := float((known > FARTHEST).mean())) > 0.001:
        log.warn(
            f"{100 * far:.1f} % of the depths are more than {FARTHEST:.1f} m: depth maps of the dataset, in whole "
            "millimetres, leave them out; the scene folder has them"
        )
    elif len(known) and (middle := float(np.median(known))) < COARSE:
        log.warn(
            f"the median depth is {100 * middle:.1f} cm: the whole millimetres of the dataset's depth maps are coarse "
            "for it; the scene folder has exact ones"
        )
    return scene


def scale_in_words(scene: Scene) -> str:
    """What is known of the scene's unit, as one phrase."""
    facts = scene.provenance.get("scale") or {}
    if facts.get("unit") != METRE:
        return "in an arbitrary unit (--metric-reference or --camera-height gives metres)"
    sources = {
        "reference": "by the measured distance",
        "camera-height": "by the height of the camera above the ground",
        "prior": f"by the metric depth of {facts.get('model', 'a model')}",
    }
    by = sources.get(str(facts.get("source")), "by what was given")
    sigma = facts.get("sigma")
    return f"in metres {by} ({'how well is not known' if sigma is None else f'1 sigma {100 * sigma:.1f} %'})"


def metres_by_reference(scene: Scene, reference: MetricReference, pictures: Mapping[str, int | None]) -> Metres:
    """By a distance between two places of a picture.

    The depth of a place is that of the surface around it, corrected by the median of what other frames see there.

    Raises:
        InputError: there is no such picture or place, its depth is unknown, or it moves.
    """
    stems = list(pictures)
    row = reference.position_in(stems, _names(scene, pictures))
    frame = pictures[stems[row]]
    if frame is None:
        raise InputError(f"{reference}: {stems[row]} has no depth map: choose a picture that has one")
    turned = scene.turned is not None and bool(scene.turned[frame])
    wh = scene.pixel_map.source_wh
    reference.refuse_outside((wh[1], wh[0]) if turned else wh)
    pixels = [(y, wh[1] - x) if turned else (x, y) for x, y in reference.pixels]
    places = [_place(scene, frame, np.array(pixel), reference, stems[row]) for pixel in pixels]
    apart = places[1].xyz - places[0].xyz
    length = float(np.linalg.norm(apart))
    if length <= 0:
        raise InputError(f"{reference}: both points are at one place in space: choose two that are farther apart")
    # Along the ray a place errs as its depth does, across it by how well it was pointed at.
    along = [place.sigma * abs(float(apart @ place.ray)) / length for place in places]
    across = [place.depth / (scene.focals[frame] / scene.pixel_map.scale_xy[0]) * CLICK_SIGMA for place in places]
    sigma = float(np.sqrt(np.sum(np.square(along)) + np.sum(np.square(across)))) / length
    facts = {
        "picture": stems[row],
        "metres": reference.metres,
        "pixels": [list(pixel) for pixel in reference.pixels],
        "views": min(place.views for place in places),
    }
    return Metres(reference.metres / length, sigma, "reference", facts)


def metres_by_height(scene: Scene, height: float) -> Metres:
    """By the median height of the cameras above the ground plane; its spread counts as uncertainty.

    Raises:
        InputError: no ground plane is seen, or the cameras are hardly above it.
    """
    up = up_by_plane(scene)
    if up is None or up.offset is None:
        raise InputError(
            f"--camera-height {height:g}: no ground plane is seen that the camera is above; give a distance instead "
            "(--metric-reference)"
        )
    centres = scene.T_world_cam[:, :3, 3]
    heights = centres @ up.direction + up.offset
    middle = float(np.median(heights))
    known = scene.depth[scene.depth > 0]
    if middle <= LEAST_HEIGHT * (float(np.median(known)) if len(known) else 1.0):
        raise InputError(
            f"--camera-height {height:g}: the camera is hardly above the plane that is seen, so the height gives no "
            "scale; give a distance instead (--metric-reference)"
        )
    spread = 1.4826 * float(np.median(np.abs(heights - middle))) / middle
    # A tilt of the plane lifts cameras that are off the middle of the path, and all of them as seen from its points.
    reach = float(np.linalg.norm(centres - centres.mean(axis=0), axis=1).max(initial=0)) + middle
    tilt = np.tan(np.radians(up.sigma_deg)) * reach / middle
    facts = {"metres": height, "share": up.share, "spread": spread}
    return Metres(height / middle, float(np.hypot(spread, tilt)), "camera-height", facts)


@dataclass(frozen=True)
class _Place:
    """A point in space that a pixel shows."""

    xyz: np.ndarray
    """(3,) scene world."""
    ray: np.ndarray
    """(3,) xyz moves along it by as much as the depth changes."""
    depth: float
    sigma: float
    """Of the depth, scene units."""
    views: int
    """Other frames that see it."""


def _place(scene: Scene, frame: int, pixel: np.ndarray, reference: MetricReference, stem: str) -> _Place:
    at = source_to_network(pixel, scene.pixel_map)
    depth, sigma = _depth_at(scene, frame, at, reference, stem)
    ideal = undistort((at - scene.principal_point) / scene.focals_xy[frame], scene.distortion)
    T = scene.T_world_cam[frame]
    ray = T[:3, :3] @ np.append(ideal, 1.0)
    ratios = _seen_elsewhere(scene, frame, T[:3, 3] + depth * ray)
    if len(ratios):
        middle = float(np.median(np.append(ratios, 1.0)))
        depth *= middle
        sigma = float(np.hypot(sigma, depth * 1.4826 * np.median(np.abs(np.append(ratios, 1.0) - middle))))
    return _Place(T[:3, 3] + depth * ray, ray, depth, sigma, len(ratios))


def _depth_at(scene: Scene, frame: int, at: np.ndarray, reference: MetricReference, stem: str) -> tuple[float, float]:
    """z-depth at network pixel ``at`` and its sigma: of a plane through the surface around it."""
    height, width = scene.depth.shape[1:]
    x, y = np.clip(np.rint(at).astype(int), 0, [width - 1, height - 1])
    shown = pixel_words(network_to_source(at, scene.pixel_map))
    if scene.dynamic.masks[frame, y, x]:
        raise InputError(f"{reference}: {shown} of {stem} lies on what moves: choose a place that stands still")
    trusted = measured_depth(scene, frame) if scene.has_measured_depth else trusted_depth(scene, frame)
    known = trusted * ~scene.dynamic.masks[frame]
    inside = bool((np.abs(at - [x, y]) <= 1).all())
    if known[y, x] <= 0 or not inside:
        raise InputError(f"{reference}: the depth at {shown} of {stem} is unknown: {_nearest(scene, known, at)}")
    rows, columns = slice(max(0, y - WINDOW), y + WINDOW + 1), slice(max(0, x - WINDOW), x + WINDOW + 1)
    window = known[rows, columns]
    own = (window > 0) & (np.abs(window / known[y, x] - 1) < SAME_SURFACE)
    place = np.argwhere(own) + [rows.start, columns.start]
    inverse = 1 / window[own].astype(float)
    if len(inverse) < 6:
        return float(known[y, x]), SAME_SURFACE * float(known[y, x])
    design = np.column_stack([np.ones(len(place)), place[:, 1] - at[0], place[:, 0] - at[1]])
    plane = np.linalg.lstsq(design, inverse, rcond=None)[0]
    depth = float(1 / plane[0])
    return depth, depth * float(np.std(inverse - design @ plane)) * depth


def _seen_elsewhere(scene: Scene, frame: int, point: np.ndarray) -> np.ndarray:
    """(K,) depth of a point in other frames over the depth that it should have there, where they see it."""
    local = np.einsum("fji,fj->fi", scene.T_world_cam[:, :3, :3], point - scene.T_world_cam[:, :3, 3])
    others = np.flatnonzero((local[:, 2] > 0) & (np.arange(len(scene)) != frame))
    height, width = scene.depth.shape[1:]
    ratios = []
    for k in others.tolist():
        ideal = local[k, :2] / local[k, 2]
        x, y = distort(ideal, scene.distortion) * scene.focals_xy[k] + scene.principal_point
        column, row = round(float(x)), round(float(y))
        if 0 <= column < width and 0 <= row < height and not scene.dynamic.masks[k, row, column]:
            seen = float(scene.depth[k, row, column])
            if seen > 0 and scene.confidence[k, row, column] >= scene.min_confidence:
                ratios.append(seen / local[k, 2])
    found = np.array(ratios)
    return found[np.abs(found - 1) < SAME_POINT] if len(found) else found


def _nearest(scene: Scene, known: np.ndarray, at: np.ndarray) -> str:
    if not known.any():
        return "this picture has no depth: choose another"
    places = np.argwhere(known > 0)[:, ::-1]
    nearest = places[int(np.argmin(((places - at) ** 2).sum(axis=1)))]
    return f"it is known at {pixel_words(network_to_source(nearest.astype(float), scene.pixel_map))}"


def pixel_words(xy: np.ndarray) -> str:
    """(2,) source pixels as text."""
    return f"({xy[0]:.0f}, {xy[1]:.0f})"


def _names(scene: Scene, pictures: Mapping[str, int | None]) -> list[str]:
    """Names in the source; a frame without a position has none."""
    return ["" if position is None else scene.names[position] for position in pictures.values()]
