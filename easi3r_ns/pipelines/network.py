"""Frames -> Scene with a network: the two passes of Easi3R (arXiv:2503.24391) and global alignment.

Every frame is encoded once. Pass 1 computes only the attention of the pairs, from which motion masks follow (with small
networks together with optical flow). Pass 2 decodes the pairs with the attention to moving tokens masked. The global
alignment joins the pointmaps of all pairs in one scene.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from .. import __version__
from ..align.align import AlignDiagnostics, AlignResult, align
from ..align.init import FOCAL_RANGE
from ..align.long.packing import pack_result, unpack_result
from ..align.long.windows import NO_LOOPS, LongClip, align_long
from ..core.budget import UNBOUNDED, Budget
from ..core.config import AlignConfig, Easi3RConfig
from ..core.errors import InputError
from ..core.geometry import focal_from_source, image_centre_in_network
from ..core.pairs import DEFAULT_GRAPH, attach_frames, check_strategy, make_pairs
from ..core.runlog import RunLog
from ..core.scene import INTERPOLATED, Scene, choose_scale, rescale_scene, what_frames_show
from ..core.types import DynamicMasks, Frames, PairGraph, PairPredictions, PixelMap
from ..core.windows import WindowPlan, cut_windows
from ..frames import ImageGeometry
from ..motion.flow.choose import choose_flow
from ..motion.flow.dis import DISFlow
from ..motion.flow.provider import FlowProvider, pair_flow
from ..motion.flow.remembered import RememberedFlow
from ..motion.given import masks_are_given
from ..network.backbone import Backbone
from ..network.compute import Compute, choose_compute
from ..network.lazy import LazyBackbone
from ..network.weights import WeightsInfo
from ..plan.forecast import Forecast
from ..plan.plan import Network, plan_run, published_network
from ..refine import check_refine, reason_against, refine_kept
from ..refine.library import warn_about_fisheye
from ..refine.scene import OURS
from ..storage.cache import StageCache, digest
from .focal import start_facts, start_focal
from .pipeline import RunConfig
from .refined import with_final_masks
from .second_look import look_again
from .stages import DecodedPairs, Shared, StageInputs, find_loops, find_masks, reopen, run_passes
from .still import find_camera_motion, motion_facts, pinned_alignment, pose_sources

MUCH_MOTION = 0.5
"""Share of moving pixels above which the user gets a warning."""


class NetworkPipeline:
    """:class:`~.pipeline.Pipeline` with a network over pairs of frames, and masked bundle adjustment (``--refine``).

    Args:
        backbone: a network that is loaded already; default: the one that ``config`` names. A run with a given backbone
            has no forecast.
    """

    has_depth = True

    def __init__(self, config: RunConfig, backbone: Backbone | None = None) -> None:
        self._config, self._backbone, self._was_given = config, backbone, backbone is not None

    @classmethod
    def handles(cls, weights: str) -> bool:
        """True: every value of ``--weights`` that no other pipeline handles names the weights of a network."""
        return True

    def check(self, log: RunLog) -> None:
        """See :meth:`~.pipeline.Pipeline.check`."""
        config = self._config.easi3r
        check_refine(self._config.refine, self._config.align, config.focal_length)
        if config.graph != "auto":
            check_strategy(config.graph)
        choose_compute(config.device, config.dtype, config.batch_size, tf32=config.tf32)
        if config.depth != Easi3RConfig().depth:
            log.warn(f"--depth {config.depth} has no effect: a network brings its own depth (see --weights none)")
        if config.stereo != Easi3RConfig().stereo:
            log.warn(f"--stereo {config.stereo} has no effect: a network brings its own depth (see --weights none)")

    def forecast(self, data: Path, log: RunLog) -> Forecast | None:
        """See :meth:`~.pipeline.Pipeline.forecast`; weights that need no download are opened for it."""
        if self._was_given:
            return None
        config = self._config
        published = published_network(config.easi3r.weights)
        network = Network.of(self._open(log).info) if published is None else Network(published)
        return plan_run(
            *(data, config.frames, config.easi3r, config.align, log),
            network=network,
            eval_data=config.eval_data,
            refine=config.refine.refine != "none",
        )

    def prepare(self, log: RunLog) -> None:
        """See :meth:`~.pipeline.Pipeline.prepare`."""
        self._open(log)

    @property
    def geometry(self) -> ImageGeometry:
        """See :attr:`~.pipeline.Pipeline.geometry`."""
        network = self.weights.config
        return ImageGeometry(network.image_size, network.patch_size, network.square, self._config.frames.square_ok)

    @property
    def weights(self) -> WeightsInfo:
        """See :attr:`~.pipeline.Pipeline.weights`."""
        assert self._backbone is not None, "prepare() opens it"
        return self._backbone.info

    def reconstruct(
        self, frames: Frames, cache: StageCache, log: RunLog, *, num_eval: int = 0, budget: Budget = UNBOUNDED
    ) -> Scene:
        """See :meth:`~.pipeline.Pipeline.reconstruct`."""
        config = self._config
        options = (config.easi3r, config.align, cache, log)
        scene = reconstruct(frames, self._open(log), *options, num_eval=num_eval, budget=budget)
        scene = with_final_masks(self._looked_at_again(scene, frames, cache, log), log)
        warn_about_fisheye(scene, config.refine, log)
        _warn_about_motion(scene.dynamic, len(frames), log)
        return scene

    def _looked_at_again(self, scene: Scene, frames: Frames, cache: StageCache, log: RunLog) -> Scene:
        """The scene after bundle adjustment and the second look, and where this changes much, after both once more."""
        refined = self._refined(scene, frames, cache, log)
        looks = look_again(refined, frames, self._config.easi3r, self.geometry.patch, cache, log)
        if not looks.changed_much or refined is scene:
            return looks.scene
        masked = replace(scene, dynamic=looks.scene.dynamic)
        again = self._refined(masked, frames, cache, log, stage="again-refine")
        if _adjusted(refined) and not _adjusted(again):
            log.info("the cameras of the first look stay: with the new masks bundle adjustment finds no better ones")
            return looks.scene
        facts = looks.scene.provenance["motion"] | {"found_again": True}
        return replace(again, provenance=again.provenance | {"motion": facts})

    def _refined(self, scene: Scene, frames: Frames, cache: StageCache, log: RunLog, *, stage: str = "refine") -> Scene:
        """The scene after bundle adjustment, where it is asked for and can be done."""
        config = self._config
        if config.refine.refine == "none":
            return scene
        if (why := reason_against(config.refine, config.align, scene, config.easi3r.focal_length)) is not None:
            say = log.warn if config.refine.refine == "colmap" else log.info
            say(f"--refine has no effect: {why}")
            return replace(scene, provenance=scene.provenance | {"refine": {"kept": OURS, "why": why}})
        start = start_focal(config.easi3r, frames, log)
        scene = replace(scene, provenance=scene.provenance | start_facts(config.easi3r, frames))
        return refine_kept(
            *(scene, config.refine, log, config.easi3r.seed, cache),
            fixed_focal=config.easi3r.focal_length is not None,
            start_focal=start,
            stage=stage,
            shared_focal=config.align.shared_focal,
        )

    def masks(self, frames: Frames, cache: StageCache, log: RunLog, *, num_eval: int = 0) -> DynamicMasks:
        """Motion masks of a clip from pass 1 alone, without pointmaps and alignment."""
        config, backbone = replace(self._config.easi3r, no_adapt=False), self._open(log)
        compute = choose_compute(config.device, config.dtype, config.batch_size, tf32=config.tf32)
        graph = _pair_graph(backbone.info, config, len(frames), num_eval)
        mask_flow = _mask_flow(backbone.info, config, None, compute, log) or DISFlow()
        options = (frames, graph, backbone, config, compute, cache, log)
        inputs = StageInputs(*options, num_eval=num_eval, mask_flow=mask_flow)
        masks = find_masks(inputs, Shared.of(inputs))
        assert masks is not None, "they are left out with --no-adapt only"
        backbone.release()
        return masks.final

    def _open(self, log: RunLog) -> Backbone:
        if self._backbone is None:
            config = self._config.easi3r
            compute = choose_compute(config.device, config.dtype, config.batch_size, tf32=config.tf32)
            self._backbone = LazyBackbone.open(config.weights, device=compute.device, log=log, dtype=compute.dtype)
        return self._backbone


def reconstruct(
    frames: Frames,
    backbone: Backbone,
    config: Easi3RConfig,
    align_config: AlignConfig,
    cache: StageCache,
    log: RunLog,
    *,
    num_eval: int = 0,
    budget: Budget = UNBOUNDED,
) -> Scene:
    """Cameras, depth and motion masks of a clip.

    Args:
        frames: images of the size that ``backbone`` expects.
        num_eval: number of frames at the end that are evaluation views, which were recorded separately from the clip.
        cache: keeps the results of finished stages.
        budget: batch size, window and use of files that bound the memory; only the window changes the result by more
            than rounding.

    Returns:
        The scene in the coordinate frame of the first camera, in a unit that suits 16-bit depth maps.

    Raises:
        InputError: an option does not fit the clip.
        CheckpointError: the weights are damaged.
        AlignmentError: the pairs cannot be joined in one scene.
    """
    info = backbone.info
    compute = choose_compute(config.device, config.dtype, budget.batch_size or config.batch_size, tf32=config.tf32)
    graph = _pair_graph(info, config, len(frames), num_eval)
    if align_config.flow_weight is None and info.flow_weight is not None:
        align_config = replace(align_config, flow_weight=info.flow_weight)
    check_focal(config, frames)
    # The flow estimator is chosen first, so that a user whose weights for it are missing gets the error at once.
    provider = choose_flow(config.flow, compute, log) if align_config.flow_strength > 0 else None
    mask_flow = _mask_flow(info, config, provider, compute, log)
    plan = _plan_windows(graph, budget.window or config.window, num_eval, log)
    inputs = StageInputs(
        *(frames, graph, backbone, config, compute, cache, log),
        num_eval=num_eval,
        mask_flow=RememberedFlow(mask_flow or DISFlow(), cache.scratch),
        spill=budget.spill,
    )
    shared = Shared.of(inputs)
    decoded = run_passes(inputs, shared)
    loops = find_loops(inputs, shared, decoded, plan) if plan is not None and config.loop_closure else NO_LOOPS
    shared.release()
    backbone.release()
    dynamic = decoded.dynamic
    part = _Aligner(
        *(frames.images, frames.pixel_map, dynamic, provider, align_config, compute.device, config.seed, cache.folder)
    )
    facts = _provenance(info, graph, config, align_config) | _flow_names(provider, mask_flow)
    if plan is None:
        focal = _known_focal(config, frames)
        key = _alignment_key(frames, decoded, align_config, facts["flow"], focal, config.seed)
        aligned = unpack_result(
            cache.stage("alignment", key, lambda: pack_result(part(slice(None), decoded.predictions, focal, log)), log)
        )
    else:
        clip = _long_clip(plan, inputs, decoded, align_config, facts["flow"])
        del decoded
        stitched = align_long(clip, loops, part, cache, log, spill=budget.spill)
        aligned, facts["windows"] = stitched.result, stitched.facts
    motion = find_camera_motion(frames, dynamic, config, log, shared_focal=align_config.shared_focal)
    if motion.stays:
        aligned = pinned_alignment(aligned, frames, dynamic, motion, log)
        facts |= motion_facts(motion)
    return _scene(frames, aligned, dynamic, config, facts, pose_sources(motion) if motion.stays else None)


def _mask_flow(
    info: WeightsInfo, config: Easi3RConfig, provider: FlowProvider | None, compute: Compute, log: RunLog
) -> FlowProvider | None:
    """The optical flow estimator for the motion masks; None where the masks do not depend on flow.

    The score formulas were chosen with DIS flow; another estimator is used only on request.
    """
    if masks_are_given(config) or not info.score.flow_residual:
        return None
    if config.flow != "raft":
        return DISFlow()
    return provider or choose_flow(config.flow, compute, log)


def _flow_names(provider: FlowProvider | None, mask_flow: FlowProvider | None) -> dict[str, str | None]:
    return {name: flow and flow.name for name, flow in (("flow", provider), ("mask_flow", mask_flow))}


def _pair_graph(info: WeightsInfo, config: Easi3RConfig, num_frames: int, num_eval: int) -> PairGraph:
    strategy = (info.graph or DEFAULT_GRAPH) if config.graph == "auto" else config.graph
    graph = make_pairs(strategy, num_frames - num_eval)
    return attach_frames(graph, num_eval) if num_eval else graph


def _plan_windows(graph: PairGraph, size: int, num_eval: int, log: RunLog) -> WindowPlan | None:
    """Windows of at most ``size`` frames; None where the whole clip is aligned at once."""
    if not 0 < size < graph.num_frames:
        return None
    plan = cut_windows(graph, size, num_eval)
    if plan.left_out:
        log.warn(
            f"{plan.left_out} of {len(graph)} pairs of --graph {graph.strategy} join frames that share no window of "
            f"{size} frames; they are left out of the alignment"
        )
    return plan


def _long_clip(
    plan: WindowPlan, inputs: StageInputs, decoded: DecodedPairs, align_config: AlignConfig, flow: str | None
) -> LongClip:
    config, pixel_map, key = inputs.config, inputs.frames.pixel_map, decoded.key
    focal, dynamic = _known_focal(config, inputs.frames), decoded.dynamic
    folder, predictions = inputs.cache.folder, decoded.predictions
    return LongClip(
        plan=plan,
        graph=inputs.graph,
        open_predictions=partial(reopen, folder, key, inputs.graph) if folder is not None else lambda: predictions,
        dynamic=dynamic,
        principal_point=image_centre_in_network(pixel_map),
        pixel_aspect=pixel_map.pixel_aspect,
        shared_focal=align_config.shared_focal,
        focal=focal,
        seed=config.seed,
        key=_alignment_key(inputs.frames, decoded, align_config, flow, focal, config.seed),
    )


def _alignment_key(
    frames: Frames, decoded: DecodedPairs, align_config: AlignConfig, flow: str | None, focal: float | None, seed: int
) -> str:
    """Name of an alignment's result: a digest of all that decides it."""
    return digest(decoded.key, frames.pixel_map, decoded.dynamic.masks, asdict(align_config), flow, focal, seed)


