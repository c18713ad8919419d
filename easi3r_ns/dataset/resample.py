"""From the network grid to the pixels of the source image: motion masks and depth maps at any whole downscale.

``factor`` 1 is the source image itself; pixel u of the image downscaled by s covers the source pixels [s u, s (u + 1)),
so its centre lies at s (u + 0.5) in source pixels and the intrinsics divide by s exactly.
"""

from __future__ import annotations

import numpy as np

from ..core.downscale import downscaled_size
from ..core.geometry import source_to_network
from ..core.objects import nearest_numbers
from ..core.surface import MAX_RELATIVE_STEP, distance_to
from ..core.types import PixelMap


def shrink_static(static: np.ndarray, factor: int) -> np.ndarray:
    """(H, W) bool -> (H // factor, W // factor): True only where all factor x factor source pixels are."""
    width, height = downscaled_size((static.shape[1], static.shape[0]), factor)
    # Whole rows first: a reduction over short, strided axes takes ten times longer.
    rows = np.logical_and.reduce([static[k : height * factor : factor] for k in range(factor)])
    return np.logical_and.reduce([rows[:, k : width * factor : factor] for k in range(factor)])


def static_at_source(moving: np.ndarray, pixel_map: PixelMap, growth: float) -> np.ndarray:
    """(H, W) bool network mask, True = moving -> (h, w) bool at source size, True = STATIC.

    The distance to the moving region is interpolated and cut half a pixel outside ``growth``: edges come out smooth
    and no region, however small, is lost. Pixels outside the network's crop continue the nearest pixel inside.
    """
    x, y = _network_coordinates(pixel_map, 1)
    return _bilinear(distance_to(moving), x, y) > growth + 0.5


def objects_at_source(objects: np.ndarray, static: np.ndarray, pixel_map: PixelMap) -> np.ndarray:
    """(H, W) ids on the network grid -> (h, w) uint16 at source size: 0 where ``static``, elsewhere the nearest id."""
    height, width = objects.shape
    x, y = _network_coordinates(pixel_map, 1)
    nearest = nearest_numbers(objects)
    return np.where(static, 0, _at(nearest, _clamped_round(y, height), _clamped_round(x, width))).astype(np.uint16)


def depth_at_source(depth: np.ndarray, pixel_map: PixelMap, factor: int = 1) -> np.ndarray:
    """(H, W) float32 network z-depth, 0 = unknown -> (h, w) float32 at source size divided by ``factor``.

    Inside a surface the INVERSE depth is interpolated (exact for planes); across a depth edge or next to unknown
    pixels the nearest pixel is taken, so that no depth in between is invented. 0 outside the network's crop.
    """
    x, y = _network_coordinates(pixel_map, factor)
    height, width = depth.shape
    inverse = np.zeros_like(depth)
    np.divide(1.0, depth, out=inverse, where=depth > 0)
    # Whether a cell of four neighbours is smooth is decided on the small grid.
    corners = [inverse[dy : height - 1 + dy, dx : width - 1 + dx] for dy in (0, 1) for dx in (0, 1)]
    low, high = np.minimum.reduce(corners), np.maximum.reduce(corners)
    smooth = _at((low > 0) & (high <= (1 + MAX_RELATIVE_STEP) * low), _cell(y, height), _cell(x, width))
    value = _at(inverse, _clamped_round(y, height), _clamped_round(x, width))
    np.copyto(value, _bilinear(inverse, x, y), where=smooth)
    value[(y < -0.5) | (y > height - 0.5)] = 0
    value[:, (x < -0.5) | (x > width - 0.5)] = 0
    np.divide(1.0, value, out=value, where=value > 0)
    return value.astype(np.float32, copy=False)


def labels_at_source(labels: np.ndarray, pixel_map: PixelMap) -> np.ndarray:
    """(H, W) numbers of the network's pixels -> (h, w) at source size: the nearest pixel's; 0 outside its crop."""
    x, y = _network_coordinates(pixel_map, 1)
    height, width = labels.shape
    value = _at(labels, _clamped_round(y, height), _clamped_round(x, width))
    value[(y < -0.5) | (y > height - 0.5)] = 0
    value[:, (x < -0.5) | (x > width - 0.5)] = 0
    return value


def _at(grid: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """``grid[np.ix_(rows, columns)]``, row by row, which is faster where rows repeat."""
    return np.take(np.take(grid, columns, axis=1), rows, axis=0)


def _network_coordinates(pixel_map: PixelMap, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Network x of every column and y of every row of the (downscaled) source image."""
    width, height = downscaled_size(pixel_map.source_wh, factor)
    x = source_to_network(np.stack([factor * (np.arange(width) + 0.5), np.zeros(width)], axis=-1), pixel_map)[:, 0]
    y = source_to_network(np.stack([np.zeros(height), factor * (np.arange(height) + 0.5)], axis=-1), pixel_map)[:, 1]
    return x, y


def _bilinear(grid: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(H, W) sampled at the crossings of rows y and columns x; clamped to the edge."""
    height, width = grid.shape
    row, column = _cell(y, height), _cell(x, width)
    wy = np.clip(y - row, 0, 1).astype(np.float32)[:, None]
    wx = np.clip(x - column, 0, 1).astype(np.float32)[None, :]
    rows = grid[row] * (1 - wy) + grid[row + 1] * wy
    value = np.take(rows, column, axis=1)
    value *= 1 - wx
    other = np.take(rows, column + 1, axis=1)
    other *= wx
    value += other
    return value


def _cell(coordinate: np.ndarray, size: int) -> np.ndarray:
    return np.clip(np.floor(coordinate).astype(np.int64), 0, size - 2)


def _clamped_round(coordinate: np.ndarray, size: int) -> np.ndarray:
    return np.clip(np.floor(coordinate + 0.5).astype(np.int64), 0, size - 1)
