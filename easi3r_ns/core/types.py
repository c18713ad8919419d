"""Frozen values that travel between the stages.

Conventions, everywhere unless a field says otherwise:

* cameras are camera-to-world matrices ``T_world_cam`` with OpenCV axes (x right, y down, z forward);
* pixels of the network grid have their centres at INTEGER coordinates (the first pixel is (0, 0));
  :mod:`easi3r_ns.core.geometry` converts to the half-pixel convention of nerfstudio and COLMAP;
* images are RGB uint8; masks are boolean and True where something MOVES; depth is z-depth, 0 where unknown.

Letters in shapes: F frames, E ordered pairs, H x W pixels of the network grid, h x w tokens, C = layers * heads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .rig import ViewRig

if TYPE_CHECKING:
    import torch


def require(condition: bool, message: str) -> None:
    """Raises ValueError with the message unless the condition holds: the check of a value's fields."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class SourceCut:
    """What is left of the frames of a clip: boxes are (left, top, right, bottom), right and bottom exclusive."""

    full_wh: tuple[int, int]
    """Width and height of the frames as they are in the file, upright."""
    box: tuple[int, int, int, int]
    """What is left, in their pixels."""
    picture: tuple[int, int, int, int]
    """What the lens shows: the frame without black bars. The principal point is its centre."""

    @property
    def wh(self) -> tuple[int, int]:
        """Width and height of what is left."""
        left, top, right, bottom = self.box
        return right - left, bottom - top

    @property
    def picture_wh(self) -> tuple[int, int]:
        """Width and height of what the lens shows."""
        left, top, right, bottom = self.picture
        return right - left, bottom - top

    def turned(self) -> SourceCut:
        """The same cut of frames that lie on their side, see :func:`on_side`."""
        width, height = self.full_wh
        return SourceCut((height, width), _box_on_side(self.box, width), _box_on_side(self.picture, width))

    def of(self, image: np.ndarray) -> np.ndarray:
        """(H, W, ...) at full size -> what is left of it."""
        left, top, right, bottom = self.box
        return image[top:bottom, left:right]


def on_side(image: np.ndarray) -> np.ndarray:
    """(H, W, ...) -> (W, H, ...): the picture turned by a quarter, counterclockwise."""
    return np.ascontiguousarray(np.rot90(image))


def upright_again(image: np.ndarray) -> np.ndarray:
    """The inverse of :func:`on_side`."""
    return np.ascontiguousarray(np.rot90(image, -1))


T_SIDE_UPRIGHT = np.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
"""Takes coordinates of a camera with OpenCV axes to those of the same camera whose picture lies :func:`on_side`."""


def _box_on_side(box: tuple[int, int, int, int], width: int) -> tuple[int, int, int, int]:
    left, top, right, bottom = box
    return top, width - right, bottom, width - left


