"""What a synthetic scene is: a textured room (or open ground under a sky box) with boxes, ellipsoids and cylinders.

World frame: z up, floor at z = 0, metres. Every solid is the image of a unit solid (box, sphere, cylinder along z)
under ``T_world_obj @ diag(half_size)``. A seed always gives the same scene: all draws come from
``numpy.random.RandomState``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .textures import FAMILIES

BOX, SPHERE, CYLINDER = 0, 1, 2
_TEXTURES_PER_BLOCK = 64
_SCENES_PER_BLOCK = 256


@dataclass(frozen=True)
class Motion:
    """Rigid motion of K solids relative to their rest poses, which they pass at ``rest_time``."""

    velocity: np.ndarray
    """(K, 3) metres per second."""
    sway: np.ndarray
    """(K, 3) amplitude in metres of a sinusoidal motion."""
    sway_rate: np.ndarray
    """(K,) radians per second."""
    spin: np.ndarray
    """(K,) radians per second about the vertical through the solid's centre."""
    rest_time: float = 0.0

    @property
    def moves(self) -> np.ndarray:
        """(K,) bool: which solids move at all."""
        speed = np.abs(self.velocity).sum(1) + np.abs(self.sway).sum(1) * self.sway_rate + np.abs(self.spin)
        return speed > 0

    @staticmethod
    def none(count: int) -> Motion:
        return Motion(np.zeros((count, 3)), np.zeros((count, 3)), np.zeros(count), np.zeros(count))


@dataclass(frozen=True)
class SyntheticScene:
    """One scene with K solids inside a box-shaped room."""

    seed: int
    family: str
    """Texture family, see :data:`~easi3r_ns.training.scenes.textures.FAMILIES`."""
    room_half: np.ndarray
    """(3,) half extents in metres; the room spans [-x, x] x [-y, y] x [0, 2 z]."""
    kinds: np.ndarray
    """(K,) BOX, SPHERE or CYLINDER."""
    half_size: np.ndarray
    """(K, 3) metres."""
    T_world_obj: np.ndarray
    """(K, 4, 4) rest poses."""
    motion: Motion
    textures: np.ndarray
    """(K + 1, 6) index of the texture on every face (-x +x -y +y -z +z; a sphere uses 0, a cylinder 0 and 4, 5); row 0
    belongs to the room."""
    tile: np.ndarray
    """(K + 1,) metres that one texture tile covers."""
    offset: np.ndarray
    """(K + 1, 2) shift of the texture in tiles."""
    gain: np.ndarray
    """(K + 1, 3) factor on the texture's colour."""
    light: np.ndarray
    """(3,) position of the point light."""
    ambient: float
    """Share of the light that comes from everywhere."""
    casts_shadow: np.ndarray
    """(K,) bool. Solids that move never do, so that what is static looks the same with and without motion."""

    @property
    def num_solids(self) -> int:
        return len(self.kinds)

    @property
    def mover_ids(self) -> tuple[int, ...]:
        """Object ids (1 + index of the solid; 0 is the room) of the solids that move."""
        return tuple(int(k) + 1 for k in np.flatnonzero(self.motion.moves))

    def at_rest(self) -> SyntheticScene:
        """The same scene with every solid at its rest pose for all times."""
        return replace(self, motion=Motion.none(self.num_solids))


def object_poses(scene: SyntheticScene, times: np.ndarray) -> np.ndarray:
    """(V,) seconds -> (V, K + 1, 4, 4) object-to-world; entry 0 is the room (identity)."""
    dt = np.asarray(times, dtype=float)[:, None] - scene.motion.rest_time
    poses = np.tile(np.eye(4), (len(dt), scene.num_solids + 1, 1, 1))
    angle = scene.motion.spin * dt
    spin = np.zeros((*angle.shape, 3, 3))
    spin[..., 0, 0] = spin[..., 1, 1] = np.cos(angle)
    spin[..., 1, 0], spin[..., 0, 1], spin[..., 2, 2] = np.sin(angle), -np.sin(angle), 1.0
    poses[:, 1:, :3, :3] = spin @ scene.T_world_obj[:, :3, :3]
    shift = scene.motion.velocity * dt[..., None] + scene.motion.sway * np.sin(scene.motion.sway_rate * dt)[..., None]
    poses[:, 1:, :3, 3] = scene.T_world_obj[:, :3, 3] + shift
    return poses


