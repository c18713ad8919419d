"""`easi3r improve`: what another program found, made better where that can be done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import tyro
from rich.console import Console

from ..core.improve import ImproveConfig, change_lines
from .import_ import Import
from .summary import count_points, print_summary, prior_lines, refined_lines

if TYPE_CHECKING:
    from ..pipelines.run import ProcessResult


@dataclass(frozen=True)
class Improve(Import):
    """Make what another program left in a folder better: masks, depth and, with --refine, its cameras.

    Reads what `easi3r import` reads. The masks of the folder are corrected by a second look, missing ones are found;
    depth is measured where there is none, and --depth-prior fills it; the cameras stay as they are unless --refine asks
    for more. The summary and the report say what was kept and what was changed. The same command goes on after an
    interruption.
    """

    improve: tyro.conf.OmitArgPrefixes[ImproveConfig] = field(default_factory=ImproveConfig)

    def main(self) -> None:
        """Read, improve, write, check that nerfstudio loads it, report.

        Raises:
            InputError: the folder is none of these, incomplete or damaged.
            OutputError: a dataset is in the way, the disk refuses, or nerfstudio does not load it.
        """
        from dataclasses import replace

        from ..pipelines.improved import improve_dataset
        from .display import RichRunLog

        log = RichRunLog(verbose=self.verbose)
        config = replace(self.config(), improve=self.improve)
        result = improve_dataset(self.path, self.output_dir, config, overwrite=self.overwrite, log=log)
        if result is not None:
            console = Console(highlight=False, emoji=False)
            print_summary(result, log, console, verbose=self.verbose, facts=summary(result))


def summary(result: ProcessResult) -> list[tuple[str, str]]:
    """The lines (name, value) of the results."""
    from ..core.metric import scale_in_words

    scene = result.scene
    return [
        ("frames", f"{len(scene)} of {result.num_source_frames}, at {'x'.join(map(str, scene.pixel_map.source_wh))}"),
        ("from", str(scene.provenance["imported"])),
        *change_lines(scene.provenance["improved"]),
        *refined_lines(scene),
        *prior_lines(scene),
        ("lengths", scale_in_words(scene)),
        ("points", f"{count_points(result.transforms_path)} static points to initialise training"),
    ]
