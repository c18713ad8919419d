"""The images of a recording as upright PNG files of one lens, and on the grid of its Scene."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from ..core.config import FrameConfig
from ..core.errors import InputError
from ..core.geometry import distort, pixel_grid, undistort
from ..core.runlog import RunLog
from ..core.scene import SparsePoints
from ..core.types import PixelMap
from ..frames import ImageGeometry, plan_preprocessing, resize_and_crop
from ..frames.store import frame_file
from ..frames.video import Video
from ..importers.recording import Film, ImagesOnGrid, Recording, different_lenses, picture_size, read_picture
from ..storage.files import make_folder, write_png

GEOMETRY = ImageGeometry(square_ok=True)
"""Grid of recordings without depth maps, which have no grid of their own."""
_SAME_SHAPE = 0.02
"""Relative difference of the shapes of images and depth maps up to which they show the same."""
_BORDER_STEPS = 33
"""Places along each side of a picture where its lens is compared with the common one."""


def prepare(recording: Recording, folder: Path, store: Path, log: RunLog) -> tuple[Recording, ImagesOnGrid]:
    """The recording with one lens, and its pictures; source images are written into ``store``.

    Pictures whose lenses differ (a camera each, pixels that are not square, several sizes) are resampled to the one
    lens without distortion that they have in common; each keeps its focal length, up to the crop.

    Raises InputError when an image cannot be read, or shows something else than its depth map.
    """
    sizes = _sizes(recording)
    lenses = None
    if recording.depth is None and (len(set(sizes)) > 1 or different_lenses(recording)):
        lenses = _Common(recording, sizes)
        log.info(
            f"the pictures have several lenses: they are resampled to one of {lenses.wh[0]}x{lenses.wh[1]} pixels "
            "without distortion"
        )
        recording = lenses.recording
        sizes = [lenses.wh] * len(recording)
    elif len(set(sizes)) > 1:
        raise InputError(f"{folder}: the images differ in size: {', '.join(f'{w}x{h}' for w, h in sorted(set(sizes)))}")
    pixel_map = _grid(recording, sizes[0], folder)
    make_folder(store)
    images, paths = [], []
    with log.stage("images", len(recording)) as advance:
        for number, image in enumerate(_images(recording, log)):
            image = image if lenses is None else lenses.resampled(image, number)
            if (image.shape[1], image.shape[0]) != sizes[0]:
                raise InputError(f"{folder}: image {number} is {image.shape[1]}x{image.shape[0]}, not {sizes[0]}")
            paths.append(store / frame_file(number))
            write_png(paths[-1], image)
            images.append(image if pixel_map.network_wh == sizes[0] else resize_and_crop(image, pixel_map))
            advance(1)
    return recording, ImagesOnGrid(np.stack(images), tuple(paths), pixel_map)


def _sizes(recording: Recording) -> list[tuple[int, int]]:
    """(width, height) of the images."""
    if isinstance(recording.images, Film):
        first = next(
            iter(_images(replace(recording, images=replace(recording.images, frames=np.array([0]))), RunLog()))
        )
        return [(first.shape[1], first.shape[0])] * len(recording)
    if isinstance(recording.images, np.ndarray):
        return [(recording.images.shape[2], recording.images.shape[1])] * len(recording.images)
    return [picture_size(path) for path in recording.images]


def _images(recording: Recording, log: RunLog) -> Iterator[np.ndarray]:
    if isinstance(recording.images, np.ndarray):
        yield from recording.images
    elif isinstance(recording.images, Film):
        film = recording.images
        video, wanted = Video(film.path), film.frames.tolist()
        held = len(video.times(FrameConfig(num_frames_target=0), log))
        if wanted[-1] >= held:
            raise InputError(f"{film.path} has {held} frames, a camera belongs to frame {wanted[-1]} (from 0)")
        count = 0
        for _, image in video.read(wanted, log):
            count += 1
            yield image
        if count < len(wanted):
            raise InputError(f"{film.path}: only {count} of {len(wanted)} frames can be decoded")
    else:
        for path in recording.images:
            try:
                image = read_picture(path)
            except (OSError, ValueError) as error:
                raise InputError(f"{path} cannot be read: {error}") from error
            yield image


def _grid(recording: Recording, wh: tuple[int, int], folder: Path) -> PixelMap:
    """Where the pixels of the Scene lie in images of ``wh``: those of the depth maps, else of :data:`GEOMETRY`."""
    if recording.depth is None:
        return plan_preprocessing(wh, GEOMETRY)
    height, width = recording.depth.shape[1:]
    if abs(wh[0] / wh[1] / (width / height) - 1) > max(_SAME_SHAPE, 2 / min(width, height)):
        raise InputError(f"{folder}: the images are {wh[0]}x{wh[1]}, the depth {width}x{height} pixels")
    return PixelMap(wh, (width, height), (0, 0, width, height))


class _Common:
    """One lens without distortion for pictures that were taken through several."""

    def __init__(self, recording: Recording, sizes: list[tuple[int, int]]) -> None:
        self._before, self._sizes = recording, sizes
        count = len(recording)
        lens = recording.distortion
        self._distortion = np.zeros((count, 4)) if lens is None else lens
        widths, heights = np.array(sizes).T
        turned = (widths > heights).mean()
        if 0 < turned < 1 and not (widths == heights).any():
            upright = int((heights > widths).sum())
            raise InputError(
                f"{count - upright} pictures are landscape, {upright} portrait: a dataset has pictures of one shape; "
                "remove the others from the model"
            )
        self.wh = int(np.median(widths)), int(np.median(heights))
        self._centre = (np.array(self.wh) - 1) / 2
        focals = recording.K[:, [0, 1], [0, 1]] * (np.array(self.wh) / np.array(sizes))
        self._focals = np.array([self._filling(frame, float(focals[frame].max())) for frame in range(count)])
        K = np.tile(np.eye(3), (count, 1, 1))
        K[:, 0, 0] = K[:, 1, 1] = self._focals
        K[:, :2, 2] = self._centre
        self.recording = replace(recording, K=K, distortion=None, sparse=self._moved(recording.sparse))

    def resampled(self, image: np.ndarray, frame: int) -> np.ndarray:
        """(H, W, 3) picture ``frame`` as the common lens shows it."""
        at = self._seen(frame, pixel_grid(self.wh[1], self.wh[0]), self._focals[frame]).astype(np.float32)
        x, y = np.ascontiguousarray(at[..., 0]), np.ascontiguousarray(at[..., 1])
        return cv2.remap(image, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)

    def _seen(self, frame: int, xy: np.ndarray, focal: float) -> np.ndarray:
        """Where the picture shows what the common lens with ``focal`` shows at (..., 2) pixels; integer centres."""
        K = self._before.K[frame]
        ideal = distort((xy - self._centre) / focal, tuple(self._distortion[frame]))
        return ideal * K[[0, 1], [0, 1]] + K[:2, 2]

    def _filling(self, frame: int, focal: float) -> float:
        """The shortest focal length, from ``focal`` on, with which the picture covers all of the common one."""
        w, h = self.wh
        along = np.linspace(0, 1, _BORDER_STEPS)
        sides = [np.column_stack([along * (w - 1), np.full(_BORDER_STEPS, y)]) for y in (0, h - 1)]
        sides += [np.column_stack([np.full(_BORDER_STEPS, x), along * (h - 1)]) for x in (0, w - 1)]
        border, most = np.concatenate(sides), np.array(self._sizes[frame]) - 0.5

        def covers(factor: float) -> bool:
            at = self._seen(frame, border, factor * focal)
            return bool(((at >= -0.5) & (at <= most)).all())

        low, high = 1.0, 4.0
        if covers(low):
            return focal
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (low, middle) if covers(middle) else (middle, high)
        return high * focal

    def _moved(self, sparse: SparsePoints | None) -> SparsePoints | None:
        """The observations in pixels of the common lens, without those that it does not show."""
        if sparse is None:
            return None
        pixels = np.empty_like(sparse.pixels)
        for frame in np.unique(sparse.frame_index).tolist():
            own, K = sparse.frame_index == frame, self._before.K[frame]
            ideal = (sparse.pixels[own] - 0.5 - K[:2, 2]) / K[[0, 1], [0, 1]]
            ideal = undistort(ideal, tuple(self._distortion[frame]))
            pixels[own] = ideal * self._focals[frame] + self._centre + 0.5
        inside = ((pixels >= 0) & (pixels <= self.wh)).all(axis=1)
        return replace(sparse, pixels=pixels).observed(inside)
