"""Fusion of the static depth into a truncated signed distance field, and its surface (Curless and Levoy, 1996).

Open3D's voxel block grid holds the field and finds its surface; the update is written out here, because Open3D's own
knows neither weights per pixel nor lens distortion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...core.errors import InputError
from ...core.geometry import distort, is_distorted, transform
from ...core.optional import load_open3d
from ...core.scene import Scene
from ...core.surface import grow_mask, measured_depth, on_surface, world_points
from ..exporter import require_depth
from .triangles import Mesh, canonical

_VOXELS_PER_PIXEL = 1.5
"""Voxel size in footprints of a pixel at the median depth: finer voxels would show the pixel grid."""
_NOISE_PER_VOXEL = 2.0
_TRUNCATION_IN_VOXELS = 4.0
_TRUNCATION_IN_NOISE = 4.0
"""The field must reach past the disagreement of the views, or each of them leaves a surface of its own."""
_MOST_VOXELS = 100e6
"""Most voxels near a surface, about 20 bytes each."""
_BLOCK = 8
"""Voxels along the side of a block."""
_BLOCKS = 16384
"""Blocks to start with; the grid grows."""
_NOISE_PAIRS = 12
_SNAP = 1e-3
"""Voxels to which vertices are rounded."""
_MAX_WEIGHT = 4.0
"""Most that a pixel counts against one of median confidence."""


@dataclass(frozen=True)
class Resolution:
    """How finely a scene is fused, in scene units."""

    voxel: float
    truncation: float
    """Distance from the surface at which the field ends."""


def static_depths(scene: Scene, mask_growth: float) -> list[np.ndarray]:
    """Per frame (H, W) measured z-depth, 0 where it is not trusted, at a depth edge, or in a moving region.

    Moving regions are grown by ``mask_growth`` network pixels. Raises InputError when nothing is left.
    """
    require_depth(scene)
    depths = [measured_depth(scene, frame) for frame in range(len(scene))]
    moving = (grow_mask(mask, mask_growth) for mask in scene.dynamic.masks)
    static = [np.where(on_surface(depth) & ~mask, depth, 0) for depth, mask in zip(depths, moving)]
    if not any(depth.any() for depth in static):
        raise InputError(
            "no pixel is static, confident and away from depth edges, so there is no surface to fuse: look at the "
            "masks, and lower --mask-growth"
        )
    return static


def fuse(scene: Scene, static: list[np.ndarray], resolution: Resolution, min_views: float) -> Mesh:
    """The surface of what stands still, in the scene's world.

    Pixels weigh in proportion to their confidence; only voxels seen with the weight of ``min_views`` pixels of median
    confidence get a surface (of half the frames, where these are fewer). ``static`` from :func:`static_depths`.

    Raises InputError when no surface is left, MissingExtraError without Open3D.
    """
    typical = float(np.median(np.concatenate([scene.confidence[f][depth > 0] for f, depth in enumerate(static)])))
    field = _Field(resolution)
    for frame, depth in enumerate(static):
        field.add(scene, frame, depth, np.minimum(scene.confidence[frame] / typical, _MAX_WEIGHT))
    mesh = field.surface(min(min_views, len(scene) / 2))
    if not len(mesh.triangles):
        raise InputError("no static surface is left: lower --mesh.min-views, or give another --mesh.voxel-size")
    return mesh


def choose_resolution(
    scene: Scene, static: list[np.ndarray], voxel_size: float | None = None, max_triangles: int | None = None
) -> Resolution:
    """Voxels of the size of a pixel's footprint or of the views' disagreement, whichever is larger.

    Larger still, where the surface would have several times more than ``max_triangles``: they would be simplified away.
    ``static``: per frame (H, W) z-depth, 0 where nothing static is known.

    Raises InputError for a ``voxel_size`` of which the surface has more voxels than a machine holds.
    """
    footprint = float(np.median([np.median(d[d > 0]) / scene.focals[f] for f, d in enumerate(static) if d.any()]))
    noise = disagreement(scene, static)
    voxel = max(_VOXELS_PER_PIXEL * footprint, noise / _NOISE_PER_VOXEL)
    if max_triangles is not None:
        voxel = max(voxel, (_area(scene, static, 4 * voxel) / max_triangles) ** 0.5)
    if voxel_size is not None:
        _refuse_tiny(voxel_size, voxel, _area(scene, static, 4 * voxel), noise)
        voxel = voxel_size
    return Resolution(voxel, _truncation(voxel, noise))


def _truncation(voxel: float, noise: float) -> float:
    return max(_TRUNCATION_IN_VOXELS * voxel, _TRUNCATION_IN_NOISE * noise)


def _refuse_tiny(asked: float, chosen: float, area: float, noise: float) -> None:
    """Raise InputError for voxels of which the surface has more than a machine holds; ``chosen``: the default size."""

    def count(voxel: float) -> float:
        return area / voxel / voxel * (2 * _truncation(voxel, noise) / voxel)

    least = asked
    while count(least) > _MOST_VOXELS:
        least *= 1.05
    if least > asked:
        raise InputError(
            f"--mesh.voxel-size {asked:g}: the surface would take more than {_MOST_VOXELS / 1e6:.0f} million voxels; "
            f"give at least {least:.2g} (the default for this scene is {chosen:.2g})"
        )


def _area(scene: Scene, static: list[np.ndarray], cell: float) -> float:
    """Area of the static surface, roughly: that of the cubic cells in which its points lie."""
    frames = range(0, len(scene), max(1, len(scene) // _NOISE_PAIRS))
    cells = [np.floor(world_points(scene, f)[static[f] > 0] / cell).astype(np.int64) for f in frames]
    low = np.min([c.min(axis=0) for c in cells if len(c)], axis=0)
    spans = np.max([c.max(axis=0) for c in cells if len(c)], axis=0) - low + 1
    keys = [np.unique(np.ravel_multi_index((c - low).T, spans)) for c in cells if len(c)]
    return len(np.unique(np.concatenate(keys))) * cell**2


def disagreement(scene: Scene, static: list[np.ndarray]) -> float:
    """Median distance, in scene units, between the depth that one view gives a point and the depth another sees there.

    Over pairs of frames an eighth of the clip apart; 0 for a single frame or views that share nothing.
    """
    step = max(1, len(scene) // 8)
    starts = range(0, len(scene) - step, max(1, (len(scene) - step) // _NOISE_PAIRS))
    gaps = [np.zeros(0)]
    for one, other in ((start, start + step) for start in starts):
        points = world_points(scene, one)[static[one] > 0]
        _, xy, z = _project(scene, other, points)
        seen = _sample(static[other], xy)
        gaps.append(np.abs(seen - z)[seen > 0])
    gaps = np.concatenate(gaps)
    return float(np.median(gaps)) if len(gaps) else 0.0


def _project(scene: Scene, frame: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, 3) float32 world points -> which of them the image shows (M,), their network pixels (M, 2), z-depths (M,)."""
    height, width = scene.depth.shape[1:]
    T = np.linalg.inv(scene.T_world_cam[frame]).astype(np.float32)
    local = transform(T, points)
    shown = np.flatnonzero(local[:, 2] > 1e-9)
    local = local[shown]
    xy = local[:, :2] / local[:, 2:]
    if is_distorted(scene.distortion):
        # Far outside the image the lens polynomial may fold back into it.
        near = (np.abs(xy) < 2 * max(width, height) / scene.focals[frame]).all(axis=1)
        shown, local, xy = shown[near], local[near], distort(xy[near], scene.distortion)
    xy = (xy * scene.focals_xy[frame] + scene.principal_point).astype(np.float32)
    x, y = xy.T
    inside = (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)
    return shown[inside], xy[inside], local[inside, 2]


