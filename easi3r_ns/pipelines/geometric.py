"""Frames -> Scene without a network (``--weights none``).

Motion masks come from optical flow and epipolar geometry, cameras and points of the static scene from COLMAP, and its
depth from multi-view stereo. What moves has no depth; for viewing it is placed where it stands.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from .. import __version__
from ..core.budget import UNBOUNDED, Budget
from ..core.config import AlignConfig, Easi3RConfig, RefineConfig
from ..core.errors import AlignmentError, MissingExtraError
from ..core.geometry import source_to_network
from ..core.runlog import RunLog
from ..core.scene import (
    CameraUncertainty,
    Scene,
    choose_scale,
    rescale_scene,
    what_frames_show,
    without_moving_tracks,
)
from ..core.types import DynamicMasks, Frames
from ..depth.movers import assume_depth
from ..frames import ImageGeometry
from ..frames.near import near_places, shot
from ..motion.corrections import corrected
from ..motion.cut import KEPT, cut_at
from ..motion.flow.choose import choose_flow
from ..motion.flow.remembered import RememberedFlow
from ..motion.given import FirstLook, given_masks
from ..motion.packing import join_masks, pack_masks, unpack_masks
from ..motion.still import as_turning
from ..motion.two_view import geometric_masks
from ..motion.two_view.masks import METHOD
from ..network.compute import choose_compute
from ..plan.geometric import GeometricForecast
from ..plan.plan import plan_geometric
from ..refine import SparseModel, check_lens, check_zoom, map_static, warn_about_zoom
from ..refine.certainty import model_uncertainty
from ..refine.learned import check_features
from ..refine.library import load_pycolmap
from ..refine.rig import map_rig
from ..storage.cache import StageCache, Tensors, digest
from .focal import start_facts, start_focal
from .network import check_focal
from .packing import pack_model, unpack_model
from .pipeline import RunConfig
from .refined import refined_masks, with_final_masks
from .second_look import explains_as_much, look_again, masks_of_all, rows_of
from .sphere import find_rig_motion
from .stereo import measured_depth, stereo_of
from .still import find_camera_motion, pinned_scene
from .unposed import NoCamerasError

NAME = "none"
"""Value of ``--weights`` that selects this pipeline."""
GEOMETRY = ImageGeometry()
"""Size of the images on which masks are computed: that of the 512-pixel networks."""
FEWEST_FRAMES = 3
FEWEST_SHARE = 0.25
"""A model that registers fewer frames, or a smaller share of the frames, counts as failed."""
_NETWORK_OPTIONS = (
    *("graph", "no_adapt", "min_confidence", "device", "dtype", "tf32", "batch_size"),
    *("window", "loop_closure"),
)
_MOST_NAMED = 12
"""Most frames that a warning names."""


class GeometricPipeline:
    """:class:`~.pipeline.Pipeline` with optical flow, epipolar geometry and COLMAP."""

    weights = None

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self.geometry = replace(GEOMETRY, square_ok=config.frames.square_ok)

    @property
    def has_depth(self) -> bool:
        """Whether ``--depth`` asks for it."""
        return self._config.easi3r.depth != "none"

    @classmethod
    def handles(cls, weights: str) -> bool:
        """Whether the value ``weights`` of ``--weights`` selects this pipeline."""
        return weights == NAME

    def check(self, log: RunLog) -> None:
        """See :func:`check_geometric`."""
        check_geometric(self._config.easi3r, self._config.align, self._config.refine, log)

    def forecast(self, data: Path, log: RunLog) -> GeometricForecast:
        """See :meth:`~.pipeline.Pipeline.forecast`; how many features match is not known before the run."""
        options = self._config.frames, self._config.easi3r, self.geometry
        run = self._config
        return plan_geometric(data, *options, log, eval_data=run.eval_data, more_data=run.more_data)

    def prepare(self, log: RunLog) -> None:
        """Do nothing: this pipeline needs no weights."""

    def masks(self, frames: Frames, cache: StageCache, log: RunLog, *, num_eval: int = 0) -> DynamicMasks:
        """See :meth:`~.pipeline.Pipeline.masks`."""
        return _masks(frames, self._config.easi3r, cache, log)

    def reconstruct(
        self, frames: Frames, cache: StageCache, log: RunLog, *, num_eval: int = 0, budget: Budget = UNBOUNDED
    ) -> Scene:
        """See :func:`reconstruct_geometric`."""
        options = (self._config.easi3r, self._config.refine)
        shared = self._config.align.shared_focal
        scene = reconstruct_geometric(frames, *options, cache, log, num_eval=num_eval, shared_focal=shared)
        return with_final_masks(scene, log)


def check_geometric(config: Easi3RConfig, align: AlignConfig, refine: RefineConfig, log: RunLog) -> None:
    """Check the options before any work, and warn about options of a network, which have no effect.

    Raises:
        InputError: the focal length is given and to be found for every frame; or the device is not there.
        MissingExtraError: pycolmap, or the networks of --features, do not load.
    """
    check_zoom(align, config.focal_length)
    check_lens(refine, align)
    check_features(refine.features)
    try:
        load_pycolmap()
    except MissingExtraError as error:
        raise MissingExtraError(f"--weights none finds its cameras with COLMAP, but {error}") from error
    default = Easi3RConfig()
    own = {"device", "batch_size"} if config.flow == "raft" else set()
    if config.depth != "none":
        own |= {"device", "min_confidence"}
        stereo_of(config)
    others = [n for n in _NETWORK_OPTIONS if n not in own and getattr(config, n) != getattr(default, n)]
    idle = [f"--{n.replace('_', '-')}" for n in others]
    idle += ["--align.*"] if replace(align, shared_focal=True) != AlignConfig() else []
    idle += ["--refine"] if refine.refine == "colmap" else []
    if idle:
        log.warn(f"--weights none uses no network and maps with COLMAP: {', '.join(idle)} has no effect")


def reconstruct_geometric(
    frames: Frames,
    config: Easi3RConfig,
    refine: RefineConfig,
    cache: StageCache,
    log: RunLog,
    *,
    num_eval: int = 0,
    shared_focal: bool = True,
) -> Scene:
    """Cameras, motion masks, static points and, with ``config.depth``, the depth of what stands still.

    Args:
        frames: images of the size that :data:`GEOMETRY` describes.
        num_eval: number of frames at the end that are evaluation views, which were recorded separately from the clip.
        cache: keeps the results of finished stages.
        shared_focal: one focal length for the clip; otherwise one for every frame.

    Returns:
        The scene of the frames whose cameras were found: it may have fewer frames than ``frames``. World frame and unit
        are those of :func:`easi3r_ns.refine.mapping.map_static`, up to the scale of
        :func:`easi3r_ns.core.scene.choose_scale`. Where the camera does not leave its
        place, the scene has all frames and no points.

    Raises:
        NoCamerasError: no texture, no parallax, or too few frames with a camera; it holds the masks.
        InputError: --masks or --focal-length cannot be used.
    """
    check_focal(config, frames)
    dynamic = _masks(frames, config, cache, log)
    if frames.rig is not None:
        motion = find_rig_motion(frames, dynamic, config, log)
    else:
        lens = refine.camera_model
        motion = find_camera_motion(frames, dynamic, config, log, shared_focal=shared_focal, camera_model=lens)
    if motion.stays:
        return pinned_scene(frames, dynamic, motion, config, log, name=NAME)
    nearly = as_turning(motion) if frames.rig is None else None
    try:
        model = _cameras(frames, dynamic, config, refine, cache, log, shared_focal, hardly_travels=nearly is not None)
        kept = _registered(model, frames, num_eval)
    except AlignmentError as error:
        if nearly is None:
            raise NoCamerasError(str(error), (frames, dynamic)) from error
        return pinned_scene(frames, dynamic, nearly, config, log, name=NAME)
    zoom = warn_about_zoom(model, refine.camera_model, log) if shared_focal and frames.rig is None else None
    scene = _scene(frames, dynamic, model, kept, config, refine)
    facts = start_facts(config, frames) | ({"zoom": zoom.facts} if zoom else {})
    scene = replace(scene, provenance=scene.provenance | facts)
    scene = with_depth(scene, config, cache, log)
    looks = look_again(scene, frames, config, GEOMETRY.patch, cache, log, hardly_travels=nearly is not None)
    scene = still_only(looks.scene)
    if looks.changed_much:
        scene = _found_again(frames, dynamic, scene, config, refine, cache, log, shared_focal)
    warn_about_lost(scene, frames, log)
    if config.depth != "none" and not scene.has_depth:
        log.warn("no depth could be measured: too few views of the same places, or too little texture")
    return assume_depth(rescale_scene(scene, choose_scale(scene)))


def with_depth(scene: Scene, config: Easi3RConfig, cache: StageCache, log: RunLog, *, stage: str = "stereo") -> Scene:
    """The scene with the depth of what stands still, where ``--depth`` asks for it."""
    if config.depth == "none":
        return scene
    return measured_depth(scene, config, cache, log, stage=stage)


def still_only(scene: Scene) -> Scene:
    """The scene without depth where something moves."""
    still = ~scene.dynamic.masks
    return replace(scene, depth=scene.depth * still, confidence=scene.confidence * still)


def _found_again(
    frames: Frames,
    first: DynamicMasks,
    scene: Scene,
    config: Easi3RConfig,
    refine: RefineConfig,
    cache: StageCache,
    log: RunLog,
    shared_focal: bool,
) -> Scene:
    """Cameras, points and depth with the masks that the scene has now; the cameras of before where frames are lost."""
    masks = masks_of_all(frames, first, scene)
    try:
        model = _cameras(frames, masks, config, refine, cache, log, shared_focal, stage="again-geometry-cameras")
    except AlignmentError:
        model = None
    if model is not None and model.registered[rows_of(frames, scene)].all():
        again = _scene(frames, masks, model, np.flatnonzero(model.registered), config, refine)
        again = replace(again, provenance=scene.provenance | {"mapping": model.record})
        again = with_depth(again, config, cache, log, stage="again-stereo")
        kept = explains_as_much(without_moving_tracks(again), frames, config, GEOMETRY.patch, cache, log)
        if kept is not None:
            return kept
    log.info("the cameras of the first look stay: those found with the new masks have fewer frames or explain less")
    return with_depth(scene, config, cache, log, stage="again-stereo-before")


def _masks(frames: Frames, config: Easi3RConfig, cache: StageCache, log: RunLog) -> DynamicMasks:
    own = partial(found_masks, frames, config, cache, log)
    given = given_masks(config, frames, GEOMETRY.patch, FirstLook(log, own))
    masks = corrected(own() if given is None else given, frames.by_hand)
    return refined_masks(masks, frames, config, cache, log, stage="refined-first-look")


def found_masks(frames: Frames, config: Easi3RConfig, cache: StageCache, log: RunLog) -> DynamicMasks:
    """The masks that this pipeline finds by optical flow, in each source of the frames on its own."""
    clips = frames.clips

    def compute() -> Tensors:
        provider = choose_flow(flow, choose_compute(config.device, config.dtype, config.batch_size), log)
        provider = RememberedFlow(provider, cache.scratch)
        masks = [
            geometric_masks(
                frames.images[rows.start : rows.stop],
                GEOMETRY.patch,
                log,
                provider=provider,
                shot=shot(frames, rows, frames.images.__getitem__, frames.pixel_map),
            )
            for rows in clips
        ]
        return pack_masks(join_masks(masks))

    # The thresholds of these masks were chosen with DIS flow; another estimator is used only on request.
    flow = "dis" if config.flow == "auto" else config.flow
    starts = [rows.start for rows in clips]
    key = digest(frames.images, near_places(frames), starts, METHOD, KEPT, flow, __version__)
    found = unpack_masks(cache.stage("geometry-masks", key, compute, log))
    return cut_at(found, frames.images, config.mask_threshold)


def _cameras(
    frames: Frames,
    dynamic: DynamicMasks,
    config: Easi3RConfig,
    refine: RefineConfig,
    cache: StageCache,
    log: RunLog,
    shared_focal: bool,
    *,
    hardly_travels: bool = False,
    stage: str = "geometry-cameras",
) -> SparseModel:
    start = start_focal(config, frames, log)
    focal, seed = config.focal_length, config.seed

    def compute() -> Tensors:
        if frames.rig is not None:
            if refine.features != RefineConfig().features:
                log.warn(f"--features {refine.features} has no effect on 360 degree footage: it is matched by SIFT")
            return pack_model(map_rig(frames, dynamic, log, seed=seed))
        model = map_static(
            *(frames, dynamic, refine, log),
            focal=focal,
            seed=seed,
            start=start,
            shared_focal=shared_focal,
            hardly_travels=hardly_travels,
        )
        return pack_model(model)

    rig = frames.rig and (frames.rig.T_rig_view, frames.rig.view, frames.rig.moment)
    decisive = (refine.camera_model, refine.features, focal, seed, start, shared_focal, hardly_travels)
    key = digest(frames.images, frames.pixel_map, dynamic.masks, *decisive, rig, __version__)
    return unpack_model(cache.stage(stage, key, compute, log))


def _registered(model: SparseModel, frames: Frames, num_eval: int) -> np.ndarray:
    """Positions of the frames that have a camera.

    Raises:
        AlignmentError: too few frames have a camera.
    """
    kept = np.flatnonzero(model.registered)
    needed = max(FEWEST_FRAMES, int(np.ceil(FEWEST_SHARE * len(frames))))
    first_eval = len(frames) - num_eval
    if len(kept) < needed or (num_eval and not ((kept >= first_eval).any() and (kept < first_eval).any())):
        of_clip = int((kept < first_eval).sum())
        shares = f"{of_clip} of {first_eval} frames" + (f", {len(kept) - of_clip} of --eval-data" if num_eval else "")
        # No network sees the views of a sphere.
        network = ", or use a network (--weights tiny or dust3r)" if frames.rig is None else ""
        raise AlignmentError(
            f"only {shares} could be registered in one model: too little texture, blur, or too large camera motion "
            f"between the frames. Use more frames (--num-frames-target, --fps), try without masks (--no-masks){network}"
        )
    return kept


def warn_about_lost(scene: Scene, frames: Frames, log: RunLog) -> None:
    """Name the frames that have no camera."""
    lost = np.setdiff1d(np.arange(len(frames)), rows_of(frames, scene))
    if len(lost):
        named = [f"{frames.names[k]} {frames.indices[k]}" for k in lost[:_MOST_NAMED]]
        more = f" and {len(lost) - _MOST_NAMED} more" if len(lost) > _MOST_NAMED else ""
        log.warn(
            f"{len(lost)} of {len(frames)} frames have no camera and are left out of the dataset: "
            f"{', '.join(named)}{more}"
        )


def _scene(
    frames: Frames,
    dynamic: DynamicMasks,
    model: SparseModel,
    kept: np.ndarray,
    config: Easi3RConfig,
    refine: RefineConfig,
) -> Scene:
    sigma = None
    if frames.rig is None:  # the covariance is that of cameras which move freely, not of views with one pose in common
        sigma = model_uncertainty(model, refine.camera_model, fixed_focal=config.focal_length is not None)
    return scene_of_model(frames, dynamic, model, kept, config, sigma)


def scene_of_model(
    frames: Frames,
    dynamic: DynamicMasks,
    model: SparseModel,
    kept: np.ndarray,
    config: Easi3RConfig,
    sigma: CameraUncertainty | None,
) -> Scene:
    """The scene, without depth, of the frames ``kept`` of a model of one lens; ``sigma``: of all frames of the model,
    focal lengths in source pixels."""
    position = np.full(len(frames), -1)
    position[kept] = np.arange(len(kept))
    placed = frames.of_frames(kept)
    unknown = np.zeros(placed.images.shape[:3], dtype=np.float32)
    return Scene(
        **what_frames_show(placed),
        T_world_cam=model.T_world_cam[kept],
        focals=model.frame_focals[kept] * frames.pixel_map.scale_xy[0],
        principal_point=source_to_network(np.array(model.principal_point), frames.pixel_map),
        depth=unknown,
        confidence=unknown,
        dynamic=dynamic.of_frames(kept),
        min_confidence=config.min_confidence,
        distortion=model.distortion,
        sparse=replace(model.sparse, frame_index=position[model.sparse.frame_index]),
        pose_sources=("colmap",) * len(kept),
        uncertainty=sigma and replace(sigma.of_frames(kept), focal=sigma.focal[kept] * frames.pixel_map.scale_xy[0]),
        provenance={
            "version": __version__,
            "weights": {"name": NAME},
            "mapping": model.record,
            "depth": config.depth,
            "seed": config.seed,
        },
    )
