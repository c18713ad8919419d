"""Frozen values that travel between the stages.

Conventions, everywhere unless a field says otherwise:

* cameras are camera-to-world matrices ``T_world_cam`` with OpenCV axes (x right, y down, z forward);
* pixels of the network grid have their centres at INTEGER coordinates (the first pixel is (0, 0));
  :mod:`easi3r_ns.geometry` converts to the half-pixel convention of nerfstudio and COLMAP;
* images are RGB uint8; masks are boolean and True where something MOVES; depth is z-depth, 0 where unknown.

Letters in shapes: F frames, E ordered pairs, H x W pixels of the network grid, h x w tokens, C = layers * heads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class PixelMap:
    """How network pixels lie in the source image: resize to ``resized_wh``, then crop ``crop_box``."""

    source_wh: tuple[int, int]
    """Width and height of the upright source image in pixels."""
    resized_wh: tuple[int, int]
    """Width and height after resizing, before the crop."""
    crop_box: tuple[int, int, int, int]
    """(left, top, right, bottom) of the crop in pixels of the resized image; right and bottom exclusive."""

    def __post_init__(self) -> None:
        left, top, right, bottom = self.crop_box
        _require(min(*self.source_wh, *self.resized_wh) > 0, f"empty image in {self}")
        _require(0 <= left < right <= self.resized_wh[0], f"crop_box leaves the resized image: {self}")
        _require(0 <= top < bottom <= self.resized_wh[1], f"crop_box leaves the resized image: {self}")

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
    """Frames of the clip that were sampled away: on disk only."""

    times: np.ndarray
    """(G,) float64 seconds from the start of the source, increasing."""
    indices: np.ndarray
    """(G,) int64 index of the frame in the source."""
    names: tuple[str, ...]
    source_paths: tuple[Path, ...]
    """G lossless upright RGB images at source resolution."""

    def __post_init__(self) -> None:
        n = len(self.source_paths)
        _require(all(len(x) == n for x in (self.times, self.indices, self.names)), f"{n} skipped frames are incomplete")

    def __len__(self) -> int:
        return len(self.source_paths)


@dataclass(frozen=True)
class Frames:
    """Frames of one clip: the network's view of them, and where the upright originals lie."""

    images: np.ndarray
    """(F, H, W, 3) uint8 RGB at network size."""
    pixel_map: PixelMap
    """Shared by all frames (a clip has one size)."""
    times: np.ndarray
    """(F,) float64 seconds from the start of the source, increasing."""
    indices: np.ndarray
    """(F,) int64 index of the frame in the source (counted in presentation order, from 0)."""
    names: tuple[str, ...]
    """F names of origin: the file of an image folder, or the clip's name F times."""
    source_paths: tuple[Path, ...]
    """F lossless upright RGB images at source resolution."""
    num_source_frames: int
    """How many frames the source holds (all of them, not only those inside --start/--end)."""
    skipped: SkippedFrames | None = None
    """The frames in between, where they are to be posed too."""
    offsets: np.ndarray | None = None
    """(F,) int64 number of source frames in the sources before a frame's own; None: there is one source."""

    def __post_init__(self) -> None:
        n = len(self.images)
        width, height = self.pixel_map.network_wh
        _require(self.images.dtype == np.uint8, f"images are {self.images.dtype}, not uint8")
        _require(self.images.shape == (n, height, width, 3), f"images {self.images.shape} do not fit {self.pixel_map}")
        for name in ("times", "indices", "names", "source_paths"):
            _require(len(getattr(self, name)) == n, f"{name}: {len(getattr(self, name))} entries for {n} frames")
        _require(self.offsets is None or len(self.offsets) == n, f"offsets do not fit {n} frames")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def places(self) -> np.ndarray:
        """(F,) int64 place of each frame among the ``num_source_frames``, where one source follows the other."""
        return self.indices if self.offsets is None else self.indices + self.offsets

    def followed_by(self, other: Frames) -> Frames:
        """These frames, then those of another source with the same size; raises ValueError for another size.

        What was skipped of the other source is left out.
        """
        _require(self.pixel_map == other.pixel_map, f"sizes differ: {self.pixel_map} and {other.pixel_map}")
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
        )


