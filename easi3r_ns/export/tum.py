"""Scene -> trajectory text of the TUM RGB-D benchmark: ``timestamp tx ty tz qx qy qz qw``, one camera a line.

Camera-to-world in the world of ``transforms.json`` (z up), camera axes x right, y down, z forward as the benchmark has
them; timestamps in seconds of the clip (several clips: end to end), the quaternion with its real part LAST and not
negative. Of views of a sphere the camera is the sphere itself, once for each moment.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from ..core.geometry import Z_UP_FROM_OPENCV_WORLD
from ..core.scene import Scene
from ..storage.files import make_folder, write_bytes
from .exporter import Exporter, ExportJob

_FILE = "trajectory_tum.txt"
_HEADER = "# timestamp tx ty tz qx qy qz qw (camera to world, world z up, camera x right y down z forward)"


def write_tum(scene: Scene, path: Path) -> Path:
    """Write the cameras of ``scene`` to the file ``path`` and return it. Raises OutputError."""
    cameras, times = scene.T_world_cam, scene.clock
    if scene.rig is not None:
        first = np.unique(scene.rig.moment, return_index=True)[1]
        cameras, times = scene.rig.rig_poses(cameras)[first], scene.times[first]
    poses = Z_UP_FROM_OPENCV_WORLD @ cameras
    quaternions = Rotation.from_matrix(poses[:, :3, :3]).as_quat()
    quaternions = np.where(quaternions[:, 3:] < 0, -quaternions, quaternions)
    rows = np.column_stack([times, poses[:, :3, 3], quaternions]).tolist()
    make_folder(path.parent)
    write_bytes(path, "\n".join([_HEADER, *(" ".join(map(str, row)) for row in rows), ""]).encode())
    return path


def _write(job: ExportJob) -> list[Path]:
    return [write_tum(job.scene, job.folder / _FILE)]


EXPORTER = Exporter(files=lambda job: {_FILE}, write=_write)
