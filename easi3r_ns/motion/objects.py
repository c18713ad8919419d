"""Which moving thing is which: connected regions of the masks as objects with ids that are kept over time.

Optical flow carries the ids of a frame to the next one. A region that takes up one id is that object; one that takes up
several (two people who pass each other) is divided among them by its pixels. An object that is not seen for a while is
known again by its place, size and colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from ..core.objects import nearest_numbers
from ..core.runlog import RunLog
from .flow.provider import FlowProvider, forward_backward_consistent

JOINED = 0.012
"""Regions of a frame that are closer than twice this share of its longer side are one: masks tear where legs cross."""
TAKEN = 0.1
"""Least share of what flow carries into a region that an id needs to be in it, and least share of its own pixels."""
FOLLOWED = 0.05
"""Share of a region that flow has to carry ids into, for the region to be one that was seen before."""
LONGEST_GAP = 15
"""Frames for which an object that is not seen is looked for."""
REACH, REACH_PER_FRAME = 1.0, 0.2
"""How far, in square roots of its area, an object may be from where it is expected, and how much more a frame later."""
APART = 0.5
"""Parts of an object that are further apart than this, in square roots of its area, are two objects."""
ALIKE = 0.5
"""Least likeness of two histograms of colour (Bhattacharyya's coefficient) of one object."""
LARGEST_CHANGE = 4.0
"""Factor by which the area of an object may change while it is not seen."""
SHORTEST = 3
"""Objects that are seen in fewer frames are flicker, and belong to the nearest object where there is one."""
SAME_CLIP = 0.02
"""Share of the picture in which flow returns, below which the clip has a cut and nothing is known again."""
_BINS = 6
_DOUBTED = 0.2
"""Weight of a pixel whose flow does not return, among those that carry ids."""


@dataclass(frozen=True)
class _Track:
    """An object as it was seen last."""

    number: int
    row: int
    centre: np.ndarray
    """(2,) x, y in pixels; moved on with the background while the object is not seen."""
    velocity: np.ndarray
    """(2,) pixels a frame, against the background."""
    area: float
    colours: np.ndarray
    """Histogram; its sum is 1."""


@dataclass(frozen=True)
class _Carried:
    """What flow brings from the frame before."""

    numbers: np.ndarray
    """(H, W) int32 number of the object at each pixel; 0: none."""
    weight: np.ndarray
    """(H, W) float32."""
    background: np.ndarray
    """(2,) pixels by which what stands still went on."""
    same_clip: bool


def link_objects(
    images: np.ndarray, masks: np.ndarray, clips: Sequence[range], provider: FlowProvider, log: RunLog
) -> np.ndarray:
    """Ids of the objects that masks show.

    Two frames of flow are kept at a time. The same input gives the same ids; those of different clips are different.

    Args:
        images: (F, H, W, 3) uint8 RGB.
        masks: (F, H, W) bool, True where something moves.
        clips: rows of each clip, in the order of time.

    Returns:
        (F, H, W) uint16: 0 exactly where nothing moves; the others count from 1 in the order of their first frames, of
        one frame the largest first.
    """
    numbers = np.zeros(masks.shape, dtype=np.int32)
    first = 1
    with log.stage("objects", total=len(masks)) as advance:
        for clip in clips:
            linker = _Linker(provider, first)
            for row in clip:
                before = row - 1 if row > clip.start else None
                carried = None if before is None else linker.carry(images[before], images[row], numbers[before])
                numbers[row] = linker.number(row, images[row], masks[row], carried)
                advance(1)
            rows = slice(clip.start, clip.stop)
            numbers[rows] = _without_flicker(numbers[rows])
            first = linker.next
    return _renumbered(numbers)


def returning(now: np.ndarray, before: np.ndarray, provider: FlowProvider) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 2) flow from a frame to another, and (H, W) bool: whether the flow of the other leads back."""
    back, there = provider.flow(np.stack([now, before]), np.stack([before, now]))
    fields = torch.from_numpy(np.stack([back, there])).permute(0, 3, 1, 2)
    return back, forward_backward_consistent(fields[:1], fields[1:])[0].numpy()


class _Linker:
    """The objects of one clip, frame by frame."""

    def __init__(self, provider: FlowProvider, first: int) -> None:
        self._provider = provider
        self.next = first
        self._tracks: dict[int, _Track] = {}

    def carry(self, before: np.ndarray, now: np.ndarray, numbers: np.ndarray) -> _Carried:
        """The numbers (H, W) of the frame before at the pixels of this one."""
        back, returns = returning(now, before, self._provider)
        height, width = numbers.shape
        y, x = np.indices(numbers.shape)
        x, y = np.rint(x + back[..., 0]).astype(int), np.rint(y + back[..., 1]).astype(int)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        came = np.where(inside, numbers[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)], 0)
        still = returns & (came == 0)
        background = -np.median(back[still], axis=0) if still.any() else np.zeros(2)
        weight = np.where(returns, 1, _DOUBTED).astype(np.float32)
        return _Carried(came, weight, background, bool(returns.mean() >= SAME_CLIP))

    def number(self, row: int, image: np.ndarray, mask: np.ndarray, carried: _Carried | None) -> np.ndarray:
        """(H, W) int32 numbers of the objects of a frame; 0 where nothing moves."""
        if carried is not None and not carried.same_clip:
            self._tracks, carried = {}, None
        shift = np.zeros(2) if carried is None else carried.background
        self._tracks = {n: replace(t, centre=t.centre + shift + t.velocity) for n, t in self._tracks.items()}
        out, new = _followed(_regions(mask), carried, mask.shape)
        seen = set(np.unique(out).tolist())
        for region in sorted(new, key=lambda part: -int(part.sum())):
            number = self._known_again(row, image, region, seen) or self._new()
            out[region] = number
            seen.add(number)
        for number in sorted(seen - {0}):
            self._see(row, image, number, out == number)
        self._tracks = {n: t for n, t in self._tracks.items() if row - t.row <= LONGEST_GAP}
        return out

    def _new(self) -> int:
        self.next += 1
        return self.next - 1

    def _known_again(self, row: int, image: np.ndarray, region: np.ndarray, seen: set[int]) -> int | None:
        """The object that was lost and is most like a region; None: there is none."""
        centre, area, colours = _centre(region), float(region.sum()), _colours(image, region)
        best, likeness = None, ALIKE
        for number, track in self._tracks.items():
            reach = (REACH + REACH_PER_FRAME * (row - track.row)) * np.sqrt(max(area, track.area))
            fits = max(area / track.area, track.area / area) <= LARGEST_CHANGE
            near = np.linalg.norm(centre - track.centre) <= reach
            alike = float(np.sqrt(colours * track.colours).sum())
            if number not in seen and fits and near and alike > likeness:
                best, likeness = number, alike
        return best

    def _see(self, row: int, image: np.ndarray, number: int, region: np.ndarray) -> None:
        centre, before = _centre(region), self._tracks.get(number)
        velocity = np.zeros(2)
        if before is not None and before.row == row - 1:
            velocity = before.velocity + (centre - before.centre) / 2
        self._tracks[number] = _Track(number, row, centre, velocity, float(region.sum()), _colours(image, region))


def _regions(mask: np.ndarray) -> list[np.ndarray]:
    """(H, W) bool each: what is connected, or nearly so."""
    radius = max(1, round(JOINED * max(mask.shape)))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    count, labels = cv2.connectedComponents(cv2.dilate(mask.astype(np.uint8), disc))
    return [mask & (labels == label) for label in range(1, count)]


def _followed(
    regions: list[np.ndarray], carried: _Carried | None, shape: tuple[int, ...]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """(H, W) numbers of the regions that flow carries objects into, and the regions that are left."""
    out, new = np.zeros(shape, dtype=np.int32), []
    if carried is None or not regions:
        return out, regions
    numbers = np.unique(carried.numbers)
    numbers = numbers[numbers > 0]
    votes = np.array([[carried.weight[r & (carried.numbers == n)].sum() for n in numbers] for r in regions])
    votes = votes.reshape(len(regions), len(numbers))
    taken = votes >= TAKEN * np.maximum(votes.sum(axis=1, keepdims=True), 1e-9)
    taken &= votes >= TAKEN * votes.sum(axis=0)
    taken &= votes.sum(axis=1, keepdims=True) >= FOLLOWED * np.array([r.sum() for r in regions])[:, None]
    taken &= votes > 0
    for column in range(len(numbers)):
        _keep_together(regions, votes[:, column], taken[:, column])
    for region, own in zip(regions, taken, strict=True):
        if own.any():
            out[region] = _divided(region, np.where(np.isin(carried.numbers, numbers[own]), carried.numbers, 0))[region]
        else:
            new.append(region)
    return out, new


def _keep_together(regions: list[np.ndarray], votes: np.ndarray, taken: np.ndarray) -> None:
    """Of the regions that hold an object, ``taken`` (in place) keeps that with most of it and those beside that."""
    if taken.sum() < 2:
        return
    main = int(np.argmax(np.where(taken, votes, -1)))
    distance = distance_transform_edt(~regions[main])
    for place in np.flatnonzero(taken):
        if place != main and distance[regions[place]].min() > APART * np.sqrt(regions[main].sum()):
            taken[place] = False


def _divided(region: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """(H, W) number of the nearest pixel of the region that has one (all of ``numbers`` count where none has)."""
    known = region & (numbers > 0)
    return nearest_numbers(np.where(known, numbers, 0) if known.any() else numbers)


def _without_flicker(numbers: np.ndarray) -> np.ndarray:
    """(F, H, W) of one clip: objects that are seen in few frames become parts of the nearest object of their frame."""
    present = [np.unique(frame) for frame in numbers]
    found, frames = np.unique(np.concatenate(present), return_counts=True) if present else (np.zeros(0), np.zeros(0))
    short = found[(frames < SHORTEST) & (found > 0)]
    if len(numbers) < SHORTEST or not len(short):
        return numbers
    out = numbers.copy()
    for row, frame in enumerate(numbers):
        flicker = np.isin(frame, short)
        if flicker.any() and (others := np.where(flicker, 0, frame)).any():
            out[row][flicker] = nearest_numbers(others)[flicker]
    return out


def _renumbered(numbers: np.ndarray) -> np.ndarray:
    order: dict[int, int] = {0: 0}
    for frame in numbers:
        found, areas = np.unique(frame, return_counts=True)
        for number in found[np.argsort(-areas, kind="stable")].tolist():
            order.setdefault(number, min(len(order), np.iinfo(np.uint16).max))
    table = np.zeros(int(numbers.max(initial=0)) + 1, dtype=np.uint16)
    table[list(order)] = list(order.values())
    return table[numbers]


def _centre(region: np.ndarray) -> np.ndarray:
    y, x = np.nonzero(region)
    return np.array([x.mean(), y.mean()])


def _colours(image: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Histogram of the colours of a region, whose sum is 1."""
    cells = (image[region].astype(np.int64) * _BINS) >> 8
    flat = (cells[:, 0] * _BINS + cells[:, 1]) * _BINS + cells[:, 2]
    return np.bincount(flat, minlength=_BINS**3) / max(len(flat), 1)
