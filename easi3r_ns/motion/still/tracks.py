"""Corners followed between frames near and far: what shows whether a camera stands still, turns or travels.

Pixels are (x, y) with integer centres, of the images that are handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ...core.sampling import inside_image

CORNERS = 400
"""Most corners per frame."""
CORNER_QUALITY = 0.003
"""Weakest corner against the strongest of the frame, by the smaller eigenvalue of the structure tensor."""
CORNER_DISTANCE = 0.018
"""Share of the longer side by which corners lie apart: they cover the picture instead of its busiest place."""
WINDOW = 15
LEVELS = 4
"""Side in pixels of the patch that is followed, and halvings of the image above the finest: without a guess, corners
are followed over about WINDOW * 2 ** LEVELS pixels."""
RETURNS_PX = 0.5
"""A corner that is followed there and back again must come this close to its start."""
FEWEST = 30
"""Fewer corners that are followed leave a pair without a statement."""
_HOMOGRAPHY_PX = 2.0
_STOP = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.01)
_STARTS_PER_GAP = 4
_LEAST_DETERMINANT = 1e-6


@dataclass(frozen=True)
class CornerMatches:
    """M corners, each followed from one frame to another; those of a pair of frames are neighbours."""

    first: np.ndarray
    """(M,) int64 frame in which the corner lies."""
    second: np.ndarray
    """(M,) int64 later frame to which it was followed."""
    start: np.ndarray
    """(M, 2) float64 pixels of the first frame."""
    end: np.ndarray
    """(M, 2) float64 pixels of the second frame."""
    static: np.ndarray
    """(M,) bool: the patch lies outside the motion masks of both frames."""

    def __len__(self) -> int:
        return len(self.first)

    def chosen(self, which: np.ndarray) -> CornerMatches:
        """Those that (M,) bool names."""
        return CornerMatches(*(getattr(self, name)[which] for name in ("first", "second", "start", "end", "static")))

    def chain(self, num_frames: int) -> list[tuple[int, CornerMatches]] | None:
        """For frames 1, 2, ...: the earlier frame that shares most corners with each, and these corners.

        None where a frame shares fewer than :data:`FEWEST` with each of the earlier ones.
        """
        links = []
        for k in range(1, num_frames):
            counts = np.bincount(self.first[self.second == k], minlength=1)
            if counts.max() < FEWEST:
                return None
            i = int(counts.argmax())
            links.append((i, self.chosen((self.first == i) & (self.second == k))))
        return links


NO_MATCHES = CornerMatches(
    np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 2)), np.empty((0, 2)), np.empty(0, bool)
)


def pair_gaps(num_frames: int) -> list[tuple[int, range]]:
    """(gap, first frames) of the pairs that are looked at: gaps of 1, 2, 4, ... frames, longer ones more sparsely."""
    gaps = [2**k for k in range(max(num_frames - 1, 1).bit_length()) if 2**k < num_frames]
    return [(gap, range(0, num_frames - gap, max(1, gap // _STARTS_PER_GAP))) for gap in gaps]


def num_pairs(num_frames: int) -> int:
    """Pairs of frames that :func:`follow_corners` looks at, those with the first frame included."""
    return sum(len(starts) for _, starts in pair_gaps(num_frames)) + max(num_frames - 1, 0)


def follow_corners(grey: Sequence[np.ndarray], moving: np.ndarray, advance: Callable[[int], None]) -> CornerMatches:
    """Corners followed by pyramidal Lucas-Kanade over gaps of 1, 2, 4, ... frames, and from the first frame to all.

    Longer gaps start where the homographies of the shorter ones lead, so that turns far beyond the patch are followed.

    Args:
        grey: F >= 2 images (H, W) uint8.
        moving: (F, H, W) bool.
        advance: called with the number of pairs that were done.
    """
    return _Follower(grey, moving).run(advance)


class _Follower:
    def __init__(self, grey: Sequence[np.ndarray], moving: np.ndarray) -> None:
        patch = np.ones((WINDOW, WINDOW), np.uint8)
        self._grey = grey
        # A patch that touches something moving is dragged along by it.
        self._moving = [cv2.dilate(mask.astype(np.uint8), patch) > 0 for mask in moving]
        self._corners = [_find_corners(image) for image in grey]
        self._warps: dict[tuple[int, int], np.ndarray] = {}
        self._found: list[CornerMatches] = []

    def run(self, advance: Callable[[int], None]) -> CornerMatches:
        count = len(self._grey)
        for gap, starts in pair_gaps(count):
            for i in starts:
                self._pair(i, i + gap // 2, i + gap)
                advance(1)
        for k in range(1, count):
            if (0, k) not in self._warps:
                self._pair(0, k - 1, k)
            advance(1)
        names = ("first", "second", "start", "end", "static")
        parts = [NO_MATCHES, *self._found]
        return CornerMatches(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def _pair(self, i: int, middle: int, j: int) -> None:
        """Follow the corners of i to j, and back again; the guess leads by way of a frame between them."""
        guess = self._guess(i, middle, j)
        start = self._corners[i]
        there = _warp(guess, start)
        kept = inside_image(there, *self._grey[j].shape)
        if kept.sum() < FEWEST:
            return
        start, there = start[kept], there[kept]
        end, found = _follow(self._grey[i], self._grey[j], start, there)
        back, returned = _follow(self._grey[j], self._grey[i], end, _warp(np.linalg.inv(guess), end))
        returned &= np.linalg.norm(back - start, axis=1) < RETURNS_PX
        good = found & returned & inside_image(end, *self._grey[j].shape)
        if good.sum() < FEWEST:
            return
        start, end = start[good].astype(np.float64), end[good].astype(np.float64)
        static = ~(_at(self._moving[i], start) | _at(self._moving[j], end))
        self._found.append(CornerMatches(np.full(len(start), i), np.full(len(start), j), start, end, static))
        fitted = static if static.sum() >= FEWEST else np.ones(len(static), dtype=bool)
        model, _ = cv2.findHomography(
            start[fitted], end[fitted], cv2.USAC_MAGSAC, _HOMOGRAPHY_PX, maxIters=500, confidence=0.99
        )
        if model is not None and np.isfinite(model).all() and abs(np.linalg.det(model)) > _LEAST_DETERMINANT:
            self._warps[i, j] = model

    def _guess(self, i: int, middle: int, j: int) -> np.ndarray:
        """(3, 3) homography from i to j; the identity where the way is not known."""
        first, second = (self._warps.get(pair) for pair in ((i, middle), (middle, j)))
        return np.eye(3) if first is None or second is None else second @ first


def _find_corners(grey: np.ndarray) -> np.ndarray:
    found = cv2.goodFeaturesToTrack(grey, CORNERS, CORNER_QUALITY, CORNER_DISTANCE * max(grey.shape))
    return np.empty((0, 2), np.float32) if found is None else found[:, 0]


def _at(mask: np.ndarray, xy: np.ndarray) -> np.ndarray:
    column, row = np.rint(xy).astype(int).T
    return mask[row, column]


def _follow(
    source: np.ndarray, target: np.ndarray, start: np.ndarray, guess: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) float32 places in the target, and (N,) bool: found."""
    end, status, _ = cv2.calcOpticalFlowPyrLK(
        source,
        target,
        start.astype(np.float32),
        guess.astype(np.float32),
        winSize=(WINDOW, WINDOW),
        maxLevel=LEVELS,
        criteria=_STOP,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    return end, status[:, 0] > 0


def _warp(model: np.ndarray, xy: np.ndarray) -> np.ndarray:
    if not len(xy):
        return np.empty((0, 2))
    return cv2.perspectiveTransform(xy[None].astype(np.float64), model)[0]
