"""A dataset solved again with its corrections, beside the old one until a person takes it or goes back.

The new one is made in ``OUT/.easi3r/again``, as a dataset of its own whose kept stages are those of the old one (links
to the same files), so that only what depends on the masks is computed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core.errors import Easi3RError, InputError
from ..core.runlog import RunLog, stage_unit, stage_words
from ..dataset.nerfstudio import TRANSFORMS
from ..storage.corrections import FOLDER, Corrections, frame_sources, write_corrections
from ..storage.files import link_or_copy, make_folder, write_json, writing
from ..storage.lock import LOCK_FILE, only_writer
from ..storage.owned import DATASET, claim, groups_of, refuse_foreign, settle
from .by_hand import follow_dataset, from_elsewhere, own_corrections, with_corrections
from .kept import keep_run, kept_run
from .pipeline import Pipeline
from .run import WORKSPACE, process
from .unposed import drop_masks, masks_in_use

AGAIN = "again"
"""Name of the folder, among the intermediate results of a dataset, in which it is made again."""
_GONE = "again.gone"
"""Its name while it is deleted."""
_BASE, _ACCEPTED = "base.json", "accepted.json"
"""Files in it: which dataset it was made from, and that it is taking that one's place."""

Progress = Callable[[str, int, int, str], None]
"""What is done, steps that are done, all steps (0: not known), and what they are, in the plural."""


class CancelledError(Easi3RError):
    """The user stopped it; nothing has changed."""


class _Stop(BaseException):
    """Passes through handlers of errors, as KeyboardInterrupt does."""


