"""Which way is up in a reconstruction, and the scene turned so that its world is level.

Cameras alone do not show gravity. Three observations stand in for it: a dominant plane of static points that a person
would call the ground, a floor or a table top; edges of walls and furniture that meet in one vanishing point
(:mod:`.verticals`); and the habit of holding a camera without roll, so that the x axes of all cameras are horizontal.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy.spatial.transform import Rotation

from .runlog import RunLog
from .scene import FIXED, Scene, turn_scene
from .surface import solid_pixels, world_points
from .verticals import lines_of, vertical

UpChoice = Literal["auto", "gravity", "plane", "cameras", "none"]
WORLD_UP = np.array([0.0, -1.0, 0.0])
"""Up in a level scene; the files of a dataset turn it into z."""
TOLERANCES = (0.004, 0.01, 0.025)
"""Distances from a plane, in shares of the distance from the camera, within which a point lies on it: depth of bundle
adjusted cameras is good to less than the first, that of a small network to the last."""
LEAST_SHARE = 0.12
"""Share of the static points that the plane has to hold."""
LEAST_POINTS = 60
MOST_BEHIND = 0.5
"""Most points just behind the plane, as a share of those on it: nothing is seen below a ground, while a plane that cuts
through clutter has as much behind it."""
ABOVE = 0.9
"""Share of the cameras that are above the plane."""
MOST_ROLL = 35.0
"""Degrees between the plane and the cameras' mean x axis."""
BOUND = 30.0, 70.0
"""Degrees between the normal of a plane and the cameras' mean up: 2.5 sigma of that, within these limits. The upper one
admits a camera that looks steeply down at a lawn and still keeps out a wall that it faces."""
MOST_SPREAD = 5.0
"""Degrees by which parts of the clip may disagree about the normal of the plane."""
ROLL_SIGMA, TILT_SIGMA = 3.0, 30.0
"""Degrees by which people hold a camera out of level, and by which they point it up or down."""
INDEPENDENT_FRAMES = 10
"""A clip counts as so many independent measurements of the roll at most: that of neighbouring frames is the same."""
KNOWN_SIGMA = 10.0
"""Degrees up to which z is said to point up without reserve."""
_SAMPLES = 12_000
_SCORED = 3000
"""Points of all frames, and those of them by which a drawn plane is scored."""
_DRAWS = 1500
_PARTS = 4
_NOT_SEEN = {
    "plane": "no dominant level plane is seen",
    "gravity": "neither a dominant level plane nor enough vertical edges are seen",
}
"""Choices that ask for evidence in the pictures, and what is said where there is none."""


@dataclass(frozen=True)
class Up:
    """The direction against gravity, as far as a scene shows it."""

    direction: np.ndarray
    """(3,) unit vector in the scene's world."""
    method: Literal["plane", "lines", "cameras"]
    sigma_deg: float
    """Degrees, 1 sigma: how far parts of the clip disagree about a plane or about vertical edges; for cameras what
    their x axes leave open, if they were held level to within :data:`ROLL_SIGMA`."""
    share: float | None = None
    """Share of the static points that lie on the plane."""
    offset: float | None = None
    """Of the plane ``direction . x + offset = 0``, in scene units; None where there is none."""


@dataclass(frozen=True)
class _Points:
    """Static points of a scene, about as many of every frame."""

    xyz: np.ndarray
    """(N, 3) scene world."""
    distance: np.ndarray
    """(N,) from the camera that saw the point."""
    frame: np.ndarray
    """(N,) that camera."""


