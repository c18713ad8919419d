"""One dataset for each part of a clip between cuts (``--on-cut split``)."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..core.errors import AlignmentError, Easi3RError, InputError
from ..core.runlog import RunLog
from ..dataset.nerfstudio import TRANSFORMS, refuse_taken
from ..frames import find_parts, open_source
from ..storage.files import jsonable, make_folder, write_json
from ..storage.owned import claim, settle
from . import run
from .choice import WeightsChoice, choose_weights
from .finished import is_finished
from .several import all_clips

FEWEST_FRAMES = 5
"""Least number of frames of a part; shorter parts are left out."""
_FOUND = "parts.json"
"""Name of the file in the workspace that records the parts and which of them are finished."""


@dataclass(frozen=True)
class Part:
    """One dataset of a run, and the log of its making."""

    result: run.ProcessResult
    log: RunLog


def process_parts(
    data: Path, output_dir: Path, config: run.RunConfig, *, overwrite: bool, log: RunLog
) -> tuple[Part, ...]:
    """Call :func:`~.run.process` on a clip, on several clips of one scene (a folder or pattern of videos, or
    ``more_data``), or with ``--on-cut split`` on each of its parts between cuts.

    The datasets of the parts are ``output_dir/part_01``, ``part_02`` and so on; a clip without cuts is one dataset in
    ``output_dir`` itself. A part that is too short, or that cannot be reconstructed, is left out with a warning, and
    its number is not used. After an interruption, the same command continues. Finished datasets, of parts or of a whole
    clip, are neither made again nor returned.

    Raises:
        Easi3RError: as :func:`~.run.process`; also when no part gives a dataset, or with ``eval_data``.
    """
    data, config = all_clips(data, config)
    if config.more_data or config.frames.on_cut != "split":
        return _whole(data, output_dir, config, overwrite=overwrite, log=log)
    if config.eval_data is not None:
        raise InputError(
            f"--eval-data {config.eval_data} belongs to one scene, but --on-cut split makes several: use --on-cut "
            "longest"
        )
    state = _find(data, output_dir, config, log)
    if len(state["parts"]) < 2:
        whole = replace(config, frames=replace(config.frames, on_cut="ignore"))
        return _whole(data, output_dir, whole, overwrite=overwrite, log=log)
    if config.dataset.metric_reference is not None:
        raise InputError(
            "--metric-reference belongs to one scene, but --on-cut split makes several: use --on-cut longest, or give "
            "--camera-height"
        )
    if config.easi3r.corrections is not None:
        raise InputError(
            f"--corrections {config.easi3r.corrections} belong to one dataset, but --on-cut split makes several: use "
            "--on-cut longest, or split first and give the folder of one part to easi3r redo"
        )
    refuse_taken(output_dir, overwrite)
    made, done = _make(data, output_dir, config, state, overwrite=overwrite, log=log)
    if (output_dir / TRANSFORMS).exists():
        _retire(output_dir)
    for old in sorted(output_dir.glob("part_[0-9][0-9]")):
        if overwrite and old.name not in done and (old / TRANSFORMS).exists():
            refuse_taken(old, overwrite)
            _retire(old)
    shutil.rmtree(output_dir / run.WORKSPACE, ignore_errors=True)
    return made


def _make(
    data: Path, output_dir: Path, config: run.RunConfig, state: dict[str, Any], *, overwrite: bool, log: RunLog
) -> tuple[tuple[Part, ...], list[str]]:
    """Make the datasets of the parts that are not finished; these, and the names of all finished ones.

    ``state``: see :func:`_find`. Raises Easi3RError when no part gives a dataset.
    """
    made: list[Part] = []
    done = [] if overwrite else state["done"]
    choice: WeightsChoice | None = None
    failure: Easi3RError | None = None
    for number, (start, end, count) in enumerate(state["parts"], 1):
        name = f"part_{number:02d}"
        place = f"{name}, {start:.4g} to {end:.4g} {open_source(data).unit}"
        if count < FEWEST_FRAMES:
            log.warn(f"{place} is left out: it has {count} frames, fewer than {FEWEST_FRAMES}")
            continue
        if name in done and (output_dir / name / TRANSFORMS).exists():
            log.info(f"{place} is finished already")
            continue
        frames = replace(config.frames, start=start, end=end, on_cut="ignore")
        job = (data, output_dir / name, replace(config, frames=frames))
        if not overwrite and is_finished(*job, output_dir / name / run.WORKSPACE, log):
            done = sorted({*done, name})
            continue
        choice = choice or _common_choice(data, output_dir / run.WORKSPACE, config, log)
        log.info(f"{place}, {count} frames")
        own = replace(log, stages=[], warnings=[])
        try:
            result = run.process(*job, overwrite=overwrite, log=own, choice=choice)
        except (AlignmentError, InputError) as error:
            log.warn(f"{place} is left out: {error}")
            failure = error
            continue
        made.append(Part(result, own))
        done = sorted({*done, name})
        write_json(output_dir / run.WORKSPACE / _FOUND, state | {"done": done})
    if not made and (failure is not None or not done):
        raise failure or InputError(
            f"{data}: every part between cuts has fewer than {FEWEST_FRAMES} frames; use --on-cut ignore to take the "
            "clip as one scene"
        )
    return tuple(made), done


def _common_choice(data: Path, workspace: Path, config: run.RunConfig, log: RunLog) -> WeightsChoice:
    """One choice for all parts, of which an interrupted run may have finished some."""
    choice = replace(choose_weights(data, workspace, config, log), plan=None)  # its forecast is of the whole clip
    choice.say(log)
    choice.keep(workspace)
    return choice


def _whole(data: Path, output_dir: Path, config: run.RunConfig, *, overwrite: bool, log: RunLog) -> tuple[Part, ...]:
    """The dataset of the clip; nothing where it is finished already."""
    if not overwrite and is_finished(data, output_dir, config, output_dir / run.WORKSPACE, log):
        return ()
    return (Part(run.process(data, output_dir, config, overwrite=overwrite, log=log), log),)


def _retire(folder: Path) -> None:
    """Delete an earlier dataset that the parts replace, so that nobody trains on it by mistake."""
    claim(folder, (), first=TRANSFORMS)
    settle(folder, ())


def _find(data: Path, output_dir: Path, config: run.RunConfig, log: RunLog) -> dict[str, Any]:
    """The parts of a clip, from an interrupted run with the same options or else from a new search for cuts.

    Returns:
        ``parts``: (start, end, number of frames) of each part; ``done``: names of the finished ones; ``key``: source
        and options.
    """
    file = output_dir / run.WORKSPACE / _FOUND
    key = jsonable({"source": open_source(data).signature(), "config": asdict(config)})
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["key"] == key:
            return {"key": key, "parts": list(found["parts"]), "done": list(found["done"])}
    except (OSError, ValueError, KeyError, TypeError):
        pass  # there is no file, or its format is not this version's: search again
    spans = [list(span) for span in find_parts(data, config.frames, log)]
    make_folder(file.parent)
    state = {"key": key, "parts": spans, "done": []}
    write_json(file, state)
    return state