@dataclass(frozen=True)
class PairGraph:
    """Ordered pairs (i, j) of frames: i is the reference view."""

    edges: np.ndarray
    """(E, 2) int64, unique rows, no (i, i); with every (i, j) also (j, i)."""
    num_frames: int
    strategy: str = "custom"

    def __post_init__(self) -> None:
        edges = self.edges
        _require(edges.ndim == 2 and edges.shape[1] == 2 and len(edges) > 0, f"edges have shape {edges.shape}")
        _require(bool(((edges >= 0) & (edges < self.num_frames)).all()), "an edge names a frame that is not there")
        _require(bool((edges[:, 0] != edges[:, 1]).all()), "a frame is paired with itself")
        rows = {tuple(e) for e in edges.tolist()}
        _require(len(rows) == len(edges), "an ordered pair appears twice")
        _require(all((j, i) in rows for i, j in rows), "the pair graph is not symmetric")

    def __len__(self) -> int:
        return len(self.edges)


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
            _require(tuple(getattr(self, name).shape) == (e, height, width, 3), f"{name}: {getattr(self, name).shape}")
        for name in ("conf_i", "conf_j"):
            _require(tuple(getattr(self, name).shape) == (e, height, width), f"{name}: {getattr(self, name).shape}")


@dataclass(frozen=True)
class PairFlow:
    """Optical flow of every ordered pair (i, j): pixel p of frame i is seen at p + flow(p) in frame j."""

    graph: PairGraph
    flow: torch.Tensor
    """(E, 2, H, W) float16 or float32, (dx, dy) in network pixels; the backward flow of (i, j) is the row of (j, i)."""
    consistent: torch.Tensor
    """(E, H, W) bool, True where going there and back again ends near the start (neither occluded nor mismatched)."""
    provider: str = "unknown"

    def __post_init__(self) -> None:
        e, (height, width) = len(self.graph), tuple(self.flow.shape[2:])
        _require(tuple(self.flow.shape) == (e, 2, height, width), f"flow {tuple(self.flow.shape)} for {e} pairs")
        _require(tuple(self.consistent.shape) == (e, height, width), f"consistent: {tuple(self.consistent.shape)}")


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
        _require(len(shape) == 4, f"mean_src has shape {shape}, not (F, h, w, C)")
        for name in ("std_src", "mean_ref", "std_ref"):
            _require(getattr(self, name).shape == shape, f"{name} {getattr(self, name).shape} differs from {shape}")


@dataclass(frozen=True)
class DynamicMasks:
    """What moves, per frame."""

    masks: np.ndarray
    """(F, H, W) bool, True where something moves."""
    score: np.ndarray
    """(F, h, w) float32 in [0, 1]: dynamic score per token (0 everywhere for user-made masks or none)."""
    threshold: float
    """Score above which a pixel counts as moving; NaN for user-made masks or none."""
    source: str = "attention"
    """'attention', 'geometry', 'user' or 'none'."""
    maps: dict[str, np.ndarray] | None = None
    """What the score is made of, for people to look at: name -> (F, h, w) float32 in [0, 1]. For 'attention' the
    channel-averaged 'mean_src', 'std_src', 'mean_ref' and 'std_ref' (see :class:`AttentionStats`), and
    'flow_residual' where the formula of the score has it."""

    def __post_init__(self) -> None:
        _require(self.masks.dtype == bool and self.masks.ndim == 3, f"masks: {self.masks.dtype} {self.masks.shape}")
        _require(len(self.score) == len(self.masks), "score and masks differ in the number of frames")
        for name, values in (self.maps or {}).items():
            _require(values.shape == self.score.shape, f"map {name}: {values.shape}, the score {self.score.shape}")

    @property
    def coverage(self) -> np.ndarray:
        """(F,) share of the pixels of each frame that move."""
        return self.masks.mean(axis=(1, 2))


