"""Archives of Depth Anything 3 (arXiv:2511.10647).

::

    exports/npz/results.npz         image (F, H, W, 3), depth (F, H, W), conf (F, H, W), extrinsics (F, 3 or 4, 4),
                                    intrinsics (F, 3, 3) in pixels of the depth maps
    exports/mini_npz/results.npz    the same without image: give the pictures with --images

The archive may be given itself, or a folder with one of them. Whether the extrinsics lead from the world to the cameras
or back is decided by which of the two makes the depth maps agree. Pixels have integer centres.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..core.errors import InputError
from ..core.geometry import is_rigid, pixel_grid, transform
from ..storage.foreign import open_npz
from .archives import archives_with, homogeneous, numbers, rgb, the_only
from .recording import Importer, ImportOptions, Recording, files_of

_NAMES = ("depth", "extrinsics", "intrinsics")
_PICTURES = r"(?i)[^.].*\.(png|jpe?g|webp|bmp|tiff?)"
_STEPS = (1, 2, 4)
"""Frames between those whose depth maps are compared."""
_MOST_PAIRS = 24
_SAMPLES = 24
"""Pixels along each side of a depth map that are compared."""
_AGREE = 0.05
"""Relative difference of two depths of one point up to which they agree."""
_CLEAR = 0.02
"""Difference of the shares of agreeing pixels from which on the better direction is believed."""


def is_depth_anything(place: Path) -> bool:
    """Whether this is one of these archives, or a folder with one."""
    return bool(archives_with(place, _NAMES))


def read_depth_anything(place: Path, options: ImportOptions) -> Recording:
    """Read such an archive. Raises InputError, with the file, when something is missing or damaged."""
    file = the_only(archives_with(place, _NAMES), place)
    try:
        with open_npz(file) as archive:
            depth = numbers(archive, "depth", 3).astype(np.float32)
            extrinsics = homogeneous(numbers(archive, "extrinsics", 3))
            K = archive["intrinsics"].astype(float)
            K = np.tile(K, (len(depth), 1, 1)) if K.ndim == 2 else numbers(archive, "intrinsics", 3).astype(float)
            confidence = next((numbers(archive, n, 3) for n in ("conf", "confidence") if n in archive), None)
            held = next((rgb(archive[name]) for name in ("image", "images") if name in archive), None)
        if K.shape != (len(depth), 3, 3) or len(extrinsics) != len(depth):
            raise ValueError(f"{len(extrinsics)} cameras and intrinsics {K.shape} for {len(depth)} depth maps")
        if not is_rigid(extrinsics, 1e-3):
            raise ValueError("extrinsics: one is not a rotation and a translation")
        if not (np.isfinite(K).all() and (K[:, [0, 1], [0, 1]] > 0).all()):
            raise ValueError("intrinsics: a focal length is not positive")
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    T_world_cam, words = _direction(extrinsics, depth, K)
    images: tuple[Path, ...] | np.ndarray | None = _pictures(file, len(depth), options) if held is None else held
    assert images is not None
    return Recording(
        layout="Depth Anything 3",
        why=f"{file.name} with {', '.join(_NAMES)}; {words}",
        images=images,
        T_world_cam=T_world_cam,
        K=K,
        depth=depth,
        confidence=None if confidence is None else confidence.astype(np.float32),
        masks=None,
        names=(file.stem,) * len(depth) if held is not None else None,
    )


def _pictures(file: Path, count: int, options: ImportOptions) -> tuple[Path, ...]:
    if options.images is None:
        raise InputError(f"{file} holds no pictures: say with --images in which folder they lie")
    found = tuple(files_of(options.images, _PICTURES))
    if len(found) != count:
        raise InputError(f"--images {options.images}: {len(found)} pictures for {count} depth maps of {file.name}")
    return found


def _direction(extrinsics: np.ndarray, depth: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, str]:
    """(F, 4, 4) camera-to-world, and how that was found, in words."""
    inverse = np.linalg.inv(extrinsics)
    agree = [agreement(T, depth, K) for T in (inverse, extrinsics)]
    shares = f"{100 * agree[0]:.0f} % of the depths agree as world-to-camera, {100 * agree[1]:.0f} % as camera-to-world"
    if agree[1] > agree[0] + _CLEAR:
        return extrinsics, f"the extrinsics are camera-to-world ({shares})"
    if agree[0] > agree[1] + _CLEAR:
        return inverse, f"the extrinsics are world-to-camera ({shares})"
    return inverse, f"the extrinsics are taken as world-to-camera, as this program writes them ({shares}: no decision)"


def agreement(T_world_cam: np.ndarray, depth: np.ndarray, K: np.ndarray) -> float:
    """Share of sampled pixels whose point has the depth in other frames that their maps hold; 0 where none is seen."""
    count, height, width = depth.shape
    pairs = [(i, i + step) for step in _STEPS for i in range(count - step)]
    pairs = [pairs[k] for k in np.unique(np.linspace(0, len(pairs) - 1, _MOST_PAIRS).astype(int))] if pairs else []
    rows, columns = (np.unique(np.linspace(0, side - 1, _SAMPLES).astype(int)) for side in (height, width))
    xy = pixel_grid(height, width)[np.ix_(rows, columns)].reshape(-1, 2)
    good = seen = 0
    for i, j in pairs:
        d = depth[i][np.ix_(rows, columns)].ravel()
        known = np.isfinite(d) & (d > 0)
        rays = np.concatenate([xy, np.ones((len(xy), 1))], axis=1)[known] @ np.linalg.inv(K[i]).T
        local = transform(np.linalg.inv(T_world_cam[j]) @ T_world_cam[i], rays * d[known][:, None])
        front = local[:, 2] > 0
        at = local[front] @ K[j].T
        x, y = np.rint(at[:, :2] / at[:, 2:]).T
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        there = depth[j][y[inside].astype(int), x[inside].astype(int)]
        z = local[front][inside, 2]
        compared = np.isfinite(there) & (there > 0)
        good += int((np.abs(z[compared] / there[compared] - 1) < _AGREE).sum())
        # What leaves the picture is no proof against a direction, but more of it leaves with the wrong one.
        seen += int(known.sum())
    return good / seen if seen else 0.0


IMPORTER = Importer("results.npz", is_depth_anything, read_depth_anything)
