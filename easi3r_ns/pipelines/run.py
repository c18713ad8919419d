"""Clip -> checked dataset: the run behind `ns-process-data easi3r` and `easi3r run`.

Frames and results of finished stages are kept in ``OUTPUT/.easi3r`` until the end, so that an interrupted run can
continue. ``transforms.json`` is written last, after the dataset has been loaded for a check.
"""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..core.budget import UNBOUNDED, Budget
from ..core.errors import InputError
from ..core.rig import ViewRig
from ..core.runlog import RunLog
from ..core.scene import Scene
from ..core.types import Frames
from ..core.upright import level_scene
from ..dataset.nerfstudio import check_loads, dataset_files, refuse_taken, with_dataset_images, write_dataset
from ..depth.monocular import DepthPrior
from ..frames import KEPT_BYTES, ImageGeometry, Kept, load_frames, open_source, selection_of_views
from ..frames.clips import load_clips
from ..motion.boundary import moving_outside
from ..motion.corrections import corrected_frames
from ..motion.flow.dis import DISFlow
from ..motion.given import check_given, given_between
from ..network.weights import WeightsInfo
from ..plan.forecast import Forecast, actual_line, forecast_lines
from ..plan.geometric import GeometricForecast
from ..plan.plan import learn_from
from ..pose_frames import pose_between, without_camera
from ..report.card import FILES as REPORT_FILES
from ..report.card import ReportCard, drop_report_card, try_report_card
from ..storage.cache import StageCache
from ..storage.corrections import read_corrections
from ..storage.files import SUFFIXES, jsonable
from ..storage.lock import only_writer
from ..storage.owned import refuse_foreign
from .choice import WeightsChoice, choose_weights
from .finished import RECORD, run_record
from .kept import keep_run
from .metres import in_metres_as_asked, refuse_reference, refuse_without_depth
from .named import check_named
from .objects import in_scope, with_objects
from .pipeline import Pipeline, RunConfig, choose_pipeline
from .prior import open_prior, with_prior
from .refined import check_tracker
from .second_look import rows_of
from .several import makes_several, reconstruct_several, refuse_several, source_facts
from .sphere import check_sphere
from .unposed import NoCamerasError, drop_masks, keep_masks, masks_in_use

WORKSPACE = ".easi3r"
"""Name of the folder for intermediate files in the output folder."""


@dataclass(frozen=True)
class ProcessResult:
    """The result of a run."""

    scene: Scene
    transforms_path: Path
    weights: WeightsInfo | None
    """Description of the network's weights; None: there was no network (``--weights none``)."""
    num_source_frames: int
    card: ReportCard = ReportCard()


def process(
    data: Path,
    output_dir: Path,
    config: RunConfig,
    *,
    overwrite: bool,
    log: RunLog,
    pipeline: Pipeline | None = None,
    choice: WeightsChoice | None = None,
) -> ProcessResult:
    """Reconstruct a video file or image folder and write it as a nerfstudio dataset, which is loaded for a check.

    Args:
        overwrite: replace an existing dataset in ``output_dir``.
        pipeline: default: the one that ``config.easi3r.weights`` selects.
        choice: what ``auto`` among the weights means; default: it is decided here.

    Raises:
        Easi3RError: the message says what to do; ``output_dir`` then holds no ``transforms.json`` of this run.
    """
    from .again import finish_accept  # it calls this function
    from .by_hand import remember_frames

    finish_accept(output_dir)
    refuse_taken(output_dir, overwrite)
    started = begin(data, output_dir, config, log, pipeline, choice)
    asked, config, pipeline, plan = config, started.config, started.pipeline, started.plan
    start, first = time.perf_counter(), len(log.stages)
    with only_writer(output_dir):
        remember_frames(output_dir)
        started.choice.keep(output_dir / WORKSPACE)
        budget = plan.budget if plan else UNBOUNDED
        result = _process(
            *(pipeline, data, output_dir, config),
            overwrite=overwrite,
            log=log,
            budget=budget,
            prior=started.prior,
            facts=started.choice.provenance() | {RECORD: started.record},
            asked=asked,
        )
    if plan:
        log.info(actual_line(plan, time.perf_counter() - start, log.stages[first:]))
        learn_from(plan, log.stages[first:])
    return result


