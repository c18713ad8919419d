"""HDR to SDR: against the formulas written out, known values of the standards, and on videos."""

from __future__ import annotations

import math

import numpy as np
import pytest

from easi3r_ns.core.runlog import RunLog
from easi3r_ns.frames.tonemap import (
    BT709,
    BT2020,
    HLG,
    P3,
    PQ,
    Colours,
    compress,
    light_to_pq,
    pq_to_light,
    to_bt709,
    tone_map,
)
from tests.support.video_clips import Tags, centres, patches, read_all, to_yuv, write_planes

# ITU-R BT.2087, table 1 of annex 2: linear BT.2020 to linear BT.709.
BT2020_TO_BT709 = [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]


def _sixteen(signal: np.ndarray) -> np.ndarray:
    return np.rint(np.asarray(signal, dtype=np.float64) * 65535).astype(np.uint16)


def _twin(rgb: list[float], transfer: int) -> list[float]:
    """One pixel of HLG or PQ with BT.2020 primaries, step by step, to an SDR signal in [0, 1]."""
    if transfer == HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = [v * v / 3 if v <= 0.5 else (math.exp((v - c) / a) + b) / 12 for v in rgb]
        luminance = 0.2627 * scene[0] + 0.6780 * scene[1] + 0.0593 * scene[2]
        nits = [1000 * luminance**0.2 * v for v in scene] if luminance > 0 else [0.0] * 3
    else:
        nits = [_pq_eotf(v) for v in rgb]
    nits = [sum(m * v for m, v in zip(row, nits)) for row in to_bt709(BT2020).tolist()]
    largest = max(nits)
    if largest <= 0:
        return [0.0] * 3
    gain = _eetf(largest) / largest
    return [min(max(v * gain / 203, 0), 1) ** (1 / 2.4) for v in nits]


def _pq_eotf(v: float) -> float:
    p = v ** (1 / 78.84375)
    return 10000 * (max(p - 0.8359375, 0) / (18.8515625 - 18.6875 * p)) ** (1 / 0.1593017578125)


def _pq_inverse(nits: float) -> float:
    p = (nits / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * p) / (1 + 18.6875 * p)) ** 78.84375


def _eetf(nits: float) -> float:
    e1 = min(_pq_inverse(nits) / _pq_inverse(1000), 1)
    most = _pq_inverse(203) / _pq_inverse(1000)
    knee = 1.5 * most - 0.5
    if e1 > knee:
        t = (e1 - knee) / (1 - knee)
        e1 = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * most
    return _pq_eotf(e1 * _pq_inverse(1000))


@pytest.mark.parametrize("transfer", [HLG, PQ])
def test_tables_equal_the_formulas_step_by_step(transfer):
    rng = np.random.default_rng(0)
    signal = rng.random((50, 40, 3))
    signal[:10] = signal[:10, :, :1]
    signal[10:20] *= 0.2
    fast = tone_map(_sixteen(signal), Colours(transfer, BT2020))
    slow = np.array([[255 * np.array(_twin(pixel.tolist(), transfer)) for pixel in row] for row in signal])
    assert np.abs(fast - slow).max() < 1.5 and np.abs(fast - slow).mean() < 0.3


def test_known_values_of_the_standards():
    np.testing.assert_allclose(to_bt709(BT2020), BT2020_TO_BT709, atol=1e-4)
    assert float(pq_to_light(np.array(0.58))) == pytest.approx(203, abs=2)  # ITU-R BT.2408, table 1
    assert float(light_to_pq(np.array(1000.0))) == pytest.approx(0.7518, abs=1e-4)
    white = {HLG: 0.75, PQ: float(light_to_pq(np.array(203.0)))}
    card = {HLG: 0.38, PQ: 0.38}  # 18 % grey, 26 cd/m2
    for transfer in (HLG, PQ):
        grey = tone_map(_sixteen([[[v] * 3 for v in (0, card[transfer], white[transfer], 1)]]), Colours(transfer, 9))[0]
        assert (np.ptp(grey, axis=1) == 0).all()
        assert grey[0, 0] == 0 and grey[3, 0] == 255
        assert 228 <= grey[2, 0] <= 232, "reference white is white with room for highlights"
        assert 104 <= grey[1, 0] <= 112, "a grey card is where BT.709 puts it, at 41 to 43 %"


