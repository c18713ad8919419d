"""The only place where pycolmap is imported; our values to and from its own."""

from __future__ import annotations

import logging
import signal
import threading
from dataclasses import replace
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np

from ..core.config import AlignConfig, RefineConfig
from ..core.errors import InputError, MissingExtraError
from ..core.geometry import FisheyeDistortion
from ..core.runlog import RunLog
from ..core.scene import Scene, SparsePoints
from .learned import check_features
from .model import FISHEYE, Correspondences, Lens, Lenses, SparseModel

TWO_FOCALS = ("OPENCV", "OPENCV_FISHEYE")
"""COLMAP's lens models that have one in x and one in y."""


def load_pycolmap() -> ModuleType:
    """pycolmap, whose own log stays quiet, in all threads; what goes wrong comes back as results and exceptions.

    Its errors are shown where the log of this package is (--verbose). Raises MissingExtraError when it is not there or
    too old.
    """
    ends = signal.getsignal(signal.SIGTERM)
    try:
        import pycolmap
    except (ImportError, OSError) as error:
        there = " although it is installed" if find_spec("pycolmap") else ""
        again = "--force-reinstall " if there else ""
        raise MissingExtraError(
            f"pycolmap does not load{there} ({error}): pip install {again}'pycolmap>=4.2', or use a network with "
            "--refine none"
        ) from error
    if not hasattr(pycolmap, "FeatureExtractor"):
        raise MissingExtraError(f"pycolmap {pycolmap.__version__} is too old: pip install --upgrade 'pycolmap>=4.2'")
    level = pycolmap.logging.Level
    quiet = level.ERROR if logging.getLogger("easi3r_ns").isEnabledFor(logging.DEBUG) else level.FATAL
    pycolmap.logging.minloglevel = int(quiet)
    if ends is not None and threading.current_thread() is threading.main_thread():
        # Its logging library takes the signal to end, and answers with the addresses of its stack.
        signal.signal(signal.SIGTERM, ends)
    return pycolmap


def check_refine(config: RefineConfig, align: AlignConfig, focal_length: float | None = None) -> None:
    """Whether ``--refine`` can run, before any work is done.

    Raises MissingExtraError without pycolmap, or the networks that --features asks for; InputError where 'colmap' shall
    find a known focal length, or a fisheye lens shall zoom.
    """
    if config.refine == "none":
        return
    check_lens(config, align)
    if config.refine == "colmap":
        check_zoom(align, focal_length)
    check_features(config.features)
    load_pycolmap()


def check_lens(config: RefineConfig, align: AlignConfig) -> None:
    """Raises InputError for a fisheye lens with a focal length for every frame: action cameras do not zoom."""
    if config.camera_model == FISHEYE and not align.shared_focal:
        raise InputError(
            f"--camera-model {FISHEYE} has one focal length for the whole clip, --align.no-shared-focal asks for one "
            "per frame: give one of them"
        )


def warn_about_fisheye(scene: Scene, config: RefineConfig, log: RunLog) -> None:
    """Warn where a fisheye lens is asked for and the scene has a pinhole: that of a network, which knows no other."""
    if config.camera_model == FISHEYE and not isinstance(scene.distortion, FisheyeDistortion):
        log.warn(
            f"--camera-model {FISHEYE} has no effect: the cameras are the network's, which takes every lens for a "
            "pinhole; straight lines that the lens bends stay bent. Use --weights none, or undistort the clip first"
        )


def check_zoom(align: AlignConfig, focal_length: float | None) -> None:
    """Raises InputError where the focal length is given, and to be found for every frame, at the same time."""
    if not align.shared_focal and focal_length is not None:
        raise InputError(
            f"--focal-length {focal_length:g} fixes one focal length for the whole clip, --align.no-shared-focal asks "
            "for one per frame: give one of them"
        )