@dataclass(frozen=True)
class StartedRun:
    """A run whose options and sources are checked, and whose weights are there."""

    pipeline: Pipeline
    config: RunConfig
    """With the weights that were chosen."""
    choice: WeightsChoice
    plan: Forecast | GeometricForecast | None
    record: dict[str, Any]
    prior: DepthPrior | None


def begin(
    data: Path,
    output_dir: Path,
    config: RunConfig,
    log: RunLog,
    pipeline: Pipeline | None = None,
    choice: WeightsChoice | None = None,
    *,
    whole: bool = True,
) -> StartedRun:
    """Check everything that can be checked before any work, say what is predicted, and fetch the weights.

    Args:
        whole: a dataset is to be made; else masks alone. Others as :func:`process`.

    Raises:
        Easi3RError: the run cannot succeed; nothing was written.
    """
    asked, paths = config, (data, *config.more_data)
    for source in filter(None, (*paths, config.eval_data)):
        _refuse_own_output(source, output_dir)
        open_source(source)  # raises for an unusable source before any folder is made
    if config.easi3r.masks is not None:
        _refuse_own_output(config.easi3r.masks, output_dir)
    check_given(config.easi3r)
    if config.easi3r.corrections is not None:
        read_corrections(config.easi3r.corrections)
    record = run_record(data, asked)
    if pipeline is None:
        if choice is None:
            choice = choose_weights(data, output_dir / WORKSPACE, config, log)
            choice.say(log)
        config = choice.applied(config)
        pipeline = choose_pipeline(config)
    if makes_several(data, config):
        refuse_several(config, paths)
    choice = choice or WeightsChoice(config.easi3r.weights)
    check_sphere(data, config, config.easi3r.weights)
    refuse_without_depth(config.dataset, _has_depth(pipeline, config))
    pipeline.check(log)
    _refuse_foreign(output_dir, 0, (1, 1), config, has_depth=False)
    plan = choice.plan or pipeline.forecast(data, log)
    for line in forecast_lines(plan, asked_window=config.easi3r.window > 0) if plan and whole else []:
        log.info(line)
    prior = open_prior(config.easi3r, log) if whole else None
    check_tracker(config.easi3r, log)
    check_named(config.easi3r, log)
    pipeline.prepare(log)
    return StartedRun(pipeline, config, choice, plan, record, prior)


def _has_depth(pipeline: Pipeline, config: RunConfig) -> bool:
    """Whether the dataset will have depth maps, as far as options decide it."""
    return pipeline.has_depth or config.easi3r.depth_prior is not None


def _refuse_own_output(source: Path, output_dir: Path) -> None:
    """Raise InputError if a source lies in a folder that this run writes to."""
    try:
        folder = source.resolve().relative_to(output_dir.resolve()).parts[:1]
    except ValueError:
        return
    written = r"(images|masks|depths)(_\d+)?|masks_objects|depth_sources|dynamic|scene|\.easi3r"
    if folder and re.fullmatch(written, folder[0]):
        raise InputError(f"{source} lies in a folder that this run would write to: choose another --output-dir")


def _refuse_foreign(
    output_dir: Path,
    num_frames: int,
    source_wh: tuple[int, int],
    config: RunConfig,
    *,
    has_depth: bool,
    num_clips: int = 1,
    rig: ViewRig | None = None,
) -> None:
    """Raise OutputError, before hours of work, if a file of the user has the name of one that will be written."""
    files = dataset_files(num_frames, source_wh, config.dataset, has_depth=has_depth, num_clips=num_clips, rig=rig)
    refuse_foreign(output_dir, files | (set(REPORT_FILES) if config.dataset.report else set()))