def level_scene(scene: Scene, choice: UpChoice, log: RunLog) -> Scene:
    """The scene turned about its origin so that up is -y, which is z in all files, as far as up can be found.

    ``provenance["up"]`` then has ``method`` ('plane', 'lines', 'cameras' or 'none'), ``sigma_deg``, ``share`` (of the
    static points on the plane), ``turned_deg`` and ``rotation`` (3x3, from the world of the first camera to the level
    one).

    Args:
        choice: 'auto': by a plane, else by vertical edges, else by the cameras; 'gravity' and 'plane': by the first
            two, or by a plane alone, and with a warning by the cameras; 'none': the scene as it is.
    """
    if choice == "none":
        return _recorded(scene, {"method": "none", "why": "--up none"})
    up = None if choice == "cameras" else up_by_plane(scene)
    if up is None and choice in ("auto", "gravity"):
        up = up_by_lines(scene)
    if up is None and choice in _NOT_SEEN:
        log.warn(f"--up {choice}: {_NOT_SEEN[choice]}; the world is level by the cameras' own up instead")
    up = up or up_by_cameras(scene.T_world_upright)
    if up is None:
        log.warn("the world is not level: the cameras' ups contradict one another, and no level plane is seen")
        return _recorded(scene, {"method": "none", "why": "the cameras' ups contradict one another"})
    R = rotation_to(up.direction, WORLD_UP)
    turned = float(np.degrees(np.linalg.norm(Rotation.from_matrix(R).as_rotvec())))
    log.info(f"the world is turned by {turned:.0f} degrees: {in_words(up.method, up.sigma_deg, up.share)}")
    found = {name: value for name, value in asdict(up).items() if name not in ("direction", "offset")}
    facts = found | {"turned_deg": turned, "rotation": R.tolist()}
    return _recorded(turn_scene(scene, R), facts)


def is_level(scene: Scene) -> bool:
    """Whether the world of the scene was turned so that up is -y."""
    return (scene.provenance.get("up") or {}).get("method", "none") != "none"


def in_words(method: str, sigma_deg: float | None = None, share: float | None = None) -> str:
    """How up was found, as one phrase."""
    if method == "none" or sigma_deg is None:
        return "z is not known to point up"
    if method == "plane":
        return (
            f"z is up by a plane that holds {100 * (share or 0):.0f} % of the static points (1 sigma {sigma_deg:.1f}°)"
        )
    if method == "lines":
        return f"z is up by vertical edges, which meet in one vanishing point (1 sigma {sigma_deg:.1f}°)"
    if sigma_deg <= KNOWN_SIGMA:
        return f"z is up if the camera was held level on average (no level plane is seen; 1 sigma {sigma_deg:.0f}°)"
    return f"z is only roughly up: no level plane is seen, and the cameras leave {sigma_deg:.0f}° (1 sigma) open"


def said_of(scene: Scene) -> str:
    """What can be said of the scene's z axis, as one phrase."""
    facts = scene.provenance.get("up") or {}
    return in_words(facts.get("method", "none"), facts.get("sigma_deg"), facts.get("share"))


def up_by_cameras(T_world_cam: np.ndarray) -> Up | None:
    """The mean up of (F, 4, 4) cameras that are held without roll; None where their y axes point everywhere.

    The x axes of all cameras are perpendicular to it, robustly. Where they are all parallel this leaves the tilt open,
    and the mean of the cameras' own ups decides: the maximum of a posterior with :data:`ROLL_SIGMA` and
    :data:`TILT_SIGMA`.
    """
    mean = -T_world_cam[:, :3, 1].mean(axis=0)
    if np.linalg.norm(mean) < 0.5:
        return None
    across, up = T_world_cam[:, :3, 0], mean / np.linalg.norm(mean)
    roll, tilt = np.radians(ROLL_SIGMA), np.radians(TILT_SIGMA)
    count = min(len(across), INDEPENDENT_FRAMES) / len(across)
    information = np.zeros((3, 3))
    for _ in range(20):
        off = across @ up / roll
        information = count * (across / (1 + off**2)[:, None]).T @ across / roll**2
        up = np.linalg.solve(information * tilt**2 + np.eye(3), mean)
        up /= np.linalg.norm(up)
    tangent = np.linalg.svd(up[None])[2][1:]
    left = np.linalg.inv(tangent @ information @ tangent.T + np.eye(2) / tilt**2)
    return Up(up, "cameras", float(np.degrees(np.sqrt(np.linalg.eigvalsh(left)[-1]))))


