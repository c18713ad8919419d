"""SIFT of image files by COLMAP, several at once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..core.workers import default_workers
from ..storage.files import read_png
from .library import load_pycolmap

THREAD_BYTES = 300.0
"""Of a thread per pixel: 280 were measured (examples/results/speed.md)."""
MOST_BYTES = 400e6
"""Of all threads: no more than the dataset takes later, so that they break no limit on memory."""
_BATCH = 4
"""Images that lie on the disk at once, for each thread."""


def extract_sift(paths: Sequence[Path], most: int, largest_side: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Per image (K, 6) float32 keypoints in its own pixels, as COLMAP keeps them, and (K, 128) uint8 descriptors.

    One by one they would hold Python's lock, so COLMAP reads files in threads of its own; what it finds is the same.

    Args:
        most: keypoints of an image.
        largest_side: pixels of the longer side above which an image is shrunk first.

    Raises:
        MissingExtraError: pycolmap is not there.
    """
    pycolmap, threads = load_pycolmap(), 0
    images = (_shrunk(read_png(path), largest_side) for path in paths)
    for first in images:
        threads = threads or threads_for(first[0].shape[0] * first[0].shape[1])
        batch = [first, *islice(images, _BATCH * threads - 1)]
        yield from _of_batch(batch, most, threads, pycolmap)


def threads_for(pixels: int) -> int:
    """Threads for images of so many pixels; at least one."""
    return max(1, min(default_workers(), int(MOST_BYTES / (THREAD_BYTES * pixels))))


def _of_batch(
    shrunk: Sequence[tuple[np.ndarray, tuple[float, float]]], most: int, threads: int, pycolmap: Any
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    options = pycolmap.FeatureExtractionOptions(num_threads=threads, use_gpu=False)
    options.sift.max_num_features = most
    with tempfile.TemporaryDirectory(prefix="easi3r-") as folder:
        images, file = Path(folder) / "images", Path(folder) / "database.db"
        images.mkdir()
        names = [f"{number:06d}.bmp" for number in range(len(shrunk))]  # without compression
        for name, (image, _) in zip(names, shrunk, strict=True):
            encoded = cv2.imencode(".bmp", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
            (images / name).write_bytes(encoded.data)
        pycolmap.extract_features(file, images, extraction_options=options, device=pycolmap.Device.cpu)
        database = pycolmap.Database.open(file)
        ids = {image.name: image.image_id for image in database.read_all_images()}
        for name, (_, factor) in zip(names, shrunk, strict=True):
            found = database.read_keypoints(ids[name])
            rows = np.array(found, dtype=np.float32) if isinstance(found, np.ndarray) else _rows(found)
            # The centre of the first pixel is (0.5, 0.5): coordinates and shapes scale alike.
            rows *= np.array(factor, dtype=np.float32)[[0, 1, 0, 0, 1, 1]]
            yield rows, np.asarray(database.read_descriptors(ids[name]).data)
        database.close()


def _rows(keypoints: Sequence[Any]) -> np.ndarray:
    rows = [[k.x, k.y, k.a11, k.a12, k.a21, k.a22] for k in keypoints]
    return np.array(rows, dtype=np.float32).reshape(-1, 6)


def _shrunk(image: np.ndarray, largest_side: int) -> tuple[np.ndarray, tuple[float, float]]:
    """The image with a longer side of at most ``largest_side``, and the factors in x and y that lead back."""
    height, width = image.shape[:2]
    share = largest_side / max(height, width)
    if share >= 1:
        return image, (1.0, 1.0)
    size = round(width * share), round(height * share)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), (width / size[0], height / size[1])