@dataclass(frozen=True)
class SceneOptions:
    """What kind of scene is drawn."""

    family: str = "train"
    num_movers: int = 0
    duration: float = 2.0
    """Seconds in which the solids that move travel 0.5 to 1.4 metres."""
    shadows: bool | None = None
    """Static solids throw shadows; None: in half of the scenes."""
    open_ground: bool | None = None
    """None: every fourth scene."""

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"texture family {self.family!r}: one of {', '.join(FAMILIES)}")


def make_scene(seed: int, options: SceneOptions = SceneOptions()) -> SyntheticScene:
    """Draw the scene that ``seed`` names."""
    rs = np.random.RandomState([FAMILIES[options.family], seed % 2**32, options.num_movers])
    open_ground = rs.uniform() < 0.25 if options.open_ground is None else options.open_ground
    shadows = bool(rs.uniform() < 0.5) if options.shadows is None else options.shadows
    room = rs.uniform([6, 6, 2.5], [11, 11, 5]) if open_ground else rs.uniform([2.2, 2.2, 1.2], [4.2, 4.2, 1.9])
    solids = _draw_movers(rs, options) + _draw_solids(rs, room)
    solids = _without_collisions(solids, options)
    count = len(solids)
    motion = Motion(
        np.array([s.velocity for s in solids]).reshape(count, 3),
        np.array([s.sway for s in solids]).reshape(count, 3),
        np.array([s.sway_rate for s in solids]),
        np.array([s.spin for s in solids]),
        options.duration / 2,
    )
    textures, tile, offset, gain = _draw_surfaces(rs, seed, solids, open_ground)
    light = rs.uniform([-1.0, -1.0, 1.5], [1.0, 1.0, 1.9]) * [room[0] * 0.7, room[1] * 0.7, room[2]]
    return SyntheticScene(
        seed=seed,
        family=options.family,
        room_half=room,
        kinds=np.array([s.kind for s in solids], dtype=int),
        half_size=np.array([s.half_size for s in solids]).reshape(count, 3),
        T_world_obj=np.array([s.T_world_obj for s in solids]).reshape(count, 4, 4),
        motion=motion,
        textures=textures,
        tile=tile,
        offset=offset,
        gain=gain,
        light=light,
        ambient=float(rs.uniform(0.45, 0.8)),
        casts_shadow=shadows & ~motion.moves,
    )


@dataclass
class _Solid:
    kind: int
    half_size: np.ndarray
    T_world_obj: np.ndarray
    velocity: np.ndarray
    sway: np.ndarray
    sway_rate: float = 0.0
    spin: float = 0.0
    camouflaged: bool = False
    fixed: bool = False
    """A panel on a wall, which is kept when it touches another solid."""

    @property
    def radius(self) -> float:
        return float(np.linalg.norm(self.half_size)) * (0.75 if self.kind == SPHERE else 0.9)

    @property
    def moves(self) -> bool:
        return bool(np.abs(self.velocity).sum() + np.abs(self.sway).sum() + abs(self.spin) > 0)


def _pose(R: np.ndarray, position: np.ndarray) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, position
    return T


