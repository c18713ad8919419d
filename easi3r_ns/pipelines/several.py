"""Several clips of one scene (``--data a.mp4 b.mp4``): one set of cameras, each clip with its own timeline and lens.

Motion masks and optical flow are those of the clips one by one. Mapping sees all frames at once, so that what clips
have in common joins them. Clips of different cameras are then resampled to one lens without distortion, and each keeps
its focal length: a scene has one size of pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..core.config import Easi3RConfig, FrameConfig, RefineConfig
from ..core.errors import AlignmentError, InputError
from ..core.runlog import RunLog
from ..core.scene import CameraUncertainty, Scene, choose_scale, rescale_scene, without_moving_tracks
from ..core.types import DynamicMasks, Frames
from ..depth.movers import assume_depth
from ..frames.clips import SourceClip, clips_of, has_several_sizes, in_order, only_clip, unique_names
from ..motion.given import FirstLook, given_masks
from ..network.sources import AUTO
from ..refine import SparseModel
from ..refine.bundle import MIN_POINTS
from ..refine.certainty import model_uncertainty
from ..refine.model import FISHEYE
from ..refine.together import FilmedClip, map_together
from ..storage.cache import StageCache, digest
from .focal import recorded_focal
from .geometric import FEWEST_FRAMES, FEWEST_SHARE, GEOMETRY, NAME, found_masks, scene_of_model, still_only, with_depth
from .one_lens import Placed, masks_of_clips, through_one_lens
from .packing import pack_model, unpack_model
from .pipeline import RunConfig
from .refined import refined_masks, with_final_masks
from .second_look import explains_as_much, look_again
from .unposed import NoCamerasError

_MOST_NAMED = 8


def all_clips(data: Path, config: RunConfig) -> tuple[Path, RunConfig]:
    """The first clip and the options with the others: a folder or pattern may stand for several videos.

    ``eval_data`` is found by the same rules, but is one clip.

    Raises:
        InputError: a clip is given twice, or cannot be used.
    """
    paths = tuple(clip for path in (data, *config.more_data) for clip in clips_of(path))
    if len(paths) > 1:
        paths = in_order(paths)
    held_out = None if config.eval_data is None else only_clip(config.eval_data, "--eval-data")
    return paths[0], replace(config, more_data=paths[1:], eval_data=held_out)


def source_facts(data: Path, config: RunConfig) -> dict[str, Any]:
    """For the provenance: what the run was made from, and its options."""
    paths = (data, *config.more_data)
    one = len(paths) == 1
    return {
        "source": ", ".join(unique_names(paths)),
        "source_path": str(data) if one else [str(path) for path in paths],
        "config": asdict(config),
    }


def makes_several(data: Path, config: RunConfig) -> bool:
    """Whether the run joins clips: there are several, or without a network images of several sizes."""
    own = config.easi3r.weights in (NAME, AUTO)
    return bool(config.more_data) or (own and has_several_sizes(data, config.frames))


def refuse_several(config: RunConfig, paths: Sequence[Path]) -> None:
    """Raise InputError for options that mean one clip, or a network, where there are several clips."""
    frames, easi3r, default = config.frames, config.easi3r, FrameConfig()
    reasons = (
        (
            easi3r.weights != NAME,
            f"--weights {easi3r.weights} compares the frames of one clip: use --weights {NAME}, which joins clips by "
            "their features, or give one clip (a second one is posed for evaluation by --eval-data)",
        ),
        (
            config.eval_data is not None,
            f"--eval-data {config.eval_data} is posed in the scene of one clip: give one clip, or leave it out",
        ),
        (easi3r.masks is not None, f"--masks {easi3r.masks} belongs to one clip: leave it out"),
        (
            easi3r.corrections is not None,
            f"--corrections {easi3r.corrections} belong to one clip: leave them out (easi3r redo: --no-corrections)",
        ),
        (
            (frames.start, frames.end) != (default.start, default.end),
            "--start and --end mean one clip: cut the clips beforehand",
        ),
        (frames.on_cut == "split", "--on-cut split divides one clip: use --on-cut longest"),
        (
            frames.pose_all_frames,
            "--pose-all-frames poses the frames between those of one clip: use --fps, or --num-frames-target 0",
        ),
        (
            not config.align.shared_focal,
            "--align.no-shared-focal finds the zoom of one clip: leave it out, each clip has a focal length of its own",
        ),
    )
    shown = ", ".join(path.name for path in paths[:3]) + (", ..." if len(paths) > 3 else "")
    for applies, reason in reasons:
        if applies:
            many = f"names {len(paths)} clips ({shown})" if len(paths) > 1 else f"{shown} holds images of several sizes"
            raise InputError(f"--data {many}, and {reason}")


def check_clips(clips: Sequence[SourceClip], config: Easi3RConfig, refine: RefineConfig) -> None:
    """Raise InputError where clips of these sizes and cameras make no dataset."""
    sizes = {clip.name: clip.frames.pixel_map.source_wh for clip in clips}
    shown = ", ".join(f"{name} is {w}x{h}" for name, (w, h) in list(sizes.items())[:_MOST_NAMED])
    if len({clip.camera for clip in clips}) == 1:
        return
    if refine.camera_model == FISHEYE:
        raise InputError(
            f"--camera-model {FISHEYE} with several clips ({shown}): their files do not say that they were filmed with "
            "one camera and one focal length, and pictures of several fisheye lenses are not joined; use one clip"
        )
    if config.focal_length is not None and len(set(sizes.values())) > 1:
        raise InputError(
            f"--focal-length {config.focal_length:g} is in pixels of one size, and the clips have several ({shown}): "
            "leave it out"
        )


def reconstruct_several(
    clips: Sequence[SourceClip], config: RunConfig, store: Path, cache: StageCache, log: RunLog
) -> tuple[Scene, Frames]:
    """Cameras, masks, static points and depth of several clips; as :func:`.geometric.reconstruct_geometric` of one.

    Args:
        store: folder for pictures that have to be resampled.

    Returns:
        The scene, and its frames; those without a camera are in neither.

    Raises:
        NoCamerasError: no texture, no parallax, or too few frames with a camera; it holds the masks of all clips.
        InputError: the clips do not fit each other or the options.
    """
    options, refine = config.easi3r, config.refine
    check_clips(clips, options, refine)
    masks = [_masks(clip, k, options, cache, log) for k, clip in enumerate(clips)]
    try:
        model = _cameras(clips, masks, options, refine, cache, log)
        kept = _joined(model, clips, log)
    except AlignmentError as error:
        raise NoCamerasError(str(error), *((c.frames, m) for c, m in zip(clips, masks, strict=True))) from error
    placed = through_one_lens(clips, masks, model, kept, store, log)
    scene = with_depth(_scene(clips, model, placed, config), options, cache, log)
    looks = look_again(scene, placed.frames, options, GEOMETRY.patch, cache, log)
    scene = still_only(looks.scene)
    if looks.changed_much:
        scene, placed = _found_again(clips, masks, scene, placed, config, store, cache, log)
    if options.depth != "none" and not scene.has_depth:
        log.warn("no depth could be measured: too few views of the same places, or too little texture")
    scene = assume_depth(rescale_scene(scene, choose_scale(scene)))
    return with_final_masks(scene, log), placed.frames


def _scene(clips: Sequence[SourceClip], model: SparseModel, placed: Placed, config: RunConfig) -> Scene:
    """The scene without depth of a model of all clips."""
    options = config.easi3r
    sigma = _uncertainty(model, placed, config.refine, fixed_focal=options.focal_length is not None)
    scene = scene_of_model(placed.frames, placed.dynamic, placed.model, np.arange(len(placed.kept)), options, sigma)
    return replace(scene, provenance=scene.provenance | {"clips": _facts(clips, model)})


def _found_again(
    clips: Sequence[SourceClip],
    first: Sequence[DynamicMasks],
    scene: Scene,
    placed: Placed,
    config: RunConfig,
    store: Path,
    cache: StageCache,
    log: RunLog,
) -> tuple[Scene, Placed]:
    """Cameras, points and depth with the masks that the scene has now; those of before where frames are lost."""
    options, refine = config.easi3r, config.refine
    masks = masks_of_clips(clips, first, scene.dynamic, placed)
    try:
        model = _cameras(clips, masks, options, refine, cache, log, stage="again-clips-cameras")
    except AlignmentError:
        model = None
    if model is not None and model.registered[placed.kept].all():
        kept = np.flatnonzero(model.registered)
        again = through_one_lens(clips, masks, model, kept, store / "again", log)
        found = _scene(clips, model, again, config)
        found = replace(found, provenance=scene.provenance | found.provenance)
        found = with_depth(found, options, cache, log, stage="again-stereo")
        better = explains_as_much(without_moving_tracks(found), again.frames, options, GEOMETRY.patch, cache, log)
        if better is not None:
            return better, again
    log.info("the cameras of the first look stay: those found with the new masks have fewer frames or explain less")
    return with_depth(scene, options, cache, log, stage="again-stereo-before"), placed


def _masks(clip: SourceClip, number: int, config: Easi3RConfig, cache: StageCache, log: RunLog) -> DynamicMasks:
    frames = clip.frames
    kept = StageCache(None if cache.folder is None else cache.folder / f"clip_{number + 1}")
    own = partial(found_masks, frames, config, kept, log)
    given = given_masks(config, frames, GEOMETRY.patch, FirstLook(log, own))
    masks = own() if given is None else given
    return refined_masks(masks, frames, config, kept, log, stage="refined-first-look")


def _cameras(
    clips: Sequence[SourceClip],
    masks: Sequence[DynamicMasks],
    config: Easi3RConfig,
    refine: RefineConfig,
    cache: StageCache,
    log: RunLog,
    *,
    stage: str = "clips-cameras",
) -> SparseModel:
    starts = [recorded_focal(config, clip.frames) for clip in clips]
    for clip, start in zip(clips, starts):
        if start is not None:
            log.info(f"{clip.name}: focal length {start}, as a start value")
    filmed = [
        FilmedClip(clip.frames, dynamic, clip.camera, None if start is None else start.pixels)
        for clip, dynamic, start in zip(clips, masks, starts, strict=True)
    ]
    seen = [x for clip in filmed for x in (clip.frames.images, clip.frames.pixel_map, clip.dynamic.masks, clip.camera)]
    decisive = (
        refine.camera_model,
        refine.features,
        config.focal_length,
        config.seed,
        [clip.start for clip in filmed],
        __version__,
    )

    def compute() -> Any:
        return pack_model(map_together(filmed, refine, log, focal=config.focal_length, seed=config.seed))

    return unpack_model(cache.stage(stage, digest(*seen, *decisive), compute, log))


def _joined(model: SparseModel, clips: Sequence[SourceClip], log: RunLog) -> np.ndarray:
    """Positions of the frames with a camera, with a warning that counts what is missing.

    Raises:
        AlignmentError: too few frames of the clips that have any.
    """
    counts = _counts(clips, model)
    kept = np.flatnonzero(model.registered)
    told = ", ".join(f"{n} of {len(clip.frames)} frames of {clip.name}" for n, clip in zip(counts, clips))
    of_joined = sum(len(clip.frames) for n, clip in zip(counts, clips) if n)
    if len(kept) < max(FEWEST_FRAMES, int(np.ceil(FEWEST_SHARE * of_joined))):
        raise AlignmentError(
            f"only {told} could be registered in one model: too little texture, blur, or too large camera motion "
            "between the frames. Use more frames (--num-frames-target, --fps), or try without masks (--no-masks)"
        )
    if 0 in counts:
        lost = [clip.name for n, clip in zip(counts, clips) if not n]
        named = ", ".join(lost[:_MOST_NAMED]) + (", ..." if len(lost) > _MOST_NAMED else "")
        log.warn(
            f"{len(lost)} of {len(clips)} clips could not be joined to the others and are left out ({named}): they "
            f"share too little that stands still. The largest joined part is written: {told}. Film a transition "
            "between them, use more frames (--num-frames-target), or run each clip on its own"
        )
    elif len(kept) < len(model.registered):
        log.warn(f"{len(model.registered) - len(kept)} frames have no camera and are left out: used are {told}")
    return kept


def _counts(clips: Sequence[SourceClip], model: SparseModel) -> list[int]:
    ends = np.cumsum([len(clip.frames) for clip in clips])
    return [int(part.sum()) for part in np.split(model.registered, ends[:-1])]


def _upright_size(clip: SourceClip) -> list[int]:
    size = list(clip.frames.pixel_map.source_wh)
    return size[::-1] if clip.turned else size


def _facts(clips: Sequence[SourceClip], model: SparseModel) -> list[dict[str, Any]]:
    """For the provenance; ``joined``: the number of frames with a camera."""
    return [
        {
            "name": clip.name,
            "path": str(clip.path),
            "created": None if clip.recorded.created is None else clip.recorded.created.isoformat(),
            "device": clip.recorded.device,
            "camera": clip.camera + 1,
            "size": _upright_size(clip),
            "frames": len(clip.frames),
            "joined": joined,
        }
        for clip, joined in zip(clips, _counts(clips, model), strict=True)
    ]


def _uncertainty(
    model: SparseModel, placed: Placed, refine: RefineConfig, *, fixed_focal: bool
) -> CameraUncertainty | None:
    """That of each camera's frames among themselves: how certain clips lie to each other is not in it."""
    focals = placed.model.frame_focals
    if model.lenses is None:
        found = model_uncertainty(model, refine.camera_model, fixed_focal=fixed_focal)
        return found and found.of_frames(placed.kept)
    count = len(model.registered)
    turn, centre, focal = (np.full(count, np.inf) for _ in range(3))
    out = CameraUncertainty(turn, centre, focal, np.full(count, np.nan))
    for number, lens in enumerate(model.lenses.lenses):
        own = model.registered & (model.lenses.index == number)
        part = replace(model.restricted(own), lens=lens, lenses=None)
        if len(part.sparse) < MIN_POINTS:
            continue
        found = model_uncertainty(part, refine.camera_model, fixed_focal=fixed_focal)
        if found is None:
            return None
        for name in out.__dataclass_fields__:
            getattr(out, name)[own] = getattr(found, name)[own]
    out = out.of_frames(placed.kept)
    before = np.array([model.lenses.at(frame).focal for frame in placed.kept.tolist()])
    return replace(out, focal=out.focal * focals / before)
