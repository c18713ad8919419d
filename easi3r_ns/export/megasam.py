"""Scene -> what MegaSaM leaves behind, which Instant4D and other programs read.

::

    NAME_sgd_cvd_hr.npz    images (F, H, W, 3) uint8, depths (F, H, W) float16 z-depth, intrinsic (3, 3) float64 in
                           pixels of these images, cam_c2w (F, 4, 4) float64 camera-to-world with OpenCV axes
    reconstructions/NAME/motion_prob.npy    (F, H / 8, W / 8) float32: share of each block that moves

On the network's grid, without lens distortion, in the world of ``transforms.json`` (z up). Depths reach from 0.001 to
100 as there, and are 0 where they are unknown, which MegaSaM itself never leaves.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np

from ..core.errors import InputError
from ..core.geometry import Z_UP_FROM_OPENCV_WORLD, distort, is_distorted, pixel_grid
from ..core.scene import Scene
from ..core.surface import trusted_depth
from ..storage.files import make_folder, write_bytes, write_npz
from .exporter import Exporter, ExportJob, between_remark, require_depth, undistorted_remark

_FOLDER = "megasam"
_NEAREST, _FARTHEST = 1e-3, 1e2
"""Limits of the depth in these files; what is farther away is unknown there."""
_BLOCK = 8
"""Pixels that share a value of the motion probability, in x and y."""


def clip_name(scene: Scene) -> str:
    """A name for files of a scene: that of its clip, in letters that every program takes; ``images`` for a folder."""
    name = Path(scene.names[0]).stem if len(set(scene.names)) == 1 else "images"
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_") or "clip"


def megasam_files(scene: Scene) -> tuple[str, str]:
    """The archive and the motion probability, relative to the folder of the format."""
    name = clip_name(scene)
    return f"{name}_sgd_cvd_hr.npz", f"reconstructions/{name}/motion_prob.npy"


def write_megasam(scene: Scene, path: Path) -> Path:
    """Write ``scene`` into the folder ``path`` and return it.

    Raises InputError for a scene without depth or with several focal lengths, OutputError when the disk refuses.
    """
    _needs(scene)
    import cv2

    archive, motion = (path / file for file in megasam_files(scene))
    make_folder(motion.parent)
    fx, fy = scene.focals_xy[0]
    cx, cy = scene.principal_point
    frames = range(len(scene))
    depth = np.stack([_ideal(scene, trusted_depth(scene, frame), cv2.INTER_NEAREST) for frame in frames])
    arrays = {
        "images": np.stack([_ideal(scene, scene.images[frame], cv2.INTER_LINEAR) for frame in frames]),
        "depths": np.where((depth > 0) & (depth <= _FARTHEST), np.maximum(depth, _NEAREST), 0).astype(np.float16),
        "intrinsic": np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]]),
        "cam_c2w": Z_UP_FROM_OPENCV_WORLD @ scene.T_world_cam,
    }
    height, width = scene.depth.shape[1:]
    small = max(1, width // _BLOCK), max(1, height // _BLOCK)
    moving = [_ideal(scene, mask.astype(np.float32), cv2.INTER_LINEAR) for mask in scene.dynamic.masks]
    shares = np.stack([cv2.resize(mask, small, interpolation=cv2.INTER_AREA) for mask in moving])
    content = io.BytesIO()
    np.save(content, shares.astype(np.float32))
    write_bytes(motion, content.getvalue())
    write_npz(archive, arrays)
    return path


def _ideal(scene: Scene, values: np.ndarray, interpolation: int) -> np.ndarray:
    """Values on the network's grid as a lens without distortion shows them; 0 where nothing is known."""
    if not is_distorted(scene.distortion):
        return values
    import cv2

    focal = scene.focals_xy[0]
    ideal = (pixel_grid(*values.shape[:2]) - scene.principal_point) / focal
    at = (distort(ideal, scene.distortion) * focal + scene.principal_point).astype(np.float32)
    return cv2.remap(values, np.ascontiguousarray(at[..., 0]), np.ascontiguousarray(at[..., 1]), interpolation)


def _needs(scene: Scene) -> None:
    require_depth(scene)
    if len(set(scene.focals.tolist())) > 1:
        raise InputError(
            "MegaSaM's files hold one focal length for the clip, and that of this scene changes: choose a format with "
            "a lens for each frame, such as splat, dnerf or vipe"
        )


def _write(job: ExportJob) -> list[Path]:
    write_megasam(job.scene, job.folder / _FOLDER)
    return [job.folder / _FOLDER / file for file in megasam_files(job.scene)]


EXPORTER = Exporter(
    files=lambda job: {f"{_FOLDER}/{file}" for file in megasam_files(job.scene)},
    write=_write,
    needs=_needs,
    says=lambda job: undistorted_remark(job.scene, border="and has no depth") + between_remark(job.scene),
)
