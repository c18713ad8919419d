"""`easi3r redo`: a finished dataset again, with other options."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import tyro
from rich.console import Console
from rich.markup import escape

from ..core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from ..core.errors import InputError, OutputError
from .display import wrapped
from .options import own_usage_errors

if TYPE_CHECKING:
    from ..pipelines.kept import KeptRun
    from ..pipelines.pipeline import RunConfig


@dataclass
class Redo:
    """Make a finished dataset again with other options; only what they decide is computed again.

    Options that are not given are those of the run that made the dataset.
    """

    folder: tyro.conf.Positional[Path]
    """The dataset: --output-dir of the run that made it."""
    data: Optional[Path] = None
    """The clip, where it lies elsewhere now."""
    frames: tyro.conf.FlagCreatePairsOff[tyro.conf.OmitArgPrefixes[FrameConfig]] = field(default_factory=FrameConfig)
    config: tyro.conf.FlagCreatePairsOff[tyro.conf.OmitArgPrefixes[Easi3RConfig]] = field(default_factory=Easi3RConfig)
    dataset: tyro.conf.OmitArgPrefixes[DatasetConfig] = field(default_factory=DatasetConfig)
    refine: tyro.conf.OmitArgPrefixes[RefineConfig] = field(default_factory=RefineConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    no_corrections: tyro.conf.FlagCreatePairsOff[bool] = False
    """Without the corrections by hand in FOLDER/corrections, which are taken by themselves otherwise; they stay."""
    drop_objects: Optional[str] = None
    """Ids of objects that stand still, as in masks_objects of the dataset: 2,5. Written to FOLDER/corrections."""
    keep_objects: Optional[str] = None
    """Ids of the only objects that move: all others stand still."""
    clean: tyro.conf.FlagCreatePairsOff[bool] = False
    """Delete the intermediate results in the end; without other options nothing else happens."""
    verbose: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show details, time and memory of every stage."""

    @classmethod
    def command_line(cls, arguments: Sequence[str], program: str) -> None:
        """Make a dataset again with the arguments of a command line.

        Raises:
            Easi3RError: as the run; also where the dataset keeps no intermediate results.
            SystemExit: with 2 for wrong options.
        """
        folder = next((word for word in arguments if not word.startswith("-")), None)
        if folder is None or arguments[0] != folder:
            raise InputError(f"usage: {program} FOLDER [options]: the folder of a finished dataset comes first")
        _finish(Path(folder))
        was = _without_alternatives(_kept_in(Path(folder)).config, arguments)
        was = _with_own_corrections(was, Path(folder), arguments)
        start = cls(Path(folder), None, was.frames, was.easi3r, was.dataset, was.refine, was.align)
        with own_usage_errors():
            asked = tyro.cli(cls, prog=program, args=arguments, default=start, add_help=False)
        asked.main()

    def main(self) -> None:
        """Say what is computed again, run, and print the summary.

        Raises:
            Easi3RError: as the run.
        """
        from ..dataset.nerfstudio import TRANSFORMS
        from ..pipelines.by_hand import changed_by_hand, with_corrections
        from ..pipelines.kept import GROUPS, changes, made_again
        from .run import run_and_print, show_log

        kept = _kept_in(self.folder)
        config = replace(
            kept.config,
            frames=self.frames,
            easi3r=self.config,
            dataset=self.dataset,
            refine=self.refine,
            align=self.align,
            keep_stages=not self.clean,
        )
        console = Console(highlight=False, emoji=False)
        if self.no_corrections:
            config = with_corrections(config, None)
        if self.drop_objects is not None or self.keep_objects is not None:
            config = self._without_objects(config, console)
        # The folder may be the same with other content, or another one with the same.
        before, after = (with_corrections(options, None) for options in (kept.config, config))
        by_hand = changed_by_hand(self.folder, config)
        changed = changes(before, after) + ([] if by_hand is None else [by_hand[0]])
        if not changed and self.data is None:
            if self.clean:
                _delete(self.folder, console)
                return
            if self.config.masks is None and (self.folder / TRANSFORMS).is_file():
                raise InputError(f"{self.folder} is made with these options already: give those that shall change")
        steps = made_again(before, after)
        if by_hand is not None:
            steps = list(GROUPS)[min(list(GROUPS).index(step) for step in (by_hand[1], steps[0])) :]
        said = f"changed: {' '.join(changed) or 'no option'}; made again: {', '.join(steps)}"
        console.print(escape(wrapped(said, console, 0)), soft_wrap=True)
        if self.verbose:
            show_log()
        run_and_print(self.data or kept.data, self.folder, config, overwrite=True, verbose=self.verbose)
        _finish(self.folder)

    def _without_objects(self, config: RunConfig, console: Console) -> RunConfig:
        """The options with the corrections that objects stand still, which are written. Raises InputError."""
        from ..pipelines.by_hand import with_corrections
        from ..pipelines.objects_by_hand import drop_objects, object_ids
        from ..storage.corrections import FOLDER

        own = (self.folder / FOLDER).absolute()
        if self.no_corrections or config.easi3r.corrections not in (None, own):
            raise InputError(f"--drop-objects and --keep-objects write to {own}: leave the other corrections out")
        drop = () if self.drop_objects is None else object_ids(self.drop_objects, "--drop-objects")
        keep = () if self.keep_objects is None else object_ids(self.keep_objects, "--keep-objects")
        gone = drop_objects(self.folder, drop=drop, keep=keep)
        ids = ", ".join(map(str, gone)) or "none"
        console.print(escape(f"objects that stand still: {ids} (kept in {self.folder / FOLDER})"), soft_wrap=True)
        return with_corrections(config, own)


