"""Inside out or not: the two scenes that pictures with hardly any perspective show equally well.

Seen through a long lens, or from far away, a scene and its mirror image in depth, with cameras that turn the other way,
look the same (Necker's cube; Koenderink and van Doorn, "Affine structure from motion", 1991). Perspective decides, as
soon as there is some. Where it does not, what is lower in the picture counts as nearer: cameras are held upright above
the ground.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.stats import spearmanr

from ..core.config import RefineConfig
from ..core.runlog import RunLog
from .bundle import bundle_from
from .held import between
from .model import Correspondences, SparseModel
from .score import score_cameras

DOUBTFUL = -0.3
"""Rank correlation of height in the picture with depth below which a scene may be inside out. A street, a room or a
lawn has 0.3 to 0.9 (see examples/results/mapping.md)."""
AMBIGUOUS = 1.25
"""Factor between the errors of the two scenes up to which the pictures do not decide."""
DECIDED = 1.9
"""Least factor of clips with perspective (see examples/results/mapping.md)."""
_FEWEST = 20
"""Points of a frame below which it has no say in the order of depths."""


def turned_right(
    model: SparseModel,
    found: Correspondences,
    config: RefineConfig,
    log: RunLog,
    *,
    fixed_focal: bool,
    seed: int,
    anew: Callable[[], SparseModel | None] = lambda: None,
) -> SparseModel:
    """The model, or a scene that is not inside out in its place, where perspective does not speak for the model.

    A model in which lower in the picture is nearer is returned as it is. Otherwise its mirror image is adjusted, and
    where that is not clearly worse the clip is mapped ``anew``: a model that began inside out bends when perspective
    becomes stronger, and its mirror image bends where that was weak, so the one with the smaller error stays.
    ``record`` says what was turned ("turned_right"), or the order of depths that is left in doubt ("depth_order").

    Args:
        found: the matches that the model was made from.
        fixed_focal: the focal length was given.
        anew: maps the clip in another way.
    """
    order = depth_order(model)
    if model.focals is not None or model.lenses is not None or model.lens.fisheye or not order < DOUBTFUL:
        return model
    start = mirrored(model)
    placed = between(found, model.registered)
    other = bundle_from(placed, start.T_world_cam, model.lens, config, fixed_focal=fixed_focal, seed=seed)
    if other is None or _ratio(other, model, found) > AMBIGUOUS:
        return model
    made = [rival for rival in (other, anew()) if rival is not None]
    rivals = [rival for rival in made if rival.registered[model.registered].all()]
    rivals = [rival for rival in rivals if depth_order(rival) > -DOUBTFUL]
    ratio, best = min(((_ratio(rival, model, found), k) for k, rival in enumerate(rivals)), default=(np.inf, -1))
    record = dict(model.record or {})
    if ratio > AMBIGUOUS:
        return replace(model, record=record | {"depth_order": order})
    if ratio < 1 / DECIDED:
        log.detail(
            f"mapping ended inside out; the scene that is not explains the matches better (errors x {ratio:.2f})"
        )
    else:
        log.warn(
            "the pictures show hardly any perspective: the scene and its inside-out mirror image explain them equally "
            f"well (errors x {ratio:.2f}); taken is the one in which the lower part of the picture is nearer. "
            "Distances in depth are uncertain; --focal-length helps"
        )
    record |= {"turned_right": {"error_ratio": ratio, "order_before": order}}
    return replace(rivals[best].restricted(model.registered), record=record)


def _ratio(rival: SparseModel, model: SparseModel, found: Correspondences) -> float:
    """Of the errors of two models in the frames that both have; infinite where these share no matches."""
    both = model.registered & rival.registered
    shared = between(found, both)
    if not shared.num_matches:
        return float("inf")
    return _error(rival, shared) / max(_error(model, shared), 1e-12)


def depth_order(model: SparseModel) -> float:
    """Rank correlation of height in the picture (up) with depth, mean over the frames; NaN without points."""
    depth, rows = model.observed_depth(), model.sparse.pixels[:, 1]
    orders = []
    for frame in np.unique(model.sparse.frame_index):
        own = model.sparse.frame_index == frame
        if own.sum() >= _FEWEST:
            orders.append(float(spearmanr(-rows[own], depth[own]).statistic))
    return float(np.mean(orders)) if orders else float("nan")


def mirrored(model: SparseModel) -> SparseModel:
    """The scene mirrored in depth about its middle, with the cameras that would see it the same without perspective.

    The mirror plane goes through the median point, across the mean viewing direction; the median point stays where it
    is for every camera.
    """
    centre = np.median(model.sparse.points, axis=0)
    axis = model.T_world_cam[model.registered, :3, 2].mean(axis=0)
    axis /= np.linalg.norm(axis)
    S = np.eye(3) - 2 * np.outer(axis, axis)
    flip = np.diag([1.0, 1.0, -1.0])
    T = model.T_world_cam.copy()
    for k in np.flatnonzero(model.registered):
        R = T[k, :3, :3].T
        seen = R @ (centre - T[k, :3, 3])
        turned = flip @ R @ S
        T[k, :3, :3], T[k, :3, 3] = turned.T, centre - turned.T @ seen
    points = (model.sparse.points - centre) @ S.T + centre
    return replace(model, T_world_cam=T, sparse=replace(model.sparse, points=points))


def _error(model: SparseModel, shared: Correspondences) -> float:
    return score_cameras(model.T_world_cam, model.lens, shared, model.registered).epipolar_px