@dataclass
class WatchedLog(RunLog):
    """Tells every stage and its steps to a function, and stops where another one says so."""

    progress: Progress | None = None
    cancel: Callable[[], bool] | None = None
    said: list[str] = field(default_factory=list)
    """Lines that a terminal would show."""

    def info(self, message: str) -> None:
        """See :meth:`~easi3r_ns.core.runlog.RunLog.info`."""
        super().info(message)
        self.said.append(message)

    @contextlib.contextmanager
    def _display(self, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        done = 0

        def advance(steps: int = 1) -> None:
            nonlocal done
            done += steps
            if self.cancel is not None and self.cancel():
                raise _Stop
            if self.progress is not None:
                self.progress(stage_words(name), done, total or 0, stage_unit(name))

        advance(0)
        yield advance


def again_folder(out: Path) -> Path:
    """Where the dataset in ``out`` is made again."""
    return out / WORKSPACE / AGAIN


def waiting(out: Path) -> Path | None:
    """The folder of a dataset that was made again and is neither taken nor refused yet; None: there is none."""
    folder = again_folder(out)
    return folder if (folder / TRANSFORMS).is_file() and (folder / _BASE).is_file() else None


def solve_again(
    out: Path,
    corrections: Corrections | None = None,
    *,
    log: RunLog | None = None,
    progress: Progress | None = None,
    cancel: Callable[[], bool] | None = None,
    data: Path | None = None,
    pipeline: Pipeline | None = None,
) -> Path:
    """Make the dataset in ``out`` again with corrections by hand, and leave it and all its files as they are.

    What was computed before a stop, or a kill, is not computed again.

    Args:
        corrections: default: those in ``out/corrections``. Later changes there do not reach a run that is under way.
        log: default: one that calls ``progress``, and stops where ``cancel()`` is true, which both are asked at every
            step; with a log they are not asked.
        data: the clip, where it lies elsewhere now.
        pipeline: default: the one of the run that made the dataset.

    Returns:
        The folder of the new dataset, for :func:`accept` and :func:`go_back`.

    Raises:
        CancelledError: it was stopped.
        Easi3RError: as :func:`~.run.process`; also where nothing was kept of the run that made the dataset.
    """
    finish_accept(out)
    kept = kept_run(out / WORKSPACE)
    if not (out / TRANSFORMS).is_file():
        raise InputError(f"{out} holds no dataset ({TRANSFORMS}): make it first")
    if (other := from_elsewhere(kept.config, out)) is not None:
        raise InputError(
            f"{out} was made with the corrections in {other}: copy them to {out / FOLDER} and redo it first"
        )
    folder, watched = again_folder(out), WatchedLog(progress=progress, cancel=cancel) if log is None else log
    with only_writer(out):
        _prepare(out, folder)
        config = with_corrections(kept.config, _decisive(out, corrections))
    try:
        process(data or kept.data, folder, config, overwrite=True, log=watched, pipeline=pipeline)
    except _Stop:
        raise CancelledError(f"stopped; {out} is as it was") from None
    return folder


def go_back(out: Path) -> None:
    """Delete the dataset that was made again, with what was computed for it. Raises OutputError."""
    finish_accept(out)
    with only_writer(out):
        _delete(out)


def accept(out: Path) -> None:
    """Put the dataset that was made again in the place of the one in ``out``; corrections and other files stay.

    Whenever the process ends, one whole dataset is there: the old one in ``out``, or the new one in the folder that
    :func:`solve_again` gave, or in ``out``. :func:`finish_accept` then ends it. In between ``out`` has no
    ``transforms.json``, so that nobody trains on a mixture.

    Raises:
        InputError: there is none, or ``out`` was made anew in the meantime.
        OutputError: files of the user are in the way, another run is writing there, or the disk refuses.
    """
    finish_accept(out)
    folder = waiting(out)
    if folder is None:
        raise InputError(f"{out} was not made again: nothing is there to be accepted")
    if _read(folder / _BASE) != _identity(out):
        raise InputError(f"{out} has changed since it was solved again: solve it again, or go back")
    with only_writer(out):
        for files in groups_of(folder).values():
            refuse_foreign(out, files)
        made = kept_run(folder / WORKSPACE)
        if made.config.easi3r.corrections is not None:
            keep_run(folder / WORKSPACE, made.data, with_corrections(made.config, out / FOLDER))
        in_use = masks_in_use(out, made.config.easi3r.masks)
        write_json(folder / _ACCEPTED, {"version": 1, "masks_in_use": in_use})
        _take(out, folder)


def finish_accept(out: Path) -> None:
    """End what a killed process has begun: an :func:`accept`, or the names of corrections.

    Whoever opens a dataset to change it calls this first. Raises OutputError.
    """
    folder, gone = again_folder(out), out / WORKSPACE / _GONE
    if (folder / _ACCEPTED).is_file():
        with only_writer(out):
            _take(out, folder)
    elif gone.is_dir():
        with only_writer(out):
            shutil.rmtree(gone, ignore_errors=True)
    follow_dataset(out)


def _take(out: Path, folder: Path) -> None:
    """Can be repeated from every point at which it is left."""
    groups = groups_of(folder)
    if DATASET in groups:
        with writing(out):
            (out / TRANSFORMS).unlink(missing_ok=True)
        for group, files in groups.items():
            if group != DATASET:
                _link(folder, out, files, group, first=None)
        _link(folder, out, groups[DATASET], DATASET, first=TRANSFORMS)
        accepted = _read(folder / _ACCEPTED)
        if isinstance(accepted, dict) and not accepted.get("masks_in_use"):
            drop_masks(out)
    for kept in sorted((folder / WORKSPACE).glob("*")):
        place = out / WORKSPACE / kept.name
        with writing(place):
            if place.is_dir():
                shutil.rmtree(place)
            os.replace(kept, place)
    _delete(out)
    follow_dataset(out)


def _read(path: Path) -> Any:
    """The JSON of a file; None where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _link(folder: Path, out: Path, files: set[str], group: str, *, first: str | None) -> None:
    """Files of ``folder`` in ``out`` as well; ``first`` is taken away before all others, and put back last."""
    there = sorted((file for file in files if (folder / file).is_file()), key=lambda file: file == first)
    claim(out, there, group=group, first=first)
    for file in there:
        make_folder((out / file).parent)
        link_or_copy(folder / file, out / file)
    settle(out, there, group=group)


def _decisive(out: Path, corrections: Corrections | None) -> Path | None:
    """A folder with the corrections to take: those that are given, or those beside the dataset as they are now."""
    given = own_corrections(out) if corrections is None else corrections
    if given is None or not given.decides:
        return None
    known = {name: source for name, source in frame_sources(out).items() if name in given.names}
    write_corrections(again_folder(out) / FOLDER, replace(given, sources={**known, **given.sources}))
    return again_folder(out) / FOLDER


def _prepare(out: Path, folder: Path) -> None:
    """The kept stages of ``out`` in the folder too; those that an interrupted run finished there stay."""
    base = _identity(out)
    if (folder / _BASE).exists() and _read(folder / _BASE) != base:
        _delete(out)  # made from another dataset
    make_folder(folder)
    with writing(folder):
        (folder / TRANSFORMS).unlink(missing_ok=True)
    write_json(folder / _BASE, base)
    for file in _kept_files(out / WORKSPACE):
        target = folder / WORKSPACE / file.relative_to(out / WORKSPACE)
        if not target.exists():
            make_folder(target.parent)
            link_or_copy(file, target)


def _kept_files(workspace: Path) -> Iterator[Path]:
    """Without those of a dataset that was made again, and what a killed run was writing.

    Files that say that others are complete come last.
    """
    found = []
    for folder, inside, files in os.walk(workspace):
        inside[:] = [name for name in inside if name not in (AGAIN, _GONE) and not name.endswith(".tmp")]
        found += [Path(folder) / name for name in files if ".tmp" not in name and name != LOCK_FILE]
    yield from sorted(found, key=lambda file: (file.suffix == ".json", file))


def _delete(out: Path) -> None:
    folder, gone = again_folder(out), out / WORKSPACE / _GONE
    with writing(folder):
        if gone.is_dir():
            shutil.rmtree(gone)
        if folder.is_dir():
            os.rename(folder, gone)
            shutil.rmtree(gone)


def _identity(out: Path) -> dict[str, str]:
    content = (out / TRANSFORMS).read_bytes() if (out / TRANSFORMS).is_file() else b""
    return {"transforms": hashlib.blake2b(content, digest_size=16).hexdigest()}
