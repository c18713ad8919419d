"""Vectorised ray caster: scenes and cameras -> colour, z-depth, object id, on any torch device.

Written here, because the ray casters of Open3D and trimesh take triangle meshes on a CPU, scene by scene; these scenes
are exact solids, many at a time, and training draws them on its own device.

Letters in shapes: S scenes, V views per scene, K solids (padded to the largest scene), N pixels.
Pixel centres are at integer coordinates; cameras are camera-to-world with OpenCV axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .scene import BOX, CYLINDER, SPHERE, SyntheticScene, object_poses
from .textures import PYRAMID_LEVELS, TEXTURE_SIZE, texture_pyramid

_NEAR = 1e-3


@dataclass(frozen=True)
class Rendering:
    """What the ray caster sees."""

    colour: torch.Tensor
    """(S, V, H, W, 3) float32 in [0, 1], without sensor noise."""
    depth: torch.Tensor
    """(S, V, H, W) float32 z-depth in metres."""
    object_id: torch.Tensor
    """(S, V, H, W) int64: 0 the room, k + 1 solid k."""


@dataclass(frozen=True)
class RenderCameras:
    """Views of S scenes, V each. Principal point None: the image centre ((W - 1) / 2, (H - 1) / 2)."""

    T_world_cam: np.ndarray
    """(S, V, 4, 4) camera-to-world, OpenCV axes."""
    focal: np.ndarray
    """(S, V) pixels."""
    times: np.ndarray
    """(S, V) seconds."""
    height: int
    width: int
    principal_point: tuple[float, float] | None = None
    """(cx, cy) in pixels, integer centres."""

    @property
    def centre(self) -> tuple[float, float]:
        return self.principal_point or ((self.width - 1) / 2, (self.height - 1) / 2)


@dataclass(frozen=True)
class _Packed:
    """Scenes as tensors. Row 0 of every K + 1 axis is the room. ``M`` maps world vectors to the unit solid's frame."""

    M: torch.Tensor
    """(S, V, K + 1, 3, 3) float32."""
    centre: torch.Tensor
    """(S, V, K + 1, 3) centres in the world."""
    half: torch.Tensor
    """(S, K + 1, 3)."""
    kinds: torch.Tensor
    """(S, K + 1); -1 is padding."""
    casts: torch.Tensor
    """(S, K + 1) bool: throws shadows."""
    textures: torch.Tensor
    """(S, K + 1, 6) row of the mip table."""
    tile: torch.Tensor
    offset: torch.Tensor
    gain: torch.Tensor
    light: torch.Tensor
    ambient: torch.Tensor
    mips: torch.Tensor
    """(T, texels of all levels, 3) uint8."""


def render(
    scenes: list[SyntheticScene], cameras: RenderCameras, supersample: int = 1, device: str = "cpu"
) -> Rendering:
    """Cast one ray through every pixel centre; colours average ``supersample``^2 rays per pixel."""
    packed = _pack(scenes, cameras, torch.device(device))
    steps = (np.arange(supersample) + 0.5) / supersample - 0.5
    centre_hit = None
    if supersample % 2 == 0:
        centre_hit = _cast(packed, _rays(cameras, 0.0, 0.0, packed), cameras)
    colour = torch.zeros((), device=packed.M.device)
    for dy in steps:
        for dx in steps:
            rays = _rays(cameras, float(dx), float(dy), packed)
            hit = _cast(packed, rays, cameras)
            centre_hit = hit if abs(dx) + abs(dy) < 1e-9 else centre_hit
            colour = colour + _shade(packed, scenes, rays, hit, cameras)
    depth, winner = centre_hit
    shape = (len(scenes), cameras.focal.shape[1], cameras.height, cameras.width)
    return Rendering(
        (colour / supersample**2).reshape(*shape, 3),
        depth.reshape(shape),
        winner.reshape(shape),
    )


