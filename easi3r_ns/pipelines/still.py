"""Cameras that stand still, only turn, or hardly travel: found in both pipelines, and pinned to one place."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from .. import __version__
from ..align.align import AlignResult
from ..align.pinned import PinnedCameras, pin_cameras
from ..core.config import Easi3RConfig
from ..core.geometry import FisheyeDistortion, image_centre_in_network, source_to_network
from ..core.runlog import RunLog
from ..core.scene import FIXED, TURNING, CameraUncertainty, Scene, what_frames_show
from ..core.types import DynamicMasks, Frames, PixelMap, RecordedFocal
from ..motion.still import CameraMotion, EquidistantLens, PinholeLens, detect_camera_motion
from ..motion.still.detect import WORK_SIDE
from ..refine.features import default_focal
from ..refine.model import FISHEYE, NONE
from ..storage.files import read_png
from .focal import recorded_focal

LARGE_ENOUGH = 0.75
"""Network images are looked at themselves when they have this share of the size that the source allows."""


def find_camera_motion(
    frames: Frames,
    dynamic: DynamicMasks,
    config: Easi3RConfig,
    log: RunLog,
    *,
    shared_focal: bool = True,
    camera_model: str = "pinhole",
) -> CameraMotion:
    """What the camera of a clip does, see :func:`easi3r_ns.motion.still.detect_camera_motion`.

    Looked at in images of about :data:`~easi3r_ns.motion.still.detect.WORK_SIDE` pixels; focal lengths of the result
    are in SOURCE pixels. Where a zoom explains the pictures as well as travel does, it is believed without
    ``shared_focal``; with it there is a warning. ``camera_model`` as ``--camera-model``: a fisheye lens is taken to be
    equidistant, any other to be a pinhole.
    """
    grey, scale = _working_images(frames)
    height, width = grey[0].shape
    recorded = recorded_focal(config, frames)
    guess = recorded.pixels if recorded else default_focal(frames.pixel_map.picture_wh, camera_model)
    focal = config.focal_length or guess
    x, y = frames.pixel_map.principal_xy
    centre = (x * scale[0] - 0.5, y * scale[1] - 0.5)
    moving = dynamic.masks
    if (width, height) != frames.pixel_map.network_wh:
        moving = _on_source(dynamic.masks, frames.pixel_map, (width, height))
    else:
        centre = tuple(image_centre_in_network(frames.pixel_map))
    kind = EquidistantLens if camera_model == FISHEYE else PinholeLens
    lens = kind(focal * scale[0], centre, scale[1] / scale[0])
    found = detect_camera_motion(grey, moving, lens, log, fixed_focal=config.focal_length is not None)
    found = _in_source(_by_metadata(found, recorded), scale[0])
    return found if found.if_zooming is None else _or_zooms(found, shared_focal, log)


def _by_metadata(motion: CameraMotion, recorded: RecordedFocal | None) -> CameraMotion:
    """The motion, whose focal length is that of the files where the pictures show none."""
    if recorded is None:
        return motion
    zooming = motion.if_zooming and _by_metadata(motion.if_zooming, recorded)
    if motion.focal_source == "default":
        motion = replace(motion, focal_source="metadata", focal_sigma=recorded.sigma)
    return replace(motion, if_zooming=zooming)


def _in_source(motion: CameraMotion, scale: float) -> CameraMotion:
    """The motion with focal lengths in source pixels; ``scale``: pixels that were looked at per source pixel."""
    focals = None if motion.focals is None else motion.focals / scale
    zooming = motion.if_zooming and _in_source(motion.if_zooming, scale)
    return replace(motion, focal=motion.focal / scale, focals=focals, if_zooming=zooming)


def _or_zooms(motion: CameraMotion, shared_focal: bool, log: RunLog) -> CameraMotion:
    """What the camera does where it may zoom instead of travelling: the user's choice of focal lengths decides."""
    zooming = motion.if_zooming
    assert zooming is not None and zooming.focals is not None
    if not shared_focal:
        return zooming
    first, last = zooming.focals[[0, -1]]
    log.warn(
        f"the lens zooms without travel (focal length about {first:.0f} -> {last:.0f} px), or the camera travels "
        "straight towards something flat: the pictures do not tell. One focal length for all frames makes it travel; "
        "if the lens zooms, use --align.no-shared-focal"
    )
    return motion


def _working_images(frames: Frames) -> tuple[list[np.ndarray], tuple[float, float]]:
    """Grey images, and their pixels per source pixel in x and y."""
    pixel_map, longer = frames.pixel_map, max(frames.pixel_map.source_wh)
    side = min(WORK_SIDE, longer)
    if max(pixel_map.network_wh) >= LARGE_ENOUGH * side:
        return [cv2.cvtColor(np.ascontiguousarray(x), cv2.COLOR_RGB2GRAY) for x in frames.images], pixel_map.scale_xy
    size = tuple(max(1, round(x * side / longer)) for x in pixel_map.source_wh)
    grey = [cv2.cvtColor(read_png(path), cv2.COLOR_RGB2GRAY) for path in frames.source_paths]
    small = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in grey]
    return small, (size[0] / pixel_map.source_wh[0], size[1] / pixel_map.source_wh[1])