@dataclass(frozen=True)
class _Aligner:
    """Aligns a part of the clip's frames; its fields are the inputs that all parts share."""

    images: np.ndarray
    """(F, H, W, 3) uint8 of all frames."""
    pixel_map: PixelMap
    dynamic: DynamicMasks
    flow: FlowProvider | None
    """Flow estimator of the flow term; None: the alignment has no flow term."""
    config: AlignConfig
    device: torch.device
    seed: int
    folder: Path | None
    """Folder for flow fields that do not fit into memory."""

    def __call__(
        self, chosen: np.ndarray | slice, predictions: PairPredictions, focal: float | None, log: RunLog
    ) -> AlignResult:
        """See :data:`~easi3r_ns.align.long.windows.AlignPart`."""
        flow, pixel_map = None, self.pixel_map
        if self.flow is not None:
            flow = pair_flow(self.images[chosen], predictions.graph, self.flow, log, folder=self.folder)
        return align(
            predictions,
            principal_point=image_centre_in_network(pixel_map),
            config=self.config,
            focal=focal,
            pixel_aspect=pixel_map.pixel_aspect,
            dynamic_masks=self.dynamic.masks[chosen],
            flow=flow,
            device=self.device,
            seed=self.seed,
            log=log,
            numbers=np.arange(len(self.images))[chosen].tolist(),
        )