def _pack(scenes: list[SyntheticScene], cameras: RenderCameras, device: torch.device) -> _Packed:
    poses = [object_poses(scene, times) for scene, times in zip(scenes, cameras.times, strict=True)]
    slots = 1 + max(scene.num_solids for scene in scenes)
    num_views = cameras.focal.shape[1]
    M = np.zeros((len(scenes), num_views, slots, 3, 3))
    centre = np.zeros((len(scenes), num_views, slots, 3))
    half = np.ones((len(scenes), slots, 3))
    kinds = np.full((len(scenes), slots), -1)
    casts = np.zeros((len(scenes), slots), dtype=bool)
    surface = {"tile": np.ones((len(scenes), slots)), "offset": np.zeros((len(scenes), slots, 2))}
    surface["gain"] = np.ones((len(scenes), slots, 3))
    ids = np.zeros((len(scenes), slots, 6), dtype=int)
    keys: dict[tuple[str, int], int] = {}
    for s, (scene, pose) in enumerate(zip(scenes, poses, strict=True)):
        n = scene.num_solids + 1
        half[s, 0], half[s, 1:n] = scene.room_half, scene.half_size
        kinds[s, 0], kinds[s, 1:n] = BOX, scene.kinds
        casts[s, 1:n] = scene.casts_shadow
        centre[s, :, :n] = pose[:, :, :3, 3]
        centre[s, :, 0, 2] = scene.room_half[2]
        M[s, :, :n] = np.swapaxes(pose[:, :, :3, :3], -1, -2) / half[s, None, :n, :, None]
        for name, values in surface.items():
            values[s, :n] = getattr(scene, name)
        for k, f in np.ndindex(n, 6):
            ids[s, k, f] = keys.setdefault((scene.family, int(scene.textures[k, f])), len(keys))
    as_float = lambda x: torch.as_tensor(np.asarray(x), dtype=torch.float32, device=device)  # noqa: E731
    return _Packed(
        M=as_float(M),
        centre=as_float(centre),
        half=as_float(half),
        kinds=torch.as_tensor(kinds, device=device),
        casts=torch.as_tensor(casts, device=device),
        textures=torch.as_tensor(ids, device=device),
        **{name: as_float(values) for name, values in surface.items()},
        light=as_float([scene.light for scene in scenes]),
        ambient=as_float([scene.ambient for scene in scenes]),
        mips=torch.as_tensor(np.stack([texture_pyramid(*key) for key in keys]), device=device),
    )


def _rays(cameras: RenderCameras, dx: float, dy: float, packed: _Packed) -> torch.Tensor:
    """(S, V, 3, N) world directions with unit z in the camera, so that the ray parameter is the z-depth."""
    device = packed.M.device
    y, x = torch.meshgrid(
        torch.arange(cameras.height, device=device, dtype=torch.float32) + dy,
        torch.arange(cameras.width, device=device, dtype=torch.float32) + dx,
        indexing="ij",
    )
    cx, cy = cameras.centre
    plane = torch.stack([x.flatten() - cx, y.flatten() - cy, torch.ones(x.numel(), device=device)])
    focal = torch.as_tensor(cameras.focal, dtype=torch.float32, device=device)
    scale = torch.stack([1 / focal, 1 / focal, torch.ones_like(focal)], dim=-1)
    R = torch.as_tensor(cameras.T_world_cam[..., :3, :3], dtype=torch.float32, device=device)
    return (R * scale[..., None, :]) @ plane


def _origins(cameras: RenderCameras, packed: _Packed) -> torch.Tensor:
    return torch.as_tensor(cameras.T_world_cam[..., :3, 3], dtype=torch.float32, device=packed.M.device)


def _cast(packed: _Packed, rays: torch.Tensor, cameras: RenderCameras) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest hit: (S, V, N) ray parameter and (S, V, N) winner (0 the room)."""
    return _nearest(packed, _origins(cameras, packed), rays, packed.kinds)


def _nearest(packed: _Packed, origin: torch.Tensor, rays: torch.Tensor, kinds: torch.Tensor):
    """origin (S, V, 3), rays (S, V, 3, N); solids whose kind is -1 are transparent."""
    o = torch.einsum("svkij,svkj->svki", packed.M, origin[:, :, None] - packed.centre)
    best = _room_exit(o[:, :, 0], packed.M[:, :, 0] @ rays)
    winner = torch.zeros(best.shape, dtype=torch.int64, device=best.device)
    for k in range(1, kinds.shape[1]):
        column = kinds[:, k]
        for kind, hit in ((BOX, _hit_box), (SPHERE, _hit_sphere), (CYLINDER, _hit_cylinder)):
            rows = torch.nonzero(column == kind)[:, 0]
            if len(rows) == 0:
                continue
            whole = len(rows) == len(column)
            pick = (lambda x: x) if whole else (lambda x, rows=rows: x[rows])
            t = hit(pick(o[:, :, k]), pick(packed.M[:, :, k]) @ pick(rays))
            nearer = t < pick(best)
            if whole:
                best, winner = torch.where(nearer, t, best), torch.where(nearer, k, winner)
            else:
                best[rows], winner[rows] = torch.where(nearer, t, best[rows]), torch.where(nearer, k, winner[rows])
    return best, winner


def _slab(o: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Entry and exit of |x| <= 1 per axis; o (..., A), d (..., A, N)."""
    inverse = 1.0 / torch.where(d.abs() < 1e-9, torch.full_like(d, 1e-9), d)
    middle, reach = -o[..., None] * inverse, inverse.abs()
    return middle - reach, middle + reach


