"""Pictures that were taken through several lenses, as one lens without distortion shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np

from ..core.geometry import FisheyeDistortion, distort, network_to_source, pixel_grid, source_to_network, undistort
from ..core.scene import SparsePoints
from ..core.types import PixelMap

_BORDER_STEPS = 33
"""Places along each side of a picture where its lens is compared with the common one."""
_MAPS = 8
"""Maps of pixels that are kept in memory: frames of one camera have one."""
_LONGEST = 4.0
"""Most that a focal length is enlarged by so that a picture covers all of the common one."""


class CommonLens:
    """One lens without distortion for F pictures; each keeps its focal length, up to what it takes to fill the size.

    Pixels have integer centres, as on the network grid, but for :meth:`moved`.
    """

    def __init__(
        self,
        K: np.ndarray,
        distortion: np.ndarray | None,
        sizes: Sequence[tuple[int, int]],
        wh: tuple[int, int],
        *,
        fisheye: bool = False,
    ) -> None:
        """
        Args:
            K: (F, 3, 3) intrinsics.
            distortion: (F, 4) k1, k2, p1, p2, or with ``fisheye`` k1 to k4; None: there is none.
            sizes: F times width and height.
            wh: width and height that all get.
        """
        count = len(K)
        self._before, self._sizes, self.wh = K, list(sizes), wh
        self._distortion = np.zeros((count, 4)) if distortion is None else distortion
        self._bent = FisheyeDistortion if fisheye else tuple
        self._centre = (np.array(wh) - 1) / 2
        focals = K[:, [0, 1], [0, 1]] * (np.array(wh) / np.array(self._sizes))
        keys = [self._key(frame) for frame in range(count)]
        first = {key: frame for frame, key in reversed(list(enumerate(keys)))}
        self._like = [first[key] for key in keys]
        """The first frame of the same camera."""
        filling = {frame: self._filling(frame, float(focals[frame].max())) for frame in set(self._like)}
        self.focals = np.array([filling[frame] for frame in self._like])
        """(F,) in pixels of the common size."""
        self.K = np.tile(np.eye(3), (count, 1, 1))
        self.K[:, 0, 0] = self.K[:, 1, 1] = self.focals
        self.K[:, :2, 2] = self._centre
        self._map = lru_cache(maxsize=_MAPS)(self._made_map)

    def resampled(self, image: np.ndarray, frame: int) -> np.ndarray:
        """(H, W, ...) picture ``frame`` as the common lens shows it; a smaller copy of it gives a smaller copy."""
        x, y = self._map(self._like[frame], image.shape[1::-1])
        return cv2.remap(image, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)

    def on_grid(self, values: np.ndarray, frame: int, before: PixelMap, after: PixelMap, cell: int = 1) -> np.ndarray:
        """(h, w) values on the network grid of a picture -> those on the grid of the common one, each the nearest.

        ``cell``: pixels along a side of what a value stands for, such as those of a token.
        """
        width, height = (side // cell for side in after.network_wh)
        xy = cell * (pixel_grid(height, width) + 0.5) - 0.5
        at = self._seen(frame, network_to_source(xy, after) - 0.5, self.focals[frame])
        at = (source_to_network(at + 0.5, before) + 0.5) / cell - 0.5
        column, row = (np.rint(at[..., axis]).astype(int) for axis in (0, 1))
        return values[np.clip(row, 0, values.shape[0] - 1), np.clip(column, 0, values.shape[1] - 1)]

    def back_on_grid(
        self, values: np.ndarray, frame: int, before: PixelMap, after: PixelMap, cell: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """The reverse of :meth:`on_grid`, and (h, w) bool: where the common lens shows the place of a value."""
        width, height = (side // cell for side in before.network_wh)
        xy = cell * (pixel_grid(height, width) + 0.5) - 0.5
        at = self._shown(frame, network_to_source(xy, before) - 0.5)
        inside = ((at >= -0.5) & (at <= np.array(self.wh) - 0.5)).all(axis=-1)
        at = (source_to_network(at + 0.5, after) + 0.5) / cell - 0.5
        column, row = np.moveaxis(np.rint(at).astype(int), -1, 0)
        inside &= (column >= 0) & (column < values.shape[1]) & (row >= 0) & (row < values.shape[0])
        return values[np.clip(row, 0, values.shape[0] - 1), np.clip(column, 0, values.shape[1] - 1)], inside

    def moved(self, sparse: SparsePoints | None) -> SparsePoints | None:
        """The observations in pixels of the common lens, first centre at 0.5, without those that it does not show."""
        if sparse is None:
            return None
        pixels = np.empty_like(sparse.pixels)
        for frame in np.unique(sparse.frame_index).tolist():
            own = sparse.frame_index == frame
            pixels[own] = self._shown(frame, sparse.pixels[own] - 0.5) + 0.5
        inside = ((pixels >= 0) & (pixels <= self.wh)).all(axis=1)
        return replace(sparse, pixels=pixels).observed(inside)

    def _key(self, frame: int) -> tuple[bytes, bytes, tuple[int, int]]:
        """Equal for pictures of one camera."""
        return self._before[frame].tobytes(), self._distortion[frame].tobytes(), self._sizes[frame]

    def _made_map(self, frame: int, wh: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        share = np.array(wh) / np.array(self._sizes[frame])
        width, height = (max(1, round(side * part)) for side, part in zip(self.wh, share))
        xy = (pixel_grid(height, width) + 0.5) * (np.array(self.wh) / [width, height]) - 0.5
        at = (self._seen(frame, xy, self.focals[frame]) + 0.5) * share - 0.5
        at = at.astype(np.float32)
        return np.ascontiguousarray(at[..., 0]), np.ascontiguousarray(at[..., 1])

    def _seen(self, frame: int, xy: np.ndarray, focal: float) -> np.ndarray:
        """Where the picture shows what the common lens with ``focal`` shows at (..., 2) pixels."""
        K = self._before[frame]
        ideal = distort((xy - self._centre) / focal, self._bent(self._distortion[frame]))
        return ideal * K[[0, 1], [0, 1]] + K[:2, 2]

    def _shown(self, frame: int, xy: np.ndarray) -> np.ndarray:
        """Where the common lens shows what is seen at (..., 2) pixels of the picture."""
        K = self._before[frame]
        ideal = undistort((xy - K[:2, 2]) / K[[0, 1], [0, 1]], self._bent(self._distortion[frame]))
        return ideal * self.focals[frame] + self._centre

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

        low, high = 1.0, _LONGEST
        if covers(low):
            return focal
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (low, middle) if covers(middle) else (middle, high)
        return high * focal
