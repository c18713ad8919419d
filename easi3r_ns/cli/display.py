"""Display of progress: a bar with count and remaining time on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from ..core.runlog import RunLog

PLAIN_INTERVAL = 15.0
"""Seconds between two lines about one stage when the output is not a terminal."""


def _stderr() -> Console:
    return Console(stderr=True, highlight=False)


@dataclass
class RichRunLog(RunLog):
    """A run log that displays the progress of stages, lines of information and warnings."""

    console: Console = field(default_factory=_stderr)
    _progress: Progress | None = field(default=None, repr=False)
    _open_stages: int = field(default=0, repr=False)

    def warn(self, message: str) -> None:
        """Show a warning, once even if it is issued repeatedly; the summary repeats it."""
        if message not in self.warnings:
            self._line(f"[yellow]warning:[/] {escape(message)}")
        super().warn(message)

    def info(self, message: str) -> None:
        """Show a line of information."""
        super().info(message)
        self._line(escape(message))

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
        count = f", {steps_done}" if total else ""
        self._line(f"[green]done[/]  {escape(name)}{count}  [dim]{time.perf_counter() - start:.1f} s[/]")

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
        task = self._progress.add_task(escape(name), total=total)
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
                self._line(f"      {escape(name)}, {done}/{total}, about {left:.0f} s left")

        yield advance

    def _line(self, text: str) -> None:
        # With soft wrap, the terminal breaks long lines, and a file keeps them in one piece.
        self.console.print(text, soft_wrap=True)
