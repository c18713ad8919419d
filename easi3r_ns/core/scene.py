"""The reconstruction: everything that is exported, viewed or scored comes from here.

Conventions and letters as in :mod:`~easi3r_ns.core.types`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .end_to_end import end_to_end
from .geometry import source_to_network
from .rig import ViewRig
from .similarity import Similarity
from .types import T_SIDE_UPRIGHT, DynamicMasks, Frames, PixelMap, require

ASSUMED = "The depth of what moves is assumed from where it stands: for viewing only."
"""Said wherever :attr:`Scene.assumed_depth` is shown."""
DEPTH_SOURCES = ("unknown", "stereo", "network", "prior")
"""What the numbers in :attr:`Scene.depth_source` mean: measured by multi-view stereo (or brought along by an import),
predicted by the network that found the cameras, or predicted from single pictures (:mod:`easi3r_ns.depth.prior`)."""
FROM_PRIOR = DEPTH_SOURCES.index("prior")
FEWEST_OBSERVATIONS = 2
"""A triangulated point with fewer is no point."""
MOST_SCALE_PIXELS = 2**24
"""Approximate number of pixels that are sampled to choose the unit of a scene."""


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
        require(self.points.shape == (n, 3) and self.colors.shape == (n, 3), f"sparse points {self.points.shape}")
        require(self.errors.shape == (n,), f"sparse errors {self.errors.shape} for {n} points")
        require(self.frame_index.shape == (m,) and self.pixels.shape == (m, 2), f"{m} observations are incomplete")
        require(m == 0 or 0 <= self.point_index.min() <= self.point_index.max() < n, "an observation names no point")

    def __len__(self) -> int:
        return len(self.points)

    def observed(self, seen: np.ndarray) -> SparsePoints:
        """The points with the observations (M,) bool ``seen`` only, where :data:`FEWEST_OBSERVATIONS` are left."""
        views = np.bincount(self.point_index[seen], minlength=len(self))
        left = views >= FEWEST_OBSERVATIONS
        seen = seen & left[self.point_index]
        return SparsePoints(
            points=self.points[left],
            colors=self.colors[left],
            errors=self.errors[left],
            point_index=(np.cumsum(left) - 1)[self.point_index[seen]],
            frame_index=self.frame_index[seen],
            pixels=self.pixels[seen],
        )


@dataclass(frozen=True)
class CameraUncertainty:
    """Standard deviations (1 sigma) of the camera parameters, from the alignment or from bundle adjustment.

    They do not include systematic errors that all pointmaps, or all tracks, share. Global rotation, translation and
    scale are free: the deviations are those that remain after the best similarity onto the truth, in which the rotation
    error of a camera counts as much as the displacement that it causes at the median depth. A value that nothing
    observes is infinite.
    """

    rotation_deg: np.ndarray
    """(F,) float64 angle in degrees: root of the summed variance about the three axes."""
    centre: np.ndarray
    """(F,) float64 distance in scene units: root of the summed variance along the three axes."""
    focal: np.ndarray
    """(F,) float64 network pixels, 0 where the focal length was given."""
    residual: np.ndarray
    """(F,) float64 median distance between the frame's points and those of its pairs, in percent of their depth (of
    bundle adjustment: between its keypoints and their points); NaN for a frame without a trusted point."""

    def __post_init__(self) -> None:
        n = len(self.rotation_deg)
        for name in ("rotation_deg", "centre", "focal", "residual"):
            values = getattr(self, name)
            require(values.shape == (n,), f"uncertainty: {name} has shape {values.shape}, not ({n},)")
            known = values[~np.isnan(values)] if name == "residual" else values
            require(bool((known >= 0).all()), f"uncertainty: {name} is negative or NaN")

    def __len__(self) -> int:
        return len(self.rotation_deg)

    def of_frames(self, kept: np.ndarray) -> CameraUncertainty:
        """Those of some frames only, by their positions."""
        return CameraUncertainty(*(getattr(self, name)[kept] for name in self.__dataclass_fields__))


PNP, INTERPOLATED = "pnp", "interpolated"
"""How a frame in between got its camera: by PnP on static points that it shares with its neighbours, or by
interpolation between the cameras of its neighbours."""
FIXED, TURNING = "fixed", "turning"
"""How a frame got its camera where the camera does not leave its place: all are equal, or turn about one centre."""


@dataclass(frozen=True)
class PosedFrames:
    """Frames of the clip between those of the Scene, with cameras in its world; they have no depth.

    They are not rows of the Scene, whose frames all have a depth, a confidence and a motion score on the network grid:
    a clip can have many times more frames in between, and only one bit per pixel of each is kept in memory.
    """

    T_world_cam: np.ndarray
    """(G, 4, 4) float64 camera-to-world, OpenCV axes, scene units."""
    focals: np.ndarray
    """(G,) float64 horizontal focal length in network pixels."""
    after: np.ndarray
    """(G,) int64 position in the Scene of the frame that each follows; -1: it comes before the first."""
    mask_bits: np.ndarray
    """(G, H, ceil(W / 8)) uint8: ``np.packbits`` of the mask of what moves or is unknown, see :meth:`moving`."""
    times: np.ndarray
    """(G,) seconds, increasing."""
    indices: np.ndarray
    """(G,) index of the frame in the source."""
    names: tuple[str, ...]
    source_paths: tuple[Path, ...]
    """G upright RGB images at source resolution."""
    pose_sources: tuple[str, ...]
    """G of :data:`PNP`, :data:`INTERPOLATED` and :data:`FIXED`."""

    def __post_init__(self) -> None:
        n = len(self.source_paths)
        require(self.T_world_cam.shape == (n, 4, 4), f"T_world_cam has shape {self.T_world_cam.shape}")
        require(bool(np.isfinite(self.T_world_cam).all()), "T_world_cam holds NaN or infinity")
        require(bool((self.focals > 0).all()), "a focal length is not positive")
        require(self.mask_bits.dtype == np.uint8 and self.mask_bits.ndim == 3, f"mask_bits {self.mask_bits.shape}")
        for name in ("focals", "after", "mask_bits", "times", "indices", "names", "pose_sources"):
            require(len(getattr(self, name)) == n, f"{name}: {len(getattr(self, name))} entries for {n} posed frames")

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
    """(k1, k2, p1, p2) of OpenCV's lens model, or a :class:`~easi3r_ns.core.geometry.FisheyeDistortion`, shared by all
    frames; it acts on normalised image coordinates, so it is the same at every resolution. ``depth`` lies on the
    DISTORTED pixel grid, as the images do."""
    sparse: SparsePoints | None = None
    """Triangulated points, where bundle adjustment ran."""
    pose_sources: tuple[str, ...] | None = None
    """Per frame where its camera comes from: 'network', 'colmap', 'aligned' (the network's, moved into COLMAP's world
    because COLMAP did not register the frame), :data:`INTERPOLATED` (nothing holds it), or :data:`FIXED` or
    :data:`TURNING` (see :attr:`stays`). None: all 'network'."""
    contradicted: np.ndarray | None = None
    """(F, H, W) bool: pixels whose point lies in front of the surface that another, more confident view sees; these
    points are left out of the point clouds. None: there are none."""
    assumed_depth: np.ndarray | None = None
    """(F, H, W) float32 z-depth in scene units of moving pixels whose ``depth`` is unknown, 0 elsewhere: that of what
    they seem to stand on (:mod:`easi3r_ns.depth.movers`). It was not measured: it serves for viewing what moves, and
    is no part of depth maps, static clouds, meshes and measures. None: nothing is assumed."""
    depth_source: np.ndarray | None = None
    """(F, H, W) uint8, indices of :data:`DEPTH_SOURCES`: where ``depth`` came from. None: all from one source."""
    uncertainty: CameraUncertainty | None = None
    """Uncertainty of these cameras by what found them; None where it was not estimated."""
    between: PosedFrames | None = None
    """Frames that were sampled away and posed afterwards."""
    clip: np.ndarray | None = None
    """(F,) int64 which of several clips each frame is from, from 0, in their order: times and indices are those of its
    clip. None: there is one."""
    turned: np.ndarray | None = None
    """(F,) bool: frames that lie on their side (:func:`~.types.on_side`) in ``images``, cameras and all else here; a
    dataset has them upright. None: all stand."""
    rig: ViewRig | None = None
    """Where the frames are views of a sphere: which ones."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """JSON-serialisable: version, weights, licence, config, seed, timings, warnings."""

    def __post_init__(self) -> None:
        n = len(self.images)
        width, height = self.pixel_map.network_wh
        require(self.images.shape == (n, height, width, 3), f"images {self.images.shape} do not fit {self.pixel_map}")
        require(self.T_world_cam.shape == (n, 4, 4), f"T_world_cam has shape {self.T_world_cam.shape}")
        require(self.focals.shape == (n,), f"focals have shape {self.focals.shape}")
        require(bool((self.focals > 0).all()), "a focal length is not positive")
        require(np.shape(self.principal_point) == (2,), "principal_point is not a pair")
        for name in ("depth", "confidence"):
            require(getattr(self, name).shape == (n, height, width), f"{name} has shape {getattr(self, name).shape}")
        require(self.dynamic.masks.shape == (n, height, width), f"masks have shape {self.dynamic.masks.shape}")
        if self.contradicted is not None:
            require(self.contradicted.shape == (n, height, width), f"contradicted: {self.contradicted.shape}")
        if self.depth_source is not None:
            sources = self.depth_source
            require(sources.shape == (n, height, width), f"depth_source has shape {sources.shape}")
            known = sources.dtype == np.uint8 and int(sources.max(initial=0)) < len(DEPTH_SOURCES)
            require(known, "depth_source holds numbers that are no source")
        if self.assumed_depth is not None:
            require(self.assumed_depth.shape == (n, height, width), f"assumed_depth: {self.assumed_depth.shape}")
            other = (self.assumed_depth != 0) & ~(self.dynamic.masks & (self.depth == 0))
            require(not other.any(), "assumed_depth where nothing moves or the depth is known")
            require(bool(np.isfinite(self.assumed_depth).all()), "assumed_depth holds NaN or infinity")
        for name in ("T_world_cam", "focals", "depth", "confidence"):
            require(bool(np.isfinite(getattr(self, name)).all()), f"{name} holds NaN or infinity")
        for name in ("times", "indices", "names", "source_paths"):
            require(len(getattr(self, name)) == n, f"{name}: {len(getattr(self, name))} entries for {n} frames")
        lens = self.distortion
        require(len(lens) == 4 and bool(np.isfinite(lens).all()), f"distortion {lens}")
        require(self.pose_sources is None or len(self.pose_sources) == n, "pose_sources does not fit the frames")
        require(self.rig is None or len(self.rig) == n, "the rig does not fit the frames")
        require(self.uncertainty is None or len(self.uncertainty) == n, "the uncertainty does not fit the frames")
        require(self.turned is None or self.turned.shape == (n,), "turned does not fit the frames")
        if self.clip is not None:
            numbers = self.clip
            require(numbers.shape == (n,) and bool((numbers >= 0).all()), f"the numbers of the clips are {numbers}")
            require(bool((np.diff(numbers) >= 0).all()), "the frames of the clips are not in their order")
        if self.between is not None:
            bits = (len(self.between), height, -(-width // 8))
            require(self.between.mask_bits.shape == bits, f"mask_bits {self.between.mask_bits.shape}, not {bits}")
            require(bool((self.between.after < n).all()), "a frame in between follows one that is not there")
        if self.sparse is not None and len(self.sparse.frame_index):
            require(int(self.sparse.frame_index.max()) < n, "a sparse observation names a frame that is not there")

    @property
    def has_depth(self) -> bool:
        """Whether any pixel has a depth (the geometric pipeline has none)."""
        return bool((self.depth > 0).any())

    @property
    def has_measured_depth(self) -> bool:
        """Whether any pixel has a depth that does not come from a prior for single pictures."""
        known = self.depth > 0
        return bool((known if self.depth_source is None else known & (self.depth_source != FROM_PRIOR)).any())

    @property
    def stays(self) -> bool:
        """Whether the camera was found not to leave its place: it stands still, or only turns."""
        return bool(self.pose_sources) and set(self.pose_sources or ()) <= {FIXED, TURNING}

    @property
    def T_world_upright(self) -> np.ndarray:
        """(F, 4, 4) camera-to-world of the cameras with upright pictures, see :attr:`turned`."""
        if self.turned is None:
            return self.T_world_cam
        return np.where(self.turned[:, None, None], self.T_world_cam @ T_SIDE_UPRIGHT, self.T_world_cam)

    @property
    def clock(self) -> np.ndarray:
        """(F,) seconds; of several clips end to end (:func:`~.end_to_end.end_to_end`), so that they increase."""
        return end_to_end(self.times, self.clip)

    @property
    def focals_xy(self) -> np.ndarray:
        """(F, 2) focal lengths in network pixels, horizontal and vertical (the source's pixels are square)."""
        return self.focals[:, None] * np.array([1.0, self.pixel_map.pixel_aspect])

    def __len__(self) -> int:
        return len(self.images)


def choose_scale(scene: Scene, median_depth: float = 4.0, far_depth: float = 60.0) -> float:
    """Scale factor for units in which a 16-bit depth map (steps of 0.001, at most 65.535) resolves the scene.

    The median static depth becomes ``median_depth`` units. If more than 0.1 % of the depths would then exceed
    ``far_depth``, the factor is reduced until that share equals 0.1 %. A scene without a trusted depth has no depth
    maps to fit: there the median depth of the triangulated points becomes ``median_depth``. Returns 1 for a scene that
    has neither.
    """
    # A regular sample of a large scene, because the copies below would be as large as a long clip.
    step = max(1, scene.depth.size // MOST_SCALE_PIXELS)
    depth, confidence, moving = (x.reshape(-1)[::step] for x in (scene.depth, scene.confidence, scene.dynamic.masks))
    trusted = (depth > 0) & (confidence >= scene.min_confidence)
    static = trusted & ~moving
    if not trusted.any():
        depths = sparse_depths(scene)
        return median_depth / float(np.median(depths)) if len(depths) else 1.0
    median = float(np.median(depth[static if static.any() else trusted]))
    far = float(np.quantile(depth[trusted], 0.999))
    return min(median_depth / median, far_depth / far)


def sparse_depths(scene: Scene) -> np.ndarray:
    """(M,) z-depths of the triangulated points in the cameras that observe them, without points behind a camera."""
    if scene.sparse is None:
        return np.empty(0)
    world = scene.sparse.points[scene.sparse.point_index]
    cameras = scene.T_world_cam[scene.sparse.frame_index]
    depths = ((world - cameras[:, :3, 3]) * cameras[:, :3, 2]).sum(axis=1)
    return depths[depths > 0]


def without_moving_tracks(scene: Scene) -> Scene:
    """The scene without observations of triangulated points on what moves, and without points that lose too many.

    The masks may be younger than the points.
    """
    sparse = scene.sparse
    if sparse is None or not len(sparse.frame_index):
        return scene
    height, width = scene.dynamic.masks.shape[1:]
    at = np.rint(source_to_network(sparse.pixels, scene.pixel_map)).astype(int)
    x, y = np.clip(at[:, 0], 0, width - 1), np.clip(at[:, 1], 0, height - 1)
    still = ~scene.dynamic.masks[sparse.frame_index, y, x]
    return scene if still.all() else replace(scene, sparse=sparse.observed(still))


def rescale_scene(scene: Scene, factor: float) -> Scene:
    """The same scene in other units: all lengths (positions and their sigma, depths, points) times ``factor`` (> 0)."""
    if not (np.isfinite(factor) and factor > 0):
        raise ValueError(f"scale factor {factor} is not a positive number")
    poses = scene.T_world_cam.copy()
    poses[:, :3, 3] *= factor
    sparse = scene.sparse and replace(scene.sparse, points=scene.sparse.points * factor)
    uncertainty = scene.uncertainty and replace(scene.uncertainty, centre=scene.uncertainty.centre * factor)
    depth = (scene.depth * factor).astype(np.float32)
    assumed = None if scene.assumed_depth is None else (scene.assumed_depth * factor).astype(np.float32)
    between = scene.between
    if between is not None:
        moved = between.T_world_cam.copy()
        moved[:, :3, 3] *= factor
        between = replace(between, T_world_cam=moved)
    scaled = replace(scene, T_world_cam=poses, depth=depth, sparse=sparse, uncertainty=uncertainty, between=between)
    return replace(scaled, assumed_depth=assumed)


def what_frames_show(frames: Frames) -> dict[str, Any]:
    """The fields of a :class:`Scene` that are those of the frames, whatever its cameras are."""
    names = ("images", "pixel_map", "times", "indices", "names", "source_paths", "clip", "turned", "rig")
    return {name: getattr(frames, name) for name in names}


def turn_scene(scene: Scene, R: np.ndarray) -> Scene:
    """The same scene in a world that is turned about its origin: x' = R x, with a rotation (3, 3) ``R``."""
    turn = np.eye(4)
    turn[:3, :3] = R
    between = scene.between and replace(scene.between, T_world_cam=turn @ scene.between.T_world_cam)
    sparse = scene.sparse and replace(scene.sparse, points=scene.sparse.points @ R.T)
    return replace(scene, T_world_cam=turn @ scene.T_world_cam, sparse=sparse, between=between)


def move_scene(scene: Scene, similarity: Similarity) -> Scene:
    """The same scene in another world: ``similarity`` takes points of its own world there."""
    moved = turn_scene(rescale_scene(scene, similarity.scale), similarity.R)
    poses = moved.T_world_cam.copy()
    poses[:, :3, 3] += similarity.t
    between = moved.between
    if between is not None:
        shifted = between.T_world_cam.copy()
        shifted[:, :3, 3] += similarity.t
        between = replace(between, T_world_cam=shifted)
    sparse = moved.sparse and replace(moved.sparse, points=moved.sparse.points + similarity.t)
    return replace(moved, T_world_cam=poses, sparse=sparse, between=between)