def _process(
    pipeline: Pipeline,
    data: Path,
    output_dir: Path,
    config: RunConfig,
    *,
    overwrite: bool,
    log: RunLog,
    budget: Budget,
    prior: DepthPrior | None,
    facts: dict[str, Any],
    asked: RunConfig,
) -> ProcessResult:
    workspace = output_dir / WORKSPACE
    facts = facts | source_facts(data, config)
    if makes_several(data, config):
        scene, frames = _of_several(pipeline, data, output_dir, config, facts, log)
        facts["num_source_frames"], num_train = frames.num_source_frames, len(frames)
    else:
        scene, frames, num_train = _of_one(pipeline, data, output_dir, config, facts, log, budget)
        facts["num_source_frames"] = frames.num_source_frames
    splits = _splits(scene, frames, num_train) if config.eval_data is not None else None
    scene = level_scene(replace(scene, provenance=scene.provenance | facts), config.dataset.up, log)
    if config.dataset.report:
        outside = moving_outside(scene.dynamic.masks, frames.of_frames(rows_of(frames, scene)), DISFlow(), log)
        scene = replace(scene, provenance=scene.provenance | {"moving_outside_masks": outside})
    scene = with_objects(in_scope(scene, frames, config.easi3r, log), frames, log)
    skipped = without_camera(frames, scene, num_train) if config.frames.pose_all_frames else None
    if skipped is not None:
        clip, masks = _splits(scene, frames, num_train)["train"], given_between(config.easi3r, frames, skipped, log)
        scene = pose_between(scene, skipped, log, clip=clip, masks=masks)
    scene = with_prior(scene, prior, config.easi3r, config.dataset, StageCache(workspace / "stages"), log)
    scene = in_metres_as_asked(scene, config.dataset, log)
    done = with_dataset_images(scene, output_dir, config.dataset)
    cards: list[ReportCard] = []

    def verify(dataset: Path) -> None:
        with log.stage("check"):
            check_loads(dataset, log)
        cards.append(report_card(done, output_dir, config.dataset.report, log))

    if config.keep_stages:
        # What auto chose stays chosen: the network that is affordable later may be another.
        weights = config.easi3r.weights
        keep_run(workspace, data, replace(asked, easi3r=replace(asked.easi3r, weights=weights)))
    transforms = write_dataset(
        scene, output_dir, config.dataset, log, splits=splits, overwrite=overwrite, verify=verify
    )
    if not masks_in_use(output_dir, config.easi3r.masks):
        drop_masks(output_dir)
    if not config.keep_stages:
        shutil.rmtree(workspace, ignore_errors=True)
    return ProcessResult(done, transforms, pipeline.weights, frames.num_source_frames, cards[0])


def _of_one(
    pipeline: Pipeline,
    data: Path,
    output_dir: Path,
    config: RunConfig,
    facts: dict[str, Any],
    log: RunLog,
    budget: Budget,
) -> tuple[Scene, Frames, int]:
    """The scene of one clip, its frames with those of the evaluation views, and how many are the clip's.

    ``facts`` gets what is known of the frames.
    """
    workspace = output_dir / WORKSPACE
    frames, num_train = frames_of_one(pipeline, data, output_dir, config, log)
    num_frames = len(frames) + (len(frames.skipped) if frames.skipped is not None else 0)
    source_wh = frames.pixel_map.source_wh
    _refuse_foreign(
        output_dir,
        num_frames,
        source_wh,
        config,
        has_depth=_has_depth(pipeline, config),
        rig=frames.rig,
    )
    facts["num_source_frames"] = frames.num_source_frames
    if frames.sharpness is not None:
        facts["sharpness"] = jsonable(asdict(frames.sharpness))
    cache, num_eval = StageCache(workspace / "stages"), len(frames) - num_train
    try:
        scene = pipeline.reconstruct(frames, cache, log, num_eval=num_eval, budget=budget)
    except NoCamerasError as error:
        if masks_in_use(output_dir, config.easi3r.masks):
            raise  # the user may have changed them
        raise keep_masks(error, output_dir, config.dataset, facts, log) from error
    return scene, frames, num_train