def _on_source(masks: np.ndarray, pixel_map: PixelMap, size: tuple[int, int]) -> np.ndarray:
    """(F, H, W) masks of the network grid on ``size`` (width, height) pixels of the whole source; False outside."""
    out = np.zeros((len(masks), size[1], size[0]), dtype=bool)
    places, inside = [], []
    for axis in (0, 1):
        source = np.zeros((size[axis], 2))
        source[:, axis] = (np.arange(size[axis]) + 0.5) * pixel_map.source_wh[axis] / size[axis]
        at = np.rint(source_to_network(source, pixel_map)[:, axis]).astype(int)
        inside.append(np.flatnonzero((at >= 0) & (at < pixel_map.network_wh[axis])))
        places.append(at[inside[-1]])
    out[np.ix_(np.arange(len(masks)), inside[1], inside[0])] = masks[:, places[1]][:, :, places[0]]
    return out


def pinned_scene(
    frames: Frames, dynamic: DynamicMasks, motion: CameraMotion, config: Easi3RConfig, log: RunLog, *, name: str
) -> Scene:
    """The scene of a camera that stays in its place, without a network: the depth is 0 (unknown) everywhere.

    ``name``: of the pipeline. All frames have a camera; there are no points. A fisheye lens stays one.
    """
    cameras = _pinned(frames, motion)
    warn_pinned(motion, log, has_depth=False)
    unknown = np.zeros(frames.images.shape[:3], dtype=np.float32)
    return Scene(
        **what_frames_show(frames),
        T_world_cam=cameras.T_world_cam,
        focals=cameras.focals,
        principal_point=cameras.principal_point,
        depth=unknown,
        confidence=unknown,
        dynamic=dynamic,
        min_confidence=config.min_confidence,
        distortion=FisheyeDistortion(NONE) if motion.equidistant else NONE,
        pose_sources=pose_sources(motion),
        uncertainty=cameras.uncertainty,
        provenance={"version": __version__, "weights": {"name": name}, "seed": config.seed} | motion_facts(motion),
    )


def pinned_alignment(
    aligned: AlignResult, frames: Frames, dynamic: DynamicMasks, motion: CameraMotion, log: RunLog
) -> AlignResult:
    """The alignment with cameras that stay in their place.

    A focal length that is neither given nor shown by the turn is the one that the network found.
    """
    warn_pinned(motion, log, has_depth=True)
    cameras = _pinned(frames, motion)
    if motion.focal_source == "default":
        sigma = np.zeros(len(frames)) if aligned.uncertainty is None else aligned.uncertainty.focal
        cameras = replace(
            cameras,
            focals=cameras.focals * float(np.median(aligned.focals) / np.median(cameras.focals)),
            uncertainty=replace(cameras.uncertainty, focal=sigma),
        )
    return pin_cameras(aligned, cameras, dynamic.masks)


def pose_sources(motion: CameraMotion) -> tuple[str, ...]:
    """Per frame, see :attr:`easi3r_ns.core.scene.Scene.pose_sources`."""
    return (FIXED if motion.kind == "fixed" else TURNING,) * len(motion.R)


def motion_facts(motion: CameraMotion) -> dict:
    """For the provenance."""
    facts = {
        "kind": motion.kind,
        "hardly_travels": motion.nearly,
        "focal": motion.focal_source,
        "focal_relative_sigma": motion.focal_sigma,
        "explained": motion.explained,
        "error_px": motion.error_px,
        "lens": "equidistant fisheye" if motion.equidistant else "pinhole",
    }
    return {"camera_motion": facts}


def warn_pinned(motion: CameraMotion, log: RunLog, *, has_depth: bool) -> None:
    """Say what the camera does, what that means, and what the dataset is good for."""
    if motion.kind == "fixed":
        does = "the camera stands still: all frames get the same camera"
    elif motion.nearly:
        does = "the camera hardly travels (mapping finds no cameras): all frames get cameras that turn about one centre"
    else:
        does = "the camera turns but does not travel: all frames get cameras about one centre"
    if motion.focals is not None:
        does += f", while the lens zooms from {motion.focals[0]:.0f} to {motion.focals[-1]:.0f} pixels"
    focal = {
        "given": "",
        "turn": f" The turn shows a focal length of {motion.focal:.0f} pixels (+- {100 * motion.focal_sigma:.1g} %).",
        "metadata": f" The focal length of {motion.focal:.0f} pixels (+- {100 * motion.focal_sigma:.0f} %) is what the "
        "file says; nothing in the pictures shows it.",
        "default": " Nothing in the pictures shows the focal length: give --focal-length if the lens is known."
        if has_depth
        else f" Nothing in the pictures shows the focal length: {motion.focal:.0f} pixels is a guess "
        f"(+- {100 * motion.focal_sigma:.0f} %), give --focal-length if the lens is known.",
    }[motion.focal_source]
    depth = "depth is the network's guess alone" if has_depth else "there is no depth (a network gives it: --weights)"
    lens = (
        " The lens is written as an equidistant fisheye (k1 to k4 are 0): how far it differs from one only a camera "
        "that travels shows."
        if motion.equidistant
        else ""
    )
    log.warn(
        f"{does}. There is no parallax, so no radiance field can be learned from this clip, and {depth}. The dataset "
        f"serves for its masks, and for 4D methods that take depth.{focal}{lens}"
    )


def _pinned(frames: Frames, motion: CameraMotion) -> PinnedCameras:
    count = len(frames)
    focals = np.full(count, motion.focal) if motion.focals is None else motion.focals
    focals = focals * frames.pixel_map.scale_xy[0]
    return PinnedCameras(
        R=motion.R,
        focals=focals,
        principal_point=image_centre_in_network(frames.pixel_map),
        pixel_aspect=frames.pixel_map.pixel_aspect,
        uncertainty=CameraUncertainty(
            rotation_deg=np.full(count, motion.error_degrees),
            centre=np.zeros(count),
            focal=focals * motion.focal_sigma,
            residual=np.full(count, np.nan),
        ),
    )