def _nearest(xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the pixel in which (N, 2) positions lie."""
    column, row = np.floor(xy + 0.5).astype(np.int64).T
    return row, column


def _sample(depth: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """(H, W) z-depth, 0 = unknown, at (N, 2) pixels: its inverse is interpolated (exact for planes) between four known
    pixels; next to unknown ones the nearest pixel is taken.
    """
    height, width = depth.shape
    corner = np.clip(np.floor(xy).astype(np.int32), 0, np.array([width - 2, height - 2], dtype=np.int32))
    across, down = np.clip(xy - corner, 0, 1).astype(np.float32).T
    flat = corner[:, 1] * width + corner[:, 0]
    inverse = np.zeros(depth.size, dtype=np.float32)
    np.divide(1.0, depth.ravel(), out=inverse, where=depth.ravel() > 0)
    a, b, c, d = (inverse[flat + step] for step in (0, 1, width, width + 1))
    upper, lower = a + across * (b - a), c + across * (d - c)
    smooth = np.minimum(np.minimum(a, b), np.minimum(c, d)) > 0
    return np.divide(1.0, upper + down * (lower - upper), out=depth[_nearest(xy)], where=smooth)


class _Field:
    """A truncated signed distance field with colours, on the blocks of space near the surface."""

    def __init__(self, resolution: Resolution) -> None:
        open3d = load_open3d()
        self._open3d, self._resolution = open3d, resolution
        float32 = open3d.core.float32
        self._grid = open3d.t.geometry.VoxelBlockGrid(
            ("tsdf", "weight", "color"),
            (float32, float32, float32),
            ((1,), (1,), (3,)),
            resolution.voxel,
            _BLOCK,
            _BLOCKS,
            open3d.core.Device("CPU:0"),
        )

    def add(self, scene: Scene, frame: int, depth: np.ndarray, weights: np.ndarray) -> None:
        """Take in one view: (H, W) z-depth, 0 = unknown, and (H, W) weights."""
        known = depth > 0
        if not known.any():
            return
        voxels, rows = self._near(world_points(scene, frame)[known])
        shown, xy, z = _project(scene, frame, voxels)
        seen, truncation = _sample(depth, xy), self._resolution.truncation
        distance = seen - z
        counts = (seen > 0) & (distance > -truncation)
        rows, (row, column) = rows[shown[counts]], _nearest(xy[counts])
        weight = weights[row, column].astype(np.float32)
        total = self._values("weight", 1)
        before, after = total[rows, 0], total[rows, 0] + weight
        field, color = self._values("tsdf", 1), self._values("color", 3)
        share = weight / after
        field[rows, 0] += share * (np.minimum(distance[counts] / truncation, 1) - field[rows, 0])
        color[rows] += share[:, None] * (scene.images[frame][row, column] - color[rows])
        total[rows, 0] = before + weight

    def surface(self, min_weight: float) -> Mesh:
        """Where the field crosses zero."""
        mesh = self._grid.extract_triangle_mesh(min_weight)
        if mesh.is_empty() or "indices" not in mesh.triangle:
            return Mesh.empty()
        colors = np.rint(np.clip(mesh.vertex.colors.numpy(), 0, 1) * 255).astype(np.uint8)
        # Where the surface passes through a corner of the grid, vertices lie a rounding error apart and span slivers.
        step = _SNAP * self._resolution.voxel
        vertices = (np.rint(mesh.vertex.positions.numpy().astype(float) / step) * step).astype(np.float32)
        return canonical(vertices, mesh.triangle.indices.numpy(), colors)

    def _near(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(V, 3) centres of the voxels in the blocks around (N, 3) points, and (V,) where their values lie."""
        core = self._open3d.core
        cloud = self._open3d.t.geometry.PointCloud(core.Tensor(np.ascontiguousarray(points, dtype=np.float32)))
        reach = self._resolution.truncation / self._resolution.voxel
        blocks = self._grid.compute_unique_block_coordinates(cloud, reach)
        table = self._grid.hashmap()
        table.activate(blocks)
        slots, _ = table.find(blocks)
        centres, rows = self._grid.voxel_coordinates_and_flattened_indices(slots)
        return centres.numpy(), rows.numpy().ravel()

    def _values(self, name: str, channels: int) -> np.ndarray:
        """(all voxels, channels): a view, so that writing changes the field."""
        return self._grid.attribute(name).reshape((-1, channels)).numpy()