def _known_focal(config: Easi3RConfig, frames: Frames) -> float | None:
    """The focal length that the user gave, in network pixels; None if there is none."""
    return None if config.focal_length is None else focal_from_source(config.focal_length, frames.pixel_map)


def check_focal(config: Easi3RConfig, frames: Frames) -> None:
    """Check ``--focal-length`` against the size of the source images.

    Raises:
        InputError: it is outside the range of real lenses.
    """
    longer = max(frames.pixel_map.source_wh)
    low, high = (share * longer for share in FOCAL_RANGE)
    if config.focal_length is not None and not low <= config.focal_length <= high:
        raise InputError(
            f"--focal-length {config.focal_length:g} is implausible for images with a long side of {longer} pixels; "
            f"give a number between {low:.0f} and {high:.0f}, in pixels of the source image"
        )


def _adjusted(scene: Scene) -> bool:
    """Whether bundle adjustment found the cameras."""
    return (scene.provenance.get("refine") or {}).get("kept", OURS) != OURS


def _warn_about_motion(dynamic: DynamicMasks, num_frames: int, log: RunLog) -> None:
    share = float(dynamic.coverage.mean())
    if share > MUCH_MOTION:
        log.warn(
            f"{100 * share:.0f} % of the pixels are dynamic: the cameras depend on the few static ones; check the masks"
        )
    if dynamic.source == "attention" and num_frames == 2:
        log.warn("the clip has two frames: motion masks need statistics over several pairs, so nothing is masked")


