"""A batch from its clips to its record: what ``easi3r batch`` does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..storage.files import make_folder
from ..storage.lock import only_writer
from ..storage.owned import claim
from .index import INDEX, write_index
from .jobs import FOLDER, ClipJob
from .record import RECORD, WAITING, ClipRecord, read_record, write_record
from .schedule import Executor, Schedule

_GROUP = "batch"
_RECORD_SECONDS, _INDEX_SECONDS = 1.0, 20.0
"""How often the record and the page are written while the batch is worked on."""


@dataclass
class Batch:
    """The clips of a command, and how they stand; clips of earlier commands stay in the record."""

    output_dir: Path
    jobs: Sequence[ClipJob]
    entries: dict[str, ClipRecord] = field(init=False)

    def __post_init__(self) -> None:
        self.entries = read_record(self.output_dir)
        for job in self.jobs:
            earlier = self.entries.get(job.name)
            datasets = earlier.datasets if earlier is not None and earlier.data == job.data else []
            self.entries[job.name] = ClipRecord(job.name, job.data, WAITING, datasets=datasets)

    @property
    def own(self) -> list[ClipRecord]:
        """The clips of this command."""
        return [self.entries[job.name] for job in self.jobs]

    def run(
        self,
        executor: Executor,
        *,
        priorities: dict[str, int],
        retries: int = 2,
        show: Callable[[], None] = lambda: None,
    ) -> None:
        """Work on all clips; record and page are kept up to date, and written when this is interrupted too.

        Raises:
            OutputError: the folder cannot be written, or holds files of the user of the same names.
            KeyboardInterrupt: all work was ended; the same command continues.
        """
        begin_batch(self.output_dir)
        with only_writer(self.output_dir / FOLDER):
            written = [0.0, 0.0]

            def shown() -> None:
                now = time.monotonic()
                if now - written[0] > _RECORD_SECONDS:
                    written[0] = now
                    write_record(self.output_dir, list(self.entries.values()))
                if now - written[1] > _INDEX_SECONDS:
                    written[1] = now
                    write_index(self.output_dir, list(self.entries.values()))
                show()

            try:
                Schedule(self.jobs, self.entries, executor, priorities, retries).run(shown)
            finally:
                executor.stop()
                for entry in self.own:
                    if not entry.ended:
                        entry.state = WAITING
                write_record(self.output_dir, list(self.entries.values()))
                write_index(self.output_dir, list(self.entries.values()))
                show()


def begin_batch(output_dir: Path) -> None:
    """Make the folder of a batch. Raises OutputError where a file of the user has the name of one of ours."""
    claim(output_dir, (RECORD, INDEX), group=_GROUP)
    make_folder(output_dir / FOLDER)
