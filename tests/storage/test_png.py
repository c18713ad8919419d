"""PNG files of our own making: every reader gives back what was written."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from easi3r_ns.storage.files import read_png, write_png
from easi3r_ns.storage.png import encode_png


def image(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Smooth with noise, so that every byte of every row matters."""
    rng = np.random.default_rng(0)
    top = 65536 if dtype == "uint16" else 256
    ramp = np.add.outer(np.arange(shape[0]) * 3, np.arange(shape[1]) * 5)
    values = ramp.reshape(*ramp.shape, *(1 for _ in shape[2:])) + rng.integers(0, top // 8, shape)
    return (values % top).astype(dtype)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (37, 53)])
@pytest.mark.parametrize("rest", [(), (3,), (4,)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_readers_give_back_every_value(size: tuple[int, int], rest: tuple[int, ...], dtype: str) -> None:
    wanted = image((*size, *rest), dtype)
    content = encode_png(wanted)
    found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    order = {(): None, (3,): cv2.COLOR_BGR2RGB, (4,): cv2.COLOR_BGRA2RGBA}[rest]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found if order is None else cv2.cvtColor(found, order), wanted)
    with Image.open(io.BytesIO(content)) as picture:
        picture.verify()
    if rest and dtype == "uint16":
        return  # Pillow has no such images
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.mode == {(): "L" if dtype == "uint8" else "I;16", (3,): "RGB", (4,): "RGBA"}[rest]
        np.testing.assert_array_equal(np.asarray(picture).astype(dtype), wanted)


def test_masks_and_views_of_arrays(tmp_path: Path) -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[10:20, 5:50] = 255
    assert len(encode_png(mask)) < 400
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(encode_png(mask), np.uint8), -1), mask)
    strided = image((30, 40, 3), "uint8")[::2, ::-1]
    write_png(tmp_path / "a.png", strided)
    np.testing.assert_array_equal(read_png(tmp_path / "a.png"), strided)
    assert encode_png(strided) == encode_png(strided.copy()), "equal images give equal bytes"


@pytest.mark.parametrize("wrong", [np.zeros((2, 2)), np.zeros((2, 2, 2), np.uint8), np.zeros((0, 4), np.uint8)])
def test_what_is_no_image_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="no PNG"):
        encode_png(wrong)


def test_files_are_not_larger_than_those_of_opencv() -> None:
    """On a smooth picture with a little noise, as frames and depth maps are."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:270, :480]
    smooth = 120 + 60 * np.sin(x / 40) * np.cos(y / 30)
    frame = np.clip(smooth[..., None] + rng.normal(0, 1.5, (270, 480, 3)), 0, 255).astype(np.uint8)
    depth = (3000 + 20 * smooth).astype(np.uint16)
    for values in (frame, depth):
        other = cv2.imencode(".png", values, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
        assert len(encode_png(values)) < 1.1 * len(other)
