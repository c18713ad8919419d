"""How strongly every pixel breaks the camera's motion, pair by pair: mean and deviation over the pairs of a frame."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from ...core.flow import FOLLOWED
from ...core.workers import ordered
from ...frames.near import Shot
from ..flow.provider import FlowProvider, is_parallel
from .appearance import looks_static
from .background import (
    DEVIATIONS_PER_MEDIAN,
    FEWEST_SAMPLES,
    Kind,
    Samples,
    distance,
    fit,
    homography_preferred,
    noise,
    sample,
    static_place,
)
from .flows import both_ways
from .plan import PairPlan, spread

STATIC_NOISE_PX = 0.3
STATIC_NOISE_PER_FLOW = 0.02
"""Deviation of optical flow on a textured static surface, in pixels and as a share of the pair's median flow."""
TEXTURE_NOISE = 0.3
TEXTURE_NOISE_MOST_PX = 3.0
"""Deviation of flow in pixels over the square root of the weaker eigenvalue of the structure tensor, and its bound."""
TEXTURE_WINDOW_PX = 3.5
MOST_DEVIATIONS = 30.0
"""Residuals above this many deviations all count the same."""
FEWEST_VOTES = 12
VOTES_PER_FRAME = 1 / 3
"""Pairs, about, that decide between homography and fundamental matrix: at least, and per frame of the clip."""
STRETCH_VOTES = 8
"""Votes next to a pair, in time, that decide which of both it gets."""
IMPLAUSIBLE_SHARE, IMPLAUSIBLE_NOISE = 0.5, 4.0
"""A homography that misses more than this share of the flow by more than so many times its noise is not the motion of
the background: what it misses is a net of near things, not what moves."""
_TEXTURELESS = 1e-3
_IMAGES_KEPT = 24


@dataclass(frozen=True)
class PairMotion:
    """What a pair of frames shows."""

    pair: tuple[int, int]
    """Places (i, j), i < j."""
    flows: tuple[np.ndarray, np.ndarray]
    """(H, W, 2) from i to j, and back."""
    agree: tuple[np.ndarray, np.ndarray]
    """(H, W) bool in i and in j: forward and backward flow agree."""
    residuals: tuple[np.ndarray, np.ndarray] | None
    """(H, W) float32 in [0, 1] in i and in j: logarithm of the residual in deviations of static flow. None: flow cannot
    follow this pair, or no model fits it."""


