"""Clip -> checked dataset: what `ns-process-data easi3r` and `easi3r run` do between their options and their summary.

Work in progress lives in ``OUTPUT/.easi3r`` (frames, finished stages), where a killed run finds it again.
``transforms.json`` comes last, after the dataset was loaded back.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..core.budget import UNBOUNDED, Budget
from ..core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from ..core.errors import InputError, OutputError
from ..core.pairs import check_strategy
from ..core.runlog import RunLog
from ..core.scene import Scene
from ..core.types import Frames
from ..dataset.nerfstudio import check_loads, dataset_files, refuse_taken, with_dataset_images, write_dataset
from ..frames import ImageGeometry, load_frames, open_source
from ..frames.user_masks import user_masks_between
from ..network.compute import choose_compute
from ..network.lazy import LazyBackbone
from ..network.weights import WeightsInfo
from ..plan.forecast import Forecast, actual_line, forecast_lines
from ..plan.plan import Network, plan_run, published_network
from ..pose_frames import pose_between, without_camera
from ..refine import check_refine, refine_kept
from ..report.card import FILES as REPORT_FILES
from ..report.card import ReportCard, drop_report_card, try_report_card
from ..storage.cache import StageCache
from ..storage.files import make_folder
from ..storage.owned import refuse_foreign
from .geometric import GEOMETRY, NAME, check_geometric, reconstruct_geometric
from .network import Backbone, reconstruct

WORKSPACE = ".easi3r"


@dataclass(frozen=True)
class RunConfig:
    """All options of a run."""

    frames: FrameConfig = FrameConfig()
    easi3r: Easi3RConfig = Easi3RConfig()
    align: AlignConfig = AlignConfig()
    dataset: DatasetConfig = DatasetConfig()
    refine: RefineConfig = RefineConfig()
    eval_data: Path | None = None
    """Second video or folder whose frames are posed in the same scene and become the val and test splits."""


@dataclass(frozen=True)
class ProcessResult:
    """What a run leaves behind."""

    scene: Scene
    transforms_path: Path
    weights: WeightsInfo | None
    """None: no network (``--weights none``)."""
    num_source_frames: int
    card: ReportCard = ReportCard()


def process(data: Path, output_dir: Path, config: RunConfig, *, overwrite: bool, log: RunLog) -> ProcessResult:
    """Turn a video file or image folder into a nerfstudio dataset that was loaded back and checked.

    Raises:
        Easi3RError: with the remedy in its message; ``output_dir`` then holds no ``transforms.json`` of this run.
    """
    refuse_taken(output_dir, overwrite)
    if config.easi3r.weights == NAME:
        check_geometric(config.easi3r, config.align, config.refine, log)
        return process_with(None, data, output_dir, config, overwrite=overwrite, log=log)
    check_refine(config.refine, config.align)
    compute = choose_compute(config.easi3r.device, config.easi3r.dtype, config.easi3r.batch_size)
    published = published_network(config.easi3r.weights)
    if published is not None:  # the forecast comes before a download
        plan = _forecast(data, config, Network(published), log)
    backbone = LazyBackbone.open(config.easi3r.weights, device=compute.device, log=log, dtype=compute.dtype)
    if published is None:
        plan = _forecast(data, config, Network.of(backbone.info), log)
    begin, first = time.perf_counter(), len(log.stages)
    result = process_with(backbone, data, output_dir, config, overwrite=overwrite, log=log, budget=plan.budget)
    log.info(actual_line(plan, time.perf_counter() - begin, log.stages[first:]))
    return result


def _forecast(data: Path, config: RunConfig, network: Network, log: RunLog) -> Forecast:
    plan = plan_run(data, config.frames, config.easi3r, config.align, log, network=network, eval_data=config.eval_data)
    for line in forecast_lines(plan, asked_window=config.easi3r.window > 0):
        log.info(line)
    return plan


def process_with(
    backbone: Backbone | None,
    data: Path,
    output_dir: Path,
    config: RunConfig,
    *,
    overwrite: bool,
    log: RunLog,
    budget: Budget = UNBOUNDED,
) -> ProcessResult:
    """:func:`process` with a network that is already there, or with none (:mod:`.pipeline_geometric`)."""
    refuse_taken(output_dir, overwrite)
    check_refine(config.refine, config.align)
    if backbone is not None and config.easi3r.graph != "auto":
        check_strategy(config.easi3r.graph)
    for source in filter(None, (data, config.eval_data)):
        _refuse_own_output(source, output_dir)
        open_source(source)  # a source that cannot be used leaves no folder behind
    _refuse_foreign(output_dir, 0, (1, 1), config, has_depth=False)
    with _locked(output_dir):
        return _process(backbone, data, output_dir, config, overwrite=overwrite, log=log, budget=budget)


@contextlib.contextmanager
def _locked(output_dir: Path) -> Iterator[None]:
    """Keep a second run out of the same folder (on Unix); the lock goes with the process, however it ends."""
    make_folder(output_dir)
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(output_dir, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise OutputError(
                    f"another run is writing to {output_dir}: wait for it, or choose another --output-dir"
                ) from error
            # A file system without locks (some network drives): go on without.
        yield
    finally:
        os.close(handle)


def _refuse_own_output(source: Path, output_dir: Path) -> None:
    """Raises InputError when a source lies where this run writes."""
    try:
        folder = source.resolve().relative_to(output_dir.resolve()).parts[:1]
    except ValueError:
        return
    if folder and re.fullmatch(r"(images|masks|depths)(_\d+)?|dynamic|scene|\.easi3r", folder[0]):
        raise InputError(f"{source} is a folder that this run would write to: choose another --output-dir")


def _refuse_foreign(
    output_dir: Path, num_frames: int, source_wh: tuple[int, int], config: RunConfig, *, has_depth: bool
) -> None:
    """Raises OutputError, before hours of work, when a file that is not ours lies where one will be written."""
    files = dataset_files(num_frames, source_wh, config.dataset, has_depth=has_depth)
    refuse_foreign(output_dir, files | (set(REPORT_FILES) if config.dataset.report else set()))


def _process(
    backbone: Backbone | None,
    data: Path,
    output_dir: Path,
    config: RunConfig,
    *,
    overwrite: bool,
    log: RunLog,
    budget: Budget,
) -> ProcessResult:
    workspace = output_dir / WORKSPACE
    geometry = _image_geometry(backbone, config.frames)
    frames = load_frames(data, workspace / "frames", select=config.frames, geometry=geometry, log=log)
    num_train = len(frames)
    if config.eval_data is not None:
        frames = _with_eval_frames(frames, config.eval_data, workspace / "eval", geometry, config, log)
    num_frames = len(frames) + (len(frames.skipped) if frames.skipped is not None else 0)
    source_wh = frames.pixel_map.source_wh
    _refuse_foreign(output_dir, num_frames, source_wh, config, has_depth=backbone is not None)
    cache = StageCache(workspace / "stages")
    scene = _reconstruct(frames, backbone, config, cache, log, num_eval=len(frames) - num_train, budget=budget)
    splits = _splits(scene, frames, num_train) if config.eval_data is not None else None
    scene = replace(scene, provenance=scene.provenance | {"source": data.name, "config": asdict(config)})

    skipped = without_camera(frames, scene, num_train) if config.frames.pose_all_frames else None
    if skipped is not None:
        clip, folder = _splits(scene, frames, num_train)["train"], config.easi3r.masks
        masks = None if folder is None else user_masks_between(folder, frames, skipped)
        scene = pose_between(scene, skipped, log, clip=clip, masks=masks)
    done = with_dataset_images(scene, output_dir)
    cards: list[ReportCard] = []

    def verify(dataset: Path) -> None:
        with log.stage("check"):
            check_loads(dataset, log)
        cards.append(_report_card(done, output_dir, config.dataset.report, log))

    transforms = write_dataset(
        scene, output_dir, config.dataset, log, splits=splits, overwrite=overwrite, verify=verify
    )
    shutil.rmtree(workspace, ignore_errors=True)
    weights = None if backbone is None else backbone.info
    return ProcessResult(done, transforms, weights, frames.num_source_frames, cards[0])


def _image_geometry(backbone: Backbone | None, select: FrameConfig) -> ImageGeometry:
    if backbone is None:
        return replace(GEOMETRY, square_ok=select.square_ok)
    network = backbone.info.config
    return ImageGeometry(network.image_size, network.patch_size, network.square, select.square_ok)


def _reconstruct(
    frames: Frames,
    backbone: Backbone | None,
    config: RunConfig,
    cache: StageCache,
    log: RunLog,
    *,
    num_eval: int,
    budget: Budget,
) -> Scene:
    if backbone is None:
        return reconstruct_geometric(frames, config.easi3r, config.refine, cache, log, num_eval=num_eval)
    scene = reconstruct(frames, backbone, config.easi3r, config.align, cache, log, num_eval=num_eval, budget=budget)
    if config.refine.refine == "colmap":
        fixed_focal = config.easi3r.focal_length is not None
        scene = refine_kept(scene, config.refine, log, config.easi3r.seed, cache, fixed_focal=fixed_focal)
    return scene


def _splits(scene: Scene, frames: Frames, num_train: int) -> dict[str, list[int]]:
    """Positions in the scene, which may lack some of the frames, of the clip (train) and of the evaluation views."""
    clip = set(frames.source_paths[:num_train])
    train = [k for k, path in enumerate(scene.source_paths) if path in clip]
    held_out = [k for k, path in enumerate(scene.source_paths) if path not in clip]
    return {"train": train, "val": held_out, "test": held_out}


def _report_card(scene: Scene, output_dir: Path, wanted: bool, log: RunLog) -> ReportCard:
    if not wanted:
        drop_report_card(output_dir)
        return ReportCard()
    facts = {"stages": [asdict(stage) for stage in log.stages], "warnings": list(log.warnings)}
    return try_report_card(replace(scene, provenance=scene.provenance | facts), output_dir, log)


def _with_eval_frames(
    frames: Frames, eval_data: Path, store: Path, geometry: ImageGeometry, config: RunConfig, log: RunLog
) -> Frames:
    select = replace(config.frames, start=0.0, end=None, on_cut="ignore", pose_all_frames=False)
    held_out = load_frames(eval_data, store, select=select, geometry=geometry, log=log)
    if held_out.pixel_map != frames.pixel_map:
        sizes = ["x".join(map(str, f.pixel_map.source_wh)) for f in (held_out, frames)]
        raise InputError(f"--eval-data {eval_data}: its frames are {sizes[0]}, those of --data {sizes[1]}")
    return frames.followed_by(held_out)
