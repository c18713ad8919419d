"""Runs on 360 degree footage, whose frames are cut into views (:mod:`easi3r_ns.frames.sphere`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ..core.config import Easi3RConfig
from ..core.errors import InputError
from ..core.rig import ViewRig
from ..core.runlog import RunLog
from ..core.types import DynamicMasks, Frames
from ..frames import is_sphere
from ..frames.clips import has_several_sizes
from ..motion.still import CameraMotion
from .pipeline import RunConfig
from .still import find_camera_motion

WHY_NONE = "360 degree frames are cut into views, which only mapping without a network joins"


def check_sphere(data: Path, config: RunConfig, weights: str) -> None:
    """Raises InputError for options that do not work with 360 degree footage, before any work.

    Args:
        weights: those of the run, never ``auto``.
    """
    eval_data = config.eval_data
    paths = (data, *config.more_data)
    if len(paths) > 1:
        for path in paths:
            if is_sphere(path, config.frames):
                raise InputError(f"{path} is 360 degree footage, which is read one clip at a time: give it alone")
        return
    if not is_sphere(data, config.frames):
        if eval_data is not None and is_sphere(eval_data, config.frames):
            raise InputError(f"--eval-data {eval_data} is 360 degree footage and {data} is not: give views of one kind")
        return
    if has_several_sizes(data, config.frames):
        raise InputError(f"{data} holds 360 degree images of several sizes: choose one with --image-size")
    if weights != "none":
        raise InputError(
            f"--weights {weights}: {WHY_NONE}; use --weights none, or --no-equirect for perspective footage"
        )
    easi3r = config.easi3r
    idle = {
        "--eval-data": eval_data is not None,
        "--masks": easi3r.masks is not None,
        "--focal-length": easi3r.focal_length is not None,
        "--align.no-shared-focal": not config.align.shared_focal,
        "--camera-model opencv-fisheye": config.refine.camera_model == "opencv-fisheye",
    }
    for option, given in idle.items():
        if given:
            raise InputError(f"{option} does not work with 360 degree footage, which is cut into views of a known lens")


def find_rig_motion(frames: Frames, dynamic: DynamicMasks, config: Easi3RConfig, log: RunLog) -> CameraMotion:
    """What the camera of a 360 degree clip does: it stays where it is when it does so by all of its views.

    As :func:`~.still.find_camera_motion`; the rotations are those of all frames.
    """
    rig = frames.rig
    assert rig is not None
    known, found = replace(config, focal_length=rig.focal), []
    for rows in frames.clips:
        kept = np.array(rows)
        motion = find_camera_motion(frames.of_frames(kept), dynamic.of_frames(kept), known, log)
        if not motion.stays:
            return motion
        found.append(motion)
    kinds = {motion.kind for motion in found}
    best = int(np.argmax([motion.explained if motion.kind == max(kinds) else -1.0 for motion in found]))
    return replace(found[best], R=rotations_of_all(found[best].R, best, rig))


def rotations_of_all(R: np.ndarray, view: int, rig: ViewRig) -> np.ndarray:
    """(F, 3, 3) camera-to-world of all images, in the axes of the rig's first moment, from (M, 3, 3) those of a view.

    The first of these is the identity.
    """
    own = rig.T_rig_view[view, :3, :3]
    turned = own @ R @ own.T
    return turned[rig.moment] @ rig.T_rig_view[rig.view, :3, :3]