class Pictures:
    """Images of a shot and the noise of flow on them; those that were asked for last stay in memory."""

    def __init__(self, shot: Shot) -> None:
        self._shot = shot
        self._kept: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def image(self, place: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        return self._get(place)[0]

    def texture_noise(self, place: int) -> np.ndarray:
        """See :func:`texture_noise`."""
        return self._get(place)[1]

    def _get(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        if place not in self._kept:
            image = self._shot.image(place)
            self._kept[place] = image, texture_noise(image)
            while len(self._kept) > _IMAGES_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(place)
        return self._kept[place]


Explain = Callable[
    [tuple[int, int], tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    "tuple[np.ndarray, np.ndarray] | None",
]
"""A pair of places, its two flows (H, W, 2), where each agrees with the other (H, W), and the noise of flow for want of
texture in both images (H, W) -> :attr:`PairMotion.residuals`."""


class Kinds:
    """Homography or fundamental matrix, for every stretch of a clip.

    A homography describes the background of a turning camera, and a flat background; a fundamental matrix would then
    explain moving things as parallax. Where there is parallax, a homography would take near things for moving ones.
    One pair alone often cannot tell, so that those around it decide with it.
    """

    def __init__(self, times: np.ndarray, preferences: np.ndarray) -> None:
        """(n,) middles of the pairs that voted, and by how much each prefers a homography."""
        self._times, self._preferences = times, preferences

    def of(self, pair: tuple[int, int]) -> Kind:
        """For a pair of places; a homography where nobody can tell."""
        if len(self._times) == 0:
            return "homography"
        nearest = np.argsort(np.abs(self._times - sum(pair) / 2), kind="stable")[:STRETCH_VOTES]
        return "homography" if self._preferences[nearest].mean() > 0 else "fundamental"


def choose_kinds(plan: PairPlan, pictures: Pictures, num_frames: int, provider: FlowProvider) -> Kinds:
    """Votes of pairs over all gaps that flow can follow, spread over the clip."""
    times, preferences = [], []
    for i, j in spread(plan.pairs, max(FEWEST_VOTES, round(VOTES_PER_FRAME * num_frames))):
        flows, agree = both_ways(np.stack([pictures.image(i), pictures.image(j)]), provider)
        if min(mask.mean() for mask in agree) >= FOLLOWED:
            preference = homography_preferred(sample(flows[0], agree[0]))
            if preference is not None:
                times.append((i + j) / 2)
                preferences.append(preference)
    return Kinds(np.array(times), np.array(preferences))


def by_two_views(kinds: Kinds, pictures: Pictures | None = None) -> Explain:
    """Residuals under the homography or fundamental matrix that is fitted to the pair itself.

    ``pictures``: where given, residuals are 0 where the static place looks as right (:mod:`.appearance`).
    """

    def explain(
        pair: tuple[int, int],
        flows: tuple[np.ndarray, np.ndarray],
        agree: tuple[np.ndarray, np.ndarray],
        textures: tuple[np.ndarray, np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray] | None:
        images = None if pictures is None else (pictures.image(pair[0]), pictures.image(pair[1]))
        return _residuals(kinds.of(pair), flows, agree[0], textures, images)

    return explain


def follow_pairs(
    plan: PairPlan, pictures: Pictures, explain: Explain, provider: FlowProvider, advance: Callable[[int], None]
) -> Iterator[PairMotion]:
    """All pairs of a plan, one after the other; ``advance`` is called with 1 after each."""
    images = (np.stack([pictures.image(i), pictures.image(j)]) for i, j in plan.pairs)
    workers = None if is_parallel(provider) else 1
    found = ordered(lambda two: both_ways(two, provider), images, workers)
    for (i, j), (flows, agree) in zip(plan.pairs, found, strict=True):
        followed = min(mask.mean() for mask in agree) >= FOLLOWED
        textures = pictures.texture_noise(i), pictures.texture_noise(j)
        residuals = explain((i, j), flows, agree, textures) if followed else None
        yield PairMotion((i, j), flows, agree, residuals)
        advance(1)


def texture_noise(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (H, W) pixels of deviation, unbounded, that flow has because there is little texture."""
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.0)
    across, down = (cv2.Sobel(grey, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1)))
    products = (across * across, across * down, down * down)
    xx, xy, yy = (cv2.GaussianBlur(product, (0, 0), TEXTURE_WINDOW_PX) for product in products)
    weaker = (xx + yy) / 2 - np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    return TEXTURE_NOISE / np.sqrt(np.maximum(weaker, 0) + _TEXTURELESS)


class Moments:
    """Weighted mean and deviation of a frame's residuals, pair by pair (West, 1979)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.weight, self.mean, self._m2 = (np.zeros(shape, dtype=np.float32) for _ in range(3))

    def add(self, value: np.ndarray, weight: np.ndarray) -> None:
        """Take in one pair: ``value`` and ``weight`` (H, W)."""
        self.weight += weight
        delta = value - self.mean
        self.mean += delta * weight / np.maximum(self.weight, np.float32(1e-9))
        self._m2 += weight * delta * (value - self.mean)

    @property
    def deviation(self) -> np.ndarray:
        """(H, W) float32; 0 where nothing was added."""
        return np.sqrt(np.maximum(self._m2, 0) / np.maximum(self.weight, np.float32(1e-6)))


def _residuals(
    kind: Kind,
    flows: tuple[np.ndarray, np.ndarray],
    consistent: np.ndarray,
    textures: tuple[np.ndarray, np.ndarray],
    images: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Of both frames, from one model: that of the way back is its inverse, or its transpose."""
    samples = sample(flows[0], consistent)
    found = _model(kind, samples) if len(samples) >= FEWEST_SAMPLES else None
    if found is None:
        return None
    kind, model = found
    back = model.T if kind == "fundamental" else np.linalg.inv(model)
    height, width = consistent.shape
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    start = np.stack([columns, rows], axis=-1)
    ends = [start + flow for flow in flows]
    deviations = [static_noise(samples.median_flow, texture) for texture in textures]
    rougher = _rougher(kind, model, samples, deviations[0])
    maps = [
        graded(distance(kind, own, start, end) / (rougher * deviation))
        for own, end, deviation in zip((model, back), ends, deviations, strict=True)
    ]
    if images is not None:
        for k, own in enumerate((model, back)):
            static = static_place(kind, own, start, ends[k])
            maps[k][looks_static(images[k], images[1 - k], ends[k], static)] = 0
    return maps[0], maps[1]


def _rougher(kind: Kind, model: np.ndarray, samples: Samples, deviation: np.ndarray) -> float:
    """At least 1: by how much the flow of most of a pair misses the model more than the flow of static surfaces should.

    Rolling shutter, blur, and gaps that flow can just follow make all of a pair inexact: what is off as the rest is,
    does not move.
    """
    columns, rows = samples.start.astype(int).T
    off = distance(kind, model, samples.start, samples.end) / deviation[rows, columns]
    return max(1.0, DEVIATIONS_PER_MEDIAN * float(np.median(off)))


def static_noise(median_flow: float, texture: np.ndarray) -> np.ndarray:
    """(H, W) deviation, in pixels, of the flow of static surfaces: by its length and by :func:`texture_noise`."""
    static = STATIC_NOISE_PX**2 + (STATIC_NOISE_PER_FLOW * median_flow) ** 2
    return np.sqrt(static + np.minimum(texture, TEXTURE_NOISE_MOST_PX) ** 2)


def graded(deviations: np.ndarray) -> np.ndarray:
    """Residuals in deviations of static flow -> float32 in [0, 1], see :class:`PairMotion`."""
    bounded = np.minimum(deviations, MOST_DEVIATIONS)
    return (np.log1p(bounded) / np.log1p(MOST_DEVIATIONS)).astype(np.float32)


def _model(kind: Kind, samples: Samples) -> tuple[Kind, np.ndarray] | None:
    """The model of the background, of another kind where the one that was asked for explains too little."""
    model = fit(kind, samples)
    if kind == "homography" and (model is None or abs(np.linalg.det(model)) < 1e-9 or _implausible(model, samples)):
        kind, model = "fundamental", fit("fundamental", samples)
    return None if model is None else (kind, model)


def _implausible(homography: np.ndarray, samples: Samples) -> bool:
    error = distance("homography", homography, samples.start, samples.end)
    return float((error > IMPLAUSIBLE_NOISE * noise(samples)).mean()) > IMPLAUSIBLE_SHARE
