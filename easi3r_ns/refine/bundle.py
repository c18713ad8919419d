"""Bundle adjustment with one shared camera."""

from __future__ import annotations

from typing import Any

import numpy as np

from .library import colmap_camera, load_pycolmap, read_lens

ADJUST_MODELS = {"pinhole": "SIMPLE_PINHOLE", "radial": "RADIAL", "opencv": "OPENCV"}
MAX_ERROR = 4.0
"""Reprojection error in source pixels above which an observation is left out (COLMAP's default)."""
MIN_ANGLE = 1.5
"""Degrees of parallax below which a point is left out (COLMAP's default)."""


def adjust(reconstruction: Any, camera_model: str, *, fixed_focal: bool) -> Any:
    """Bundle-adjust a pycolmap reconstruction in place with the full model of the camera, and drop wrong observations.

    The two focal lengths of OPENCV are made equal (the pixels of the source are square) and everything else is
    adjusted once more.

    Args:
        camera_model: 'pinhole', 'radial' (k1, k2) or 'opencv' (k1, k2, p1, p2).
    """
    pycolmap = load_pycolmap()
    _change_camera(reconstruction, camera_model)
    manager = pycolmap.ObservationManager(reconstruction)
    for _ in range(2):
        _solve(reconstruction, refine_focal=not fixed_focal)
        manager.filter_all_points3D(MAX_ERROR, MIN_ANGLE)
    camera = reconstruction.camera(1)
    if camera.model_name == "OPENCV" and not fixed_focal:
        params = camera.params
        params[:2] = np.sqrt(params[0] * params[1])
        camera.params = params
        _solve(reconstruction, refine_focal=False)
    return reconstruction


def _change_camera(reconstruction: Any, camera_model: str) -> None:
    camera = reconstruction.camera(1)
    wanted = ADJUST_MODELS[camera_model]
    if camera.model_name != wanted:
        new = colmap_camera(read_lens(camera), wanted)
        camera.model = new.model
        camera.params = new.params


def _solve(reconstruction: Any, *, refine_focal: bool) -> None:
    pycolmap = load_pycolmap()
    options = pycolmap.BundleAdjustmentOptions(
        refine_focal_length=refine_focal,
        refine_principal_point=False,
        refine_extra_params=True,
        print_summary=False,
    )
    options.ceres.loss_function_type = pycolmap.LossFunctionType.SOFT_L1
    options.ceres.solver_options.num_threads = 1
    pycolmap.bundle_adjustment(reconstruction, options)
