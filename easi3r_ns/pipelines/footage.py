"""The images of a recording as upright PNG files of one lens, and on the grid of its Scene."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..core.config import FrameConfig
from ..core.errors import InputError
from ..core.runlog import RunLog
from ..core.types import PixelMap
from ..frames import ImageGeometry, plan_preprocessing, resize_and_crop
from ..frames.store import frame_file
from ..frames.video import Video
from ..importers.recording import Film, ImagesOnGrid, Recording, different_lenses, picture_size, read_picture
from ..storage.files import make_folder, write_png
from .common_lens import CommonLens

GEOMETRY = ImageGeometry(square_ok=True)
"""Grid of recordings without depth maps, which have no grid of their own."""
_SAME_SHAPE = 0.02
"""Relative difference of the shapes of images and depth maps up to which they show the same."""


def prepare(recording: Recording, folder: Path, store: Path, log: RunLog) -> tuple[Recording, ImagesOnGrid]:
    """The recording with one lens, and its pictures; source images are written into ``store``.

    Pictures whose lenses differ (a camera each, pixels that are not square, several sizes) are resampled to the one
    lens without distortion that they have in common; each keeps its focal length, up to the crop.

    Raises InputError when an image cannot be read, or shows something else than its depth map.
    """
    sizes = _sizes(recording)
    lenses = None
    if recording.depth is None and (len(set(sizes)) > 1 or different_lenses(recording)):
        common = _common_size(sizes)
        lenses = CommonLens(recording.K, recording.distortion, sizes, common, fisheye=recording.fisheye)
        log.info(
            f"the pictures have several lenses: they are resampled to one of {lenses.wh[0]}x{lenses.wh[1]} pixels "
            "without distortion"
        )
        moved = lenses.moved(recording.sparse)
        recording = replace(recording, K=lenses.K, distortion=None, fisheye=False, sparse=moved)
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


def _common_size(sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """The median size; raises InputError where some pictures lie and others stand."""
    widths, heights = np.array(sizes).T
    upright = int((heights > widths).sum())
    if 0 < int((widths > heights).sum()) < len(sizes) and not (widths == heights).any():
        raise InputError(
            f"{len(sizes) - upright} pictures are landscape, {upright} portrait: a dataset has pictures of one shape; "
            "remove the others from the model"
        )
    return int(np.median(widths)), int(np.median(heights))


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