def up_by_plane(scene: Scene, seed: int = 0) -> Up | None:
    """The normal of the plane that a dominant part of the static points lies on, where it can be a ground.

    The cameras are above it, nothing is seen behind it, and it agrees with their mean up (:data:`BOUND`,
    :data:`MOST_ROLL`). None where there is no such plane, or parts of the clip disagree about it.
    """
    cameras = up_by_cameras(scene.T_world_upright)
    if cameras is None:
        return None
    # Triangulated points are exact, where the depth of a network bends whole planes; but there may be few of them.
    for points in (_triangulated(scene), _of_depth(scene, np.random.default_rng(seed))):
        if len(points.xyz) >= LEAST_POINTS:
            candidates = _draw(points, scene.T_world_upright, cameras, np.random.default_rng(seed))
            for tolerance in TOLERANCES:
                found = _best(points, candidates, scene.T_world_upright, cameras, tolerance)
                if found is not None:
                    return found
    return None


def up_by_lines(scene: Scene) -> Up | None:
    """Up by the vertical edges in the pictures, see :func:`~.verticals.vertical`; None where there are too few.

    A camera that stands still shows the same edges in every picture, so that none confirms another, and its focal
    length, which decides where they meet, is a guess.
    """
    if set(scene.pose_sources or ()) == {FIXED}:
        return None
    cameras = up_by_cameras(scene.T_world_upright)
    found = cameras and vertical(lines_of(scene), cameras.direction, cameras.sigma_deg)
    return Up(found[0], "lines", found[1]) if found else None


