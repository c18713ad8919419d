"""Progress of a batch: a table that is drawn anew on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from ..core.runlog import duration

if TYPE_CHECKING:
    from ..batch.record import ClipRecord
    from ..batch.run import Batch

LATEST = 8
"""Clips that ended last and are shown below those that are worked on."""
_COLOURS = {"done": "green", "skipped": "dim", "failed": "red", "running": "cyan", "waiting": "dim"}


class BatchTable:
    """Shows how the clips of a batch stand; a context, within which :meth:`show` is called after each change."""

    def __init__(self, batch: Batch, slots: int, console: Console) -> None:
        self._batch, self._console, self._slots = batch, console, slots
        self._jobs = {job.name: job for job in batch.jobs}
        self._said: dict[str, str] = {}
        self._ended: list[str] = []
        self._begun: dict[str, float] = {}
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> BatchTable:
        count, at_once = len(self._batch.jobs), f"{self._slots} at a time" if self._slots > 1 else "one after another"
        self._console.print(f"{count} clip{'s' if count > 1 else ''}, {at_once}", soft_wrap=True)
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self) -> None:
        """Bring what is shown up to date."""
        for entry in self._batch.own:
            self._note(entry)
        if self._live is not None:
            self._live.update(self._table(), refresh=True)

    def _note(self, entry: ClipRecord) -> None:
        now = f"{entry.state} {len(entry.attempts)}"
        if self._said.get(entry.name) == now:
            return
        again = self._said.get(entry.name, "").startswith("running") and entry.state in ("waiting", "running")
        self._said[entry.name] = now
        if entry.state == "running":
            self._begun[entry.name] = time.monotonic()
        if entry.ended:
            self._ended.append(entry.name)
        if self._live is None and (entry.ended or (again and entry.attempts)):
            self._console.print(escape(self._line(entry)), soft_wrap=True)

    def _line(self, entry: ClipRecord) -> str:
        if not entry.ended:
            return f"again    {entry.name}: {entry.attempts[-1]}"
        took = f" ({duration(entry.seconds)})" if entry.seconds else ""
        said = entry.verdict if entry.state == "done" else entry.reason
        return f"{entry.state:<8} {entry.name}{f': {said}' if said else ''}{took}"

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for title in ("clip", "state", ""):
            table.add_column(title, overflow="fold")
        own = {entry.name: entry for entry in self._batch.own}
        for entry in own.values():
            if entry.state == "running":
                self._add(table, entry, self._stage(entry))
        for name in self._ended[: -LATEST - 1 : -1]:
            entry = own[name]
            self._add(table, entry, entry.verdict if entry.state == "done" else entry.reason)
        left = sum(not entry.ended for entry in own.values())
        table.caption = f"{len(own) - left} of {len(own)} clips have ended"
        table.caption_justify = "left"
        return table

    def _add(self, table: Table, entry: ClipRecord, said: str) -> None:
        colour = _COLOURS[entry.state]
        table.add_row(escape(entry.name), f"[{colour}]{entry.state}[/]", escape(said))

    def _stage(self, entry: ClipRecord) -> str:
        from ..batch.record import report_of

        since = duration(time.monotonic() - self._begun.get(entry.name, time.monotonic()))
        tried = f", attempt {len(entry.attempts) + 1}: {entry.attempts[-1]}" if entry.attempts else ""
        return f"{report_of(self._jobs[entry.name]).get('stage', 'examined')}, {since}{tried}"
