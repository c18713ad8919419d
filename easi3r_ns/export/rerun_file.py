"""Scene -> recording of the Rerun viewer (https://rerun.io): everything over time in one ``.rrd`` file.

Entities, in the world of ``transforms.json`` (z up): ``world/static``, ``world/moving``, ``world/path`` and
``world/camera``, which moves along and holds ``image``, ``depth`` and ``moving`` (a segmentation); the timeline is
``clip``, in seconds. Where the depth of what moves is assumed, for viewing only, ``world/moving`` is
``world/moving_assumed``. A recording carries the moment at which it was made, so two of the same scene differ in bytes.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..core.errors import InputError, MissingExtraError
from ..core.geometry import Z_UP_FROM_OPENCV_WORLD, transform
from ..core.install import install_extra
from ..core.scene import Scene
from ..core.surface import trusted_depth
from ..dataset.pointcloud import dynamic_points, static_points
from ..storage.files import replacing
from .exporter import Exporter, ExportJob

_FILE = "scene.rrd"
_TIMELINE = "clip"


def write_rrd(scene: Scene, path: Path, *, mask_growth: float = 3, max_points: int = 200_000) -> Path:
    """Write the recording ``path`` and return it; images and depth have network size.

    Raises MissingExtraError without rerun-sdk, InputError when there is no static point, OutputError when the disk
    refuses.
    """
    rerun = _load()
    points, colors = static_points(scene, max_points, mask_growth)
    if not len(points):
        raise InputError("no point is static and confident: look at the masks, and lower --mask-growth")
    poses = Z_UP_FROM_OPENCV_WORLD @ scene.T_world_cam
    with replacing(path) as temporary:
        recording = rerun.RecordingStream("easi3r", recording_id="easi3r")
        recording.save(temporary)
        recording.log("world", rerun.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
        static = rerun.Points3D(transform(Z_UP_FROM_OPENCV_WORLD, points), colors=colors)
        recording.log("world/static", static, static=True)
        recording.log("world/path", rerun.LineStrips3D([poses[:, :3, 3]]), static=True)
        for frame in range(len(scene)):
            recording.set_time(_TIMELINE, duration=float(scene.clock[frame]))
            _log_frame(rerun, recording, scene, frame, poses[frame])
        recording.flush()
        recording.disconnect()
    return path


def _load() -> ModuleType:
    try:
        import rerun
    except ImportError as error:
        raise MissingExtraError(
            f"rerun-sdk does not load ({error}): {install_extra('rerun')}, or leave rerun out of --format"
        ) from error
    return rerun


def _log_frame(rerun: ModuleType, recording: Any, scene: Scene, frame: int, pose: np.ndarray) -> None:
    width, height = scene.pixel_map.network_wh
    recording.log("world/camera", rerun.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]))
    # Rerun puts the centre of the first pixel at (0.5, 0.5).
    lens = rerun.Pinhole(
        focal_length=scene.focals_xy[frame], principal_point=scene.principal_point + 0.5, width=width, height=height
    )
    recording.log("world/camera/image", lens)
    recording.log("world/camera/image", rerun.Image(scene.images[frame]).compress(jpeg_quality=90))
    recording.log("world/camera/image/moving", rerun.SegmentationImage(scene.dynamic.masks[frame].astype(np.uint8)))
    if scene.has_depth:
        recording.log("world/camera/image/depth", rerun.DepthImage(trusted_depth(scene, frame), meter=1.0))
        points, colors = dynamic_points(scene, frame)
        moving = rerun.Points3D(transform(Z_UP_FROM_OPENCV_WORLD, points), colors=colors)
        recording.log("world/moving" if scene.assumed_depth is None else "world/moving_assumed", moving)


def _write(job: ExportJob) -> list[Path]:
    return [write_rrd(job.scene, job.folder / _FILE, **job.point_options)]


def _needs(scene: Scene) -> None:
    _load()


EXPORTER = Exporter(files=lambda job: {_FILE}, write=_write, needs=_needs)
