"""Bundle adjustment from cameras that are already there."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.config import RefineConfig
from .individual import FREE_DISTORTION, adjust_focals, cameras_of, with_cameras
from .library import TWO_FOCALS, colmap_camera, load_pycolmap, read_lens, read_model, write_frames, write_matches
from .model import Correspondences, Lens, Lenses, SparseModel

ADJUST_MODELS = {
    "pinhole": "SIMPLE_PINHOLE",
    "radial": "RADIAL",
    "opencv": "OPENCV",
    "opencv-fisheye": "OPENCV_FISHEYE",
}
MAPPING_MODEL = "SIMPLE_RADIAL"
"""Lens model during mapping: cameras that are still far off do not determine a second distortion parameter."""
ZOOM_MODEL = "SIMPLE_PINHOLE"
"""The same where every frame has a focal length of its own, which mixes with a distortion of its own."""
MAX_ERROR = 4.0
"""Reprojection error in source pixels above which an observation is left out (COLMAP's default)."""
MIN_ANGLE = 1.5
"""Degrees of parallax below which a point is left out (COLMAP's default)."""
MIN_POINTS = 50
"""Models with fewer points are rejected."""
MIN_OBSERVATIONS = 15
"""Points that a frame must see to count as registered."""
FOCAL_RANGE = (0.3, 5.0)
"""Plausible focal lengths in longer sides of the image; beyond them the adjustment has diverged."""


@dataclass(frozen=True)
class Effort:
    """When an adjustment stops."""

    iterations: int
    tolerance: float
    """Relative change of the cost."""


_ROUGH, _EXACT = Effort(25, 1e-5), Effort(100, 1e-9)


@dataclass(frozen=True)
class _Round:
    """One of several rounds of triangulation and adjustment, which fit the cameras of a network to the tracks."""

    max_error: float
    """Reprojection error in source pixels."""
    focal: bool
    distortion: bool
    """Whether focal length and distortion are adjusted. While cameras are far off, the lens would absorb their errors:
    a focal length can diverge to an affine camera."""


_ROUNDS = (
    _Round(16.0, focal=False, distortion=False),
    _Round(8.0, focal=False, distortion=False),
    _Round(MAX_ERROR, focal=True, distortion=False),
    _Round(MAX_ERROR, focal=True, distortion=True),
)


def bundle_from(
    found: Correspondences,
    T_world_cam: np.ndarray,
    lens: Lens,
    config: RefineConfig,
    *,
    fixed_focal: bool,
    seed: int,
    focals: np.ndarray | None = None,
) -> SparseModel | None:
    """Triangulate the tracks with the given cameras, then adjust cameras and points, from coarse to fine.

    Args:
        T_world_cam: (F, 4, 4) camera-to-world, OpenCV axes.
        focals: (F,) source pixels where every frame gets a focal length of its own: where theirs start.

    Returns:
        The adjusted model, its world where bundle adjustment left it; a frame is registered when it sees at least
        :data:`MIN_OBSERVATIONS` points. None when too few points follow from the given cameras.
    """
    pycolmap = load_pycolmap()
    with tempfile.TemporaryDirectory(prefix="easi3r-") as folder:
        database = pycolmap.Database.open(Path(folder) / "database.db")
        write_frames(
            database, list(found.keypoints), lens, MAPPING_MODEL if focals is None else ZOOM_MODEL, True, focals
        )
        write_matches(database, found)
        cache = pycolmap.DatabaseCache.create(database, pycolmap.DatabaseCacheOptions())
        database.close()
    reconstruction = pycolmap.Reconstruction()
    mapper = pycolmap.IncrementalMapper(cache)
    mapper.begin_reconstruction(reconstruction)
    images = sorted(reconstruction.images)
    for image_id in images:
        pose = pycolmap.Rigid3d(np.linalg.inv(T_world_cam[image_id - 1])[:3])
        reconstruction.frame(image_id).set_cam_from_world(reconstruction.image(image_id).camera_id, pose)
        reconstruction.register_frame(image_id)
    for step in _ROUNDS:
        _triangulate(mapper, images, step.max_error, lens, seed)
        if reconstruction.num_points3D() < MIN_POINTS:
            mapper.end_reconstruction(False)
            return None
        focal = step.focal and not fixed_focal
        solve(reconstruction, refine_focal=focal, refine_distortion=step.distortion, effort=_ROUGH)
        mapper.observation_manager.filter_all_points3D(step.max_error, MIN_ANGLE)
    _drop_frames_without_points(reconstruction)
    mapper.end_reconstruction(False)
    if focals is not None:
        return finish_focals(read_model(reconstruction, found.num_frames), config.camera_model)
    return finish(reconstruction, config.camera_model, found.num_frames, fixed_focal=fixed_focal)


def _triangulate(mapper: Any, images: list[int], max_error: float, lens: Lens, seed: int) -> None:
    options = load_pycolmap().IncrementalTriangulatorOptions(
        random_seed=seed % 2**31,
        create_max_angle_error=max(2.0, np.degrees(max_error / lens.focal)),
        continue_max_angle_error=max(2.0, np.degrees(max_error / lens.focal)),
        merge_max_reproj_error=max_error,
        complete_max_reproj_error=max_error,
        re_max_angle_error=max(5.0, np.degrees(max_error / lens.focal)),
    )
    for image_id in images:
        mapper.triangulate_image(options, image_id)
    mapper.complete_and_merge_tracks(options)
    mapper.retriangulate(options)
    mapper.observation_manager.filter_all_points3D(max_error, MIN_ANGLE)


def _drop_frames_without_points(reconstruction: Any) -> None:
    for image_id in list(reconstruction.reg_image_ids()):
        if reconstruction.image(image_id).num_points3D < MIN_OBSERVATIONS:
            reconstruction.deregister_frame(image_id)


def finish(
    reconstruction: Any,
    camera_model: str,
    num_frames: int,
    *,
    fixed_focal: bool,
    min_angle: float = MIN_ANGLE,
    start: Lenses | None = None,
) -> SparseModel | None:
    """The last adjustment of a pycolmap reconstruction (changed in place), with all parameters of the lens.

    The two focal lengths of OPENCV and OPENCV_FISHEYE are made equal (the pixels of the source are square) and
    everything else is adjusted once more.

    Args:
        camera_model: 'pinhole', 'radial' (k1, k2), 'opencv' (k1, k2, p1, p2) or, for a fisheye lens,
            'opencv-fisheye' (k1 to k4).
        min_angle: degrees of parallax that a point must have.
        start: see :func:`~.library.read_model`.

    Returns:
        None when fewer than :data:`MIN_POINTS` points are left, or the focal length ran out of :data:`FOCAL_RANGE`. Of
        several lenses, those whose focal length did leave the model with their frames.
    """
    pycolmap = load_pycolmap()
    cameras = list(reconstruction.cameras.values())
    for camera in cameras:
        _change_camera(camera, camera_model)
    manager = pycolmap.ObservationManager(reconstruction)
    for effort in (_ROUGH, _EXACT):
        if reconstruction.num_points3D() < MIN_POINTS:
            return None
        solve(reconstruction, refine_focal=not fixed_focal, effort=effort)
        manager.filter_all_points3D(MAX_ERROR, min_angle)
    if ADJUST_MODELS[camera_model] in TWO_FOCALS and not fixed_focal:
        for camera in cameras:
            params = np.array(camera.params)
            params[:2] = np.sqrt(params[0] * params[1])
            camera.params = params
        solve(reconstruction, refine_focal=False, effort=_EXACT)
    _drop_frames_without_points(reconstruction)
    model = read_model(reconstruction, num_frames, start)
    if model.lenses is not None:
        model = model.restricted(model.registered & _plausible(model.lenses))
        return model if len(model.sparse) >= MIN_POINTS and model.registered.sum() >= 2 else None
    low, high = (share * max(model.lens.width, model.lens.height) for share in FOCAL_RANGE)
    return model if len(model.sparse) >= MIN_POINTS and low <= model.focal <= high else None


def _plausible(lenses: Lenses) -> np.ndarray:
    """(F,) bool: frames whose focal length lies in :data:`FOCAL_RANGE`."""
    shares = [lens.focal / max(lens.width, lens.height) for lens in lenses.lenses]
    return np.array([FOCAL_RANGE[0] <= share <= FOCAL_RANGE[1] for share in shares])[lenses.index]


def finish_focals(model: SparseModel, camera_model: str) -> SparseModel | None:
    """The last adjustment of a model whose frames have focal lengths of their own; they share one distortion.

    Returns:
        None when fewer than :data:`MIN_POINTS` points are left, or the median focal length ran out of
        :data:`FOCAL_RANGE`. Frames whose own focal length did, or that see too few points, are no longer registered.
    """
    low, high = (share * max(model.lens.width, model.lens.height) for share in FOCAL_RANGE)
    for _ in range(2):
        cameras, tracks = cameras_of(model)
        if len(model.sparse) < MIN_POINTS:
            return None
        model = with_cameras(model, adjust_focals(cameras, tracks, FREE_DISTORTION[camera_model]).cameras)
        model = model.without_outliers(MAX_ERROR)
        seen = np.bincount(model.sparse.frame_index, minlength=len(model.registered))
        plausible = (low <= model.frame_focals) & (model.frame_focals <= high)
        kept = model.registered & (seen >= MIN_OBSERVATIONS) & plausible
        model = model if kept.sum() == model.registered.sum() else model.restricted(kept)
    return model if len(model.sparse) >= MIN_POINTS and model.registered.sum() >= 2 else None


def _change_camera(camera: Any, camera_model: str) -> None:
    wanted = ADJUST_MODELS[camera_model]
    if camera.model_name != wanted:
        new = colmap_camera(read_lens(camera), wanted)
        camera.model = new.model
        camera.params = new.params


def solve(reconstruction: Any, *, refine_focal: bool, effort: Effort, refine_distortion: bool = True) -> None:
    """Move cameras, lens and points of a pycolmap reconstruction to their observations, robustly.

    One thread: the sums of several are added in an order that changes from run to run.
    """
    pycolmap = load_pycolmap()
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in reconstruction.reg_image_ids():
        config.add_image(image_id)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    options = pycolmap.BundleAdjustmentOptions(
        refine_focal_length=refine_focal,
        refine_principal_point=False,
        refine_extra_params=refine_distortion,
        print_summary=False,
    )
    options.ceres.loss_function_type = pycolmap.LossFunctionType.SOFT_L1
    solver = options.ceres.solver_options
    solver.num_threads = 1
    solver.max_num_iterations, solver.function_tolerance = effort.iterations, effort.tolerance
    pycolmap.create_default_bundle_adjuster(options, config, reconstruction).solve()
