"""Other people's results -> checked dataset: their cameras, and depth and masks where they have them.

What a folder lacks is found on top of its cameras, as in :mod:`.geometric`: masks by optical flow, depth of what stands
still by multi-view stereo, masks again by the flow that cameras and depth do not predict.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..core.config import DatasetConfig, Easi3RConfig
from ..core.errors import InputError
from ..core.improve import ImproveConfig
from ..core.runlog import RunLog
from ..core.scene import Scene
from ..core.types import DynamicMasks, Frames
from ..core.upright import level_scene
from ..dataset.nerfstudio import check_loads, dataset_files, refuse_taken, with_dataset_images, write_dataset
from ..depth.movers import assume_depth
from ..frames import enlargement
from ..frames.near import Shot
from ..importers.colmap import LAYOUT
from ..importers.folder import read_recording
from ..importers.recording import ImportOptions, Recording, readable, to_scene
from ..motion.boundary import moving_outside
from ..motion.flow.choose import choose_flow
from ..motion.flow.dis import DISFlow
from ..motion.given import FirstLook, check_given, given_masks
from ..motion.packing import pack_masks, unpack_masks
from ..motion.two_view import geometric_masks
from ..network.compute import choose_compute
from ..report.card import FILES as REPORT_FILES
from ..storage.cache import StageCache, Tensors, digest
from ..storage.lock import only_writer
from ..storage.owned import refuse_foreign
from .footage import prepare
from .metres import in_metres_as_asked, refuse_reference, refuse_without_depth
from .named import check_named
from .objects import with_objects
from .prior import open_prior, with_prior
from .refined import check_tracker, refined_masks, with_final_masks
from .run import WORKSPACE, ProcessResult, report_card
from .second_look import larger_scene, look_again, on_network
from .stereo import measured_depth, stereo_of
from .theirs import as_first_look, as_theirs_again, change_facts, with_refined_cameras

MASKS = "masks"
"""Folder in which many programs keep masks beside a COLMAP model."""
FOUND_BY = (
    *("masks", "masks_polarity", "masks_missing", "no_masks"),
    *("refine_masks", "remove", "keep", "names_model"),
    *("depth", "stereo", "depth_prior", "metric", "device"),
)
"""Options of :class:`~easi3r_ns.core.config.Easi3RConfig` that the command has."""
LARGEST_PATCH = 16
"""Pixels per token of the score, at most: that of the published networks."""


@dataclass(frozen=True)
class ImportConfig:
    """Everything that decides the result of an import."""

    reading: ImportOptions = ImportOptions()
    found: Easi3RConfig = field(default_factory=Easi3RConfig)
    """Which masks and which depth are found, and how; its other options have no effect."""
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    improve: ImproveConfig | None = None
    """What of the folder may change; None: what it has stays as it is."""


def import_dataset(
    folder: Path,
    output_dir: Path,
    config: ImportConfig,
    *,
    overwrite: bool,
    log: RunLog,
    facts: Mapping[str, Any] | None = None,
) -> ProcessResult:
    """Turn what another program left in ``folder`` into a nerfstudio dataset, which is loaded for a check.

    Masks are those of the user (``config.found``), else those of the folder, else they are found; depth is that of the
    folder, else it is measured where there are triangulated points. With ``config.improve`` masks of the folder are a
    first look, and bundle adjustment may change its cameras.

    Args:
        facts: what the provenance of the dataset is to hold besides.

    Raises:
        InputError: the folder is of no known layout, incomplete or damaged.
        OutputError: a dataset is in the way, the disk refuses, or nerfstudio does not load it.
    """
    refuse_taken(output_dir, overwrite)
    check_given(config.found)
    _refuse_inside(folder, output_dir)
    prior = open_prior(config.found, log)
    check_tracker(config.found, log)
    check_named(config.found, log)
    with log.stage("read"):
        recording = read_recording(folder, config.reading)
    log.info(f"{folder} was written by {recording.layout}: recognised by {recording.why}")
    for remark in [*recording.remarks, *_unread_masks(folder, recording, config.found)]:
        log.warn(remark)
    with only_writer(output_dir):
        workspace = output_dir / WORKSPACE
        recording, pictures = prepare(recording, folder, workspace / "imported", log)
        has_depth = recording.depth is not None or config.found.depth != "none" or prior is not None
        refuse_without_depth(config.dataset, has_depth)
        files = dataset_files(len(recording), pictures.pixel_map.source_wh, config.dataset, has_depth=has_depth)
        refuse_foreign(output_dir, files | (set(REPORT_FILES) if config.dataset.report else set()))
        given = to_scene(recording, pictures, folder, config.reading)
        refuse_reference(config.dataset, [_frames(given, recording)])
        cache = StageCache(workspace / "stages")
        scene = _completed(given, recording, config, cache, log)
        chosen = {name: getattr(config.found, name) for name in FOUND_BY}
        options = {"import": asdict(config.reading), "easi3r": chosen, "dataset": asdict(config.dataset)}
        if config.improve is not None:
            options["improve"] = asdict(config.improve)
        told = {"config": options, "source_path": readable(str(folder)), **(facts or {})}
        scene = level_scene(replace(scene, provenance=scene.provenance | told), config.dataset.up, log)
        scene = with_prior(scene, prior, config.found, config.dataset, cache, log)
        scene = with_objects(in_metres_as_asked(scene, config.dataset, log), _frames(scene, recording), log)
        if config.improve is not None:
            scene = _with_changes(scene, given, recording, config.dataset.report, log)
        return _written(scene, recording, output_dir, config.dataset, overwrite, log)


def _unread_masks(folder: Path, recording: Recording, config: Easi3RConfig) -> list[str]:
    """What to say of masks beside a COLMAP model, which are not part of it: either colour may move."""
    given = config.masks is not None or config.no_masks or recording.masks is not None
    if given or recording.layout != LAYOUT or not (folder / MASKS).is_dir():
        return []
    return [f"{folder / MASKS} is not read: what moves is found anew; --masks {folder / MASKS} takes these masks"]


def _written(
    scene: Scene, recording: Recording, output_dir: Path, config: DatasetConfig, overwrite: bool, log: RunLog
) -> ProcessResult:
    done, cards = with_dataset_images(scene, output_dir, config), []

    def verify(dataset: Path) -> None:
        with log.stage("check"):
            check_loads(dataset, log)
        cards.append(report_card(done, output_dir, config.report, log))

    transforms = write_dataset(scene, output_dir, config, log, overwrite=overwrite, verify=verify)
    shutil.rmtree(output_dir / WORKSPACE, ignore_errors=True)
    return ProcessResult(done, transforms, None, recording.num_source or len(scene), cards[0])


def _refuse_inside(folder: Path, output_dir: Path) -> None:
    """Raises InputError where the dataset would be written over the folder that is read."""
    if folder.resolve() == output_dir.resolve():
        raise InputError(f"--output-dir {output_dir} is the folder that is read: choose another")


def _with_changes(scene: Scene, given: Scene, recording: Recording, report: bool, log: RunLog) -> Scene:
    """The finished scene with what is said of it against what was given."""
    had = {"masks": recording.masks is not None, "depth": recording.depth is not None}
    told: dict[str, Any] = {"improved": change_facts(given, scene, had)}
    if report:
        frames = _frames(scene, recording)
        told["moving_outside_masks"] = moving_outside(scene.dynamic.masks, frames, DISFlow(), log)
    return replace(scene, provenance=scene.provenance | told)


def _completed(scene: Scene, recording: Recording, options: ImportConfig, cache: StageCache, log: RunLog) -> Scene:
    """The scene with the masks and the depth that it lacks, and with the changes that are asked for."""
    config, improve = options.found, options.improve
    refines = improve is not None and improve.refine != "none"
    if recording.depth is None and config.depth != "none" and (refines or scene.sparse is not None):
        stereo_of(config)  # before the masks, which take their time
    frames, patch, theirs = _frames(scene, recording), patch_of(scene), as_first_look(scene.dynamic, improve)
    own = partial(_first_look, scene, frames, patch, config, cache, log)
    given = given_masks(config, frames, patch, FirstLook(log, own if recording.masks is None else lambda: theirs))
    if given is None:
        given = own() if recording.masks is None else theirs
    scene = replace(scene, dynamic=given)
    dynamic = refined_masks(scene.dynamic, frames, config, cache, log, stage="refined-first-look")
    scene = replace(scene, dynamic=dynamic)
    if improve is not None:
        scene = with_refined_cameras(scene, improve, config.seed, cache, log)
    measures = recording.depth is None and config.depth != "none" and scene.sparse is not None
    if measures:
        scene = measured_depth(scene, config, cache, log)
    scene = as_theirs_again(look_again(scene, frames, config, patch, cache, log).scene)
    if measures:
        still = ~scene.dynamic.masks
        scene = replace(scene, depth=scene.depth * still, confidence=scene.confidence * still)
    if not scene.has_depth:
        log.warn("there is no depth: the dataset has no depth maps, and no mesh can be made of it")
    return with_final_masks(assume_depth(scene), log)


def _frames(scene: Scene, recording: Recording) -> Frames:
    return Frames(
        images=scene.images,
        pixel_map=scene.pixel_map,
        times=scene.times,
        indices=scene.indices,
        names=scene.names,
        source_paths=scene.source_paths,
        num_source_frames=recording.num_source or len(scene),
    )


def patch_of(scene: Scene) -> int:
    """Pixels per token: the largest number up to :data:`LARGEST_PATCH` that divides both sides of the grid."""
    common = math.gcd(*scene.depth.shape[1:])
    return max(side for side in range(1, LARGEST_PATCH + 1) if common % side == 0)


def _first_look(
    scene: Scene, frames: Frames, patch: int, config: Easi3RConfig, cache: StageCache, log: RunLog
) -> DynamicMasks:
    """Masks by two-view geometry of optical flow, in images that are large enough for it."""
    if len(scene) < 2:
        log.warn("one picture does not show what moves: everything counts as static")
        return scene.dynamic
    flow = "dis" if config.flow == "auto" else config.flow
    times = enlargement(*scene.depth.shape[1:])

    def compute() -> Tensors:
        provider = choose_flow(flow, choose_compute(config.device, config.dtype, config.batch_size), log)
        images = larger_scene(scene, times).images
        shot = Shot(frames.places, np.empty(0, dtype=np.int64), _by_place(frames, images))
        found = geometric_masks(images, times * patch, log, provider=provider, shot=shot)
        return pack_masks(replace(found, masks=on_network(found.masks, times), over_cut=None))

    key = digest(scene.images, scene.pixel_map, frames.places, patch, flow, __version__)
    return unpack_masks(cache.stage("first-look", key, compute, log))


def _by_place(frames: Frames, images: np.ndarray) -> Callable[[int], np.ndarray]:
    row_of = {place: row for row, place in enumerate(frames.places.tolist())}
    return lambda place: images[row_of[place]]