@dataclass(frozen=True)
class PixelMap:
    """How network pixels lie in the source image: resize to ``resized_wh``, then crop ``crop_box``."""

    source_wh: tuple[int, int]
    """Width and height of the upright source image in pixels, after ``cut``."""
    resized_wh: tuple[int, int]
    """Width and height after resizing, before the crop."""
    crop_box: tuple[int, int, int, int]
    """(left, top, right, bottom) of the crop in pixels of the resized image; right and bottom exclusive."""
    cut: SourceCut | None = None
    """What was cut off the frames of the file to make the source images; None: nothing, or a scene that was read back,
    whose principal point says it."""

    def __post_init__(self) -> None:
        left, top, right, bottom = self.crop_box
        require(min(*self.source_wh, *self.resized_wh) > 0, f"empty image in {self}")
        require(0 <= left < right <= self.resized_wh[0], f"crop_box leaves the resized image: {self}")
        require(0 <= top < bottom <= self.resized_wh[1], f"crop_box leaves the resized image: {self}")

    @property
    def full_wh(self) -> tuple[int, int]:
        """Width and height of the frames of the file, upright."""
        return self.source_wh if self.cut is None else self.cut.full_wh

    @property
    def picture_wh(self) -> tuple[int, int]:
        """Width and height of what the lens shows, in pixels: of the source image before it was cropped."""
        return self.source_wh if self.cut is None else self.cut.picture_wh

    @property
    def principal_xy(self) -> tuple[float, float]:
        """Where an undistorted lens has its principal point, in source pixels (first centre at 0.5)."""
        if self.cut is None:
            return self.source_wh[0] / 2, self.source_wh[1] / 2
        (left, top, right, bottom), (cut_left, cut_top, _, _) = self.cut.picture, self.cut.box
        return (left + right) / 2 - cut_left, (top + bottom) / 2 - cut_top

    def upright(self) -> PixelMap:
        """The map of pictures that lie :func:`on_side` here, for the upright ones."""
        (width, height), (wide, high) = self.source_wh, self.resized_wh
        left, top, right, bottom = self.crop_box
        return PixelMap((height, width), (high, wide), (high - bottom, left, high - top, right))

    @property
    def network_wh(self) -> tuple[int, int]:
        """Width and height of the network image in pixels."""
        left, top, right, bottom = self.crop_box
        return right - left, bottom - top

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Resized pixels per source pixel, in x and y."""
        return self.resized_wh[0] / self.source_wh[0], self.resized_wh[1] / self.source_wh[1]

    @property
    def pixel_aspect(self) -> float:
        """Vertical over horizontal focal length in network pixels: not exactly 1 where the resized size was rounded."""
        return self.scale_xy[1] / self.scale_xy[0]


@dataclass(frozen=True)
class SkippedFrames:
    """Frames of the clip that were not selected; their images are on disk only."""

    times: np.ndarray
    """(G,) float64 seconds from the start of the source, increasing."""
    indices: np.ndarray
    """(G,) int64 index of the frame in the source."""
    names: tuple[str, ...]
    source_paths: tuple[Path, ...]
    """G lossless upright RGB images at source resolution."""

    def __post_init__(self) -> None:
        n = len(self.source_paths)
        require(all(len(x) == n for x in (self.times, self.indices, self.names)), f"{n} skipped frames are incomplete")

    def __len__(self) -> int:
        return len(self.source_paths)


@dataclass(frozen=True)
class NearFrames:
    """Source frames shortly before and after the frames of a clip: small, on disk only."""

    places: np.ndarray
    """(N,) int64 place among the source frames (see :attr:`Frames.places`), increasing; none is a frame of the clip."""
    paths: tuple[Path, ...]
    """N lossless upright RGB images, small, of the whole picture."""

    def __post_init__(self) -> None:
        require(len(self.places) == len(self.paths), f"{len(self.places)} places for {len(self.paths)} near frames")

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class Sharpness:
    """How sharp the frames of a clip are, used or not; of a long clip some of them, the extremes among them."""

    times: np.ndarray
    """(N,) float64 seconds from the start of the source, increasing."""
    values: np.ndarray
    """(N,) float64 energy of the gradient over the median of the frames around; 1: as sharp as these."""

    def __post_init__(self) -> None:
        require(len(self.times) == len(self.values), f"{len(self.times)} times for {len(self.values)} values")


@dataclass(frozen=True)
class RecordedFocal:
    """Focal length that the file of a clip names: a start value, no measurement."""

    pixels: float
    """Source pixels."""
    equivalent_mm: float
    """35 mm equivalent by the diagonal, see :mod:`easi3r_ns.frames.focal`."""
    origin: str
    """Where it stands: 'EXIF' or 'QuickTime metadata'."""
    sigma: float
    """Relative standard deviation."""

    def __str__(self) -> str:
        return f"{self.pixels:.0f} px from the file's {self.origin} ({self.equivalent_mm:.3g} mm equivalent)"


@dataclass(frozen=True)
class ByHand:
    """What a person says about some frames of a clip: it wins over every mask that is found."""

    marks: np.ndarray
    """(N, H, W) int8 on the network grid: 1 moves, -1 stands still, 0 as found."""
    row: np.ndarray
    """(F,) int64 row of ``marks`` for each frame of the clip; -1: nothing is said."""

    def __post_init__(self) -> None:
        require(self.marks.dtype == np.int8 and self.marks.ndim == 3, f"marks: {self.marks.dtype} {self.marks.shape}")
        rows = self.row
        require(bool(((rows >= -1) & (rows < len(self.marks))).all()), f"rows {rows} of {len(self.marks)} marks")

    def of_frames(self, kept: np.ndarray) -> ByHand:
        """Those of some frames only, by their positions."""
        return replace(self, row=self.row[kept])

    def followed_by(self, count: int) -> ByHand:
        """These frames, then ``count`` of which nothing is said."""
        return replace(self, row=np.concatenate([self.row, np.full(count, -1)]))


@dataclass(frozen=True)
class Frames:
    """Frames of one clip: images at network size, and the paths of the upright originals."""

    images: np.ndarray
    """(F, H, W, 3) uint8 RGB at network size."""
    pixel_map: PixelMap
    """Shared by all frames (a clip has one size)."""
    times: np.ndarray
    """(F,) float64 seconds from the start of the source, increasing."""
    indices: np.ndarray
    """(F,) int64 index of the frame in the source (counted in presentation order, from 0)."""
    names: tuple[str, ...]
    """F names: the file names of an image folder, or F times the name of a video."""
    source_paths: tuple[Path, ...]
    """F lossless upright RGB images at source resolution."""
    num_source_frames: int
    """How many frames the source holds (all of them, not only those inside --start/--end)."""
    skipped: SkippedFrames | None = None
    """The frames in between, where they are to be posed too."""
    offsets: np.ndarray | None = None
    """(F,) int64 number of source frames in the sources before a frame's own; None: there is one source."""
    near: NearFrames | None = None
    """The source frames around these, for optical flow at the rate at which the clip was filmed; None: not known."""
    recorded_focal: RecordedFocal | None = None
    """What the files of the (first) source say; None: nothing that can be used."""
    sharpness: Sharpness | None = None
    """Of the (first) source; None: its frames were not compared."""
    clip: np.ndarray | None = None
    """(F,) int64 which of several clips of one scene each frame is from, from 0; times and indices are those of its
    clip. None: there is one clip, which evaluation views may follow."""
    turned: np.ndarray | None = None
    """(F,) bool: frames whose upright pictures lie :func:`on_side` here, because most are landscape and they are
    portrait, or the other way round. None: all stand."""
    rig: ViewRig | None = None
    """Where the frames are views of a sphere: which ones. Every view is a source of its own. None: they are not."""
    by_hand: ByHand | None = None
    """What a person says about their masks; None: nothing."""

    def __post_init__(self) -> None:
        n = len(self.images)
        width, height = self.pixel_map.network_wh
        require(self.images.dtype == np.uint8, f"images are {self.images.dtype}, not uint8")
        require(self.images.shape == (n, height, width, 3), f"images {self.images.shape} do not fit {self.pixel_map}")
        for name in ("times", "indices", "names", "source_paths"):
            require(len(getattr(self, name)) == n, f"{name}: {len(getattr(self, name))} entries for {n} frames")
        require(self.offsets is None or len(self.offsets) == n, f"offsets do not fit {n} frames")
        for name in ("clip", "turned", "rig"):
            values = getattr(self, name)
            require(values is None or len(values) == n, f"{name}: {values} for {n} frames")
        require(self.by_hand is None or len(self.by_hand.row) == n, f"by_hand does not fit {n} frames")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def first_source(self) -> np.ndarray:
        """Increasing rows of the frames of the first source: the clip, without evaluation views."""
        return np.arange(len(self)) if self.offsets is None else np.flatnonzero(self.offsets == 0)

    @property
    def num_first_source(self) -> int:
        """Number of frames that the first source holds."""
        later = [] if self.offsets is None else self.offsets[self.offsets > 0].tolist()
        return min(later, default=self.num_source_frames)

    @property
    def places(self) -> np.ndarray:
        """(F,) int64 index of each frame among all ``num_source_frames``, counted through the sources one by one."""
        return self.indices if self.offsets is None else self.indices + self.offsets

    @property
    def clips(self) -> list[range]:
        """The rows of each source, which lie in a row: a clip, evaluation views, or the views of a sphere."""
        offsets = np.zeros(len(self), dtype=np.int64) if self.offsets is None else self.offsets
        cuts = [0, *(np.flatnonzero(np.diff(offsets)) + 1).tolist(), len(self)]
        return [range(start, stop) for start, stop in zip(cuts[:-1], cuts[1:], strict=True) if stop > start]

    def of_frames(self, kept: np.ndarray) -> Frames:
        """Some of these frames only, by their positions; source frames around them and in between stay known."""
        return replace(
            self,
            images=self.images[kept],
            times=self.times[kept],
            indices=self.indices[kept],
            names=tuple(self.names[k] for k in kept),
            source_paths=tuple(self.source_paths[k] for k in kept),
            offsets=None if self.offsets is None else self.offsets[kept],
            clip=None if self.clip is None else self.clip[kept],
            turned=None if self.turned is None else self.turned[kept],
            rig=self.rig and self.rig.of_frames(kept),
            by_hand=self.by_hand and self.by_hand.of_frames(kept),
        )

    def followed_by(self, other: Frames) -> Frames:
        """These frames, then those of another source; raises ValueError where its frames have another size.

        The skipped frames of the other source are left out.
        """
        require(self.pixel_map == other.pixel_map, f"sizes differ: {self.pixel_map} and {other.pixel_map}")
        own, others = (np.zeros(len(f), dtype=np.int64) if f.offsets is None else f.offsets for f in (self, other))
        return Frames(
            images=np.concatenate([self.images, other.images]),
            pixel_map=self.pixel_map,
            times=np.concatenate([self.times, other.times]),
            indices=np.concatenate([self.indices, other.indices]),
            names=self.names + other.names,
            source_paths=self.source_paths + other.source_paths,
            num_source_frames=self.num_source_frames + other.num_source_frames,
            skipped=self.skipped,
            offsets=np.concatenate([own, others + self.num_source_frames]),
            near=_joined(self.near, other.near, self.num_source_frames),
            recorded_focal=self.recorded_focal,
            sharpness=self.sharpness,
            by_hand=self.by_hand and self.by_hand.followed_by(len(other)),
        )