def _provenance(info: WeightsInfo, graph: PairGraph, config: Easi3RConfig, align_config: AlignConfig) -> dict:
    return {
        "version": __version__,
        "weights": info.provenance(),
        "graph": graph.strategy,
        "num_pairs": len(graph),
        "seed": config.seed,
        "config": {"easi3r": asdict(config), "align": asdict(align_config)},
    }


def _alignment_facts(diagnostics: AlignDiagnostics) -> dict:
    facts = asdict(diagnostics)
    counts = Counter(facts.pop("registered_by"))
    pairs = {name: len(facts[name]) for name in ("dropped_pairs", "contradicted_pairs")}
    return facts | pairs | {"registered_by": dict(sorted(counts.items()))}


def _pose_sources(aligned: AlignResult) -> tuple[str, ...] | None:
    """How each frame's camera was found: by the network, or, where no pair constrains it, by interpolation.

    Frames without a constraint have confidence 0 everywhere. None if there are no such frames.
    """
    held = (aligned.confidence > 0).any(axis=(1, 2))
    return None if held.all() else tuple("network" if h else INTERPOLATED for h in held)


def _scene(
    frames: Frames,
    aligned: AlignResult,
    dynamic: DynamicMasks,
    config: Easi3RConfig,
    provenance: dict,
    sources: tuple[str, ...] | None,
) -> Scene:
    scene = Scene(
        **what_frames_show(frames),
        T_world_cam=aligned.T_world_cam,
        focals=aligned.focals,
        principal_point=image_centre_in_network(frames.pixel_map),
        depth=aligned.depth,
        confidence=aligned.confidence,
        contradicted=aligned.contradicted,
        uncertainty=aligned.uncertainty,
        pose_sources=sources or _pose_sources(aligned),
        dynamic=dynamic,
        min_confidence=config.min_confidence,
        provenance=provenance | {"alignment": _alignment_facts(aligned.diagnostics)},
    )
    return rescale_scene(scene, choose_scale(scene))
