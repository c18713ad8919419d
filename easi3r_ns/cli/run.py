"""`ns-process-data easi3r` and `easi3r run`: options, run, summary and exit code."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import tyro
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table

from ..core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from ..core.errors import Easi3RError, MemoryLimitError
from ..core.memory import lack_of_memory
from ..core.runlog import StageRecord
from ..core.streams import steady_streams
from ..report.card import next_command
from .display import RichRunLog
from .foreign import translate
from .help import help_text
from .options import OutputFolder, own_usage_errors

if TYPE_CHECKING:
    from ..core.scene import Scene
    from ..pipelines.parts import Part
    from ..pipelines.run import ProcessResult
    from ..report.card import ReportCard

NO_NETWORK = "none: motion from optical flow, cameras from COLMAP"
INTERRUPTED = 130
"""Exit code after Ctrl-C, as is usual in shells."""


@dataclass
class ProcessEasi3R:
    """Reconstruct cameras, motion masks, depth and static points from a casual video of a moving scene (Easi3R).

    People, animals or cars may move in the clip. A DUSt3R network predicts points for pairs of frames, and its
    attention shows what moves; a global alignment of all pairs gives the cameras, and the depth of each frame.
    """

    data: Path
    """A video file, an animated GIF, WebP or PNG, a folder of images, a .zip of images, or a pattern: 'shots/*.jpg',
    shot_%04d.png."""
    output_dir: OutputFolder
    """Folder for the dataset; an existing dataset is refused without --overwrite."""
    eval_data: Optional[Path] = None
    """Second video or image folder of the same size; its frames are posed in the same scene and become the val and test
    splits."""
    frames: tyro.conf.FlagCreatePairsOff[tyro.conf.OmitArgPrefixes[FrameConfig]] = field(default_factory=FrameConfig)
    config: tyro.conf.FlagCreatePairsOff[tyro.conf.OmitArgPrefixes[Easi3RConfig]] = field(default_factory=Easi3RConfig)
    dataset: tyro.conf.OmitArgPrefixes[DatasetConfig] = field(default_factory=DatasetConfig)
    refine: tyro.conf.OmitArgPrefixes[RefineConfig] = field(default_factory=RefineConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace the dataset of an earlier run in --output-dir; other files stay. An interrupted run continues in any
    case."""
    verbose: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show the log messages of every module."""

    @classmethod
    def command_line(cls, arguments: Sequence[str], program: str) -> None:
        """Run with the arguments of a command line, as `ns-process-data easi3r` does.

        Options of nerfstudio's own processors are translated, and ``--help`` is short.

        Raises:
            SystemExit: on every error, as :meth:`main`.
        """
        with exit_on_error():
            if (text := help_text(cls, arguments, program)) is not None:
                sys.stdout.write(text)
                return
            with own_usage_errors():
                command = tyro.cli(cls, prog=program, args=translated(arguments), add_help=False)
            command.main()

    def main(self) -> None:
        """Run and print the summary.

        Raises:
            SystemExit: on every error, after printing the message, with a non-zero code. Other exceptions would not do:
                nerfstudio's entry point catches RuntimeError and ValueError and exits with 0.
        """
        with exit_on_error():
            if self.verbose:
                show_log()
            from ..pipelines.parts import process_parts
            from ..pipelines.pipeline import RunConfig

            log = RichRunLog()
            config = RunConfig(self.frames, self.config, self.align, self.dataset, self.refine, self.eval_data)
            with warnings.catch_warnings():
                if not self.verbose:
                    # Announcements of libraries about future releases, which do not concern the user.
                    for category in (FutureWarning, DeprecationWarning):
                        warnings.simplefilter("ignore", category)
                parts = process_parts(self.data, self.output_dir, config, overwrite=self.overwrite, log=log)
            console = Console(highlight=False)
            for part in parts:
                print_summary(part.result, part.log.stages, part.log.warnings, console)
            if not parts or parts[0].log is not log:
                print_parts(parts, log.warnings, console)


def translated(arguments: Sequence[str]) -> list[str]:
    """Arguments of a run in our words; says which options of nerfstudio's processors were replaced or left out.

    Raises:
        InputError: as :func:`.foreign.translate`.
    """
    ours, lines = translate(arguments)
    for line in lines:
        _say(f"note: {line}")
    return ours


@contextlib.contextmanager
def exit_on_error() -> Iterator[None]:
    """Convert exceptions to exit codes: an Easi3RError and a lack of memory print one line, any other exception its
    traceback. Output that cannot be written changes no exit code.

    Raises:
        SystemExit: instead of every exception.
    """
    with steady_streams():
        try:
            yield
        except Easi3RError as error:
            _say(f"error: {error}")
            raise SystemExit(error.exit_code) from error
        except KeyboardInterrupt as error:
            _say("interrupted; the same command continues where it stopped")
            raise SystemExit(INTERRUPTED) from error
        except Exception as error:
            if (lack := lack_of_memory(error)) is not None:
                _say(f"error: {lack}")
                raise SystemExit(MemoryLimitError.exit_code) from error
            sys.excepthook(type(error), error, error.__traceback__)
            raise SystemExit(1) from error


def show_log() -> None:
    """Print the log records of this package to stderr."""
    handler = RichHandler(console=Console(stderr=True), show_path=False, rich_tracebacks=False)
    # RichRunLog displays the records of the run log itself.
    handler.addFilter(lambda record: record.name != "easi3r_ns.core.runlog")
    logger = logging.getLogger("easi3r_ns")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)


def print_summary(
    result: ProcessResult, stages: Sequence[StageRecord], to_mind: Sequence[str], console: Console
) -> None:
    """Print the cost of the stages, the results, the warnings, and the next command."""
    table = Table(title="stages", title_justify="left", box=None, pad_edge=False)
    for column, justify in (("", "left"), ("seconds", "right"), ("CPU seconds", "right"), ("peak GiB", "right")):
        table.add_column(column, justify=justify)
    for stage in stages:
        gibibytes = stage.peak_memory_bytes / 2**30
        table.add_row(escape(stage.name), f"{stage.seconds:.1f}", f"{stage.cpu_seconds:.1f}", f"{gibibytes:.2f}")
    seconds, cpu = sum(s.seconds for s in stages), sum(s.cpu_seconds for s in stages)
    peak = max((s.peak_memory_bytes for s in stages), default=0) / 2**30
    table.add_row("total", f"{seconds:.1f}", f"{cpu:.1f}", f"{peak:.2f}")
    console.print(table)
    console.print()
    for name, value in summary(result):
        console.print(f"[bold]{name:<9}[/] {escape(value)}", soft_wrap=True)
    for warning in to_mind:
        console.print(f"[yellow]warning:[/]  {escape(warning)}", soft_wrap=True)
    command = next_command(result.transforms_path.parent, stays=result.scene.stays)
    console.print(f"[bold]{'next':<9}[/] {escape(command)}", soft_wrap=True)


def print_parts(parts: Sequence[Part], to_mind: Sequence[str], console: Console) -> None:
    """Print the datasets of the parts of a clip with cuts, and the warnings about parts that were left out."""
    console.print()
    for part in parts:
        scene = part.result.scene
        count = len(scene) + (len(scene.between) if scene.between is not None else 0)
        span = f"{scene.times[0]:.4g} to {scene.times[-1]:.4g}, {count} frames"
        console.print(f"[bold]part[/]      {escape(f'{span}: {part.result.transforms_path.parent}')}", soft_wrap=True)
    for warning in to_mind:
        console.print(f"[yellow]warning:[/]  {escape(warning)}", soft_wrap=True)


def summary(result: ProcessResult) -> list[tuple[str, str]]:
    """The lines (name, value) of the summary of a finished run."""
    from ..core.upright import said_of

    scene = result.scene
    coverage = 100 * scene.dynamic.coverage
    share = f"{coverage.mean():.1f} % of the pixels"
    moving = {"user": f"{share} (your masks)", "none": "nothing (--no-masks)"}.get(
        scene.dynamic.source, f"{share} on average ({coverage.min():.1f} to {coverage.max():.1f})"
    )
    return [
        ("frames", f"{len(scene)} of {result.num_source_frames}, at {'x'.join(map(str, scene.pixel_map.source_wh))}"),
        *_between(scene),
        *([("pairs", f"{scene.provenance['num_pairs']} ({scene.provenance['graph']})")] if result.weights else []),
        ("moving", moving),
        ("focal", _focal_text(scene)),
        *_refined(scene),
        ("up", said_of(scene)),
        ("points", f"{count_points(result.transforms_path)} static points to initialise training"),
        (
            "weights",
            f"{result.weights.name} (licence: {result.weights.licence})" if result.weights else _no_weights(scene),
        ),
        *_choice(scene),
        *([] if result.weights else [("depth", _stereo_text(scene))]),
        ("dataset", str(result.transforms_path.parent)),
        *_report(result.card),
    ]


def _no_weights(scene: Scene) -> str:
    name = scene.provenance["weights"]["name"]
    return NO_NETWORK if name == "none" else str(name)


def _stereo_text(scene: Scene) -> str:
    still = ~scene.dynamic.masks
    if not scene.has_depth or not still.any():
        return "none"
    return f"of what stands still, by stereo: {100 * (scene.depth[still] > 0).mean():.0f} % of its pixels"


def _choice(scene: Scene) -> list[tuple[str, str]]:
    choice = scene.provenance.get("weights_choice")
    return [("chosen", choice["line"])] if choice else []


def _between(scene: Scene) -> list[tuple[str, str]]:
    counts = scene.provenance.get("between")
    if not counts:
        return []
    named = {"pnp": "posed", "fixed": "with the fixed camera", "interpolated": "interpolated", "left_out": "left out"}
    return [("between", ", ".join(f"{counts[key]} {word}" for key, word in named.items() if counts.get(key)))]


def _refined(scene: Scene) -> list[tuple[str, str]]:
    record = scene.provenance.get("refine") or {}
    if "why" in record:
        return [("cameras", f"the network's own: {record['why']}")]
    kept, ours = record.get(record.get("kept")), record.get("network")
    if not kept or kept == ours:
        return []
    errors = f"{kept['epipolar_px']:.2f} px epipolar error on held-out matches, {ours['epipolar_px']:.2f} px before"
    return [("cameras", f"{record['kept']} (COLMAP): {errors}")]


def _report(card: ReportCard) -> list[tuple[str, str]]:
    if card.report is None or card.verdict is None:
        return []
    reasons = f": {card.verdict.against[0].reason}" if card.verdict.against else ""
    return [("verdict", f"{card.verdict.level.words.lower()}{reasons}"), ("report", str(card.report))]


def count_points(transforms_path: Path) -> int:
    """Vertices of the static cloud that ``transforms.json`` names, by the PLY file's header; 0: it names none."""
    name = json.loads(transforms_path.read_text(encoding="utf-8")).get("ply_file_path")
    if name is None:
        return 0
    with (transforms_path.parent / name).open("rb") as file:
        for line in file:
            if line.startswith(b"element vertex"):
                return int(line.split()[2])
            if line.startswith(b"end_header"):
                break
    return 0


def _focal_text(scene: Scene) -> str:
    focals = scene.focals / scene.pixel_map.scale_xy[0]
    width, height = scene.pixel_map.source_wh
    fov = 2 * math.degrees(math.atan(width / (2 * focals.mean())))
    shortest, longest = f"{focals.min():.0f}", f"{focals.max():.0f}"
    lens = f"{shortest} px" if shortest == longest else f"{shortest} to {longest} px"
    start = scene.provenance.get("start_focal")
    began = f" (started from {start['pixels']:.0f} px, the file's {start['origin']})" if start else ""
    return f"{lens} of the {width}x{height} source, {fov:.0f} degrees across{began}"


def _say(message: str) -> None:
    Console(stderr=True, highlight=False).print(escape(message), soft_wrap=True)