def _joined(near: NearFrames | None, other: NearFrames | None, offset: int) -> NearFrames | None:
    """Near frames of two sources, of which the second begins ``offset`` places later."""
    if near is None and other is None:
        return None
    parts = [(p.places + shift, p.paths) for p, shift in ((near, 0), (other, offset)) if p is not None]
    return NearFrames(np.concatenate([places for places, _ in parts]), sum((paths for _, paths in parts), ()))


@dataclass(frozen=True)
class PairGraph:
    """Ordered pairs (i, j) of frames: i is the reference view."""

    edges: np.ndarray
    """(E, 2) int64, unique rows, no (i, i); with every (i, j) also (j, i)."""
    num_frames: int
    strategy: str = "custom"

    def __post_init__(self) -> None:
        edges = self.edges
        require(edges.ndim == 2 and edges.shape[1] == 2 and len(edges) > 0, f"edges have shape {edges.shape}")
        require(bool(((edges >= 0) & (edges < self.num_frames)).all()), "an edge names a frame that is not there")
        require(bool((edges[:, 0] != edges[:, 1]).all()), "a frame is paired with itself")
        rows = {tuple(e) for e in edges.tolist()}
        require(len(rows) == len(edges), "an ordered pair appears twice")
        require(all((j, i) in rows for i, j in rows), "the pair graph is not symmetric")

    def __len__(self) -> int:
        return len(self.edges)


