"""High dynamic range and wide gamut to the standard picture: HLG, PQ or BT.2020 -> SDR with BT.709 primaries.

What is done to a pixel, in this order:

1. Its signal becomes light. PQ: the EOTF of ITU-R BT.2100, candela per square metre. HLG: the inverse OETF and the OOTF
   of BT.2100 for the display of 1000 cd/m2 that it is defined for, system gamma 1.2. SDR: gamma 2.4 of BT.1886.
2. Light is counted in units of HDR reference white, 203 cd/m2 (75 % HLG, 58 % PQ; ITU-R BT.2408), which stands for the
   white of SDR there.
3. A matrix takes BT.2020 (or P3) primaries to those of BT.709; negative parts are cut off (ITU-R BT.2407).
4. The curve of ITU-R BT.2390 (section 5.4.1, "EETF") makes room for highlights: nothing changes up to 88 cd/m2; above
   it the range up to 1000 cd/m2 is compressed, in PQ values, to end at SDR white. It is applied to the largest of the
   three channels and scales all three alike, so that hues stay and none is cut off.
5. Gamma 2.4 again, and 8 bits.

So reference white becomes 90.5 % of the SDR range, and an SDR picture that was put into HDR at 203 cd/m2, the way of
BT.2408, comes back unchanged up to 70 %.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

PQ, HLG = 16, 18
_BT2020_SDR = (1, 14, 15)
"""Transfer characteristics of SDR that occur with wide primaries."""
BT709, BT2020, P3 = 1, 9, 12
"""Numbers of ITU-T H.273, here and above."""
_NAMES = {PQ: "PQ", HLG: "HLG"}
_PRIMARIES = {
    BT709: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    P3: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
"""CIE 1931 x and y of red, green and blue; all have the white D65."""
_WHITE = (0.3127, 0.3290)
REFERENCE_WHITE = 203.0
PEAK = 1000.0
"""Candela per square metre; brighter pixels become white."""
GAMMA = 2.4
_HLG_GAMMA = 1.2
_MOST = 20000.0
"""Candela per square metre: PQ ends at 10000, to which the change of primaries adds two thirds in a pure red."""
_ROWS = 32
"""Rows that are worked on at a time: the intermediate results stay in the cache of the processor."""
_THREADS = max(1, min(8, os.cpu_count() or 1))
_STEPS = 4096
_FINE_STEPS = 65536


@dataclass(frozen=True)
class Colours:
    """What a video says about its colours, as numbers of ITU-T H.273."""

    transfer: int
    primaries: int

    @property
    def kind(self) -> str | None:
        """``HLG``, ``PQ`` or ``wide gamut``; None for a video that needs no conversion."""
        if self.transfer in _NAMES:
            return _NAMES[self.transfer]
        return "wide gamut" if self.primaries == BT2020 and self.transfer in _BT2020_SDR else None

    @property
    def gamut(self) -> int:
        """The primaries to reckon with: HDR that does not name known ones has those of BT.2020."""
        return self.primaries if self.primaries in _PRIMARIES else BT2020


def pq_to_light(signal: np.ndarray) -> np.ndarray:
    """PQ signal in [0, 1] -> candela per square metre (ITU-R BT.2100, table 4)."""
    root = np.power(signal, 1 / (2523 / 4096 * 128))
    return 10000 * np.power(np.maximum(root - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * root), 1 / (2610 / 16384))


def light_to_pq(light: np.ndarray) -> np.ndarray:
    """Candela per square metre -> PQ signal in [0, 1] (ITU-R BT.2100, table 4)."""
    root = np.power(np.asarray(light) / 10000, 2610 / 16384)
    return np.power((3424 / 4096 + 2413 / 128 * root) / (1 + 2392 / 128 * root), 2523 / 4096 * 128)


def hlg_to_scene(signal: np.ndarray) -> np.ndarray:
    """HLG signal in [0, 1] -> light of the scene in [0, 1] (inverse OETF of ITU-R BT.2100, table 5)."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    return np.where(signal <= 0.5, np.square(signal) / 3, (np.exp((signal - c) / a) + b) / 12)


def compress(light: np.ndarray) -> np.ndarray:
    """Candela per square metre -> share of SDR white: the EETF of ITU-R BT.2390 from 1000 to 203, both black at 0."""
    top = light_to_pq(np.array(PEAK))
    source = np.minimum(light_to_pq(light) / top, 1)
    most = light_to_pq(np.array(REFERENCE_WHITE)) / top
    knee = 1.5 * most - 0.5
    t = np.maximum(source - knee, 0) / (1 - knee)
    bent = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * most
    return pq_to_light(top * np.where(source < knee, source, bent)) / REFERENCE_WHITE


