"""`ns-process-data easi3r` and `easi3r run`: options, run, summary and exit code."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Optional, Tuple

import tyro
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from ..core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from ..core.errors import Easi3RError, MemoryLimitError
from ..core.memory import lack_of_memory
from ..core.streams import steady_streams
from .display import RichRunLog
from .foreign import translate
from .help import help_text
from .masks import find_and_print
from .options import OutputFolder, dashed_names, own_usage_errors
from .several import joined
from .summary import print_kept, print_parts, print_summary

if TYPE_CHECKING:
    from ..pipelines.pipeline import RunConfig

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
    shot_%04d.png. Several clips of one scene (a.mp4 b.mp4, or a folder of videos) become one dataset."""
    output_dir: OutputFolder
    """Folder for the dataset; an existing dataset is refused without --overwrite."""
    eval_data: Optional[Path] = None
    """Second video or image folder of the same size; its frames are posed in the same scene and become the val and test
    splits."""
    more_data: Tuple[Path, ...] = ()
    """Further clips of the scene of --data, each with its own camera and time: the same as several values of --data."""
    frames: tyro.conf.FlagCreatePairsOff[tyro.conf.OmitArgPrefixes[FrameConfig]] = field(default_factory=FrameConfig)
    config: tyro.conf.FlagCreatePairsOff[tyro.conf.OmitArgPrefixes[Easi3RConfig]] = field(default_factory=Easi3RConfig)
    dataset: tyro.conf.OmitArgPrefixes[DatasetConfig] = field(default_factory=DatasetConfig)
    refine: tyro.conf.OmitArgPrefixes[RefineConfig] = field(default_factory=RefineConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace the dataset of an earlier run in --output-dir; other files stay. An interrupted run continues in any
    case."""
    clean: tyro.conf.FlagCreatePairsOff[bool] = False
    """Delete the intermediate results (.easi3r in --output-dir) in the end. They are kept for easi3r redo, which makes
    the dataset again with other options in less time."""
    masks_only: tyro.conf.FlagCreatePairsOff[bool] = False
    """Stop when it is found what moves, and write masks, preview and contact sheet to partial/ in --output-dir; the
    same command without it goes on from there. The same as easi3r masks."""
    verbose: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show details, time and memory of every stage, and the log messages of every module."""

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
            from ..pipelines.pipeline import RunConfig

            options = (self.frames, self.config, self.align, self.dataset, self.refine)
            config = RunConfig(*options, self.eval_data, self.more_data, keep_stages=not self.clean)
            if self.masks_only:
                find_and_print(self.data, self.output_dir, config, verbose=self.verbose)
                return
            run_and_print(self.data, self.output_dir, config, overwrite=self.overwrite, verbose=self.verbose)


def run_and_print(data: Path, output_dir: Path, config: RunConfig, *, overwrite: bool, verbose: bool) -> None:
    """Run and print the summary of every dataset.

    Raises:
        Easi3RError: as :func:`~easi3r_ns.pipelines.run.process`.
    """
    from ..pipelines.parts import process_parts

    log = RichRunLog(verbose=verbose)
    with warnings.catch_warnings():
        if not verbose:
            # Announcements of libraries about future releases, which do not concern the user.
            for category in (FutureWarning, DeprecationWarning):
                warnings.simplefilter("ignore", category)
        parts = process_parts(data, output_dir, config, overwrite=overwrite, log=log)
    console = Console(highlight=False, emoji=False)
    for part in parts:
        print_summary(part.result, part.log, console, verbose=verbose)
        print_kept(part.result.transforms_path.parent, console)
    if not parts or parts[0].log is not log:
        print_parts(parts, console)


def translated(arguments: Sequence[str]) -> list[str]:
    """Arguments of a run in our words; says which options of nerfstudio's processors were replaced or left out.

    Raises:
        InputError: as :func:`.foreign.translate` and :func:`.several.joined`.
    """
    ours, lines = translate(joined(dashed_names(arguments)))
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
    handler = RichHandler(console=Console(stderr=True, emoji=False), show_path=False, rich_tracebacks=False)
    # RichRunLog displays the records of the run log itself.
    handler.addFilter(lambda record: record.name != "easi3r_ns.core.runlog")
    logger = logging.getLogger("easi3r_ns")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)


def _say(message: str) -> None:
    Console(stderr=True, highlight=False, emoji=False).print(escape(message), soft_wrap=True)
