"""Cameras and points of views that stand fixed to one another: COLMAP's incremental mapping of a rig."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import AlignmentError
from ..core.rig import ViewRig
from ..core.runlog import RunLog
from ..core.types import DynamicMasks, Frames
from .bundle import MAX_ERROR, MIN_ANGLE, MIN_OBSERVATIONS, MIN_POINTS
from .features import detect_features, match_features, static_features
from .library import colmap_camera, image_name, load_pycolmap, read_model, write_matches
from .mapping import LITTLE_PARALLAX, MASKED, PLAIN, in_first_camera, mapping_options, with_colors
from .matching import likeness
from .model import Correspondences, Lens, SparseModel

FEATURES = 800
"""Keypoints per view: all views of a moment have a place in common, and so need fewer each than a frame on its own."""
STEPS = 5
"""Neighbours in time of a moment; moments 2^k further on come on top."""
LOOKALIKES = 3
"""Views of other moments that look most like a view and are matched with it."""
LEAST_SHARE = 0.8
"""Share of the moments from which a mapping counts as complete enough not to try others."""


def map_rig(frames: Frames, dynamic: DynamicMasks, log: RunLog, *, seed: int) -> SparseModel:
    """Cameras of the views of a sphere, and sparse points of what stands still, from images and motion masks.

    The views of a moment have one pose in common: they stand at their known angles about one centre, and their lens is
    known exactly. Incremental mapping on what the masks leave comes first; where it lacks moments, points of less
    parallax and mapping without the masks are tried, and the model with the most moments is kept.

    Returns:
        The model as of :func:`easi3r_ns.refine.mapping.map_static`; the views of a moment are registered all or none.

    Raises:
        AlignmentError: too little texture or too little parallax.
        MissingExtraError: pycolmap is not installed.
    """
    rig = frames.rig
    assert rig is not None
    lens = Lens.centred(frames.pixel_map.source_wh, rig.focal)
    detected = detect_features(frames, log, most=FEATURES)

    def matched(masks: DynamicMasks) -> Correspondences:
        features = static_features(detected, masks, frames.pixel_map)
        pairs = rig_pairs(rig, likeness(features.descriptors, seed))
        return match_features(features, pairs, lens, log, has_focal=True, seed=seed)

    found = matched(dynamic)
    best: SparseModel | None = None
    chosen = MASKED
    for name in (MASKED, f"{MASKED} with little parallax", PLAIN):
        if name == PLAIN:
            if not dynamic.masks.any():
                break
            found = matched(replace(dynamic, masks=np.zeros_like(dynamic.masks)))
        angle = MIN_ANGLE if name == MASKED else LITTLE_PARALLAX
        with log.stage(name, len(np.unique(rig.moment))) as advance:
            model = _mapped(found, rig, lens, seed, angle, advance)
        if model is not None and (best is None or model.registered.sum() > best.registered.sum()):
            best, chosen = model, name
        if best is not None and best.registered.mean() >= LEAST_SHARE:
            break
    if best is None:
        raise AlignmentError(
            "the views match, but give no scene: the camera must travel, in small steps"
            if found.num_matches
            else "no two moments share enough texture that stands still: use a sharper clip, or moments closer in time"
        )
    record = {"kept": chosen, "why": "it has the most moments", "frames": int(best.registered.sum())}
    return in_first_camera(with_colors(replace(best, record=record), frames.source_paths))


def rig_pairs(rig: ViewRig, likeness: np.ndarray) -> np.ndarray:
    """(P, 2) int64 sorted pairs of images i < j of different moments that may show the same.

    Of moments that are near in time the same view and those beside it, since the camera may turn; of all others the
    views that look most alike.

    Args:
        likeness: (F, F) between images, the larger the more alike.
    """
    moments = int(rig.moment.max()) + 1
    offsets = [*range(1, STEPS + 1), *(2**k for k in range(3, max(4, int(np.log2(max(moments, 2))) + 1)))]
    apart = np.abs(np.subtract.outer(rig.moment, rig.moment))
    axes = rig.T_rig_view[:, :3, 2]
    angle = np.degrees(np.arccos(np.clip(axes @ axes.T, -1, 1)))
    beside = angle <= np.sort(angle, axis=1)[:, min(2, len(axes) - 1)].max() + 1e-6
    near = np.isin(apart, offsets) & beside[np.ix_(rig.view, rig.view)]
    far = np.where(apart > STEPS, likeness, -np.inf)
    for row, order in enumerate(np.argsort(-far, axis=1, kind="stable")[:, :LOOKALIKES]):
        near[row, order[np.isfinite(far[row, order])]] = True
    return np.argwhere(np.triu(near | near.T, 1)).astype(np.int64)


def _mapped(
    found: Correspondences, rig: ViewRig, lens: Lens, seed: int, angle: float, advance: Callable[[int], None]
) -> SparseModel | None:
    """The largest model of the correspondences after a last adjustment; None where there is none."""
    if found.num_matches == 0:
        return None
    pycolmap = load_pycolmap()
    options = mapping_options(True, seed, angle, rough=True)
    options.ba_refine_sensor_from_rig = options.ba_refine_extra_params = False
    with tempfile.TemporaryDirectory(prefix="easi3r-") as name:
        folder = Path(name)
        database = pycolmap.Database.open(folder / "database.db")
        _write_rig(database, found, rig, lens)
        write_matches(database, found)
        database.close()
        models = pycolmap.incremental_mapping(
            folder / "database.db", folder, folder, options, next_image_callback=lambda: advance(1)
        )
    if not models:
        return None
    largest = max(models.values(), key=lambda m: (m.num_reg_frames(), m.num_points3D()))
    manager = pycolmap.ObservationManager(largest)
    for iterations in (25, 100):
        if largest.num_points3D() < MIN_POINTS:
            return None
        _solve(largest, iterations)
        manager.filter_all_points3D(MAX_ERROR, angle)
    model = replace(read_model(largest, found.num_frames), lens=lens, focals=None)
    seen = np.bincount(model.sparse.frame_index, minlength=found.num_frames)
    of_moment = np.bincount(rig.moment, weights=seen)
    kept = model.registered & (of_moment[rig.moment] >= MIN_OBSERVATIONS)
    model = model if kept.sum() == model.registered.sum() else model.restricted(kept)
    return model if len(model.sparse) >= MIN_POINTS and model.registered.any() else None


def _write_rig(database: Any, found: Correspondences, rig: ViewRig, lens: Lens) -> None:
    """Write the rig with a sensor for every view, the moments as its frames, and the keypoints of the images."""
    pycolmap = load_pycolmap()
    with pycolmap.DatabaseTransaction(database):
        colmap_rig = pycolmap.Rig(rig_id=1)
        reference = np.linalg.inv(rig.T_rig_view[0])
        for view, T in enumerate(rig.T_rig_view):
            camera = colmap_camera(lens, "SIMPLE_PINHOLE")
            camera.camera_id, camera.has_prior_focal_length = view + 1, True
            database.write_camera(camera, use_camera_id=True)
            if view == 0:
                colmap_rig.add_ref_sensor(camera.sensor_id)
            else:
                # COLMAP's rig has the axes of its first sensor.
                colmap_rig.add_sensor(camera.sensor_id, pycolmap.Rigid3d(np.linalg.inv(reference @ T)[:3]))
        database.write_rig(colmap_rig, use_rig_id=True)
        frames = {moment: pycolmap.Frame(frame_id=moment + 1, rig_id=1) for moment in np.unique(rig.moment).tolist()}
        for position, rows in enumerate(found.keypoints):
            view, moment = int(rig.view[position]), int(rig.moment[position])
            image = pycolmap.Image(name=image_name(position), camera_id=view + 1, image_id=position + 1)
            database.write_image(image, use_image_id=True)
            frames[moment].add_data_id(image.data_id)
            database.write_keypoints(position + 1, np.ascontiguousarray(rows, dtype=np.float32))
        for frame in frames.values():
            database.write_frame(frame, use_frame_id=True)


def _solve(reconstruction: Any, iterations: int) -> None:
    """Move the moments and the points to their observations, robustly; one thread, as everywhere."""
    pycolmap = load_pycolmap()
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in reconstruction.reg_image_ids():
        config.add_image(image_id)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    options = pycolmap.BundleAdjustmentOptions(
        refine_focal_length=False,
        refine_principal_point=False,
        refine_extra_params=False,
        refine_sensor_from_rig=False,
        print_summary=False,
    )
    options.ceres.loss_function_type = pycolmap.LossFunctionType.SOFT_L1
    solver = options.ceres.solver_options
    solver.num_threads, solver.max_num_iterations = 1, iterations
    pycolmap.create_default_bundle_adjuster(options, config, reconstruction).solve()
