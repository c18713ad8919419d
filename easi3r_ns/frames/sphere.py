"""Frames that show everything around the camera, cut into perspective views that stand fixed to one another.

An equirectangular frame has longitude along its width and latitude along its height; its middle is straight ahead. The
views look along the horizon, one after another to the right, and overlap, so that what leaves one is in the next. None
looks down unless asked: there stand the tripod and the person who carries the camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from ..core.config import FrameConfig
from ..core.errors import InputError
from ..core.geometry import pixel_grid
from ..core.rig import ViewRig
from ..core.runlog import RunLog
from ..core.types import Frames, NearFrames
from ..core.workers import ordered
from ..storage.files import make_folder, read_png, write_png
from . import view_store
from .images import ImageFolder
from .near import NEAR_SIDE
from .panorama import EQUIRECTANGULAR, projection_of
from .preprocess import ImageGeometry, plan_preprocessing, resize_and_crop
from .source import Source, open_source
from .video import Video

WHOLE = 0.02
"""Relative deviation from twice as wide as high up to which a frame counts as a whole sphere."""
SMALLEST = 64
"""Pixels of the side of a view, below which no motion can be followed."""
VIEWS = "views"
"""Folder of the views in that of the frames."""
_LOOKED_AT = 3
"""Images of a folder that are asked what they show: all come from one camera."""
_WRITERS = 2
_PAD = 4
"""Columns of the other end of a frame that are repeated beside each end: the sphere goes on there."""


@dataclass(frozen=True)
class SphereViews:
    """The views of frames of one size."""

    sphere_wh: tuple[int, int]
    """Pixels of the frames."""
    side: int
    """Pixels of the square views."""
    focal: float
    """Of the views, in their pixels."""
    T_rig_view: np.ndarray
    """(V, 4, 4), see :class:`~easi3r_ns.core.rig.ViewRig`."""

    @property
    def scaled_wh(self) -> tuple[int, int]:
        """Pixels of a small copy of the frames whose views have at most NEAR_SIDE pixels a side."""
        scale = min(1.0, NEAR_SIDE / self.side)
        return max(2, round(self.sphere_wh[0] * scale)), max(1, round(self.sphere_wh[1] * scale))

    def of_size(self, sphere_wh: tuple[int, int]) -> SphereViews:
        """The same views of frames of another size."""
        side = max(1, round(self.side * sphere_wh[0] / self.sphere_wh[0]))
        return SphereViews(sphere_wh, side, self.focal * side / self.side, self.T_rig_view)


def shows_sphere(data: Path, source: Source, select: FrameConfig) -> bool:
    """Whether the frames of a source are to be cut into views: by --projection, or else by what its files say.

    Raises InputError where the files say that they show everything in another projection.
    """
    if select.projection != "auto":
        return select.projection == "equirect"
    found = _projection(source)
    if found not in (None, EQUIRECTANGULAR):
        raise InputError(
            f"{data} is 360 degree footage by its metadata ({found}), of which only whole equirectangular frames are "
            "read: convert it, for example with ffmpeg's filter v360, or say --no-equirect if the metadata are wrong"
        )
    return found is not None


def is_sphere(data: Path, select: FrameConfig) -> bool:
    """As :func:`shows_sphere`, for a path. Raises InputError where it cannot be read."""
    return shows_sphere(data, open_source(data), select)


def _projection(source: Source) -> str | None:
    if isinstance(source, Video):
        return projection_of(source.path)
    if not isinstance(source, ImageFolder):
        return None
    for index in range(min(_LOOKED_AT, len(source.files))):
        with source.file(index) as path:
            if (found := projection_of(path)) is not None:
                return found
    return None


def plan_views(sphere_wh: tuple[int, int], select: FrameConfig, data: Path) -> SphereViews:
    """The views of equirectangular frames of ``sphere_wh`` (width, height) pixels.

    In its middle a view has the resolution of the equator, so that nothing of the frame is lost.

    Raises:
        InputError: the frames are not twice as wide as high, or too small.
    """
    width, height = sphere_wh
    if abs(width / height / 2 - 1) > WHOLE:
        both = ", or two eyes in one (ffmpeg -i IN -vf crop=iw:ih/2:0:0 OUT keeps the upper)" if width <= height else ""
        raise InputError(
            f"{data}: frames of {width}x{height} pixels are no whole sphere: equirectangular frames are twice as wide "
            f"as high. They may be stretched (ffmpeg -i IN -vf scale={width // 2 * 2}:{width // 2} OUT){both}; for "
            "perspective footage say --no-equirect"
        )
    half = np.radians(select.equirect_fov) / 2
    side = 2 * round(width / (2 * np.pi) * np.tan(half))
    if side < SMALLEST:
        raise InputError(
            f"{data}: frames of {width}x{height} pixels give views of {side}x{side}, at least {SMALLEST} are needed: "
            "use larger frames, or --equirect-fov"
        )
    return SphereViews(sphere_wh, side, side / 2 / float(np.tan(half)), _directions(select))


def refuse_options(select: FrameConfig) -> None:
    """Raises InputError for options that mean the picture of one lens."""
    if any(select.crop_factor):
        raise InputError("--crop-factor: 360 degree frames are cut into views, not cropped; leave it out")
    if select.pose_all_frames:
        raise InputError("--pose-all-frames: not with 360 degree frames; use more of them (--num-frames-target)")


def cut_into_views(frames: Frames, views: SphereViews, geometry: ImageGeometry, store: Path, log: RunLog) -> Frames:
    """The views of equirectangular ``frames``, written into ``store``: first all of view 1, then all of view 2, ...

    Every view is a source of its own for :attr:`Frames.offsets`, with the small copies of the frames around. Views that
    ``store`` holds of the same frames are used again.
    """
    make_folder(store)
    count, number = len(frames), len(views.T_rig_view)
    near = frames.near or NearFrames(np.empty(0, dtype=np.int64), ())
    paths = [[store / f"frame_{k + 1:05d}_view{v + 1}.png" for k in range(count)] for v in range(number)]
    small = [[store / f"near_{k + 1:05d}_view{v + 1}.png" for k in range(len(near))] for v in range(number)]
    key = view_store.made_of(list(vars(views).values()), (*frames.source_paths, *near.paths))
    if view_store.are_there(store, key):
        log.info(f"views of an earlier run are used again ({store})")
    else:
        view_store.forget(store)
        _cut((*frames.source_paths, *near.paths), [own + more for own, more in zip(paths, small)], views, log)
        view_store.keep(store, key, [path for row in (*paths, *small) for path in row])
    pixel_map = plan_preprocessing((views.side, views.side), replace(geometry, square_ok=True))
    written = [path for row in paths for path in row]
    images = np.stack(list(ordered(lambda path: resize_and_crop(read_png(path), pixel_map), written)))
    shift = np.repeat(np.arange(number) * frames.num_source_frames, count)
    log.info(
        f"360 degree frames are cut into {number} views of {views.side}x{views.side} pixels and "
        f"{2 * np.degrees(np.arctan(views.side / 2 / views.focal)):.0f} degrees each: {number * count} pictures"
    )
    return Frames(
        images=images,
        pixel_map=pixel_map,
        times=np.tile(frames.times, number),
        indices=np.tile(frames.indices, number),
        names=frames.names * number,
        source_paths=tuple(written),
        num_source_frames=number * frames.num_source_frames,
        offsets=shift,
        near=NearFrames(
            np.concatenate([near.places + v * frames.num_source_frames for v in range(number)]),
            tuple(path for row in small for path in row),
        ),
        sharpness=frames.sharpness,
        rig=ViewRig(
            views.T_rig_view, views.focal, np.repeat(np.arange(number), count), np.tile(np.arange(count), number)
        ),
    )


def _cut(sources: Sequence[Path], targets: Sequence[Sequence[Path]], views: SphereViews, log: RunLog) -> None:
    """Write the views of every source; ``targets``: for each view one file per source."""
    sampler = ViewSampler(views)

    def cut(row: int) -> None:
        for image, files in zip(sampler(read_png(sources[row])), targets, strict=True):
            write_png(files[row], image)

    with log.stage("views", len(sources)) as advance, ThreadPoolExecutor(_WRITERS) as pool:
        for _ in pool.map(cut, range(len(sources))):
            advance(1)


class ViewSampler:
    """Cuts equirectangular images into the views; images of several sizes, with one resolution of views each."""

    def __init__(self, views: SphereViews) -> None:
        self._views = views
        self._maps: dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray]]] = {}
        self.maps_for(views.sphere_wh)
        self.maps_for(views.scaled_wh)

    def maps_for(self, sphere_wh: tuple[int, int]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Per view (h, w) float32 columns and rows of images of this size, which have :data:`_PAD` columns more."""
        if sphere_wh not in self._maps:
            views = self._views.of_size(sphere_wh)
            self._maps[sphere_wh] = [seen_at(views, T) for T in views.T_rig_view]
        return self._maps[sphere_wh]

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        """(H, W, 3) uint8 -> the views."""
        maps = self.maps_for((image.shape[1], image.shape[0]))
        wide = cv2.copyMakeBorder(image, 0, 0, _PAD, _PAD, cv2.BORDER_WRAP)
        return [cv2.remap(wide, x + _PAD, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE) for x, y in maps]


