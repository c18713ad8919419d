"""Depth where none was measured, from a network for single pictures: :func:`fill_depth`.

The network's prediction is brought to the scene frame by frame (:mod:`.affine`), by the depth of what stands still and
by triangulated points. It then fills what is unknown, what moves included, and leaves what was measured alone. What is
filled differs from what was measured in one thing: frames need not agree about it. How far they do is reported, and
clouds, meshes and measures of quality take measured depth only (:func:`~easi3r_ns.core.surface.solid_pixels`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..core.end_to_end import clip_starts
from ..core.geometry import distort, source_to_network, transform
from ..core.metric import Metres
from ..core.runlog import RunLog
from ..core.scene import DEPTH_SOURCES, Scene
from ..core.surface import solid_pixels, trusted_depth, world_points
from ..core.types import on_side, upright_again
from ..network.sources import is_non_commercial
from .affine import FEWEST, AffineFit, Known, fit_affine
from .sky import most_inverse, sky_pixels

MOST_SAMPLES = 3000
"""Pixels of a frame with a known depth that the fit sees."""
MOST_ERROR = 0.25
"""Median relative error of the fitted depth where it is known, above which a frame is not filled."""
LEAST = 0.1
"""Of the smallest inverse depth that is known in the clip: what the prediction puts beyond stays unknown."""
AGREES = 0.1
"""Relative difference up to which two frames agree about a depth."""
_UNKNOWN, _STEREO, _NETWORK, _PRIOR = range(len(DEPTH_SOURCES))


@dataclass(frozen=True)
class Predictions:
    """What a network says of every frame of a scene."""

    inverse: np.ndarray
    """(F, H, W) float32 on the scene's grid, larger is nearer: inverse depth up to an affine map, or 1 / metres."""
    metric: bool
    model: str
    licence: str


def fill_depth(scene: Scene, said: Predictions, log: RunLog) -> Scene:
    """The scene with a depth wherever the network gives one; ``depth_source`` says where which depth came from.

    Unknown stay the sky, what the prediction puts far beyond everything known, and frames whose prediction contradicts
    what is known. Filled pixels have the least confidence that is trusted. ``assumed_depth`` gives way to the
    prediction. ``provenance["depth_prior"]`` has the model, its licence, shares, the error where depth is known, and
    how far frames agree about what was filled.
    """
    known = [_known(scene, frame, said.inverse[frame]) for frame in range(len(scene))]
    fit = _fit(scene, said, known)
    usable = np.isfinite(fit.scale) & ~(fit.error > MOST_ERROR)
    all_known = [k.inverse for k in known if len(k.inverse)]
    least = LEAST * float(np.quantile(np.concatenate(all_known), 0.01)) if all_known else 0.0
    depth, confidence = scene.depth.copy(), scene.confidence.copy()
    source, sky = _sources(scene), np.zeros(len(scene))
    # In single precision a number may be a little less than it is called.
    trusted = np.nextafter(np.float32(max(scene.min_confidence, 1e-3)), np.float32(np.inf))
    for frame in np.flatnonzero(usable).tolist():
        inverse = fit.inverse(frame, said.inverse[frame].astype(float))
        above = _sky(scene, frame, said.inverse[frame], inverse, known[frame])
        unknown = source[frame] == _UNKNOWN
        filled = unknown & ~above & (inverse > max(least, 1e-12))
        depth[frame][filled] = 1 / inverse[filled]
        confidence[frame][filled] = trusted
        source[frame][filled] = _PRIOR
        sky[frame] = (above & unknown).mean()
    assumed = scene.assumed_depth
    if assumed is not None:
        left = np.where(source == _UNKNOWN, assumed, 0)
        assumed = left if left.any() else None
    out = replace(scene, depth=depth, confidence=confidence, depth_source=source, assumed_depth=assumed)
    facts = _facts(out, said, fit, usable, sky)
    _say(facts, log)
    return replace(out, provenance=scene.provenance | {"depth_prior": facts})


def metres_by_prior(scene: Scene, said: Predictions) -> Metres | None:
    """Metres of a scene unit by metric predictions: the median over the frames of theirs; None where nothing is known.

    The uncertainty is how far frames disagree. An error that the network makes in all of them alike is not in it.
    """
    ratios = []
    for frame in range(len(scene)):
        known = _known(scene, frame, said.inverse[frame])
        good = known.predicted > 0
        if good.sum() >= FEWEST:
            ratios.append(float(np.median(known.inverse[good] / known.predicted[good])))
    if not ratios:
        return None
    middle = float(np.median(ratios))
    sigma = 1.4826 * float(np.median(np.abs(np.array(ratios) - middle))) / middle
    return Metres(middle, max(sigma, 1e-3), "prior", {"model": said.model, "frames": len(ratios)})


def _fit(scene: Scene, said: Predictions, known: list[Known]) -> AffineFit:
    fit = fit_affine(known, _seams(scene))
    if said.metric and scene.stays and not any(len(k.inverse) for k in known):
        # A camera that does not travel shows no depth at all, and its scene has no unit yet: that of the network.
        one = np.ones(len(scene))
        return AffineFit(one, 0 * one, np.nan * one)
    return fit


def _seams(scene: Scene) -> list[int]:
    """Positions of frames that do not follow the one before: those of another clip, or of another view of a sphere."""
    if scene.rig is not None:
        return clip_starts(scene.rig.view).tolist()
    return [] if scene.clip is None else clip_starts(scene.clip).tolist()