def test_brighter_light_is_never_darker_and_only_the_peak_is_white():
    light = compress(np.linspace(0, 1000, 5000))
    assert (np.diff(light) > 0).all() and light[-1] == pytest.approx(1) and light[-2] < 1
    np.testing.assert_allclose(compress(np.array([1.0, 20, 87])), np.array([1.0, 20, 87]) / 203, rtol=1e-9)


@pytest.mark.parametrize("transfer", [HLG, PQ])
def test_sdr_colours_inside_hdr_come_back(transfer):
    """SDR put into HDR by display light (ITU-R BT.2408, 5.1): white at 203, below the curve's knee nothing is lost."""
    rng = np.random.default_rng(1)
    sdr = 0.7 * rng.random((1, 300, 3))
    nits = 203 * sdr**2.4 @ np.linalg.inv(to_bt709(BT2020)).T
    if transfer == PQ:
        signal = light_to_pq(nits)
    else:
        display = nits / 1000
        luminance = display @ np.array([0.2627, 0.6780, 0.0593])
        scene = display * luminance[..., None] ** (1 / 1.2 - 1)
        signal = np.where(
            scene <= 1 / 12,
            np.sqrt(3 * scene),
            0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073,
        )
    back = tone_map(_sixteen(signal), Colours(transfer, BT2020))
    assert np.abs(back - 255 * sdr).max() <= 2


def test_colours_of_other_primaries():
    red = _sixteen([[[0.5, 0.1, 0.1]]])
    same, wide, p3 = (tone_map(red, Colours(PQ, primaries))[0, 0].astype(int) for primaries in (BT709, BT2020, P3))
    assert same[0] < p3[0] < wide[0] and wide[1] == wide[2] == 0
    unnamed = tone_map(red, Colours(PQ, 2))[0, 0]
    np.testing.assert_array_equal(unnamed, wide)
    grey = np.repeat(np.linspace(0, 1, 64)[None, :, None], 3, axis=-1)
    kept = tone_map(_sixteen(grey), Colours(14, BT2020))
    assert np.abs(kept - 255 * grey).max() <= 0.6, "grey of a wide gamut keeps its values"
    assert Colours(1, 1).kind is Colours(2, 2).kind is Colours(13, 12).kind is None


@pytest.mark.parametrize("transfer, word", [(HLG, "HLG"), (PQ, "PQ")])
def test_hdr_video_is_tone_mapped_and_said_so(tmp_path, caplog, transfer, word):
    signal = np.array([[0.75] * 3, [0.3] * 3, [0.6, 0.3, 0.2], [0.2, 0.3, 0.6]])
    picture = to_yuv(patches(signal), "bt2020", 10, False)
    clip = write_planes(tmp_path / "hdr.mkv", [picture] * 3, Tags(9, 1, transfer, 9), ten_bits=True)
    log = RunLog()
    with caplog.at_level("INFO"):
        _, images = read_all(clip, log)
        read_all(clip, log)
    expected = 255 * np.array([_twin(pixel.tolist(), transfer) for pixel in signal])
    assert np.abs(centres(images[0]) - expected).max() <= 3
    assert caplog.text.count(f"HDR ({word})") == 1 and "--no-tonemap" in caplog.text and not log.warnings
    _, kept = read_all(clip, log, tonemap=False)
    assert np.abs(centres(kept[0]) - 255 * signal).max() <= 3
    assert any("used as they are" in warning for warning in log.warnings)


def test_sdr_video_is_left_alone(tmp_path, caplog):
    signal = np.array([[0.75] * 3, [0.3] * 3])
    clip = write_planes(tmp_path / "sdr.mkv", [to_yuv(patches(signal), "bt709", 8, False)] * 2, Tags(1, 1, 1, 1))
    with caplog.at_level("INFO"):
        _, images = read_all(clip)
    assert np.abs(centres(images[0]) - 255 * signal).max() <= 2 and "tonemap" not in caplog.text