@dataclass(frozen=True)
class SparsePoints:
    """Triangulated static points with their tracks: N points, M observations."""

    points: np.ndarray
    """(N, 3) float64 in the scene's world."""
    colors: np.ndarray
    """(N, 3) uint8 RGB."""
    errors: np.ndarray
    """(N,) float64 mean reprojection error in SOURCE pixels."""
    point_index: np.ndarray
    """(M,) int64 point of each observation."""
    frame_index: np.ndarray
    """(M,) int64 frame (position in the Scene) of each observation."""
    pixels: np.ndarray
    """(M, 2) float64 observed position in SOURCE pixels (first pixel centre at 0.5, distorted as in the image)."""

    def __post_init__(self) -> None:
        n, m = len(self.points), len(self.point_index)
        _require(self.points.shape == (n, 3) and self.colors.shape == (n, 3), f"sparse points {self.points.shape}")
        _require(self.errors.shape == (n,), f"sparse errors {self.errors.shape} for {n} points")
        _require(self.frame_index.shape == (m,) and self.pixels.shape == (m, 2), f"{m} observations are incomplete")
        _require(m == 0 or 0 <= self.point_index.min() <= self.point_index.max() < n, "an observation names no point")

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True)
class CameraUncertainty:
    """How far the cameras may be off, 1 sigma each; what all pointmaps get wrong alike is not in it.

    Errors of the path as a whole are what remains after the best similarity onto the truth, in which the turn of a
    camera counts as much as the shift that it causes at the median depth. Infinite: nothing observes the value.
    """

    rotation_deg: np.ndarray
    """(F,) float64 angle in degrees: root of the summed variance about the three axes."""
    centre: np.ndarray
    """(F,) float64 distance in scene units: root of the summed variance along the three axes."""
    focal: np.ndarray
    """(F,) float64 network pixels, 0 where the focal length was given."""
    residual: np.ndarray
    """(F,) float64 median distance between the frame's points and those of its pairs, in percent of their depth; NaN
    for a frame without a trusted point."""

    def __post_init__(self) -> None:
        n = len(self.rotation_deg)
        for name in ("rotation_deg", "centre", "focal", "residual"):
            values = getattr(self, name)
            _require(values.shape == (n,), f"uncertainty: {name} has shape {values.shape}, not ({n},)")
            known = values[~np.isnan(values)] if name == "residual" else values
            _require(bool((known >= 0).all()), f"uncertainty: {name} is negative or NaN")

    def __len__(self) -> int:
        return len(self.rotation_deg)


PNP, INTERPOLATED = "pnp", "interpolated"
"""How a frame in between got its camera: from static points that its neighbours share with it, or between theirs."""


@dataclass(frozen=True)
class PosedFrames:
    """Frames of the clip between those of the Scene, with cameras in its world; they have no depth.

    They stand apart from the Scene's own frames, all of which have a depth, a confidence and a motion score on the
    network grid: a clip has many times more of them, and nothing of theirs but one bit per pixel is kept in memory.
    """

    T_world_cam: np.ndarray
    """(G, 4, 4) float64 camera-to-world, OpenCV axes, scene units."""
    focals: np.ndarray
    """(G,) float64 horizontal focal length in network pixels."""
    after: np.ndarray
    """(G,) int64 position in the Scene of the frame that each follows; -1: it comes before the first."""
    mask_bits: np.ndarray
    """(G, H, ceil(W / 8)) uint8: ``np.packbits`` of what moves or cannot be told, see :meth:`moving`."""
    times: np.ndarray
    """(G,) seconds, increasing."""
    indices: np.ndarray
    """(G,) index of the frame in the source."""
    names: tuple[str, ...]
    source_paths: tuple[Path, ...]
    """G upright RGB images at source resolution."""
    pose_sources: tuple[str, ...]
    """G of :data:`PNP` and :data:`INTERPOLATED`."""

    def __post_init__(self) -> None:
        n = len(self.source_paths)
        _require(self.T_world_cam.shape == (n, 4, 4), f"T_world_cam has shape {self.T_world_cam.shape}")
        _require(bool(np.isfinite(self.T_world_cam).all()), "T_world_cam holds NaN or infinity")
        _require(bool((self.focals > 0).all()), "a focal length is not positive")
        _require(self.mask_bits.dtype == np.uint8 and self.mask_bits.ndim == 3, f"mask_bits {self.mask_bits.shape}")
        for name in ("focals", "after", "mask_bits", "times", "indices", "names", "pose_sources"):
            _require(len(getattr(self, name)) == n, f"{name}: {len(getattr(self, name))} entries for {n} posed frames")

    def __len__(self) -> int:
        return len(self.source_paths)

    def moving(self, position: int, width: int) -> np.ndarray:
        """(H, W) bool mask of one frame, True where something moves; ``width`` is W."""
        return np.unpackbits(self.mask_bits[position], axis=-1, count=width).astype(bool)


