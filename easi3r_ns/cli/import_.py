"""`easi3r import`: the result of another method's demo as a dataset."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape

from ..core.bounds import check_bounds
from ..core.config import CONFIDENCES, RATES, DatasetConfig
from ..importers import IMPORTERS
from .options import OutputFolder

_PATH_HELP = f"The output folder of a demo of {', or of '.join(entry.summary for entry in IMPORTERS)}."


@dataclass(frozen=True)
class Import:
    """Turn a folder that another method's demo wrote into a dataset.

    It then goes through the same export, view and training as our own results. Nothing is computed anew: cameras,
    depth, confidence and masks are those of the folder.
    """

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help=_PATH_HELP)]
    output_dir: OutputFolder
    """Folder for the dataset; an existing dataset is refused without --overwrite."""
    fps: float = 24.0
    """Frames per second of the clip, for the time stamps: the folder does not hold it."""
    min_confidence: float = 0.0
    """Pixels below this confidence (in the folder's own units) have no depth and no points."""
    dataset: tyro.conf.OmitArgPrefixes[DatasetConfig] = field(default_factory=DatasetConfig)
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace the dataset that an earlier run left in --output-dir; other files stay."""

    def __post_init__(self) -> None:
        check_bounds("--fps", self.fps, *RATES)
        check_bounds("--min-confidence", self.min_confidence, *CONFIDENCES)

    def main(self) -> None:
        """Read, write, check that nerfstudio loads it.

        Raises:
            InputError: the folder is none of these, incomplete or damaged.
            OutputError: a dataset is in the way, the disk refuses, or nerfstudio does not load it.
        """
        from ..core.upright import level_scene
        from ..dataset.nerfstudio import check_loads, refuse_taken, write_dataset
        from ..importers.folder import ImportOptions, import_folder
        from .display import RichRunLog

        log = RichRunLog()
        refuse_taken(self.output_dir, self.overwrite)
        scene = import_folder(self.path, ImportOptions(self.fps, self.min_confidence))
        scene = level_scene(scene, self.dataset.up, log)
        transforms = write_dataset(
            scene,
            self.output_dir,
            self.dataset,
            log,
            overwrite=self.overwrite,
            verify=lambda file: check_loads(file, log),
        )
        console = Console(highlight=False)
        width, height = scene.pixel_map.source_wh
        moving = 100 * scene.dynamic.coverage.mean()
        console.print(f"{len(scene)} frames at {width}x{height}, {moving:.1f} % moving ({scene.dynamic.source})")
        console.print(escape(str(transforms)), soft_wrap=True)