def frames_of_one(
    pipeline: Pipeline, data: Path, output_dir: Path, config: RunConfig, log: RunLog
) -> tuple[Frames, int]:
    """The frames of one clip with its corrections, followed by those of the evaluation views; and how many are the
    clip's.

    Raises:
        InputError: frames, corrections or the metric reference cannot be used.
    """
    workspace, geometry = output_dir / WORKSPACE, pipeline.geometry
    frames = load_frames(
        *(data, workspace / "frames"),
        select=config.frames,
        geometry=geometry,
        log=log,
        kept=_kept(config),
    )
    num_train = len(frames)
    if config.eval_data is not None:
        frames = _with_eval_frames(frames, config.eval_data, workspace / "eval", geometry, config, log)
    placed = corrected_frames(config.easi3r.corrections, frames, log)
    refuse_reference(config.dataset, [placed.frames])
    return placed.frames, int((placed.kept < num_train).sum())


def _of_several(
    pipeline: Pipeline, data: Path, output_dir: Path, config: RunConfig, facts: dict[str, Any], log: RunLog
) -> tuple[Scene, Frames]:
    """The scene of several clips, and its frames."""
    workspace, paths, geometry = output_dir / WORKSPACE, (data, *config.more_data), pipeline.geometry
    clips = load_clips(paths, workspace / "frames", select=config.frames, geometry=geometry, log=log)
    sizes, count = [clip.frames.pixel_map.source_wh for clip in clips], sum(len(clip.frames) for clip in clips)
    _refuse_foreign(
        output_dir,
        count,
        max(sizes),
        config,
        has_depth=_has_depth(pipeline, config),
        num_clips=len(clips),
    )
    refuse_reference(config.dataset, [clip.frames for clip in clips])
    try:
        return reconstruct_several(clips, config, workspace / "together", StageCache(workspace / "stages"), log)
    except NoCamerasError as error:
        raise keep_masks(error, output_dir, config.dataset, facts, log) from error


def _splits(scene: Scene, frames: Frames, num_train: int) -> dict[str, list[int]]:
    """Positions in the scene of the clip's frames (train) and of the evaluation views (val, test).

    The scene may lack some of the frames.
    """
    clip = set(frames.source_paths[:num_train])
    train = [k for k, path in enumerate(scene.source_paths) if path in clip]
    held_out = [k for k, path in enumerate(scene.source_paths) if path not in clip]
    return {"train": train, "val": held_out, "test": held_out}


def report_card(scene: Scene, output_dir: Path, wanted: bool, log: RunLog) -> ReportCard:
    """Report and preview of a dataset in ``output_dir``; where they are not ``wanted``, earlier ones are deleted."""
    if not wanted:
        drop_report_card(output_dir)
        return ReportCard()
    facts = {"stages": [asdict(stage) for stage in log.stages], "warnings": list(log.warnings)}
    return try_report_card(replace(scene, provenance=scene.provenance | facts), output_dir, log)


def _kept(config: RunConfig) -> Kept:
    # Whatever limit there is on memory, the dataset needs more than the decoded frames.
    suffix = SUFFIXES[config.dataset.image_format]
    return Kept(suffix, num_downscales=config.dataset.num_downscales, decoded_bytes=KEPT_BYTES)


def _with_eval_frames(
    frames: Frames, eval_data: Path, store: Path, geometry: ImageGeometry, config: RunConfig, log: RunLog
) -> Frames:
    select = selection_of_views(eval_data, config.frames)
    held_out = load_frames(
        *(eval_data, store),
        select=select,
        geometry=geometry,
        log=log,
        like=frames.pixel_map,
        kept=_kept(config),
    )
    if held_out.pixel_map != frames.pixel_map:
        sizes = ["x".join(map(str, f.pixel_map.source_wh)) for f in (held_out, frames)]
        raise InputError(
            f"--eval-data {eval_data}: its frames are {sizes[0]}, those of --data {sizes[1]}; give images of one size"
        )
    return frames.followed_by(held_out)
