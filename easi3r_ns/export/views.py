"""The frames of a scene at source resolution as a file format shows them: as they are, or without lens distortion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..core.downscale import shrink_image
from ..core.geometry import distort, intrinsics_to_source, is_distorted, pixel_grid
from ..core.geometry import undistort as undistort_xy
from ..core.scene import Scene
from ..core.surface import trusted_depth
from ..core.types import on_side
from ..core.workers import ordered
from ..dataset.listing import Listed
from ..dataset.resample import depth_at_source, static_at_source
from ..storage.files import link_or_copy, read_png, write_image

_KNOWN = 1 - 1e-4
"""Share of a resampled pixel that has to lie on known or static pixels."""


@dataclass(frozen=True)
class SourceViews:
    """What the frames show. The undistorted lens keeps focal length, principal point and size of the image."""

    scene: Scene
    undistort: bool
    """Whether lens distortion is taken out; nothing changes for a lens without any."""
    _grids: dict[float, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False)

    @property
    def resampled(self) -> bool:
        """Whether images differ from their sources."""
        return self.undistort and is_distorted(self.scene.distortion)

    def lens(self, focal: float) -> tuple[float, np.ndarray]:
        """Network focal length -> focal length and (2,) principal point in source pixels, the first centre at 0.5."""
        found, _, cx, cy = intrinsics_to_source(focal, self.scene.principal_point, self.scene.pixel_map)
        return found, np.array([cx, cy])

    def image(self, source: Path, focal: float) -> np.ndarray:
        """(H, W, 3) uint8 RGB of a source image; black where the source does not show what the new lens sees.

        One that stands in the dataset and lies on its side in the scene lies on its side.
        """
        image = read_png(source)
        if image.shape[1::-1] == self.scene.pixel_map.source_wh[::-1] != self.scene.pixel_map.source_wh:
            image = on_side(image)
        return self._remapped(image, focal)

    def static(self, moving: np.ndarray, focal: float, growth: float) -> np.ndarray:
        """(H, W) bool at source size of a mask on the network grid: True where what is seen is known and static."""
        static = static_at_source(moving, self.scene.pixel_map, growth)
        # A pixel is static when everything that it mixes is; outside the source nothing is known.
        return self._remapped(static.astype(np.float32), focal) > _KNOWN

    def seen(self, focal: float) -> np.ndarray:
        """(H, W) bool: what the source shows at all."""
        width, height = self.scene.pixel_map.source_wh
        return self._remapped(np.ones((height, width), dtype=np.float32), focal) > _KNOWN

    def depth(self, position: int) -> np.ndarray:
        """(H, W) float32 trusted z-depth at source size, 0 where it is unknown."""
        import cv2

        depth = depth_at_source(trusted_depth(self.scene, position), self.scene.pixel_map)
        return self._remapped(depth, float(self.scene.focals[position]), cv2.INTER_NEAREST)

    def pixels(self, xy: np.ndarray, focal: float) -> np.ndarray:
        """(..., 2) source pixels -> where this view shows them."""
        if not self.resampled:
            return xy
        found, centre = self.lens(focal)
        return undistort_xy((xy - centre) / found, self.scene.distortion) * found + centre

    def _remapped(self, values: np.ndarray, focal: float, interpolation: int = 1) -> np.ndarray:
        if not self.resampled:
            return values
        import cv2

        return cv2.remap(values, *self._grid(focal), interpolation)

    def _grid(self, focal: float) -> tuple[np.ndarray, np.ndarray]:
        grid = self._grids.get(focal)
        if grid is None:
            found, centre = self.lens(focal)
            width, height = self.scene.pixel_map.source_wh
            # OpenCV counts pixel centres from 0.
            ideal = (pixel_grid(height, width) + 0.5 - centre) / found
            at = (distort(ideal, self.scene.distortion) * found + centre - 0.5).astype(np.float32)
            grid = (np.ascontiguousarray(at[..., 0]), np.ascontiguousarray(at[..., 1]))
            self._grids.clear()  # one lens at a time: a grid is as large as an image
            self._grids[focal] = grid
        return grid


@dataclass(frozen=True)
class ImageWriter:
    """How images and masks are written."""

    views: SourceViews
    growth: float
    """Network pixels by which moving regions are grown."""
    alpha: str = "none"
    """'none', 'static' or 'moving': what alone is opaque."""
    factors: tuple[int, ...] = ()
    """Downscaled copies, in ``images_2`` for 2."""

    def write(self, frame: Listed, folder: Path, name: str) -> np.ndarray:
        """Write ``images/NAME`` and its copies into folders that exist, and return the (H, W) bool static pixels.

        Raises OutputError.
        """
        views, focal = self.views, frame.focal
        static = views.static(frame.moving(views.scene), focal, self.growth)
        if self.alpha == "none" and not views.resampled and not frame.turned:
            same = frame.source_path.suffix == Path(name).suffix
            image = read_png(frame.source_path) if self.factors or not same else np.empty(0)
            if same:
                link_or_copy(frame.source_path, folder / "images" / name)
            else:
                write_image(folder / "images" / name, image)
        else:
            image = views.image(frame.source_path, focal)
            if self.alpha != "none":
                opaque = static if self.alpha == "static" else views.seen(focal) & ~static
                image = np.dstack([image, opaque.astype(np.uint8) * 255])
            write_image(folder / "images" / name, image)
        for factor in self.factors:
            write_image(folder / f"images_{factor}" / name, shrink_image(image, factor))
        return static


def each(frames: Any, work: Callable[[int, Any], Any], threads: int | None = None) -> list[Any]:
    """What ``work(position, frame)`` returns for every frame, in their order; several frames at once."""
    return list(ordered(lambda item: work(*item), enumerate(frames), threads))