def to_xyz(primaries: int) -> np.ndarray:
    """(3, 3) linear RGB of ``primaries`` -> CIE XYZ, white has Y = 1 (SMPTE RP 177)."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in _PRIMARIES[primaries]]).T
    x, y = _WHITE
    return columns * np.linalg.solve(columns, [x / y, 1, (1 - x - y) / y])


def to_bt709(primaries: int) -> np.ndarray:
    """(3, 3) linear RGB of ``primaries`` -> linear RGB of BT.709."""
    return np.linalg.solve(to_xyz(BT709), to_xyz(primaries))


def tone_map(rgb: np.ndarray, colours: Colours) -> np.ndarray:
    """(H, W, 3) uint16 signal, full range of 16 bits -> (H, W, 3) uint8 SDR signal with BT.709 primaries.

    ``colours.kind`` must not be None. Functions of one number are tables, with 4096 or 65536 entries.
    """
    tables = _tables(colours)
    out = np.empty(rgb.shape, np.uint8)
    bands = np.array_split(np.arange(0, len(rgb), _ROWS), _THREADS)
    with ThreadPoolExecutor(_THREADS) as pool:
        for done in [pool.submit(_map_rows, rgb, out, band.tolist(), tables) for band in bands]:
            done.result()
    return out


def _map_rows(rgb: np.ndarray, out: np.ndarray, tops: list[int], tables: _Tables) -> None:
    """Write the blocks of rows that begin at ``tops``."""
    # Writing into memory that is at hand is what makes a table fast; its indices are all inside it.
    space = np.empty((2, _ROWS, *rgb.shape[1:]), np.float32)
    for top in tops:
        signal = rgb[top : top + _ROWS]
        light: np.ndarray = np.take(tables.light, signal, out=space[0, : len(signal)], mode="clip")
        gain = None
        if tables.system_gain is not None:
            gain = tables.system_gain[_index(cv2.transform(light, tables.luminance), 1.0, _STEPS)]
        light = cv2.transform(light, tables.matrix, dst=space[1, : len(signal)])
        if tables.highlight_gain is not None:
            largest = cv2.max(cv2.max(light[..., 0], light[..., 1]), light[..., 2])
            if gain is not None:
                largest = cv2.multiply(largest, gain)
            compressed = tables.highlight_gain[_index(largest, _MOST / REFERENCE_WHITE, _STEPS)]
            gain = compressed if gain is None else cv2.multiply(gain, compressed)
            light = cv2.multiply(light, cv2.merge([gain, gain, gain]), dst=light)
        np.take(tables.code, _index(light, 1.0, _FINE_STEPS), out=out[top : top + _ROWS], mode="clip")


@dataclass(frozen=True)
class _Tables:
    light: np.ndarray
    """16-bit signal -> light in units of reference white; of the scene, in [0, 1], for HLG."""
    luminance: np.ndarray
    """(1, 3) weights of the channels."""
    system_gain: np.ndarray | None
    """HLG: root of the luminance of the scene -> factor from the scene to the display."""
    matrix: np.ndarray
    """(3, 3) to the primaries of BT.709."""
    highlight_gain: np.ndarray | None
    """HDR: root of the largest channel -> factor of the tone curve."""
    code: np.ndarray
    """Root of the light -> 8-bit signal."""


@lru_cache(maxsize=4)
def _tables(colours: Colours) -> _Tables:
    signal = np.arange(1 << 16) / 65535
    system, highlights = None, None
    if colours.kind == "PQ":
        light = pq_to_light(signal) / REFERENCE_WHITE
    elif colours.kind == "HLG":
        light = hlg_to_scene(signal)
        system = PEAK / REFERENCE_WHITE * np.square(np.linspace(0, 1, _STEPS)) ** (_HLG_GAMMA - 1)
    else:
        light = signal**GAMMA
    if colours.kind != "wide gamut":
        bright = np.maximum(np.square(np.linspace(0, 1, _STEPS)) * _MOST, 1e-6)
        highlights = compress(bright) * REFERENCE_WHITE / bright
    return _Tables(
        light=light.astype(np.float32),
        luminance=to_xyz(colours.gamut)[1:2].astype(np.float32),
        system_gain=None if system is None else system.astype(np.float32),
        matrix=to_bt709(colours.gamut).astype(np.float32),
        highlight_gain=None if highlights is None else highlights.astype(np.float32),
        code=np.rint(255 * np.square(np.linspace(0, 1, _FINE_STEPS)) ** (1 / GAMMA)).astype(np.uint8),
    )


def _index(light: np.ndarray, top: float, steps: int) -> np.ndarray:
    """Nearest entry of a table over the root of light in [0, ``top``]; light outside of it is at its ends."""
    root = np.maximum(light, 0)
    root *= (steps - 1) ** 2 / top
    np.sqrt(root, out=root)
    root += 0.5
    return np.minimum(root, steps - 1, out=root).astype(np.uint16)