_ALTERNATIVES = (("easi3r", "masks", "no_masks"), ("dataset", "metric_reference", "camera_height"))
"""Part of the configuration, and two options of it that exclude each other."""


def _without_alternatives(config: RunConfig, arguments: Sequence[str]) -> RunConfig:
    """The options of the run before without those that a given one takes the place of."""
    flags = {word.split("=")[0] for word in arguments}
    for part, *names in _ALTERNATIVES:
        given = [name for name in names if f"--{name.replace('_', '-')}" in flags]
        if len(given) == 1:
            (other,) = set(names) - set(given)
            values = getattr(config, part)
            config = replace(config, **{part: replace(values, **{other: getattr(type(values)(), other)})})
    return config


def _with_own_corrections(config: RunConfig, folder: Path, arguments: Sequence[str]) -> RunConfig:
    """The options with the corrections beside the dataset, unless the arguments name others or none."""
    from ..pipelines.by_hand import from_elsewhere, own_corrections, with_corrections
    from ..storage.corrections import FOLDER

    flags = {word.split("=")[0] for word in arguments}
    if "--corrections" in flags:
        return config
    own = (folder / FOLDER).absolute()
    if "--no-corrections" not in flags and own_corrections(folder) is not None:
        if (other := from_elsewhere(config, folder)) is not None:
            raise InputError(
                f"{folder} was made with the corrections in {other}, and there are others in {own}: say which with "
                "--corrections, or --no-corrections"
            )
        return with_corrections(config, own)
    gone = config.easi3r.corrections == own or "--no-corrections" in flags
    return with_corrections(config, None) if gone else config


def _finish(folder: Path) -> None:
    """See :func:`easi3r_ns.pipelines.again.finish_accept`."""
    from ..pipelines.again import finish_accept

    if folder.is_dir():
        finish_accept(folder)


def _delete(folder: Path, console: Console) -> None:
    """Delete the intermediate results. Raises OutputError where another run is writing there, or they cannot go."""
    from ..pipelines.kept import size_of
    from ..pipelines.run import WORKSPACE
    from ..storage.lock import only_writer

    workspace = folder / WORKSPACE
    with only_writer(folder):
        size = size_of(workspace)
        shutil.rmtree(workspace, ignore_errors=True)
    if workspace.exists():
        raise OutputError(f"{workspace} cannot be deleted as a whole: look at its permissions")
    console.print(escape(f"{workspace} is deleted: {size / 1e6:.0f} MB"), soft_wrap=True)


def _kept_in(folder: Path) -> KeptRun:
    from ..pipelines.kept import KEPT, kept_run
    from ..pipelines.run import WORKSPACE

    parts = sorted(path.parent.parent for path in folder.glob(f"part_[0-9][0-9]/{WORKSPACE}/{KEPT}"))
    if parts and not (folder / WORKSPACE / KEPT).is_file():
        raise InputError(
            f"{folder} has a dataset for each part of its clip: give the folder of one of them, such as {parts[0]}"
        )
    return kept_run(folder / WORKSPACE)
