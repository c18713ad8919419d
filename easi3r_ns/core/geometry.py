"""Poses, intrinsics, projection; the ONLY place where conventions change.

Two conventions of pixel coordinates meet here. The network, the aligner and :class:`~.scene.Scene` put pixel
centres at integers. nerfstudio and COLMAP put the centre of the first pixel at (0.5, 0.5), so that resizing is a
plain multiplication. The same physical ray has ``x_half = x_integer + 0.5`` in one image.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .types import PixelMap

OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
"""Flips the camera axes between OpenCV (x right, y down, z forward) and OpenGL (x right, y up, z backward)."""

Where = tuple[np.ndarray, np.ndarray] | np.ndarray
"""Some pixels: their rows and columns, or (H, W) bool."""

_MOST_FISHEYE = np.radians(88.0)
"""Angle from the axis up to which a fisheye picture is undistorted: at 90 degrees there is no z-depth."""
_MOST_OFF_CENTRE = 0.01
"""Share of the side of an image: what estimates of real lenses reach, and a crop on one side exceeds."""
_TINY = 1e-9

Z_UP_FROM_OPENCV_WORLD = np.array([[1.0, 0, 0, 0], [0, 0, 1.0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1.0]])
"""Turns a world whose y points down into one whose z points up; :mod:`.upright` makes the first level."""


def interpolate_poses(places: np.ndarray, T_world_cam: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(N, 4, 4) cameras at the places ``at`` (N,) between those (K, 4, 4) known at increasing ``places`` (K,).

    Between two known cameras the position moves along a line at constant speed and the rotation turns at a constant
    rate. Before the first and after the last known camera the pose stays that of the nearest one.
    """
    from scipy.spatial.transform import Rotation, Slerp

    at = np.clip(np.asarray(at, dtype=float), places[0], places[-1])
    found = np.tile(np.eye(4), (len(at), 1, 1))
    turns = Rotation.from_matrix(T_world_cam[:, :3, :3])
    found[:, :3, :3] = (Slerp(places, turns)(at) if len(places) > 1 else turns).as_matrix()
    found[:, :3, 3] = np.stack([np.interp(at, places, axis) for axis in T_world_cam[:, :3, 3].T], axis=1)
    return found


def opencv_to_opengl(T_world_cam: np.ndarray) -> np.ndarray:
    """(..., 4, 4) camera-to-world with OpenCV camera axes -> the same camera with OpenGL axes. Its own inverse."""
    return T_world_cam @ OPENGL_FROM_OPENCV


def opencv_to_colmap(T_world_cam: np.ndarray) -> np.ndarray:
    """(..., 4, 4) camera-to-world -> world-to-camera, both with OpenCV axes, which is what COLMAP stores."""
    return np.linalg.inv(T_world_cam)


def network_to_source(xy: np.ndarray, pixel_map: PixelMap) -> np.ndarray:
    """(..., 2) network pixels (integer centres) -> source pixels (first centre at 0.5)."""
    return (np.asarray(xy) + 0.5 + np.array(pixel_map.crop_box[:2])) / np.array(pixel_map.scale_xy)


def source_to_network(xy: np.ndarray, pixel_map: PixelMap) -> np.ndarray:
    """(..., 2) source pixels (first centre at 0.5) -> network pixels (integer centres)."""
    return np.asarray(xy) * np.array(pixel_map.scale_xy) - np.array(pixel_map.crop_box[:2]) - 0.5


def image_centre_in_network(pixel_map: PixelMap) -> np.ndarray:
    """(2,) the centre of what the lens shows, in network pixels: where it has its principal point."""
    return source_to_network(np.array(pixel_map.principal_xy), pixel_map)


def intrinsics_to_source(
    focal: float, principal_point: np.ndarray, pixel_map: PixelMap
) -> tuple[float, float, float, float]:
    """Network intrinsics -> (fl_x, fl_y, cx, cy) in pixels of the source image, first pixel centre at 0.5.

    ``focal`` is the horizontal one; the pixels of the source are square.
    """
    cx, cy = network_to_source(principal_point, pixel_map)
    source_focal = float(focal / pixel_map.scale_xy[0])
    return source_focal, source_focal, float(cx), float(cy)


def off_centre(cx: float, cy: float, width: float, height: float) -> bool:
    """Whether a lens looks so far beside the middle of its image that a reader that ignores ``cx, cy`` goes wrong."""
    return max(abs(cx / width - 0.5), abs(cy / height - 0.5)) > _MOST_OFF_CENTRE


def focal_from_source(focal_px: float, pixel_map: PixelMap) -> float:
    """Focal length in source pixels -> network pixels."""
    return float(focal_px * pixel_map.scale_xy[0])


def pixel_grid(height: int, width: int) -> np.ndarray:
    """(H, W, 2) float64 (x, y) of every pixel, integer centres."""
    return np.stack(np.meshgrid(np.arange(width, dtype=float), np.arange(height, dtype=float)), axis=-1)


def unproject(
    depth: np.ndarray,
    focal: float | np.ndarray,
    principal_point: np.ndarray,
    distortion: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0),
    where: Where | None = None,
) -> np.ndarray:
    """(H, W) z-depth -> (H, W, 3) points in the camera frame (OpenCV axes); pixels at integer centres.

    ``where`` asks for some pixels: (N, 3).

    ``focal`` in pixels, one for both axes or (2,) for x and y; ``distortion`` is OpenCV's (k1, k2, p1, p2) of the grid.
    """
    across, down = np.broadcast_to(focal, 2).tolist()
    rays = _rays(*depth.shape, (across, down), tuple(np.asarray(principal_point, dtype=float).tolist()), distortion)
    if where is not None:
        rays, depth = rays[where], depth[where]
    return np.concatenate([rays, np.ones_like(rays[..., :1])], axis=-1) * depth[..., None]