def _room_exit(o: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    return _slab(o, d)[1].amin(-2)


def _entry(enter: torch.Tensor, leave: torch.Tensor) -> torch.Tensor:
    return torch.where((enter < leave) & (enter > _NEAR), enter, torch.inf)


def _hit_box(o: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    enter, leave = _slab(o, d)
    return _entry(enter.amax(-2), leave.amin(-2))


def _quadratic(o: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Entry and exit of the unit ball of the given axes (2 axes: an infinite cylinder)."""
    a = (d * d).sum(-2).clamp_min(1e-18)
    b = (o[..., None] * d).sum(-2) / a
    nearest = o[..., None] - b.unsqueeze(-2) * d  # the cancellation-free form of the discriminant
    root = (1 - (nearest * nearest).sum(-2)) / a
    reach = torch.where(root > 0, root, torch.nan).sqrt()
    return -b - reach, -b + reach


def _hit_sphere(o: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    return _entry(*_quadratic(o, d))


def _hit_cylinder(o: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    enter, leave = _quadratic(o[..., :2], d[..., :2, :])
    low, high = _slab(o[..., 2:], d[..., 2:, :])
    return _entry(torch.maximum(enter, low[..., 0, :]), torch.minimum(leave, high[..., 0, :]))


def _gather(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """values (S, V, K, *rest), index (S, V, N) -> (S, V, N, *rest)."""
    S, V, N = index.shape
    base = torch.arange(S * V, device=index.device).reshape(S, V, 1) * values.shape[2]
    return values.flatten(0, 2)[(base + index).flatten()].reshape(S, V, N, *values.shape[3:])


def _shade(
    packed: _Packed, scenes: list[SyntheticScene], rays: torch.Tensor, hit, cameras: RenderCameras
) -> torch.Tensor:
    """(S, V, N, 3) colours."""
    t, winner = hit
    views = rays.shape[1]
    spread = lambda x: x[:, None].expand(-1, views, *x.shape[1:])  # noqa: E731
    world = _origins(cameras, packed)[:, :, None] + (t.unsqueeze(2) * rays).transpose(2, 3)
    M, half = _gather(packed.M, winner), _gather(spread(packed.half), winner)
    local = (M @ (world - _gather(packed.centre, winner)).unsqueeze(-1))[..., 0]
    kind = _gather(spread(packed.kinds), winner)
    unit_normal, face = _normal_and_face(local, kind)
    room = winner == 0
    normal = (unit_normal.unsqueeze(-2) @ M)[..., 0, :]
    normal = torch.nn.functional.normalize(normal, dim=-1) * torch.where(room, -1.0, 1.0)[..., None]
    uv = _texture_coordinates(local, half, kind, face, _gather(spread(packed.tile), winner))
    uv = uv + _gather(spread(packed.offset), winner)
    focal = torch.as_tensor(cameras.focal, dtype=torch.float32, device=t.device)[..., None]
    grazing = (normal * rays.transpose(2, 3)).sum(-1).abs() / rays.norm(dim=2)
    footprint = t / focal / _gather(spread(packed.tile), winner) * TEXTURE_SIZE / grazing.clamp_min(0.05).sqrt()
    row = _gather(spread(packed.textures), winner).gather(-1, face[..., None])[..., 0]
    albedo = _sample(packed.mips, row, uv, footprint.clamp_min(1e-6).log2()) * _gather(spread(packed.gain), winner)
    light = _light(packed, scenes, world, normal)
    return (albedo * light[..., None]).clamp(0, 1)


def _normal_and_face(local: torch.Tensor, kind: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Point on the unit solid -> its outward normal there (unit frame) and the index of the texture's face."""
    axis = local.abs().argmax(-1)
    axis = torch.where((kind == CYLINDER) & (local[..., 2].abs() > 1 - 1e-4), 2, torch.where(kind == BOX, axis, 0))
    side = torch.nn.functional.one_hot(axis, 3) * local.sign()
    radial = local * local.new_tensor([1.0, 1.0, 0.0])
    flat = (kind == BOX) | ((kind == CYLINDER) & (axis == 2))
    round_normal = torch.where((kind == SPHERE)[..., None], local, radial)
    positive = torch.gather(local, -1, axis[..., None])[..., 0] > 0
    face = torch.where(flat, 2 * axis + positive.long(), 0)
    return torch.where(flat[..., None], side, round_normal), face


def _texture_coordinates(local, half, kind, face, tile) -> torch.Tensor:
    """(..., 2) texture coordinates in tiles; whole numbers of tiles around a sphere or cylinder."""
    metres = local * half
    axis = face // 2
    flat = (kind == BOX) | (face > 0)
    u = torch.where(axis == 0, metres[..., 1], metres[..., 0])
    v = torch.where(axis == 2, metres[..., 1], metres[..., 2])
    radius = half[..., 0]
    turns = (2 * torch.pi * radius / tile).round().clamp_min(1)
    around = torch.atan2(local[..., 1], local[..., 0]) / (2 * torch.pi) * turns
    height = torch.where(kind == SPHERE, torch.asin(local[..., 2].clamp(-1, 1)) * radius, metres[..., 2])
    return torch.stack([torch.where(flat, u / tile, around), torch.where(flat, v, height) / tile], dim=-1)


def _sample(mips: torch.Tensor, row: torch.Tensor, uv: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """Trilinear, periodic texture look-up -> (..., 3) in [0, 1]."""
    level = level.clamp(0, PYRAMID_LEVELS - 1.001)
    low = level.floor()
    flat = mips.flatten(0, 1)
    first = _bilinear(flat, row * mips.shape[1], uv, low.long())
    second = _bilinear(flat, row * mips.shape[1], uv, low.long() + 1)
    return torch.lerp(first, second, (level - low)[..., None]) / 255


def _bilinear(flat: torch.Tensor, base: torch.Tensor, uv: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    sizes = torch.tensor([TEXTURE_SIZE >> i for i in range(PYRAMID_LEVELS)], device=level.device)
    starts = torch.cumsum(sizes**2, 0) - sizes**2
    size, base = sizes[level], base + starts[level]
    xy = uv * size[..., None] - 0.5
    low = xy.floor()
    fx, fy = (xy - low).unbind(-1)
    x0, y0 = low.long().unbind(-1)
    mask = size - 1
    x0, x1, y0, y1 = x0 & mask, (x0 + 1) & mask, y0 & mask, (y0 + 1) & mask
    fetch = lambda x, y: flat[(base + y * size + x).flatten()].reshape(*x.shape, 3).float()  # noqa: E731
    top = torch.lerp(fetch(x0, y0), fetch(x1, y0), fx[..., None])
    return torch.lerp(top, torch.lerp(fetch(x0, y1), fetch(x1, y1), fx[..., None]), fy[..., None])


def _light(packed: _Packed, scenes: list[SyntheticScene], world: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
    """(S, V, N) brightness: ambient plus Lambert from the point light, with shadows of static solids."""
    to_light = packed.light[:, None, None] - world
    distance = to_light.norm(dim=-1)
    lambert = ((to_light * normal).sum(-1) / distance.clamp_min(1e-6)).clamp_min(0)
    lit = lambert * (2.2 / (1 + (distance / 5) ** 2))
    if any(scene.casts_shadow.any() for scene in scenes):
        kinds = torch.where(packed.casts, packed.kinds, -1)
        origin = packed.light[:, None].expand(-1, world.shape[1], 3)
        blocked = _nearest(packed, origin, -to_light.transpose(2, 3), kinds)[0] < 1 - 1e-3
        lit = torch.where(blocked, 0.0, lit)
    ambient = packed.ambient[:, None, None]
    return ambient + (1 - ambient) * lit