def reason_against(
    config: RefineConfig, align: AlignConfig, scene: Scene, focal_length: float | None = None
) -> str | None:
    """Why bundle adjustment, which the options ask for, cannot help this scene; None where it may."""
    if scene.stays:
        return "bundle adjustment needs a camera that travels"
    if config.refine == "auto" and not align.shared_focal and focal_length is not None:
        return (
            "--focal-length fixes one focal length for the whole clip, --align.no-shared-focal asks for one per frame"
        )
    return None


def image_name(position: int) -> str:
    """Name of a frame in a COLMAP database; its id there is ``position + 1``."""
    return f"frame_{position + 1:05d}"


def write_frames(
    database: Any,
    keypoints: list[np.ndarray],
    lens: Lens | Lenses,
    model: str,
    has_focal: bool,
    focals: np.ndarray | None = None,
) -> None:
    """Write the cameras, the frames and their keypoints into an empty pycolmap database, with ids that we choose.

    With ``focals``, (F,) source pixels, every frame has a camera of its own, whose id is that of the frame.
    """
    pycolmap = load_pycolmap()
    if focals is not None:
        lenses = [replace(lens.at(frame), focal=focal) for frame, focal in enumerate(focals.tolist())]
        camera_of = list(range(1, len(lenses) + 1))
    elif isinstance(lens, Lenses):
        lenses, camera_of = list(lens.lenses), (lens.index + 1).tolist()
    else:
        lenses, camera_of = [lens], [1] * len(keypoints)
    with pycolmap.DatabaseTransaction(database):
        for camera_id, own in enumerate(lenses, 1):
            camera = colmap_camera(own, model)
            # COLMAP takes no fisheye without a known focal length for a first pair; bundle adjustment still changes it.
            camera.camera_id, camera.has_prior_focal_length = camera_id, has_focal or own.fisheye
            database.write_camera(camera, use_camera_id=True)
            rig = pycolmap.Rig(rig_id=camera_id)
            rig.add_ref_sensor(camera.sensor_id)
            database.write_rig(rig, use_rig_id=True)
        for position, rows in enumerate(keypoints):
            camera_id = camera_of[position]
            image = pycolmap.Image(name=image_name(position), camera_id=camera_id, image_id=position + 1)
            database.write_image(image, use_image_id=True)
            frame = pycolmap.Frame(frame_id=position + 1, rig_id=camera_id)
            frame.add_data_id(image.data_id)
            database.write_frame(frame, use_frame_id=True)
            database.write_keypoints(position + 1, np.ascontiguousarray(rows, dtype=np.float32))


def colmap_camera(lens: Lens, model: str) -> Any:
    """The pycolmap camera with id 1; ``model`` SIMPLE_PINHOLE, SIMPLE_RADIAL, RADIAL or OPENCV.

    For a fisheye lens SIMPLE_RADIAL stands for SIMPLE_RADIAL_FISHEYE, and what has more parameters for OPENCV_FISHEYE.
    """
    k1, k2, p1, p2 = lens.distortion
    centre = list(lens.principal_point)
    if lens.fisheye:
        simple = model == "SIMPLE_RADIAL"
        model = "SIMPLE_RADIAL_FISHEYE" if simple else "OPENCV_FISHEYE"
        params = [lens.focal, *centre, k1] if simple else [lens.focal, lens.focal, *centre, k1, k2, p1, p2]
        return load_pycolmap().Camera(camera_id=1, model=model, width=lens.width, height=lens.height, params=params)
    params = {
        "SIMPLE_PINHOLE": [lens.focal, *centre],
        "SIMPLE_RADIAL": [lens.focal, *centre, k1],
        "RADIAL": [lens.focal, *centre, k1, k2],
        "OPENCV": [lens.focal, lens.focal, *centre, k1, k2, p1, p2],
    }[model]
    return load_pycolmap().Camera(camera_id=1, model=model, width=lens.width, height=lens.height, params=params)