def seen_at(views: SphereViews, T_rig_view: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(side, side) float32 column and row in the frame of every pixel of one view; integer pixel centres."""
    grid = (pixel_grid(views.side, views.side) - (views.side - 1) / 2) / views.focal
    rays = np.concatenate([grid, np.ones((*grid.shape[:2], 1))], axis=-1) @ T_rig_view[:3, :3].T
    width, height = views.sphere_wh
    longitude = np.arctan2(rays[..., 0], rays[..., 2])
    latitude = np.arctan2(-rays[..., 1], np.hypot(rays[..., 0], rays[..., 2]))
    x = (longitude / (2 * np.pi) + 0.5) * width - 0.5
    y = (0.5 - latitude / np.pi) * height - 0.5
    return x.astype(np.float32), y.astype(np.float32)


def _directions(select: FrameConfig) -> np.ndarray:
    """(V, 4, 4) camera-to-rig of the views along the horizon, then up, then down."""
    angles = 360 * np.arange(select.equirect_views) / select.equirect_views
    turns = [Rotation.from_euler("y", angle, degrees=True) for angle in angles]
    if select.equirect_poles in ("up", "both"):
        turns.append(Rotation.from_euler("x", 90, degrees=True))
    if select.equirect_poles in ("down", "both"):
        turns.append(Rotation.from_euler("x", -90, degrees=True))
    T = np.tile(np.eye(4), (len(turns), 1, 1))
    T[:, :3, :3] = [turn.as_matrix() for turn in turns]
    return T