@dataclass(frozen=True)
class Scene:
    """The reconstruction on the network grid; everything that is exported, viewed or scored comes from here."""

    images: np.ndarray
    """(F, H, W, 3) uint8 RGB at network size."""
    T_world_cam: np.ndarray
    """(F, 4, 4) float64 camera-to-world, OpenCV axes, scene units."""
    focals: np.ndarray
    """(F,) float64 horizontal focal length in network pixels; see :attr:`focals_xy`."""
    principal_point: np.ndarray
    """(2,) float64 (cx, cy) in network pixels, integer pixel centres."""
    depth: np.ndarray
    """(F, H, W) float32 z-depth in scene units, 0 where unknown."""
    confidence: np.ndarray
    """(F, H, W) float32 confidence, 0 where the depth is unknown."""
    dynamic: DynamicMasks
    pixel_map: PixelMap
    times: np.ndarray
    """(F,) seconds."""
    indices: np.ndarray
    """(F,) index of the frame in the source."""
    names: tuple[str, ...]
    source_paths: tuple[Path, ...]
    min_confidence: float = 1.1
    """Pixels below this confidence are not trusted: they have no depth in the dataset and no point in the clouds."""
    distortion: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """(k1, k2, p1, p2) of OpenCV's lens model, shared by all frames; it acts on normalised image coordinates, so it is
    the same at every resolution. ``depth`` lies on the DISTORTED pixel grid, as the images do."""
    sparse: SparsePoints | None = None
    """Triangulated points, where bundle adjustment ran."""
    pose_sources: tuple[str, ...] | None = None
    """Per frame where its camera comes from: 'network', 'colmap', 'aligned' (the network's, moved into COLMAP's world
    because COLMAP did not register the frame), or :data:`INTERPOLATED` (nothing holds it). None: all 'network'."""
    contradicted: np.ndarray | None = None
    """(F, H, W) bool: points in front of what another, more confident view sees; kept out of the clouds. None: none."""
    uncertainty: CameraUncertainty | None = None
    """Of these cameras, by the alignment; None where it was not estimated, or the cameras come from elsewhere."""
    between: PosedFrames | None = None
    """Frames that were sampled away and posed afterwards."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """JSON-serialisable: version, weights, licence, config, seed, timings, warnings."""

    def __post_init__(self) -> None:
        n = len(self.images)
        width, height = self.pixel_map.network_wh
        _require(self.images.shape == (n, height, width, 3), f"images {self.images.shape} do not fit {self.pixel_map}")
        _require(self.T_world_cam.shape == (n, 4, 4), f"T_world_cam has shape {self.T_world_cam.shape}")
        _require(self.focals.shape == (n,), f"focals have shape {self.focals.shape}")
        _require(bool((self.focals > 0).all()), "a focal length is not positive")
        _require(np.shape(self.principal_point) == (2,), "principal_point is not a pair")
        for name in ("depth", "confidence"):
            _require(getattr(self, name).shape == (n, height, width), f"{name} has shape {getattr(self, name).shape}")
        _require(self.dynamic.masks.shape == (n, height, width), f"masks have shape {self.dynamic.masks.shape}")
        if self.contradicted is not None:
            _require(self.contradicted.shape == (n, height, width), f"contradicted: {self.contradicted.shape}")
        for name in ("T_world_cam", "focals", "depth", "confidence"):
            _require(bool(np.isfinite(getattr(self, name)).all()), f"{name} holds NaN or infinity")
        for name in ("times", "indices", "names", "source_paths"):
            _require(len(getattr(self, name)) == n, f"{name}: {len(getattr(self, name))} entries for {n} frames")
        lens = self.distortion
        _require(len(lens) == 4 and bool(np.isfinite(lens).all()), f"distortion {lens}")
        _require(self.pose_sources is None or len(self.pose_sources) == n, "pose_sources does not fit the frames")
        _require(self.uncertainty is None or len(self.uncertainty) == n, "the uncertainty does not fit the frames")
        if self.between is not None:
            bits = (len(self.between), height, -(-width // 8))
            _require(self.between.mask_bits.shape == bits, f"mask_bits {self.between.mask_bits.shape}, not {bits}")
            _require(bool((self.between.after < n).all()), "a frame in between follows one that is not there")
        if self.sparse is not None and len(self.sparse.frame_index):
            _require(int(self.sparse.frame_index.max()) < n, "a sparse observation names a frame that is not there")

    @property
    def has_depth(self) -> bool:
        """Whether any pixel has a depth (the geometric route has none)."""
        return bool((self.depth > 0).any())

    @property
    def focals_xy(self) -> np.ndarray:
        """(F, 2) focal lengths in network pixels, horizontal and vertical (the source's pixels are square)."""
        return self.focals[:, None] * np.array([1.0, self.pixel_map.pixel_aspect])

    def __len__(self) -> int:
        return len(self.images)
