"""Masks of a clip without cameras (``easi3r masks``): the first look, from which the run afterwards goes on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..core.errors import InputError
from ..core.objects import object_facts
from ..core.runlog import RunLog
from ..core.types import DynamicMasks, Frames
from ..motion.flow.dis import DISFlow
from ..motion.objects import link_objects
from ..report.command import command_text
from ..storage.cache import StageCache
from ..storage.files import jsonable
from ..storage.lock import only_writer
from .again import finish_accept
from .by_hand import remember_frames
from .pipeline import Pipeline, RunConfig
from .run import WORKSPACE, begin, frames_of_one
from .several import all_clips, makes_several, source_facts
from .unposed import FOLDER, drop_masks, masks_in_use, write_masks


@dataclass(frozen=True)
class MasksOnly:
    """What was found and written."""

    folder: Path
    frames: int
    coverage: float
    """Share of all pixels that move."""
    objects: int
    next_command: str
    """The command that goes on to a dataset."""


def process_masks(
    data: Path, output_dir: Path, config: RunConfig, *, log: RunLog, pipeline: Pipeline | None = None
) -> MasksOnly:
    """Find what moves in a clip by the first look alone, and write it into ``output_dir/partial``.

    Masks have the names of those of a dataset, and are black where something moves, as there; beside them lie the
    preview, a contact sheet and a report. A dataset in ``output_dir`` stays. Frames and masks are kept, so that a run
    with the same options, or this again with another ``--mask-threshold``, computes neither again.

    Raises:
        InputError: there are several clips, or ``--on-cut split`` makes several datasets.
        Easi3RError: as :func:`~.run.process`.
    """
    finish_accept(output_dir)
    data, config = all_clips(data, config)
    if makes_several(data, config):
        raise InputError(f"masks alone are found clip by clip: {data} is one of several (of several sizes); give one")
    if config.frames.on_cut == "split":
        raise InputError("--on-cut split makes several datasets: for masks alone choose longest, fail or ignore")
    if masks_in_use(output_dir, config.easi3r.masks):
        raise InputError(f"--masks {config.easi3r.masks} would be replaced: copy them out of {output_dir / FOLDER}")
    if config.easi3r.mask_scope != "now":
        log.warn(f"--mask-scope {config.easi3r.mask_scope} comes with the dataset; the masks here show what moves now")
    started = begin(data, output_dir, config, log, pipeline, whole=False)
    asked, config, pipeline, workspace = config, started.config, started.pipeline, output_dir / WORKSPACE
    with only_writer(output_dir):
        remember_frames(output_dir)
        started.choice.keep(workspace)
        frames, num_train = frames_of_one(pipeline, data, output_dir, config, log)
        cache = StageCache(workspace / "stages")
        dynamic = pipeline.masks(frames, cache, log, num_eval=len(frames) - num_train).final
        dynamic = _with_objects(frames, dynamic, log) if dynamic.objects is None else dynamic
        facts = source_facts(data, config) | {"num_source_frames": frames.num_source_frames}
        facts |= {"sharpness": jsonable(asdict(frames.sharpness))} if frames.sharpness is not None else {}
        folder, command = output_dir / FOLDER, command_text(source_facts(data, asked), output_dir)
        drop_masks(output_dir)
        problem = f"only the masks were asked for; `{command}` goes on from what was computed"
        write_masks(folder, frames, dynamic, problem, config.dataset, facts, log, sheet=True)
    count = 0 if dynamic.objects is None else len(object_facts(dynamic.objects))
    return MasksOnly(folder, len(frames), float(dynamic.coverage.mean()), count, command)


def _with_objects(frames: Frames, dynamic: DynamicMasks, log: RunLog) -> DynamicMasks:
    objects = link_objects(frames.images, dynamic.masks, frames.clips, DISFlow(), log)
    return replace(dynamic, objects=objects)