def rotation_to(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(3, 3) the smallest rotation that takes one unit vector to another."""
    axis, cosine = np.cross(source, target), float(source @ target)
    sine = float(np.linalg.norm(axis))
    if sine < 1e-12:
        if cosine > 0:
            return np.eye(3)
        axis, sine = np.linalg.svd(source[None])[2][1], 1.0
        return Rotation.from_rotvec(np.pi * axis).as_matrix()
    return Rotation.from_rotvec(axis / sine * np.arctan2(sine, cosine)).as_matrix()


def _recorded(scene: Scene, facts: dict[str, Any]) -> Scene:
    return replace(scene, provenance=scene.provenance | {"up": facts})


def _of_depth(scene: Scene, rng: np.random.Generator) -> _Points:
    """Pixels with a static, trusted depth."""
    most = max(1, _SAMPLES // len(scene))
    xyz, distance, frames = [], [], []
    for frame in range(len(scene)):
        rows, columns = np.nonzero(solid_pixels(scene, frame) & ~scene.dynamic.masks[frame])
        chosen = rng.choice(len(rows), min(most, len(rows)), replace=False)
        world = world_points(scene, frame, where=(rows[chosen], columns[chosen])).astype(float)
        xyz.append(world)
        distance.append(np.linalg.norm(world - scene.T_world_cam[frame, :3, 3], axis=1))
        frames.append(np.full(len(world), frame))
    return _Points(np.concatenate(xyz), np.concatenate(distance), np.concatenate(frames))


def _triangulated(scene: Scene) -> _Points:
    sparse = scene.sparse
    if sparse is None or not len(sparse.point_index):
        return _Points(np.empty((0, 3)), np.empty(0), np.empty(0, dtype=int))
    first = np.unique(sparse.point_index, return_index=True)[1]
    xyz, frame = sparse.points[sparse.point_index[first]], sparse.frame_index[first]
    return _Points(xyz, np.linalg.norm(xyz - scene.T_world_cam[frame, :3, 3], axis=1), frame)


def _draw(points: _Points, T_world_cam: np.ndarray, cameras: Up, rng: np.random.Generator) -> np.ndarray:
    """(K, 4) planes (n, d) with n x + d = 0 through three points each, of those that can be a ground."""
    rows = rng.integers(len(points.xyz), size=(_DRAWS, 3))
    a, b, c = (points.xyz[rows[:, k]] for k in range(3))
    normals = np.cross(b - a, c - a)
    length = np.linalg.norm(normals, axis=1)
    kept = length > 1e-12
    normals = normals[kept] / length[kept, None]
    normals *= np.sign(normals @ cameras.direction)[:, None]
    planes = np.hstack([normals, -(normals * a[kept]).sum(axis=1, keepdims=True)])
    return planes[[_may_be_ground(plane, T_world_cam, cameras) for plane in planes]]


def _may_be_ground(plane: np.ndarray, T_world_cam: np.ndarray, cameras: Up) -> bool:
    normal, centres = plane[:3], T_world_cam[:, :3, 3]
    across = T_world_cam[:, :3, 0].mean(axis=0)
    roll = np.degrees(np.arcsin(min(1.0, abs(normal @ across) / max(float(np.linalg.norm(across)), 1e-9))))
    apart = np.degrees(np.arccos(np.clip(normal @ cameras.direction, -1, 1)))
    near = apart <= np.clip(2.5 * cameras.sigma_deg, *BOUND)
    return bool(near and roll <= MOST_ROLL and (centres @ normal + plane[3] > 0).mean() >= ABOVE)


def _best(points: _Points, candidates: np.ndarray, T_world_cam: np.ndarray, cameras: Up, tolerance: float) -> Up | None:
    """The best plane at this tolerance, fitted to all its points; None where it is no ground."""
    if not len(candidates):
        return None
    scored = slice(None, None, max(1, len(points.xyz) // _SCORED))
    off = candidates[:, :3] @ points.xyz[scored].T + candidates[:, 3:]
    off /= tolerance * points.distance[scored]
    apart = np.degrees(np.arccos(np.clip(candidates[:, :3] @ cameras.direction, -1, 1)))
    likely = np.exp(-0.5 * (apart / max(cameras.sigma_deg, BOUND[0] / 2)) ** 2)
    plane = candidates[int(np.argmax(np.maximum(1 - off**2, 0).sum(axis=1) * likely))]
    for _ in range(10):
        on = np.abs(_off(points, plane)) <= tolerance
        if on.sum() < LEAST_POINTS:
            return None
        plane = _fitted(points.xyz[on], points.distance[on], plane)
    off = _off(points, plane) / tolerance
    on, behind = np.abs(off) <= 1, (off < -1) & (off >= -3)
    share = float(on.mean())
    if share < LEAST_SHARE or behind.sum() > MOST_BEHIND * on.sum() or not _may_be_ground(plane, T_world_cam, cameras):
        return None
    spread = _spread(points, on, plane)
    return Up(plane[:3], "plane", spread, share, float(plane[3])) if spread <= MOST_SPREAD else None


def _off(points: _Points, plane: np.ndarray) -> np.ndarray:
    return (points.xyz @ plane[:3] + plane[3]) / points.distance


def _fitted(xyz: np.ndarray, distance: np.ndarray, like: np.ndarray) -> np.ndarray:
    """(4,) the plane of least squares, with errors that grow with the distance; its normal points like that."""
    weight = 1 / distance**2
    middle = (weight[:, None] * xyz).sum(axis=0) / weight.sum()
    normal = np.linalg.svd((xyz - middle) / distance[:, None], full_matrices=False)[2][2]
    normal = normal if normal @ like[:3] > 0 else -normal
    return np.append(normal, -normal @ middle)


def _spread(points: _Points, on: np.ndarray, plane: np.ndarray) -> float:
    """Degrees, root mean square: how far the planes of parts of the clip lie from that of all of it."""
    cuts = np.array_split(np.unique(points.frame), _PARTS)
    angles = []
    for frames in cuts:
        rows = on & np.isin(points.frame, frames)
        if rows.sum() >= LEAST_POINTS // _PARTS:
            normal = _fitted(points.xyz[rows], points.distance[rows], plane)[:3]
            angles.append(np.degrees(np.arctan2(np.linalg.norm(np.cross(normal, plane[:3])), normal @ plane[:3])))
    return float(np.sqrt(np.mean(np.square(angles)))) if angles else np.inf