POINTMAP_NAMES = ("points_i", "conf_i", "points_j", "conf_j")
"""The tensors of :class:`PairPredictions`."""


@dataclass(frozen=True)
class PairPredictions:
    """Two pointmaps per ordered pair (i, j), BOTH in the camera frame of view i (DUSt3R, CVPR 2024, section 3)."""

    graph: PairGraph
    points_i: torch.Tensor
    """(E, H, W, 3) points of view i, in camera i, arbitrary scale per pair."""
    conf_i: torch.Tensor
    """(E, H, W) confidence of view i, >= 1."""
    points_j: torch.Tensor
    """(E, H, W, 3) points of view j, in camera i."""
    conf_j: torch.Tensor
    """(E, H, W) confidence of view j, >= 1."""

    def __post_init__(self) -> None:
        e, (height, width) = len(self.graph), tuple(self.conf_i.shape[1:])
        for name in ("points_i", "points_j"):
            require(tuple(getattr(self, name).shape) == (e, height, width, 3), f"{name}: {getattr(self, name).shape}")
        for name in ("conf_i", "conf_j"):
            require(tuple(getattr(self, name).shape) == (e, height, width), f"{name}: {getattr(self, name).shape}")


@dataclass(frozen=True)
class PairFlow:
    """Optical flow of every ordered pair (i, j): pixel p of frame i is seen at p + flow(p) in frame j."""

    graph: PairGraph
    flow: torch.Tensor
    """(E, 2, H, W) float16 or float32, (dx, dy) in network pixels; the backward flow of (i, j) is the row of (j, i)."""
    consistent: torch.Tensor
    """(E, H, W) bool, True where forward and backward flow agree (neither occluded nor mismatched)."""
    provider: str = "unknown"

    def __post_init__(self) -> None:
        e, (height, width) = len(self.graph), tuple(self.flow.shape[2:])
        require(tuple(self.flow.shape) == (e, 2, height, width), f"flow {tuple(self.flow.shape)} for {e} pairs")
        require(tuple(self.consistent.shape) == (e, height, width), f"consistent: {tuple(self.consistent.shape)}")