@lru_cache(maxsize=1, typed=True)
def _rays(
    height: int,
    width: int,
    focal: tuple[float, float],
    principal_point: tuple[float, ...],
    distortion: tuple[float, float, float, float],
) -> np.ndarray:
    """(H, W, 2) ideal normalised coordinates of every pixel. The frames of a clip mostly have one lens."""
    rays = undistort((pixel_grid(height, width) - principal_point) / np.array(focal), distortion)
    rays.setflags(write=False)
    return rays


class FisheyeDistortion(tuple[float, float, float, float]):
    """(k1, k2, k3, k4) of OpenCV's fisheye lens, wherever a distortion is expected; all zero: an equidistant lens."""

    __slots__ = ()


def is_distorted(distortion: tuple[float, float, float, float]) -> bool:
    """Whether a lens shows straight lines bent."""
    return isinstance(distortion, FisheyeDistortion) or any(distortion)


def distortion_names(distortion: tuple[float, float, float, float]) -> tuple[str, str, str, str]:
    """How OpenCV, nerfstudio and COLMAP call the four numbers."""
    fisheye = isinstance(distortion, FisheyeDistortion)
    return ("k1", "k2", "k3", "k4") if fisheye else ("k1", "k2", "p1", "p2")


def distort(xy: np.ndarray, distortion: tuple[float, float, float, float]) -> np.ndarray:
    """(..., 2) ideal normalised image coordinates -> where a lens shows them.

    ``distortion``: OpenCV's (k1, k2, p1, p2), or a :class:`FisheyeDistortion`, whose lens sees less than 180 degrees.
    """
    if isinstance(distortion, FisheyeDistortion):
        radius = np.linalg.norm(xy, axis=-1, keepdims=True)
        shown = _fisheye_radius(np.arctan(radius), distortion)
        return xy * np.divide(shown, radius, out=np.ones_like(radius), where=radius > _TINY)
    k1, k2, p1, p2 = distortion
    x, y = xy[..., 0], xy[..., 1]
    r2 = x**2 + y**2
    radial = 1 + k1 * r2 + k2 * r2**2
    shift_x = 2 * p1 * x * y + p2 * (r2 + 2 * x**2)
    shift_y = p1 * (r2 + 2 * y**2) + 2 * p2 * x * y
    return np.stack([x * radial + shift_x, y * radial + shift_y], axis=-1)


def undistort(xy: np.ndarray, distortion: tuple[float, float, float, float], iterations: int = 20) -> np.ndarray:
    """The inverse of :func:`distort`, by the fixed-point iteration that OpenCV uses too, or Newton's for a fisheye."""
    if isinstance(distortion, FisheyeDistortion):
        return _undistort_fisheye(xy, distortion)
    if not any(distortion):
        return xy
    ideal = xy
    for _ in range(iterations):
        ideal = ideal + xy - distort(ideal, distortion)
    return ideal


def _fisheye_radius(angle: np.ndarray, distortion: FisheyeDistortion) -> np.ndarray:
    square = angle**2
    k1, k2, k3, k4 = distortion
    return angle * (1 + square * (k1 + square * (k2 + square * (k3 + square * k4))))


def fisheye_slope(angle: np.ndarray, distortion: FisheyeDistortion) -> np.ndarray:
    """Change of the radius in the picture with the angle from the axis; a lens folds where it is not positive."""
    square = angle**2
    k1, k2, k3, k4 = distortion
    return 1 + square * (3 * k1 + square * (5 * k2 + square * (7 * k3 + square * 9 * k4)))


def _undistort_fisheye(xy: np.ndarray, distortion: FisheyeDistortion) -> np.ndarray:
    shown = np.linalg.norm(xy, axis=-1, keepdims=True)
    angle = np.minimum(shown, _MOST_FISHEYE)
    for _ in range(10):
        slope = np.maximum(fisheye_slope(angle, distortion), 0.1)
        angle = np.clip(angle - (_fisheye_radius(angle, distortion) - shown) / slope, 0, _MOST_FISHEYE)
    return xy * np.divide(np.tan(angle), shown, out=np.ones_like(shown), where=shown > _TINY)


def project(points: np.ndarray, fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    """(..., 3) points in the camera frame (OpenCV axes) -> (..., 2) pixels in the convention of ``cx, cy``."""
    return np.stack([fx * points[..., 0] / points[..., 2] + cx, fy * points[..., 1] / points[..., 2] + cy], axis=-1)


def transform(T: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(4, 4) affine transform applied to (..., 3) points."""
    return points @ T[:3, :3].T + T[:3, 3]


def is_rigid(T: np.ndarray, tolerance: float = 1e-4) -> bool:
    """Whether every matrix of (..., 4, 4) is finite, orthonormal, right-handed and has (0, 0, 0, 1) as its last row."""
    T = np.asarray(T, dtype=float)
    if not np.isfinite(T).all():
        return False
    R = T[..., :3, :3]
    orthonormal = np.abs(R @ np.swapaxes(R, -1, -2) - np.eye(3)).max() < tolerance
    last_row = np.abs(T[..., 3, :] - np.array([0.0, 0, 0, 1])).max() < tolerance
    return bool(orthonormal and last_row and (np.linalg.det(R) > 0).all())
