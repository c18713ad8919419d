"""`easi3r check`: will a program read this folder?"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..check import CONSUMER_NAMES, CONSUMERS
from ..core.bounds import LARGEST_COUNT, check_bounds
from ..core.errors import InputError

if TYPE_CHECKING:
    from ..check.examine import ReadingVerdict

_FOR_HELP = (
    f"Programs to ask, any of {', '.join(CONSUMER_NAMES)}, with spaces or commas between; default: all for which the "
    "folder is of the right kind. " + " ".join(f"{entry.name}: {entry.summary}." for entry in CONSUMERS)
)
_STATES = {"pass": "[green]pass[/]", "note": "[yellow]note[/]", "fail": "[red]fail[/]"}


@dataclass(frozen=True)
class CheckFolder:
    """Check whether programs read a folder, ours or anybody's: exits with 1 if one of them does not."""

    path: tyro.conf.Positional[Path]
    """A dataset, an export, or a folder of others."""
    consumers: Annotated[tuple[str, ...], tyro.conf.arg(name="for", help=_FOR_HELP)] = ()
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print JSON in place of the table."""
    sample: Optional[int] = None
    """Read every pixel of so many frames of a dataset only, evenly spread; of the others the headers. Default: all."""

    def __post_init__(self) -> None:
        check_bounds("--sample", self.sample, 1, LARGEST_COUNT)

    def main(self) -> None:
        """Print what each program makes of the folder.

        Raises:
            InputError: no such folder, an unknown program, or a folder that none of them reads.
            SystemExit: with 1 when a rule does not hold.
        """
        from ..check.examine import check_folder

        verdicts = check_folder(self.path, chosen_consumers(self.consumers), self.sample)
        if self.json:
            print(json.dumps([verdict.as_json() for verdict in verdicts], indent=2))
        else:
            console = Console(highlight=False, emoji=False)
            table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
            for column in ("for", "", "what", "remedy"):
                table.add_column(column, overflow="fold")
            for verdict in verdicts:
                name = f"[bold]{verdict.name}[/]"
                for finding in verdict.findings:
                    table.add_row(name, _STATES[finding.state], escape(finding.what), escape(finding.remedy))
                    name = ""
            console.print(table)
            for verdict in verdicts:
                console.print(_one_line(verdict), soft_wrap=True)
        if any(verdict.state == "fail" for verdict in verdicts):
            raise SystemExit(1)


def show_verdict(verdict: ReadingVerdict, folder: Path) -> None:
    """Print what a program makes of a folder, and the findings that are no pass."""
    console = Console(highlight=False, emoji=False)
    console.print(f"{_one_line(verdict)}: {escape(str(folder))}", soft_wrap=True)
    for finding in verdict.findings:
        if finding.state != "pass":
            remedy = f" ({finding.remedy})" if finding.remedy else ""
            console.print(f"      {_STATES[finding.state]}  {escape(finding.what + remedy)}", soft_wrap=True)


def _one_line(verdict: ReadingVerdict) -> str:
    by = "its own loader" if verdict.consumer.by == "loader" else "its rules, not by the program itself"
    return f"{_STATES[verdict.state]}  {escape(verdict.consumer.title)}, by {by}"


def chosen_consumers(words: tuple[str, ...]) -> tuple[str, ...]:
    """The programs of --for: words with commas between or not. Raises InputError for an unknown one."""
    names = tuple(name for word in words for name in word.split(",") if name)
    unknown = [name for name in names if name not in CONSUMER_NAMES]
    if unknown:
        raise InputError(f"--for {' '.join(unknown)}: choose from {', '.join(CONSUMER_NAMES)}")
    return names
