"""`easi3r masks`: what moves in a clip, without cameras."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import tyro
from rich.console import Console
from rich.markup import escape

from ..core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from .options import OutputFolder

if TYPE_CHECKING:
    from ..pipelines.pipeline import RunConfig


@dataclass
class Masks:
    """Find what moves in a clip, without cameras; the run afterwards goes on from it.

    Written to partial/ in --output-dir: masks (black where something moves), preview.mp4, contact_sheet.png and a
    report. Give the options of the run to come, so that nothing is computed twice.
    """

    data: tyro.conf.Positional[Path]
    """A video file, an animated GIF, WebP or PNG, a folder of images, a .zip of images, or a pattern: 'shots/*.jpg',
    shot_%04d.png."""
    output_dir: OutputFolder
    """Folder of the dataset to come."""
    eval_data: Optional[Path] = None
    """Second video or image folder of the same size, as of the run."""
    frames: tyro.conf.FlagCreatePairsOff[tyro.conf.OmitArgPrefixes[FrameConfig]] = field(default_factory=FrameConfig)
    config: tyro.conf.FlagCreatePairsOff[tyro.conf.OmitArgPrefixes[Easi3RConfig]] = field(default_factory=Easi3RConfig)
    dataset: tyro.conf.OmitArgPrefixes[DatasetConfig] = field(default_factory=DatasetConfig)
    refine: tyro.conf.OmitArgPrefixes[RefineConfig] = field(default_factory=RefineConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    verbose: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show details, time and memory of every stage."""

    def main(self) -> None:
        """Find the masks, and print where they are.

        Raises:
            Easi3RError: as the run; also for several clips.
        """
        from ..pipelines.pipeline import RunConfig
        from .run import show_log

        if self.verbose:
            show_log()
        options = (self.frames, self.config, self.align, self.dataset, self.refine)
        config = RunConfig(*options, self.eval_data, keep_stages=True)
        find_and_print(self.data, self.output_dir, config, verbose=self.verbose)


def find_and_print(data: Path, output_dir: Path, config: RunConfig, *, verbose: bool) -> None:
    """Find the masks of a clip, and print where they are and how to go on.

    Raises:
        Easi3RError: as :func:`~easi3r_ns.pipelines.masks_only.process_masks`.
    """
    from ..pipelines.masks_only import process_masks
    from .display import RichRunLog

    found = process_masks(data, output_dir, config, log=RichRunLog(verbose=verbose))
    console = Console(highlight=False, emoji=False)
    things = "object" if found.objects == 1 else "objects"
    lines = {
        "masks": f"{found.frames} frames, {100 * found.coverage:.1f} % of the picture moves, {found.objects} {things}",
        "written": str(found.folder),
        "next": f"look at preview.mp4 and contact_sheet.png there; {found.next_command}",
    }
    for name, value in lines.items():
        console.print(f"[bold]{name:<10}[/]{escape(value)}", soft_wrap=True)
