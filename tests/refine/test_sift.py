"""SIFT of several images at once is that of one after the other."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from easi3r_ns.refine import sift
from easi3r_ns.refine.library import load_pycolmap
from easi3r_ns.refine.sift import extract_sift, threads_for
from easi3r_ns.storage.files import write_image, write_png

SIZES = [(160, 120), (120, 160), (320, 240), (160, 120), (160, 120), (160, 120)]
MOST, SIDE = 200, 200


def picture(number: int, size: tuple[int, int]) -> np.ndarray:
    noise = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.5), None, 0, 255, cv2.NORM_MINMAX)


def one_by_one(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The twin: COLMAP's extractor on an array."""
    pycolmap = load_pycolmap()
    options = pycolmap.FeatureExtractionOptions(num_threads=1, use_gpu=False)
    options.sift.max_num_features = MOST
    extractor = pycolmap.FeatureExtractor.create(options, pycolmap.Device.cpu)
    found, described = extractor.extract(pycolmap.Bitmap.from_array(image).clone_as_grey())
    rows = np.array([[k.x, k.y, k.a11, k.a12, k.a21, k.a22] for k in found], dtype=np.float32).reshape(-1, 6)
    return rows, np.asarray(described.data)


def test_features_are_those_of_one_image_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sift, "default_workers", lambda: 2)
    monkeypatch.setattr(sift, "_BATCH", 2)
    images = [picture(number, size) for number, size in enumerate(SIZES)]
    images[4][:] = 128  # without any feature
    paths = [tmp_path / f"{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        write_png(path, image)
    found = list(extract_sift(paths, MOST, SIDE))
    assert len(found) == len(images)
    for image, (rows, described) in zip(images, found, strict=True):
        shrunk, factor = sift._shrunk(image, SIDE)
        expected, wanted = one_by_one(shrunk)
        np.testing.assert_array_equal(rows, expected * np.float32(factor[0]))
        np.testing.assert_array_equal(described, wanted)
    assert len(found[0][0]) > 20 and len(found[4][0]) == 0 and found[4][1].shape == (0, 128)


def test_jpeg_is_read_as_everywhere(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", picture(1, (160, 120)))
    rows, _ = next(extract_sift([tmp_path / "a.jpg"], MOST, SIDE))
    np.testing.assert_array_equal(rows, one_by_one(sift.read_png(tmp_path / "a.jpg"))[0])


def test_threads_fit_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sift, "default_workers", lambda: 8)
    assert [threads_for(width * height) for width, height in ((640, 480), (1280, 720), (1600, 900))] == [4, 1, 1]
