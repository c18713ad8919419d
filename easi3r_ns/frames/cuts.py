"""Cuts in a clip: places where the picture goes on in another scene.

A cut is where the frames before and after it share no scene. A place must meet three conditions to be one:

* The link between two neighbouring frames is weak. The link is the share of pixels whose dense optical flow leads
  there and back and lands on the same texture.
* The links around it are strong. Many weak links in a row are a fast pan or a shaken camera.
* No frame shortly before it shares local features with a frame shortly after it. After a flash, a hand before the lens
  or a jump within one scene, some do.

Frames without contrast are left out, so that a fade through black is a cut between the frames around the black. A
dissolve, in which both scenes are visible for a while, weakens no link and is not found.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from ..core.flow import flow_returns
from ..core.sampling import sample_bilinear

LOOK_SIDE = 640
"""Longer side of the pictures in which sources show their frames, in pixels, at most."""
THUMB_SIDE = 320
"""Longer side of the pictures in which :class:`CutFinder` compares scenes, in pixels."""
_FLOW_SIDE = 128
"""Longer side of the pictures between which flow is estimated, in pixels."""
_FLOW_SLACK_PX2 = 1.0
"""Squared pixels by which flow of any length may miss its start on the way back."""
_WEAK = 0.2
"""Links below this are weak: frames of unrelated scenes reach 0.05, neighbours in real clips have 0.23 and more."""
_STRONG = 0.3
"""Least median of the links on both sides of a suspect, which is a weak link that may be a cut."""
_MAX_WEAK_RUN = 2
"""Weak links in a row that a cut makes: one, or two where a conversion of the frame rate has blended frames."""
_AROUND = (2, 4, 7)
"""Frames before and after a suspect, counted from it, that are searched for a common scene."""
_MIN_INLIERS = 16
"""Feature matches on one epipolar geometry that show a common scene; unrelated pictures reach 11."""
_MIN_FEATURES = 40
"""Frames with fewer features are not compared."""
_MIN_SPREAD = 0.06
"""Share of the picture that the matches must cover, less the outer tenths in x and in y: a logo covers less."""
_UNMOVED = 1.0
"""Pixels up to which a match counts as at rest. Matches at rest show a common scene when they are spread over the
picture (the camera does not move); otherwise they may be a logo, and only the other matches count."""
_BLANK = 4.0
"""Standard deviation in grey levels below which a frame has no contrast."""

Watch = Callable[[int, np.ndarray], None]
"""Gets the index of a frame and its (h, w) uint8 grey thumbnail."""


@dataclass(frozen=True)
class Cut:
    """Two frames between which another scene begins; frames between them (of a fade) belong to neither scene."""

    before: int
    """Last frame of the old scene."""
    after: int
    """First frame of the new scene."""


@dataclass
class _Frame:
    index: int
    thumb: np.ndarray
    small: np.ndarray
    features: tuple[np.ndarray, np.ndarray] | None = None

    def described(self) -> tuple[np.ndarray, np.ndarray]:
        if self.features is None:
            self.features = _describe(self.thumb)
        return self.features


@dataclass
class CutFinder:
    """Finds cuts in frames that come one after the other; keeps a few small pictures, never the clip."""

    _recent: deque[_Frame] = field(default_factory=deque)
    _links: list[float] = field(default_factory=list)
    _frames: list[int] = field(default_factory=list)
    _suspects: list[int] = field(default_factory=list)
    _cuts: list[Cut] = field(default_factory=list)

    def add(self, index: int, thumb: np.ndarray) -> None:
        """The next frame: its index, and its picture as (h, w) uint8 grey, all of one size (see :func:`thumbnail`)."""
        thumb = _resized(thumb, THUMB_SIDE)
        if thumb.std() < _BLANK:
            return
        frame = _Frame(index, thumb, _resized(thumb, _FLOW_SIDE))
        if self._recent:
            self._links.append(_link(self._recent[-1].small, frame.small))
            if self._links[-1] < _WEAK:
                self._suspects.append(len(self._frames))
        self._frames.append(index)
        self._recent.append(frame)
        self._settle(len(self._frames) - max(_AROUND) - _MAX_WEAK_RUN)
        while len(self._recent) > 2 * max(_AROUND) + 3 * _MAX_WEAK_RUN:
            self._recent.popleft()

    def finish(self) -> tuple[Cut, ...]:
        """The cuts, in order."""
        self._settle(len(self._frames))
        return tuple(self._cuts)

    @property
    def seen(self) -> tuple[int, ...]:
        """The frames that took part."""
        return tuple(self._frames)

    @property
    def weak(self) -> tuple[tuple[int, int], ...]:
        """(frame, next frame) of the neighbours that have little in common."""
        links = zip(self._frames, self._frames[1:], self._links)
        return tuple((before, after) for before, after, link in links if link < _WEAK)

    def _settle(self, limit: int) -> None:
        """Judge the suspects before position ``limit``: enough frames after them are known."""
        while self._suspects and self._suspects[0] < limit:
            first = last = self._suspects.pop(0)
            while self._suspects and self._suspects[0] == last + 1:
                last = self._suspects.pop(0)
            if last - first < _MAX_WEAK_RUN and self._stands_out(first, last) and not self._bridged(first, last):
                self._cuts.append(Cut(self._frames[first - 1], self._frames[last]))

    def _stands_out(self, first: int, last: int) -> bool:
        # links[k] leads from frame k to k + 1; the broken ones are first - 1 to last - 1.
        sides = self._links[max(0, first - 4) : first - 1], self._links[last : last + 3]
        return any(sides) and all(np.median(side) >= _STRONG for side in sides if side)

    def _bridged(self, first: int, last: int) -> bool:
        offset = len(self._frames) - len(self._recent)
        known = range(offset, len(self._frames))
        # Frames next to the suspect may be a blend of both scenes: they are compared only where there are no others.
        steps = [step for step in _AROUND if first - step in known] or [1]
        before = [self._recent[first - step - offset] for step in steps]
        steps = [step for step in _AROUND if last - 1 + step in known] or [1]
        after = [self._recent[last - 1 + step - offset] for step in steps]
        before, after = ([f for f in side if len(f.described()[0]) >= _MIN_FEATURES] for side in (before, after))
        if not (before and after):
            return True  # too few features to tell scenes apart
        return any(same_scene(a.described(), b.described(), a.thumb.shape) for a in before for b in after)


def thumbnail(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (h, w) uint8 grey with at most :data:`LOOK_SIDE` pixels along the longer side."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, thumb_size(image.shape[1], image.shape[0]), interpolation=cv2.INTER_AREA)


def thumb_size(width: int, height: int) -> tuple[int, int]:
    """(w, h) of the thumbnail of an image."""
    scale = min(1.0, LOOK_SIDE / max(width, height))
    return max(16, round(width * scale)), max(16, round(height * scale))


def parts(indices: Sequence[int], cuts: Sequence[Cut]) -> tuple[np.ndarray, ...]:
    """Increasing frame ``indices`` -> those of every part between cuts; frames inside a transition are left out."""
    indices = np.asarray(indices)
    starts = [indices[0], *(cut.after for cut in cuts)] if len(indices) else []
    ends = [*(cut.before for cut in cuts), indices[-1]] if len(indices) else []
    return tuple(indices[(indices >= start) & (indices <= end)] for start, end in zip(starts, ends))


def same_scene(
    one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], shape: tuple[int, int]
) -> bool:
    """Whether local features (positions (N, 2), SIFT descriptors (N, 128)) of two pictures agree on one geometry."""
    (at_one, words_one), (at_other, words_other) = one, other
    if min(len(at_one), len(at_other)) < _MIN_INLIERS:
        return False
    pairs = cv2.BFMatcher().knnMatch(words_one, words_other, k=2)
    matches = [best for best, second in pairs if best.distance < 0.75 * second.distance]
    at_one, at_other = at_one[[m.queryIdx for m in matches]], at_other[[m.trainIdx for m in matches]]
    moved = np.abs(at_one - at_other).max(axis=1) > _UNMOVED
    if _spread(at_one[~moved], shape):
        return True
    if moved.sum() < _MIN_INLIERS:
        return False
    _, inliers = cv2.findFundamentalMat(at_one[moved], at_other[moved], cv2.FM_RANSAC, 1.0, 0.999, 2000)
    keep = np.zeros(0, dtype=bool) if inliers is None else inliers.ravel().astype(bool)
    return len(keep) > 0 and all(_spread(points[moved][keep], shape) for points in (at_one, at_other))


def _spread(points: np.ndarray, shape: tuple[int, int]) -> bool:
    """Whether (N, 2) points are enough, and cover enough of the picture."""
    if len(points) < _MIN_INLIERS:
        return False
    span = np.ptp(np.quantile(points, (0.1, 0.9), axis=0), axis=0)
    return float(np.prod(span / shape[::-1])) >= _MIN_SPREAD


def _describe(thumb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    keypoints, words = cv2.SIFT_create(1000, contrastThreshold=0.01).detectAndCompute(thumb, None)
    at = np.array([k.pt for k in keypoints], dtype=np.float32).reshape(-1, 2)
    return at, np.empty((0, 128), np.float32) if words is None else words


def _resized(grey: np.ndarray, side: int) -> np.ndarray:
    """(h, w) uint8 with ``side`` pixels along the longer side."""
    scale = side / max(grey.shape)
    size = tuple(max(16, round(length * scale)) for length in grey.shape[::-1])
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA)


def _landing(flow: np.ndarray) -> np.ndarray:
    height, width = flow.shape[:2]
    return flow + np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)


def _returns(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """(h, w) bool: the flow stays inside the image and leads back to its start within a pixel, or a tenth of it."""
    landing = _landing(forward)
    return flow_returns(forward, sample_bilinear(backward, landing), landing, *forward.shape[:2], _FLOW_SLACK_PX2)


def local_correlation(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How alike two (h, w) grey images are around each pixel.

    Returns (h, w) float32 correlation of the 9 x 9 pixels around it, independent of brightness and contrast, and (h, w)
    bool: the first image has texture there.
    """
    a, b = one.astype(np.float32), other.astype(np.float32)

    def mean(x: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(x, -1, (9, 9))

    var_a, var_b = mean(a * a) - mean(a) ** 2, mean(b * b) - mean(b) ** 2
    covariance = mean(a * b) - mean(a) * mean(b)
    return covariance / np.sqrt(np.maximum(var_a, 4) * np.maximum(var_b, 4)), var_a > 16


def _link(one: np.ndarray, other: np.ndarray) -> float:
    """Share of the textured pixels of a frame that dense flow finds in the next one; 1 where there is no texture."""
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    forward, backward = dis.calc(one, other, None), dis.calc(other, one, None)
    alike, textured = local_correlation(one, sample_bilinear(other, _landing(forward)))
    found = _returns(forward, backward) & (alike > 0.7)
    return float(found[textured].mean()) if textured.sum() > 50 else 1.0
