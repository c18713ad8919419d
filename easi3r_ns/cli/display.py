"""Display of progress: a bar with count and remaining time on a terminal, plain lines elsewhere.

On a terminal, lines break between words; in a file or a pipe they stay in one piece, for programs that read them.
"""

from __future__ import annotations

import contextlib
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from ..core.runlog import RunLog, duration, stage_unit, stage_words

PLAIN_INTERVAL = 15.0
"""Seconds between two lines about one stage when the output is not a terminal."""


LEAST_WIDTH = 30
"""Columns of the narrowest terminal whose lines are broken here."""


def wrapped(text: str, console: Console, indent: int = 0, *, first: int | None = None) -> str:
    """``text`` broken between words for the console's terminal, later lines indented; as it is for anything else.

    ``first``: columns that stand before the text in its first line; default: ``indent``. Words that are longer than a
    line, such as paths, stay in one piece.
    """
    width = console.width - 1
    if not console.is_terminal or width < LEAST_WIDTH + indent:
        return text
    lead = " " * (indent if first is None else first)
    lines = textwrap.wrap(
        lead + text,
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )
    return "\n".join(lines)[len(lead) :] if lines else text


def _stderr() -> Console:
    return Console(stderr=True, highlight=False, emoji=False)


@dataclass
class RichRunLog(RunLog):
    """A run log that displays the progress of stages, lines of information and warnings."""

    console: Console = field(default_factory=_stderr)
    verbose: bool = False
    """Show the details too."""
    _progress: Progress | None = field(default=None, repr=False)
    _open_stages: int = field(default=0, repr=False)

    def warn(self, message: str) -> None:
        """Show a warning, once even if it is issued repeatedly."""
        if message not in self.warnings:
            self._line(f"[yellow]warning:[/] {escape(wrapped(message, self.console, 9))}")
        super().warn(message)

    def info(self, message: str) -> None:
        """Show a line of information."""
        super().info(message)
        self._line(escape(wrapped(message, self.console)))

    def detail(self, message: str) -> None:
        """Show a line for those who look into the method, if the user asks for details."""
        if self.verbose:
            self.info(message)
        else:
            super().info(message)

    @contextlib.contextmanager
    def _display(self, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        start, steps_done = time.perf_counter(), 0
        bar = self._bar(name, total) if self.console.is_terminal else self._plain(name, total)
        with bar as show:

            def advance(steps: int = 1) -> None:
                nonlocal steps_done
                steps_done += steps
                show(steps)

            yield advance
        unit = stage_unit(name)
        count = f", {steps_done} {unit}" if total and unit else ""
        self._line(f"[green]done[/]  {escape(stage_words(name))}{count}  [dim]{time.perf_counter() - start:.1f} s[/]")

    @contextlib.contextmanager
    def _bar(self, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        if self._progress is None:
            self._progress = Progress(
                SpinnerColumn("line"),
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
                expand=False,
            )
            self._progress.start()
        self._open_stages += 1
        task = self._progress.add_task(escape(stage_words(name)), total=total)
        progress = self._progress
        try:
            yield lambda steps=1: progress.advance(task, steps)
        finally:
            progress.remove_task(task)
            self._open_stages -= 1
            if self._open_stages == 0:
                progress.stop()
                self._progress = None

    @contextlib.contextmanager
    def _plain(self, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        start = said = time.perf_counter()
        done = 0

        def advance(steps: int = 1) -> None:
            nonlocal done, said
            done += steps
            now = time.perf_counter()
            if total and done < total and now - said > PLAIN_INTERVAL:
                said = now
                left = (now - start) / done * (total - done)
                of = f"{100 * done / total:.0f} %" if not stage_unit(name) else f"{done} of {total} {stage_unit(name)}"
                self._line(f"      {escape(stage_words(name))}, {of}, about {duration(left)} left")

        yield advance

    def _line(self, text: str) -> None:
        # Lines are broken in wrapped(); rich would break within words, and in files too.
        self.console.print(text, soft_wrap=True)
