"""`easi3r import`: cameras that another program found as a dataset, with what it lacks found on top of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import tyro
from rich.console import Console

from ..core.bounds import check_bounds
from ..core.config import CONFIDENCES, RATES, DatasetConfig
from ..importers import IMPORTERS
from .options import OutputFolder
from .summary import count_points, print_summary, prior_lines, refined_lines

if TYPE_CHECKING:
    from ..core.scene import Scene
    from ..pipelines.imported import ImportConfig
    from ..pipelines.run import ProcessResult

_PATH_HELP = f"A folder that one of these wrote: {'; '.join(entry.summary for entry in IMPORTERS)}."


@dataclass(frozen=True)
class Import:
    """Turn what another program left in a folder into a dataset: its cameras, and its depth and masks where it has any.

    Masks that are missing are found by optical flow and by these cameras, depth by multi-view stereo. The dataset then
    goes through the same report, export, view and training as our own results.
    """

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help=_PATH_HELP)]
    output_dir: OutputFolder
    """Folder for the dataset; an existing dataset is refused without --overwrite."""
    images: Optional[Path] = None
    """Folder of the pictures, where they lie elsewhere (COLMAP) or are missing in the file (Depth Anything 3)."""
    masks: Optional[Path] = None
    """Your own masks, as for `easi3r run`. Default: those of the folder, else they are found."""
    masks_polarity: Literal["auto", "white-moves", "black-moves"] = "auto"
    """What --masks mean: see `easi3r run`."""
    masks_missing: Literal["error", "static", "auto"] = "error"
    """Frames for which --masks hold none: see `easi3r run`."""
    no_masks: tyro.conf.FlagCreatePairsOff[bool] = False
    """Treat everything as static."""
    refine_masks: str = "none"
    """Masks to the pixel by a model that follows objects through video: see `easi3r run`."""
    remove: Optional[str] = None
    """Things to mask whether they move or not, by their names: see `easi3r run`."""
    keep: Optional[str] = None
    """Things that are not to be masked, by their names: see `easi3r run`."""
    names_model: str = "grounding-dino"
    """What finds these things: see `easi3r run`."""
    depth: Literal["stereo", "none"] = "stereo"
    """Where the folder has no depth: stereo measures that of what stands still, none leaves it unknown."""
    stereo: Literal["auto", "opencv", "torch", "patchmatch"] = "auto"
    """What --depth stereo measures with, as in `easi3r run`."""
    depth_prior: Optional[str] = None
    """Fill what has no depth by a network for single pictures, as in `easi3r run`."""
    metric: tyro.conf.FlagCreatePairsOff[bool] = False
    """Lengths in metres by a --depth-prior that predicts them."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    fps: float = 24.0
    """Frames per second of the clip, for the time stamps: the folder does not hold it."""
    min_confidence: float = 0.0
    """Pixels below this confidence (in the folder's own units) have no depth and no points."""
    dataset: tyro.conf.OmitArgPrefixes[DatasetConfig] = field(default_factory=DatasetConfig)
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace the dataset that an earlier run left in --output-dir; other files stay."""
    verbose: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show what every stage cost."""

    def __post_init__(self) -> None:
        check_bounds("--fps", self.fps, *RATES)
        check_bounds("--min-confidence", self.min_confidence, *CONFIDENCES)

    def main(self) -> None:
        """Read, complete, write, check that nerfstudio loads it, report.

        Raises:
            InputError: the folder is none of these, incomplete or damaged.
            OutputError: a dataset is in the way, the disk refuses, or nerfstudio does not load it.
        """
        from ..pipelines.imported import import_dataset
        from .display import RichRunLog

        log = RichRunLog()
        result = import_dataset(self.path, self.output_dir, self.config(), overwrite=self.overwrite, log=log)
        print_summary(result, log, Console(highlight=False, emoji=False), facts=summary(result))

    def config(self) -> ImportConfig:
        """The options as the pipeline takes them."""
        from ..core.config import Easi3RConfig
        from ..importers.recording import ImportOptions
        from ..pipelines.imported import FOUND_BY, ImportConfig

        return ImportConfig(
            reading=ImportOptions(self.fps, self.min_confidence, self.images),
            found=Easi3RConfig(**{name: getattr(self, name) for name in FOUND_BY}),
            dataset=self.dataset,
        )


def summary(result: ProcessResult) -> list[tuple[str, str]]:
    """The lines (name, value) of the results of an import."""
    from ..core.metric import scale_in_words

    scene = result.scene
    coverage = 100 * scene.dynamic.coverage.mean()
    return [
        ("frames", f"{len(scene)} of {result.num_source_frames}, at {'x'.join(map(str, scene.pixel_map.source_wh))}"),
        ("cameras", f"those of {scene.provenance['imported']}"),
        ("moving", f"{coverage:.1f} % of the pixels ({_masks(scene)})"),
        *refined_lines(scene),
        ("depth", _depth(scene)),
        *prior_lines(scene),
        ("lengths", scale_in_words(scene)),
        ("points", f"{count_points(result.transforms_path)} static points to initialise training"),
    ]


def _masks(scene: Scene) -> str:
    words = {"user": "given", "none": "nothing was looked for", "geometry": "found by optical flow"}
    return words.get(scene.dynamic.source, "found by optical flow and these cameras")


def _depth(scene: Scene) -> str:
    if not scene.has_depth:
        return "none: no depth maps, no mesh"
    return f"{100 * (scene.depth > 0).mean():.0f} % of the pixels"