@dataclass(frozen=True)
class AttentionStats:
    """Mean and deviation, over the pairs of a frame, of query-averaged cross-attention logits (Easi3R, section 3.2).

    ``src``: the frame is the second view of the pair (keys of decoder 1); ``ref``: the first view (keys of decoder 2).
    """

    mean_src: np.ndarray
    std_src: np.ndarray
    mean_ref: np.ndarray
    std_ref: np.ndarray
    """Each (F, h, w, C) float32; std is the unbiased deviation, 0 for a frame with a single pair."""

    def __post_init__(self) -> None:
        shape = self.mean_src.shape
        require(len(shape) == 4, f"mean_src has shape {shape}, not (F, h, w, C)")
        for name in ("std_src", "mean_ref", "std_ref"):
            require(getattr(self, name).shape == shape, f"{name} {getattr(self, name).shape} differs from {shape}")


@dataclass(frozen=True)
class RefinedMasks:
    """Masks that a segmentation model made of others."""

    masks: np.ndarray
    """(F, H, W) bool, True where something moves."""
    facts: dict[str, Any]
    """JSON-serialisable: the model, its licence, and what it did; of all frames, whichever are kept."""
    objects: np.ndarray | None = None
    """(F, H, W) uint16 id of the object at each pixel, 0 exactly where nothing moves; None: not known any more."""

    def of_frames(self, kept: np.ndarray) -> RefinedMasks:
        """Those of some frames only, by their positions."""
        objects = None if self.objects is None else self.objects[kept]
        return replace(self, masks=self.masks[kept], objects=objects)


