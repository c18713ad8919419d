"""Bundle adjustment with a focal length per frame and one distortion for the clip.

COLMAP can give every frame a lens of its own or one lens to all, but not share the distortion alone: a distortion of
its own is badly determined in a single frame, and mixes with its focal length. Levenberg-Marquardt on the normal
equations from which the points are eliminated (Triggs et al., Bundle Adjustment - A Modern Synthesis, 2000).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix
from scipy.spatial.transform import Rotation

from ..core.geometry import FisheyeDistortion, distort, fisheye_slope
from ..core.similarity import nearest_rotation
from .model import SparseModel

FREE_DISTORTION = {"pinhole": 0, "radial": 2, "opencv": 4, "opencv-fisheye": 4}
"""How many of the four numbers of the distortion are adjusted for a camera model."""
SMOOTH = 0.05
"""Deviation of the change between two neighbouring changes of the logarithm of the focal length, per frame: a zoom by
half within five frames reaches it. Frames that determine their focal length themselves are not held by it."""
ROBUST_PX = 1.0
"""Residual from which on the loss grows linearly (soft L1)."""
ITERATIONS = 60
EXACT, ROUGH = 1e-7, 1e-5
"""Relative change of the cost at which the adjustment stops."""
_CAMERA = 7
"""Unknowns of a frame: turn, shift, logarithm of the focal length."""
_DAMPING = (1e-4, 1e-12, 1e8)
"""First, least and largest damping."""
_RANK = 1e-11
_POINTS_AT_ONCE = 2000


@dataclass(frozen=True)
class Tracks:
    """M observations of N points in K frames."""

    frame: np.ndarray
    """(M,) int64."""
    point: np.ndarray
    """(M,) int64."""
    pixels: np.ndarray
    """(M, 2) source pixels."""


@dataclass(frozen=True)
class TrackedCameras:
    """K cameras with N points; OpenCV axes."""

    R: np.ndarray
    """(K, 3, 3) world to camera."""
    t: np.ndarray
    """(K, 3) world to camera."""
    focal: np.ndarray
    """(K,) source pixels."""
    distortion: np.ndarray
    """(4,) k1, k2, p1, p2; k1 to k4 of a fisheye lens."""
    centre: np.ndarray
    """(2,) principal point in source pixels."""
    points: np.ndarray
    """(N, 3) world."""
    fisheye: bool = False
    """Whether the distortion is that of OpenCV's fisheye lens."""

    def shown(self, ideal: np.ndarray) -> np.ndarray:
        """(M, 2) ideal normalised image coordinates -> where the lens shows them."""
        k1, k2, third, fourth = (float(value) for value in self.distortion)
        values = (k1, k2, third, fourth)
        return distort(ideal, FisheyeDistortion(values) if self.fisheye else values)

    def project(self, frame: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(M, 2) source pixels and (M,) depths of one point per row in the camera ``frame`` of that row."""
        local = np.einsum("mab,mb->ma", self.R[frame], points) + self.t[frame]
        with np.errstate(divide="ignore", invalid="ignore"):
            ideal = local[:, :2] / local[:, 2:]
        return self.shown(ideal) * self.focal[frame, None] + self.centre, local[:, 2]


@dataclass(frozen=True)
class Adjusted:
    """Cameras at the minimum, and how certain their focal lengths are."""

    cameras: TrackedCameras
    covariance: np.ndarray
    """(K, K) of the logarithms of the focal lengths. What nothing at all determines, as the scale, is not in it."""


@dataclass(frozen=True)
class Certain:
    """How certain the cameras of a bundle adjustment are, with the observed residuals as the noise."""

    roots: tuple[np.ndarray, ...]
    """Factors (7 K + D, any) of covariances ``root @ root.T`` of turn (``R' = exp(w) R``), shift of ``t`` and logarithm
    of the focal length of every frame, then of the distortion; the first frame is fixed and the scale left out. The
    first is that of independent errors, one more follows for every division into groups with errors in common."""
    noise: float
    """Pixels, 1 sigma in each direction."""


def adjust_focals(
    start: TrackedCameras, tracks: Tracks, num_distortion: int, *, shared: bool = False, tolerance: float = EXACT
) -> Adjusted:
    """Move cameras, focal lengths, distortion and points to the observations, robustly.

    Observations of points that begin behind their camera do not count.

    Args:
        num_distortion: how many of (k1, k2, p1, p2) are adjusted, from the front.
        shared: one focal length for all frames (the twin that individual ones are compared with).
        tolerance: relative change of the cost at which to stop.
    """
    ahead = start.project(tracks.frame, start.points[tracks.point])[1] > 0
    tracks = Tracks(tracks.frame[ahead], tracks.point[ahead], tracks.pixels[ahead])
    return _Adjustment(tracks, len(start.R), len(start.points), num_distortion, shared).run(start, tolerance)


def certainty(
    cameras: TrackedCameras,
    tracks: Tracks,
    num_distortion: int,
    *,
    shared: bool,
    given_focal: bool,
    groups: Sequence[np.ndarray] = (),
) -> Certain:
    """How certain cameras are that lie at the minimum for these tracks; arguments as for :func:`adjust_focals`.

    ``groups``: divisions of the (M,) observations into groups with errors in common, as the number of each one's group.
    """
    ahead = cameras.project(tracks.frame, cameras.points[tracks.point])[1] > 0
    tracks = Tracks(tracks.frame[ahead], tracks.point[ahead], tracks.pixels[ahead])
    adjustment = _Adjustment(tracks, len(cameras.R), len(cameras.points), num_distortion, shared)
    return adjustment.certain(cameras, given_focal, [group[ahead] for group in groups])


class _Adjustment:
    def __init__(self, tracks: Tracks, num_frames: int, num_points: int, num_distortion: int, shared: bool) -> None:
        self._tracks, self._frames, self._points = tracks, num_frames, num_points
        self._distortion, self._shared = num_distortion, shared
        columns = _CAMERA * num_frames + num_distortion
        # The first frame stays where it is; the scale is left to the damping.
        kept = np.arange(6, columns)
        self._basis = csr_matrix((np.ones(len(kept)), (kept, np.arange(len(kept)))), (columns, len(kept)))
        if shared:
            self._basis = self._basis @ self._tied(kept)

    def _tied(self, kept: np.ndarray) -> csr_matrix:
        """Columns of all focal lengths but the first are added to that of the first."""
        focal = (kept < _CAMERA * self._frames) & (kept % _CAMERA == 6)
        target = np.cumsum(~focal | (kept == 6)) - 1
        target[focal] = 0
        return csr_matrix((np.ones(len(kept)), (np.arange(len(kept)), target)))

    def run(self, start: TrackedCameras, tolerance: float) -> Adjusted:
        current, cost = start, self._cost(start)
        first, least, most = _DAMPING
        damping = first
        for _ in range(ITERATIONS):
            system = self._system(current)
            while damping < most:
                moved = self._step(current, system, damping)
                new = self._cost(moved)
                if new < cost:
                    break
                damping *= 10
            else:
                break
            gained, current, cost = cost - new, moved, new
            damping = max(least, damping / 10)
            if gained < tolerance * cost:
                break
        return Adjusted(current, self._covariance(current))

    def _residuals(self, cameras: TrackedCameras) -> np.ndarray:
        seen, depth = cameras.project(self._tracks.frame, cameras.points[self._tracks.point])
        residual = seen - self._tracks.pixels
        residual[~(depth > 0)] = np.inf
        return residual

    def _cost(self, cameras: TrackedCameras) -> float:
        square = (self._residuals(cameras) ** 2).sum(axis=1) / ROBUST_PX**2
        return float(ROBUST_PX**2 * (2 * (np.sqrt(1 + square) - 1)).sum() + (self._bends(cameras) ** 2).sum())

    def _bends(self, cameras: TrackedCameras) -> np.ndarray:
        """Second differences of the logarithms of the focal lengths over their deviation."""
        if self._shared or self._frames < 3:
            return np.zeros(0)
        return np.diff(np.log(cameras.focal), 2) / SMOOTH

    def _system(self, cameras: TrackedCameras) -> tuple[np.ndarray, np.ndarray, np.ndarray, csc_matrix, np.ndarray]:
        """Normal equations: camera block, camera side, point blocks (N, 3, 3), coupling, point side (N, 3)."""
        frame, point = self._tracks.frame, self._tracks.point
        residual = self._residuals(cameras)
        weight = 1 / np.sqrt(1 + (residual**2).sum(axis=1) / ROBUST_PX**2)
        of_camera, of_lens, of_point = jacobians(cameras, self._tracks, self._distortion)
        root = np.sqrt(weight)[:, None]
        residual = root * residual
        J = (self._rows(of_camera * root[..., None], of_lens * root[..., None], frame) @ self._basis).tocsr()
        of_point = of_point * root[..., None]
        blocks, side = np.zeros((self._points, 3, 3)), np.zeros((self._points, 3))
        np.add.at(blocks, point, of_point.transpose(0, 2, 1) @ of_point)
        np.add.at(side, point, (of_point * residual[..., None]).sum(axis=1))
        row = np.arange(2 * len(frame)).repeat(3)
        column = (3 * point[:, None, None] + np.arange(3)).repeat(2, axis=1).ravel()
        coupling = J.T @ csr_matrix((of_point.ravel(), (row, column)), (2 * len(frame), 3 * self._points))
        normal, own = (J.T @ J).toarray(), J.T @ residual.ravel()
        bends = self._bends(cameras)
        if len(bends):
            D = np.diff(np.eye(self._frames), 2, axis=0) / SMOOTH
            pick = self._basis.T @ self._focal_columns()
            normal += pick @ (D.T @ D) @ pick.T
            own += pick @ (D.T @ bends)
        return normal, own, blocks, coupling.tocsc(), side

    def _focal_columns(self) -> np.ndarray:
        """(columns, K): picks the logarithms of the focal lengths among the unknowns."""
        pick = np.zeros((self._basis.shape[0], self._frames))
        pick[_CAMERA * np.arange(self._frames) + 6, np.arange(self._frames)] = 1
        return pick

    def _rows(self, of_camera: np.ndarray, of_lens: np.ndarray, frame: np.ndarray) -> csr_matrix:
        """(2 M, columns) sparse Jacobian of all residuals."""
        count = len(frame)
        own = (_CAMERA * frame[:, None] + np.arange(_CAMERA))[:, None].repeat(2, axis=1)
        lens = np.broadcast_to(_CAMERA * self._frames + np.arange(self._distortion), (count, 2, self._distortion))
        columns = np.concatenate([own, lens], axis=2)
        values = np.concatenate([of_camera, of_lens], axis=2)
        rows = np.arange(2 * count).repeat(columns.shape[2])
        return csr_matrix((values.ravel(), (rows, columns.ravel())), (2 * count, self._basis.shape[0]))

    def _step(self, cameras: TrackedCameras, system: tuple, damping: float) -> TrackedCameras:
        normal, own, blocks, coupling, side = system
        inverse = np.linalg.inv(blocks + damping * _diagonals(blocks) + 1e-12 * np.eye(3))
        taken, moved = _eliminated(coupling, inverse, side)
        reduced = normal + damping * np.diag(np.diag(normal) + 1e-9) - taken
        right = -own + moved
        step = np.linalg.lstsq(reduced, right, rcond=None)[0] if damping < 1e-9 else np.linalg.solve(reduced, right)
        points = cameras.points + np.einsum("nab,nb->na", inverse, -side - (coupling.T @ step).reshape(-1, 3))
        full = self._basis @ step
        by_frame = full[: _CAMERA * self._frames].reshape(-1, _CAMERA)
        lens = cameras.distortion.copy()
        lens[: self._distortion] += full[_CAMERA * self._frames :]
        turn = Rotation.from_rotvec(by_frame[:, :3]).as_matrix()
        return replace(
            cameras,
            R=nearest_rotation(turn @ cameras.R),
            t=cameras.t + by_frame[:, 3:6],
            focal=cameras.focal * np.exp(np.clip(by_frame[:, 6], -0.5, 0.5)),
            distortion=lens,
            points=points,
        )

    def _covariance(self, cameras: TrackedCameras) -> np.ndarray:
        root = self._focal_columns().T @ self.certain(cameras).roots[0]
        return np.asarray(root @ root.T)

    def certain(self, cameras: TrackedCameras, given_focal: bool = False, groups: Sequence[np.ndarray] = ()) -> Certain:
        """How certain all unknowns are at the minimum; with ``given_focal`` the focal lengths are none of them.

        ``groups``: for every division of the (M,) observations into groups the number of each one's group.
        """
        normal, _, blocks, coupling, side = self._system(cameras)
        inverse = np.linalg.inv(blocks + 1e-12 * (1 + blocks.max()) * np.eye(3))
        reduced = normal - _eliminated(coupling, inverse, side)[0]
        basis = self._basis.toarray()
        free = np.ones(len(reduced), dtype=bool)
        if given_focal:
            free = ~self._focal_columns().any(axis=1)[basis.argmax(axis=0)]
            reduced, basis = reduced[np.ix_(free, free)], basis[:, free]
        square = (self._residuals(cameras) ** 2).sum(axis=1)
        weight = 1 / np.sqrt(1 + square / ROBUST_PX**2)
        spare = max(2 * len(square) - 3 * self._points - len(reduced), 1)
        noise = float((weight * square).sum() / spare)
        # The unknowns have different units: the rank is judged on a scaled matrix.
        scale = 1 / np.sqrt(np.maximum(np.diag(reduced), 1e-30))
        values, vectors = np.linalg.eigh(scale[:, None] * reduced * scale)
        known = values > _RANK * values.max()
        root = (scale[:, None] * vectors[:, known]) / np.sqrt(values[known])
        roots = [noise**0.5 * root]
        for group in groups:
            scores = self._scores(cameras, group, coupling, inverse)[free]
            count = scores.shape[1]
            roots.append(root @ (root.T @ scores) * (count / max(count - 1, 1)) ** 0.5)
        return Certain(tuple(basis @ root for root in roots), noise**0.5)

    def _scores(
        self, cameras: TrackedCameras, group: np.ndarray, coupling: csc_matrix, inverse: np.ndarray
    ) -> np.ndarray:
        """(unknowns, G) the gradient that each group of observations adds, once the points have followed it."""
        frame, point = self._tracks.frame, self._tracks.point
        residual = self._residuals(cameras)
        weight = 1 / np.sqrt(1 + (residual**2).sum(axis=1) / ROBUST_PX**2)
        of_camera, of_lens, of_point = jacobians(cameras, self._tracks, self._distortion)
        weighted = weight[:, None] * residual
        shape = (2 * len(frame), int(group.max()) + 1)
        of_group = csr_matrix((weighted.ravel(), (np.arange(shape[0]), group.repeat(2))), shape)
        own = (self._rows(of_camera, of_lens, frame) @ self._basis).T @ of_group
        row = 3 * point[:, None] + np.arange(3)
        pulls = (of_point * weighted[..., None]).sum(axis=1)
        follow = np.zeros((3 * self._points, shape[1]))
        np.add.at(follow, (row, group[:, None]), pulls)
        follow = np.einsum("nab,nbg->nag", inverse, follow.reshape(self._points, 3, -1)).reshape(3 * self._points, -1)
        return np.asarray(own.toarray() - coupling @ follow)


def jacobians(
    cameras: TrackedCameras, tracks: Tracks, num_distortion: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Change of the M projections with the unknowns.

    Returns:
        (M, 2, 7) with a small turn of the camera (``R' = exp(w) R``), its ``t`` and the logarithm of its focal length;
        (M, 2, num_distortion) with the distortion; (M, 2, 3) with the point.
    """
    R, focal = cameras.R[tracks.frame], cameras.focal[tracks.frame, None, None]
    turned = np.einsum("mab,mb->ma", R, cameras.points[tracks.point])
    local = turned + cameras.t[tracks.frame]
    z = local[:, 2]
    x, y = (local[:, :2] / z[:, None]).T
    plane = np.zeros((len(z), 2, 3))
    plane[:, 0, 0] = plane[:, 1, 1] = 1 / z
    plane[:, 0, 2], plane[:, 1, 2] = -x / z, -y / z
    bent, by_lens = (_fisheye_slopes if cameras.fisheye else _slopes)(x, y, cameras.distortion)
    with_local = focal * (bent @ plane)
    shown = cameras.shown(np.stack([x, y], axis=1))
    of_camera = np.concatenate([-with_local @ _cross(turned), with_local, focal * shown[..., None]], axis=2)
    return of_camera, focal * by_lens[..., :num_distortion], with_local @ R


def _slopes(x: np.ndarray, y: np.ndarray, distortion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(M, 2, 2) and (M, 2, 4) derivatives of :func:`~easi3r_ns.core.geometry.distort` by place and distortion."""
    k1, k2, p1, p2 = distortion
    r2 = x**2 + y**2
    radial, slope = 1 + k1 * r2 + k2 * r2**2, 2 * k1 + 4 * k2 * r2
    mixed = slope * x * y + 2 * p1 * x + 2 * p2 * y
    first = [radial + slope * x**2 + 2 * p1 * y + 6 * p2 * x, mixed]
    second = [mixed, radial + slope * y**2 + 6 * p1 * y + 2 * p2 * x]
    by_lens = np.stack([[x * r2, x * r2**2, 2 * x * y, r2 + 2 * x**2], [y * r2, y * r2**2, r2 + 2 * y**2, 2 * x * y]])
    return np.stack([np.stack(first, axis=1), np.stack(second, axis=1)], axis=1), by_lens.transpose(2, 0, 1)


def _fisheye_slopes(x: np.ndarray, y: np.ndarray, distortion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same of a fisheye lens: the radius in the picture grows with the angle, along the direction of the point."""
    radius = np.maximum(np.hypot(x, y), 1e-9)
    angle = np.arctan(radius)
    k1, k2, third, fourth = (float(value) for value in distortion)
    lens = FisheyeDistortion((k1, k2, third, fourth))
    along = np.stack([x, y], axis=1) / radius[:, None]
    outer = along[:, :, None] * along[:, None, :]
    powers = angle[:, None] ** np.array([3, 5, 7, 9])
    across = (angle + powers @ distortion) / radius
    outward = fisheye_slope(angle, lens) / (1 + radius**2)
    by_place = outward[:, None, None] * outer + across[:, None, None] * (np.eye(2) - outer)
    return by_place, along[:, :, None] * powers[:, None, :]


def _cross(v: np.ndarray) -> np.ndarray:
    out = np.zeros((len(v), 3, 3))
    out[:, 0, 1], out[:, 0, 2], out[:, 1, 2] = -v[:, 2], v[:, 1], -v[:, 0]
    return out - out.transpose(0, 2, 1)


def _diagonals(blocks: np.ndarray) -> np.ndarray:
    return blocks * np.eye(3)


def _eliminated(coupling: csc_matrix, inverse: np.ndarray, side: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the points take from the matrix and add to the side of the cameras, with dense matrices part by part."""
    count = coupling.shape[0]
    matrix, right = np.zeros((count, count)), np.zeros(count)
    for start in range(0, len(inverse), _POINTS_AT_ONCE):
        rows = slice(start, start + _POINTS_AT_ONCE)
        part = coupling[:, 3 * start : 3 * (start + _POINTS_AT_ONCE)].toarray()
        through = np.einsum("cna,nab->cnb", part.reshape(count, -1, 3), inverse[rows]).reshape(count, -1)
        matrix += through @ part.T
        right += through @ side[rows].ravel()
    return matrix, right


def cameras_of(model: SparseModel) -> tuple[TrackedCameras, Tracks]:
    """The registered cameras and the points of a model."""
    known = np.flatnonzero(model.registered)
    position = np.full(len(model.registered), -1)
    position[known] = np.arange(len(known))
    T = np.linalg.inv(model.T_world_cam[known])
    lens, sparse = model.lens, model.sparse
    cameras = TrackedCameras(
        R=T[:, :3, :3],
        t=T[:, :3, 3],
        focal=model.frame_focals[known],
        distortion=np.array(lens.distortion),
        centre=np.array(lens.principal_point),
        points=sparse.points,
        fisheye=lens.fisheye,
    )
    return cameras, Tracks(position[sparse.frame_index], sparse.point_index, sparse.pixels)


def with_cameras(model: SparseModel, cameras: TrackedCameras) -> SparseModel:
    """The model with these cameras and points; ``lens`` has the median focal length."""
    known = np.flatnonzero(model.registered)
    T = np.tile(np.eye(4), (len(model.registered), 1, 1))
    inverse = cameras.R.transpose(0, 2, 1)
    T[known, :3, :3] = inverse
    T[known, :3, 3] = -np.einsum("kab,kb->ka", inverse, cameras.t)
    lens = replace(model.lens, focal=float(np.median(cameras.focal))).bent(cameras.distortion)
    focals = np.interp(np.arange(len(model.registered)), known, cameras.focal)
    moved = replace(model, T_world_cam=T, lens=lens, focals=focals, sparse=replace(model.sparse, points=cameras.points))
    distance = np.linalg.norm(moved.reprojected()[0] - moved.sparse.pixels, axis=1)
    point, many = moved.sparse.point_index, len(cameras.points)
    errors = np.bincount(point, weights=distance, minlength=many) / np.maximum(np.bincount(point, minlength=many), 1)
    return replace(moved, sparse=replace(moved.sparse, errors=errors))
