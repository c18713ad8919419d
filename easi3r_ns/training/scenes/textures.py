"""Procedural textures: a family and an index always give the same periodic picture."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

TEXTURE_SIZE = 256
"""Side of a texture in texels."""

PYRAMID_LEVELS = int(np.log2(TEXTURE_SIZE)) - 1
"""Copies of a texture, each half the size of the one before; the last is 4 x 4."""

FAMILIES = {"train": 1, "held_out": 2, "selection": 3}
"""Disjoint streams: what is trained on is never used to choose or to measure, and the reverse."""


def coloured_noise(rs: np.random.RandomState, exponent: float, channels: int = 1, low: float = 1.0) -> np.ndarray:
    """(N, N, channels) periodic noise with amplitude ~ 1 / frequency^exponent, zero mean, unit deviation."""
    n = TEXTURE_SIZE
    freq = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None]) * n
    gain = np.where(freq >= low, np.maximum(freq, 1.0) ** -exponent, 0.0)
    spectrum = np.fft.rfft2(rs.standard_normal((channels, n, n))) * gain
    noise = np.fft.irfft2(spectrum, s=(n, n))
    noise /= noise.std(axis=(1, 2), keepdims=True) + 1e-12
    return noise.transpose(1, 2, 0)


def _grid() -> tuple[np.ndarray, np.ndarray]:
    axis = (np.arange(TEXTURE_SIZE) + 0.5) / TEXTURE_SIZE
    return np.meshgrid(axis, axis)


def _palette(rs: np.random.RandomState, count: int) -> np.ndarray:
    """(count, 3) colours around one hue, more or less saturated, from dark to bright."""
    base = rs.uniform(0.35, 0.85) + rs.uniform(0.0, 0.2) * rs.standard_normal(3)
    colours = base + rs.uniform(0.03, 0.25) * rs.standard_normal((count, 3))
    brightness = rs.uniform(0.5, 1.2, (count, 1))
    return np.clip(colours * brightness, 0.02, 0.98)


def _ramp(values: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Values in [0, 1] -> colours, piecewise linear."""
    knots = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(values, knots, colours[:, c]) for c in range(3)], axis=-1)


def _clouds(rs: np.random.RandomState) -> np.ndarray:
    noise = coloured_noise(rs, rs.uniform(0.7, 1.8))[..., 0]
    return _ramp(0.5 + 0.25 * noise, _palette(rs, rs.randint(2, 6)))


def _checker(rs: np.random.RandomState) -> np.ndarray:
    u, v = _grid()
    nu, nv = rs.randint(1, 6, 2)
    cell = (np.floor(u * 2 * nu) + np.floor(v * 2 * nv)) % 2
    return _palette(rs, 2)[cell.astype(int)]


def _stripes(rs: np.random.RandomState) -> np.ndarray:
    u, v = _grid()
    a, b = rs.randint(0, 9), rs.randint(0, 9)
    warp = rs.uniform(0, 0.4) * coloured_noise(rs, 2.0)[..., 0]
    wave = np.sin(2 * np.pi * ((a + (a == b == 0)) * u + b * v + warp))
    return _ramp(0.5 + 0.5 * np.tanh(wave * rs.uniform(1, 8)), _palette(rs, rs.randint(2, 4)))


def _blobs(rs: np.random.RandomState) -> np.ndarray:
    noise = coloured_noise(rs, rs.uniform(1.5, 2.5), low=rs.randint(2, 8))[..., 0]
    levels = rs.randint(2, 6)
    step = np.clip(np.floor((0.5 + 0.22 * noise) * levels), 0, levels - 1).astype(int)
    return _palette(rs, levels)[step]


def _cells(rs: np.random.RandomState) -> np.ndarray:
    u, v = _grid()
    count = rs.randint(8, 40)
    centres = rs.uniform(0, 1, (count, 2))
    du = np.abs(u[..., None] - centres[:, 0])
    dv = np.abs(v[..., None] - centres[:, 1])
    distance = np.hypot(np.minimum(du, 1 - du), np.minimum(dv, 1 - dv))
    nearest = np.partition(distance, 1, axis=-1)[..., :2]
    colour = _palette(rs, count)[distance.argmin(-1)]
    seam = np.clip((nearest[..., 1] - nearest[..., 0]) * rs.uniform(20, 120), 0, 1)[..., None]
    return colour * (0.4 + 0.6 * seam)


def _patches(rs: np.random.RandomState) -> np.ndarray:
    picture = np.broadcast_to(_palette(rs, 1)[0], (TEXTURE_SIZE, TEXTURE_SIZE, 3)).copy()
    colours = _palette(rs, 8)
    for _ in range(rs.randint(10, 60)):
        height, width = rs.randint(6, TEXTURE_SIZE // 3, 2)
        rows = (rs.randint(TEXTURE_SIZE) + np.arange(height)) % TEXTURE_SIZE
        columns = (rs.randint(TEXTURE_SIZE) + np.arange(width)) % TEXTURE_SIZE
        picture[np.ix_(rows, columns)] = colours[rs.randint(8)]
    return picture


def _bricks(rs: np.random.RandomState) -> np.ndarray:
    u, v = _grid()
    rows, columns = 2 * rs.randint(2, 7), rs.randint(1, 6)
    row = np.floor(v * rows)
    x = (u * columns + 0.5 * (row % 2)) % columns
    tone = rs.uniform(0.75, 1.2, (rows, columns))[row.astype(int), np.floor(x).astype(int) % columns]
    gap = rs.uniform(0.02, 0.1)
    mortar = (x % 1 < gap * columns / rows * 2) | (v * rows % 1 < gap * 2)
    brick, joint = _palette(rs, 2)
    return np.where(mortar[..., None], joint, brick * tone[..., None])


_KINDS = (_clouds, _checker, _stripes, _blobs, _cells, _patches, _bricks)


@lru_cache(maxsize=512)
def texture(family: str, index: int) -> np.ndarray:
    """Picture ``index`` of a family as (N, N, 3) uint8, periodic in both directions; the same on every machine."""
    rs = np.random.RandomState([FAMILIES[family], index])
    picture = _KINDS[rs.randint(len(_KINDS))](rs)
    grain = coloured_noise(rs, rs.uniform(0.3, 1.2)) * rs.uniform(0.02, 0.09)
    tone = coloured_noise(rs, rs.uniform(0.8, 1.6), channels=3) * rs.uniform(0.0, 0.06)
    result = (np.clip(picture + grain + tone, 0.0, 1.0) * 255).astype(np.uint8)
    result.setflags(write=False)
    return result


@lru_cache(maxsize=512)
def texture_pyramid(family: str, index: int) -> np.ndarray:
    """All levels of a texture, row after row, finest first: (N^2 + (N/2)^2 + ..., 3) uint8."""
    level, rows = texture(family, index).astype(np.float32), []
    for _ in range(PYRAMID_LEVELS):
        rows.append(np.round(level).astype(np.uint8).reshape(-1, 3))
        half = len(level) // 2
        level = level.reshape(half, 2, half, 2, 3).mean(axis=(1, 3))
    return np.concatenate(rows)
