"""`easi3r`: run | weights | doctor."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Union

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .. import __version__
from ..core.errors import CheckpointError
from ..network import sources
from .evaluate import Evaluate
from .export import Export
from .import_ import Import
from .options import own_usage_errors
from .plan import Plan
from .report import Report
from .run import ProcessEasi3R, exit_on_error
from .view import View

_STATES = {"ok": "[green]ok[/]  ", "note": "[yellow]note[/]", "bad": "[red]bad[/] "}


@dataclass(frozen=True)
class WeightsList:
    """The names that --weights understands, their licences, and whether they are on this machine."""

    def main(self) -> None:
        """Print the table."""
        table = Table(box=None, pad_edge=False)
        for column in ("name", "here", "licence", "what"):
            table.add_column(column)
        for known in sources.KNOWN.values():
            table.add_row(known.name, "yes" if _is_here(known.name) else "no", known.licence, known.description)
        _out().print(table)


@dataclass(frozen=True)
class WeightsFetch:
    """Download weights, so that later runs need no network."""

    name: tyro.conf.Positional[str]
    """A name of `easi3r weights list`, or a Hugging Face repository."""

    def main(self) -> None:
        """Download, verify, print where they are."""
        from ..network.weights import build_backbone
        from .display import RichRunLog

        _, info = build_backbone(self.name, log=RichRunLog())
        _out().print(escape(str(info.source.path)), soft_wrap=True)


@dataclass(frozen=True)
class WeightsInfo:
    """Architecture, size, licence and hash of weights that are on this machine."""

    name: tyro.conf.Positional[str]
    """A name of `easi3r weights list`, a .pth or .safetensors file, a folder, or a Hugging Face repository."""

    def main(self) -> None:
        """Print what is known."""
        source = sources.resolve(self.name, download=False)
        from ..network.weights import describe

        _, info = describe(source)
        lines = info.provenance()
        lines["file"] = info.source.path
        lines["config"] = ", ".join(f"{name} {value}" for name, value in lines["config"].items())
        lines["dynamic_score"] = str(info.score)
        lines["num_parameters"] = f"{info.num_parameters:,}"
        lines["graph"] = info.graph or "no preference"
        lines["flow_weight"] = "no preference" if info.flow_weight is None else f"{info.flow_weight:g}"
        for name, value in lines.items():
            if value is None:
                continue
            _out().print(f"[bold]{name.replace('_', ' '):<15}[/] {escape(str(value))}", soft_wrap=True)


@dataclass(frozen=True)
class Weights:
    """List, fetch and describe network weights."""

    action: tyro.conf.OmitSubcommandPrefixes[
        Union[
            Annotated[WeightsList, tyro.conf.subcommand("list")],
            Annotated[WeightsFetch, tyro.conf.subcommand("fetch")],
            Annotated[WeightsInfo, tyro.conf.subcommand("info")],
        ]
    ]

    def main(self) -> None:
        """Do it."""
        self.action.main()


@dataclass(frozen=True)
class Doctor:
    """Check that everything is there that a run needs; exits with 1 when something is not."""

    def main(self) -> None:
        """Print the findings."""
        from .doctor import examine

        checks = examine()
        for check in checks:
            _out().print(f"{_STATES[check.state]}  [bold]{check.name:<10}[/] {escape(check.detail)}", soft_wrap=True)
        if any(check.state == "bad" for check in checks):
            raise SystemExit(1)


Commands = Union[
    Annotated[ProcessEasi3R, tyro.conf.subcommand("run")],
    Annotated[Evaluate, tyro.conf.subcommand("evaluate")],
    Annotated[View, tyro.conf.subcommand("view")],
    Annotated[Report, tyro.conf.subcommand("report")],
    Annotated[Export, tyro.conf.subcommand("export")],
    Annotated[Import, tyro.conf.subcommand("import")],
    Annotated[Plan, tyro.conf.subcommand("plan")],
    Annotated[Weights, tyro.conf.subcommand("weights")],
    Annotated[Doctor, tyro.conf.subcommand("doctor")],
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script ``easi3r``.

    Raises:
        SystemExit: with 2 for wrong options, the ``exit_code`` of an Easi3RError, 130 after Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        _out().print(f"easi3r-ns {__version__}")
        return
    with exit_on_error():
        with own_usage_errors():
            command = tyro.cli(
                Commands,
                prog="easi3r",
                description="Casual video with moving things -> a nerfstudio dataset (--version prints the version).",
                args=arguments,
            )
        command.main()


def _is_here(name: str) -> bool:
    try:
        sources.resolve(name, download=False)
    except CheckpointError:
        return False
    return True


def _out() -> Console:
    return Console(highlight=False)
