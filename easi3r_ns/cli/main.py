"""The console script `easi3r` and its commands: see :data:`Commands`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Union

import tyro
from rich.console import Console
from rich.markup import escape

from .. import __version__
from .batch import BatchCommand
from .check import CheckFolder
from .compare import Compare
from .display import wrapped
from .edit import Edit
from .evaluate import Evaluate
from .export import Export
from .help import help_text
from .import_ import Import
from .improve import Improve
from .masks import Masks
from .options import dashed_names, own_usage_errors
from .plan import Plan
from .redo import Redo
from .report import Report
from .run import ProcessEasi3R, exit_on_error, translated
from .several import data_first
from .view import ViewScene
from .weights import ManageWeights

_STATES = {"ok": "[green]ok[/]  ", "note": "[yellow]note[/]", "bad": "[red]bad[/] "}


@dataclass(frozen=True)
class Doctor:
    """Check that everything that a run needs is installed; exits with 1 if something is missing."""

    def main(self) -> None:
        """Print the result of each check.

        Raises:
            SystemExit: with 1 if something is missing.
        """
        from .doctor import examine, first_command

        checks, console = examine(), _out()
        for check in checks:
            name, detail = escape(f"{check.name:<19}"), escape(wrapped(check.detail, console, 27))
            console.print(f"{_STATES[check.state]}  [bold]{name}[/] {detail}", soft_wrap=True)
        console.print(f"try first  {escape(first_command())}", soft_wrap=True)
        if any(check.state == "bad" for check in checks):
            raise SystemExit(1)


Commands = Union[
    Annotated[ProcessEasi3R, tyro.conf.subcommand("run")],
    Annotated[BatchCommand, tyro.conf.subcommand("batch")],
    Annotated[Masks, tyro.conf.subcommand("masks")],
    Annotated[Redo, tyro.conf.subcommand("redo")],
    Annotated[Evaluate, tyro.conf.subcommand("evaluate")],
    Annotated[ViewScene, tyro.conf.subcommand("view")],
    Annotated[Edit, tyro.conf.subcommand("edit")],
    Annotated[Report, tyro.conf.subcommand("report")],
    Annotated[Compare, tyro.conf.subcommand("compare")],
    Annotated[Export, tyro.conf.subcommand("export")],
    Annotated[CheckFolder, tyro.conf.subcommand("check")],
    Annotated[Import, tyro.conf.subcommand("import")],
    Annotated[Improve, tyro.conf.subcommand("improve")],
    Annotated[Plan, tyro.conf.subcommand("plan")],
    Annotated[ManageWeights, tyro.conf.subcommand("weights")],
    Annotated[Doctor, tyro.conf.subcommand("doctor")],
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script ``easi3r``.

    Args:
        arguments: default: those of the process.

    Raises:
        SystemExit: with 2 for wrong options, the ``exit_code`` of an Easi3RError, 130 after Ctrl-C.
    """
    arguments = dashed_names(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["evaluate"] and arguments[1:2] and arguments[1] not in ("folder", "dataset", "set", "paper"):
        # The name of a set stands for the command; a word that begins with a dash is an option.
        arguments = arguments if arguments[1].startswith("-") else ["evaluate", "set", *arguments[1:]]
    with exit_on_error():
        if arguments == ["--version"]:
            _out().print(f"easi3r-ns {__version__}")
        elif (text := help_text(Commands, arguments, "easi3r")) is not None:
            sys.stdout.write(text)
        elif arguments[:1] == ["redo"]:
            Redo.command_line([*arguments[1:2], *translated(arguments[2:])], "easi3r redo")
        else:
            if arguments[:1] == ["run"]:
                arguments = ["run", *translated(arguments[1:])]
            elif arguments[:1] in (["plan"], ["batch"], ["masks"]):
                arguments = [arguments[0], *translated(data_first(arguments[1:]))]
            with own_usage_errors():
                command = tyro.cli(Commands, prog="easi3r", args=arguments, add_help=False)
            command.main()


def _out() -> Console:
    return Console(highlight=False, emoji=False)