def _yaw(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def random_rotation(rs: np.random.RandomState) -> np.ndarray:
    """(3, 3) uniformly distributed rotation."""
    Q, R = np.linalg.qr(rs.standard_normal((3, 3)))
    Q = Q * np.sign(np.diag(R))
    return Q * np.sign(np.linalg.det(Q))


def _draw_solid(rs: np.random.RandomState, spread: float, size: tuple[float, float]) -> _Solid:
    kind = rs.choice([BOX, BOX, SPHERE, CYLINDER])
    half = rs.uniform(*size, 3)
    if kind == SPHERE:
        half = half[0] * rs.uniform(0.85, 1.15, 3)
    elif kind == CYLINDER:
        half = np.array([half[0] * 0.7, half[0] * 0.7, half[2] * 1.4])
    floating = rs.uniform() < 0.25
    R = random_rotation(rs) if floating else _yaw(rs.uniform(0, 2 * np.pi))
    height = rs.uniform(0.6, 1.8) if floating else half[2]
    xy = rs.uniform(-spread, spread, 2)
    return _Solid(kind, half, _pose(R, np.array([*xy, height])), np.zeros(3), np.zeros(3))


def _draw_solids(rs: np.random.RandomState, room: np.ndarray) -> list[_Solid]:
    spread = min(room[0], room[1], 3.2) * 0.75
    solids = [_draw_solid(rs, spread, (0.15, 0.55)) for _ in range(rs.randint(5, 12))]
    for _ in range(rs.randint(0, 4)):
        wall, sign = rs.randint(2), rs.choice([-1.0, 1.0])
        half = np.array([0.03, rs.uniform(0.25, 0.8), rs.uniform(0.2, 0.6)])
        along = rs.uniform(-0.8, 0.8) * room[1 - wall]
        position = np.array([sign * room[0], along, rs.uniform(0.9, min(2.0, 2 * room[2] - 0.7))])
        if wall:
            position[:2] = along, sign * room[1]
        pose = _pose(_yaw(wall * np.pi / 2), position)
        solids.append(_Solid(BOX, half, pose, np.zeros(3), np.zeros(3), fixed=True))
    return solids


def _draw_movers(rs: np.random.RandomState, options: SceneOptions) -> list[_Solid]:
    movers = []
    for _ in range(options.num_movers):
        mover = _draw_solid(rs, 0.9, (0.2, 0.42))
        heading, distance = rs.uniform(0, 2 * np.pi), rs.uniform(0.5, 1.4)
        mover.velocity = distance / options.duration * np.array([np.cos(heading), np.sin(heading), 0.0])
        bounce = rs.uniform(0.0, 0.25) * (rs.uniform() < 0.5)
        mover.sway = np.array([0.0, 0.0, bounce])
        mover.sway_rate = rs.uniform(2, 5) * np.pi / options.duration
        mover.T_world_obj[2, 3] += bounce
        mover.spin = rs.uniform(-1.2, 1.2) * np.pi / options.duration * (rs.uniform() < 0.5)
        mover.camouflaged = bool(rs.uniform() < 0.3)
        movers.append(mover)
    return movers


def _track(solid: _Solid, duration: float) -> np.ndarray:
    """(5, 3) positions of a solid's centre over the clip."""
    dt = np.linspace(-0.5, 0.5, 5)[:, None] * duration
    return solid.T_world_obj[:3, 3] + solid.velocity * dt + solid.sway * np.sin(solid.sway_rate * dt)


def _without_collisions(solids: list[_Solid], options: SceneOptions) -> list[_Solid]:
    """Drop static solids that touch an earlier solid at any time; movers and wall panels stay."""
    kept: list[_Solid] = []
    for solid in solids:
        track = _track(solid, options.duration)
        clear = all(
            np.linalg.norm(track - _track(other, options.duration), axis=1).min() > 0.8 * (solid.radius + other.radius)
            for other in kept
        )
        if clear or solid.fixed or solid.moves:
            kept.append(solid)
    return kept


def _draw_surfaces(rs: np.random.RandomState, seed: int, solids: list[_Solid], open_ground: bool):
    """Textures, tile sizes, offsets and gains of the room (row 0) and of every solid."""
    count = len(solids)
    first = seed // _SCENES_PER_BLOCK * _TEXTURES_PER_BLOCK
    own = first + rs.randint(_TEXTURES_PER_BLOCK, size=(count + 1, 6))
    textures = np.where(rs.uniform(size=(count + 1, 1)) < 0.7, own[:, :1], own)
    wall = own[0, 0]
    textures[0] = [wall, wall, wall, own[0, 1] if rs.uniform() < 0.5 else wall, own[0, 2], own[0, 3]]
    tile = rs.uniform(0.5, 1.6, count + 1)
    tile[0] = rs.uniform(3.0, 8.0) if open_ground else rs.uniform(1.2, 3.0)
    offset = rs.uniform(0, 1, (count + 1, 2))
    gain = rs.uniform(0.85, 1.25, (count + 1, 1)) * rs.uniform(0.9, 1.1, (count + 1, 3))
    background = (0, 0, 0, 4)
    for k, solid in enumerate(solids, start=1):
        static_twin = not solid.moves and rs.uniform() < 0.12
        if solid.camouflaged or static_twin:
            textures[k], tile[k], gain[k] = textures[0, background[rs.randint(4)]], tile[0], gain[0]
    statics = [k for k, solid in enumerate(solids, start=1) if not solid.moves]
    for k, solid in enumerate(solids, start=1):
        if solid.moves and not solid.camouflaged and statics and rs.uniform() < 0.6:
            twin = statics[rs.randint(len(statics))]  # a static look-alike: the same surface, at rest
            textures[twin], tile[twin], gain[twin] = textures[k], tile[k], gain[k]
    return textures, tile, offset, gain