def _known(scene: Scene, frame: int, predicted: np.ndarray) -> Known:
    """Static pixels of a frame with a measured depth, and its triangulated points."""
    measured = solid_pixels(scene, frame) & ~scene.dynamic.masks[frame] & np.isfinite(predicted)
    places = np.flatnonzero(measured)
    places = places[:: max(1, len(places) // MOST_SAMPLES)]
    inverse = [1 / scene.depth[frame].ravel()[places].astype(float)]
    values = [predicted.ravel()[places].astype(float)]
    if scene.sparse is not None and len(scene.sparse.frame_index):
        own = scene.sparse.frame_index == frame
        T = scene.T_world_cam[frame]
        z = (scene.sparse.points[scene.sparse.point_index[own]] - T[:3, 3]) @ T[:3, 2]
        at = np.rint(source_to_network(scene.sparse.pixels[own], scene.pixel_map)).astype(int)
        height, width = predicted.shape
        inside = (z > 0) & ((at >= 0) & (at < [width, height])).all(axis=1)
        column, row, z = at[inside, 0], at[inside, 1], z[inside]
        still = ~scene.dynamic.masks[frame, row, column] & np.isfinite(predicted[row, column])
        inverse.append(1 / z[still])
        values.append(predicted[row, column][still].astype(float))
    return Known(np.concatenate(values), np.concatenate(inverse))


def _sources(scene: Scene) -> np.ndarray:
    """(F, H, W) uint8 where the depth that is trusted came from."""
    if scene.depth_source is not None:
        return scene.depth_source.copy()
    measured = _STEREO if {"stereo", "imported"} & set(scene.provenance) else _NETWORK
    trusted = np.stack([trusted_depth(scene, frame) > 0 for frame in range(len(scene))])
    return np.where(trusted, measured, _UNKNOWN).astype(np.uint8)


def _sky(scene: Scene, frame: int, predicted: np.ndarray, inverse: np.ndarray, known: Known) -> np.ndarray:
    most = most_inverse(known.inverse)
    parts = (scene.images[frame], predicted, inverse)
    if scene.turned is None or not scene.turned[frame]:
        return sky_pixels(*parts, most)
    image, predicted, inverse = (upright_again(part) for part in parts)
    return on_side(sky_pixels(image, predicted, inverse, most))


def _facts(out: Scene, said: Predictions, fit: AffineFit, usable: np.ndarray, sky: np.ndarray) -> dict[str, Any]:
    source, moving = out.depth_source, out.dynamic.masks
    assert source is not None, "it was just made"
    shares = {name: float((source == number).mean()) for number, name in enumerate(DEPTH_SOURCES)}
    errors = fit.error[usable & np.isfinite(fit.error)]
    differences = _between_frames(out)
    return {
        "model": said.model,
        "licence": said.licence,
        "non_commercial": is_non_commercial(said.licence) or "research" in said.licence,
        "kind": "metric" if said.metric else "relative",
        "shares": shares | {"sky": float(sky.mean())},
        "moving_with_depth": float((source[moving] > 0).mean()) if moving.any() else None,
        "error": float(np.median(errors)) if len(errors) else None,
        "frames_not_filled": int((~usable).sum()),
        "disagreement": float(np.median(differences)) if len(differences) else None,
        "agree_within_10_percent": float((differences <= AGREES).mean()) if len(differences) else None,
    }


def _between_frames(scene: Scene, most: int = 2000) -> np.ndarray:
    """(N,) relative differences between the filled static depth of frames and the depth of the next frame there."""
    height, width = scene.depth.shape[1:]
    source, found = scene.depth_source, [np.empty(0)]
    assert source is not None, "the scene was filled"
    for frame in sorted(set(range(len(scene) - 1)) - {seam - 1 for seam in _seams(scene)}):
        places = np.flatnonzero((source[frame] == _PRIOR) & ~scene.dynamic.masks[frame])
        places = places[:: max(1, len(places) // most)]
        world = world_points(scene, frame).reshape(-1, 3)[places].astype(float)
        local = transform(np.linalg.inv(scene.T_world_cam[frame + 1]), world)
        local = local[local[:, 2] > 1e-9]
        ideal = distort(local[:, :2] / local[:, 2:], scene.distortion)
        column, row = np.rint(ideal * scene.focals_xy[frame + 1] + scene.principal_point).astype(int).T
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        column, row, z = column[inside], row[inside], local[inside, 2]
        seen = scene.depth[frame + 1, row, column] * ~scene.dynamic.masks[frame + 1, row, column]
        found.append(np.abs(seen[seen > 0] / z[seen > 0] - 1))
    return np.concatenate(found)


def _say(facts: dict[str, Any], log: RunLog) -> None:
    shares = facts["shares"]
    error = "" if facts["error"] is None else f"; where depth is known it errs by {100 * facts['error']:.1f} % (median)"
    log.info(
        f"depth prior {facts['model']}: {100 * shares['prior']:.0f} % of the pixels are filled, "
        f"{100 * shares['unknown']:.0f} % stay unknown ({100 * shares['sky']:.0f} % are sky){error}"
    )
    if shares["prior"] == 0:
        log.warn(
            f"--depth-prior {facts['model']} fills nothing: no frame knows enough depth that agrees with its prediction"
        )
    elif facts["frames_not_filled"]:
        log.warn(
            f"{facts['frames_not_filled']} frames are not filled by {facts['model']}: its prediction contradicts what "
            "is known there, or nothing is known near them"
        )