@dataclass(frozen=True)
class DynamicMasks:
    """Motion masks: what moves in each frame."""

    masks: np.ndarray
    """(F, H, W) bool, True where something moves. Beside :attr:`refined` the union of those and the ones they were made
    of, by which cameras and depth are found."""
    score: np.ndarray
    """(F, h, w) float32 in [0, 1]: dynamic score per token (0 everywhere for user-made masks or none)."""
    threshold: float
    """Score above which a pixel counts as moving; NaN for user-made masks or none."""
    source: str = "attention"
    """'attention', 'geometry' (two-view geometry of optical flow), 'scene' (the second look: flow against the found
    cameras and depth), 'user' or 'none'."""
    maps: dict[str, np.ndarray] | None = None
    """The maps that the score is made of, for display: name -> (F, h, w) float32 in [0, 1]. For 'attention' the
    channel-averaged 'mean_src', 'std_src', 'mean_ref' and 'std_ref' (see :class:`AttentionStats`), and
    'flow_residual' where the formula of the score has it. For 'geometry' and 'scene' 'mean' and 'deviation' of the
    flow's residual over the pairs."""
    first: np.ndarray | None = None
    """(F, H, W) bool: for 'scene', the masks of the first look, by which the cameras were found."""
    objects: np.ndarray | None = None
    """(F, H, W) uint16 id of the object at each pixel, 0 exactly where nothing moves; None: not told apart."""
    refined: RefinedMasks | None = None
    """What a segmentation model made of the masks, which a dataset gets in their place; None: there is no model."""
    over_cut: np.ndarray | None = None
    """(F, H, W) uint8 score over its cut, see :mod:`easi3r_ns.motion.cut`, of masks that were just found."""
    named: dict[str, Any] | None = None
    """Where things with a name were added or taken: what is said of them, JSON-serialisable; None: no names."""

    def __post_init__(self) -> None:
        require(self.masks.dtype == bool and self.masks.ndim == 3, f"masks: {self.masks.dtype} {self.masks.shape}")
        require(len(self.score) == len(self.masks), "score and masks differ in the number of frames")
        require(
            self.first is None or self.first.shape == self.masks.shape, "the masks of the two looks differ in shape"
        )
        cut = self.over_cut
        require(cut is None or cut.shape == self.masks.shape, "the score of the pixels is not that of the masks")
        if self.objects is not None:
            told = self.objects.dtype == np.uint16 and self.objects.shape == self.masks.shape
            require(told and bool(((self.objects > 0) == self.masks).all()), "the objects are not those of the masks")
        if self.refined is not None:
            require(self.refined.masks.shape == self.masks.shape, "the refined masks differ in shape")
        for name, values in (self.maps or {}).items():
            require(values.shape == self.score.shape, f"map {name}: {values.shape}, the score {self.score.shape}")

    def of_frames(self, kept: np.ndarray) -> DynamicMasks:
        """Those of some frames only, by their positions."""
        return replace(
            self,
            masks=self.masks[kept],
            score=self.score[kept],
            maps=self.maps and {name: values[kept] for name, values in self.maps.items()},
            first=None if self.first is None else self.first[kept],
            objects=None if self.objects is None else self.objects[kept],
            refined=self.refined and self.refined.of_frames(kept),
            over_cut=None if self.over_cut is None else self.over_cut[kept],
        )

    @property
    def final(self) -> DynamicMasks:
        """The masks for a dataset: those that a segmentation model made, where there is one."""
        if self.refined is None:
            return self
        return replace(self, masks=self.refined.masks, objects=self.refined.objects, refined=None)

    @property
    def coverage(self) -> np.ndarray:
        """(F,) share of the pixels of each frame that move."""
        return self.masks.mean(axis=(1, 2))
