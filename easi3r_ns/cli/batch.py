"""`easi3r batch`: many clips, each a dataset of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Optional, Tuple

import tyro
from rich.console import Console
from rich.markup import escape

from ..core.bounds import check_bounds
from ..core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from ..core.errors import InputError
from ..core.install import install_extra
from ..core.workers import usable_cores
from .display import wrapped
from .options import OutputFolder

if TYPE_CHECKING:
    from ..batch.run import Batch
    from ..batch.schedule import Executor

MOST_WORKERS, MOST_RETRIES = 100_000, 100


@dataclass
class BatchCommand:
    """Make a dataset of each of many clips, several at the same time (extra cluster), and an index of all.

    Each clip ends in one state: done with its verdict, skipped because the same clip and options have made its dataset
    already, or failed with the reason. The same command again continues what was interrupted, tries again what failed,
    and skips what is finished. Options of a run hold for every clip.
    """

    clips: tyro.conf.Positional[Tuple[Path, ...]]
    """Videos and folders of images; a folder of videos stands for each of them."""
    output_dir: OutputFolder
    """Folder of the batch: a dataset for each clip (NAME/), index.html, batch.json, and logs in .batch/. Every machine
    of a cluster must reach it, and the clips, by the same path."""
    workers: Optional[int] = None
    """Clips at the same time. 1: one after another, without Ray. Default: half of the processors, on a running cluster
    as many as it has room for."""
    address: Optional[str] = None
    """Address of a running Ray cluster (auto: the one that this machine belongs to). Default: one is started here, and
    ends with the command."""
    clip_cpus: int = 1
    """Processors that a clip reserves. Memory and share of a GPU are reserved by its forecast (easi3r plan)."""
    first: Tuple[str, ...] = ()
    """Names, or patterns such as 'dog*', of clips that come before the others, in this order."""
    retries: int = 2
    """Further attempts for a clip whose worker or process was ended from outside, or for lack of memory."""
    frames: tyro.conf.FlagCreatePairsOff[tyro.conf.OmitArgPrefixes[FrameConfig]] = field(default_factory=FrameConfig)
    config: tyro.conf.FlagCreatePairsOff[tyro.conf.OmitArgPrefixes[Easi3RConfig]] = field(default_factory=Easi3RConfig)
    dataset: tyro.conf.OmitArgPrefixes[DatasetConfig] = field(default_factory=DatasetConfig)
    refine: tyro.conf.OmitArgPrefixes[RefineConfig] = field(default_factory=RefineConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace datasets that other options or other clips made; those of the same are skipped in any case."""
    clean: tyro.conf.FlagCreatePairsOff[bool] = False
    """Delete the intermediate results of each clip when its dataset is complete."""

    def __post_init__(self) -> None:
        check_bounds("--workers", self.workers, 1, MOST_WORKERS)
        check_bounds("--clip-cpus", self.clip_cpus, 1, MOST_WORKERS)
        check_bounds("--retries", self.retries, 0, MOST_RETRIES)
        if self.address is not None and self.workers == 1:
            raise InputError("--workers 1 works without Ray, --address with it: leave one of them out")

    def main(self) -> None:
        """Work on the batch and print how each clip ended.

        Raises:
            Easi3RError: nothing was begun.
            SystemExit: with 1 when a clip failed.
        """
        from ..batch.jobs import make_jobs, priorities
        from ..batch.record import FAILED, read_record
        from ..batch.run import Batch, begin_batch
        from ..pipelines.pipeline import RunConfig
        from .batch_table import BatchTable

        if not self.clips:
            raise InputError("no clip is given: name videos, folders of images, or folders of videos")
        options = (self.frames, self.config, self.align, self.dataset, self.refine)
        config = RunConfig(*options, keep_stages=not self.clean)
        known = {entry.data: entry.name for entry in read_record(self.output_dir).values()}
        jobs = make_jobs(self.clips, self.output_dir, config, overwrite=self.overwrite, known=known)
        ranks = priorities(jobs, self.first)
        begin_batch(self.output_dir)
        batch = Batch(self.output_dir, jobs)
        console = Console(stderr=True, highlight=False, emoji=False)
        executor = self.executor(len(jobs), console)
        with BatchTable(batch, executor.slots, console) as table:
            batch.run(executor, priorities=ranks, retries=self.retries, show=table.show)
        print_ends(batch, Console(highlight=False, emoji=False))
        if any(entry.state == FAILED for entry in batch.own):
            raise SystemExit(1)

    def executor(self, num_clips: int, console: Console) -> Executor:
        """Where the clips are worked on; says so where it is not on Ray."""
        from ..batch.on_ray import OnRay, is_installed
        from ..batch.one_by_one import OneByOne

        workers = self.workers
        if self.address is not None:
            return OnRay(workers, self.clip_cpus, self.address)
        workers = min(workers or max(1, usable_cores() // max(2, self.clip_cpus)), num_clips)
        if workers == 1:
            return OneByOne()
        if not is_installed():
            said = f"Ray is not installed, so clips are worked on one after another; {workers} at a time with"
            console.print(escape(wrapped(f"{said} {install_extra('cluster')}", console)), soft_wrap=True)
            return OneByOne()
        return OnRay(workers, self.clip_cpus)


def print_ends(batch: Batch, console: Console) -> None:
    """Print a line for each clip that failed, counts of all, and where the page is."""
    from ..batch.index import INDEX, summary
    from ..batch.record import FAILED

    for entry in batch.own:
        if entry.state == FAILED:
            text = escape(wrapped(f"{entry.name}: {entry.reason}", console, 8))
            console.print(f"[red]failed[/]  {text}", soft_wrap=True)
    console.print(f"[bold]clips[/]   {escape(summary(batch.own))}", soft_wrap=True)
    console.print(f"[bold]index[/]   {escape(str(batch.output_dir / INDEX))}", soft_wrap=True)