def write_matches(database: Any, found: Correspondences) -> None:
    """Write verified matches; mapping reads nothing else of a two-view geometry than its kind and its matches."""
    pycolmap = load_pycolmap()
    with pycolmap.DatabaseTransaction(database):
        for (i, j), rows in zip(found.pairs.tolist(), found.matches):
            geometry = pycolmap.TwoViewGeometry()
            geometry.config = pycolmap.TwoViewGeometryConfiguration.UNCALIBRATED
            geometry.inlier_matches = rows.astype(np.uint32)
            database.write_two_view_geometry(i + 1, j + 1, geometry)


def read_lens(camera: Any) -> Lens:
    """Our lens of a pycolmap camera; one with two focal lengths must have equal ones."""
    params = list(camera.params)
    model = camera.model_name
    if model in TWO_FOCALS:
        fx, fy, cx, cy, *distortion = params
        if not np.isclose(fx, fy, rtol=1e-9):
            raise ValueError(f"focal lengths {fx} and {fy} differ")
    else:
        fx, cx, cy, *distortion = params
    lens = Lens(camera.width, camera.height, float(fx), (float(cx), float(cy)))
    return lens.of_kind(FISHEYE if "FISHEYE" in model else "opencv").bent([*distortion, 0.0, 0.0, 0.0, 0.0][:4])


def read_model(reconstruction: Any, num_frames: int, start: Lenses | None = None) -> SparseModel:
    """Cameras, tracks and errors of a pycolmap reconstruction whose image ids are frame positions + 1; black points.

    Where the frames have cameras of their own, these differ in their focal lengths only, unless there is a ``start``:
    the lenses that were written into the database, and which frame has which.
    """
    T = np.tile(np.eye(4), (num_frames, 1, 1))
    registered = np.zeros(num_frames, dtype=bool)
    lenses = {}
    pixels = {}
    for image_id in reconstruction.reg_image_ids():
        image = reconstruction.image(image_id)
        T[image_id - 1, :3] = image.cam_from_world().inverse().matrix()
        registered[image_id - 1] = True
        lenses[image_id - 1] = read_lens(reconstruction.camera(image.camera_id))
        pixels[image_id] = np.array([point.xy for point in image.points2D]).reshape(-1, 2)
    reconstruction.update_point_3d_errors()
    points, errors, rows = [], [], []
    for index, point_id in enumerate(sorted(reconstruction.point3D_ids())):
        point = reconstruction.point3D(point_id)
        points.append(point.xyz)
        errors.append(point.error)
        track = sorted((element.image_id, element.point2D_idx) for element in point.track.elements)
        rows += [(index, image_id - 1, *pixels[image_id][keypoint]) for image_id, keypoint in track]
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    sparse = SparsePoints(
        points=np.array(points, dtype=np.float64).reshape(-1, 3),
        colors=np.zeros((len(points), 3), dtype=np.uint8),
        errors=np.array(errors, dtype=np.float64),
        point_index=table[:, 0].astype(np.int64),
        frame_index=table[:, 1].astype(np.int64),
        pixels=table[:, 2:],
    )
    if start is not None:
        return _with_lenses(SparseModel(T, registered, start.lenses[0], sparse), start, lenses)
    if len(reconstruction.cameras) == 1 or not lenses:
        return SparseModel(T, registered, read_lens(reconstruction.camera(1)), sparse)
    known = np.array([lens.focal for lens in lenses.values()])
    lens = replace(next(iter(lenses.values())), focal=float(np.median(known)))
    focals = np.interp(np.arange(num_frames), list(lenses), known)
    return SparseModel(T, registered, lens, sparse, focals)


def _with_lenses(model: SparseModel, start: Lenses, found: dict[int, Lens]) -> SparseModel:
    """The model with the lenses ``found`` for registered frames; where no frame of a lens is, that of the start."""
    own = {int(start.index[frame]): lens for frame, lens in found.items()}
    lenses = tuple(own.get(number, lens) for number, lens in enumerate(start.lenses))
    counts = np.bincount(start.index[model.registered], minlength=len(lenses))
    return replace(model, lens=lenses[int(counts.argmax())], lenses=replace(start, lenses=lenses))
