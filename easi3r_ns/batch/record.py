"""What is known of each clip of a batch: ``batch.json`` in its folder, and the reports of the workers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .. import __version__
from ..storage.files import write_json
from .jobs import ClipJob

RECORD = "batch.json"
WAITING, RUNNING = "waiting", "running"
DONE, FAILED, SKIPPED = "done", "failed", "skipped"
ENDS = (DONE, FAILED, SKIPPED)
"""States in which a clip ends: its dataset was made, could not be made, or was there already."""


@dataclass
class ClipRecord:
    """A clip of the batch and what has become of it."""

    name: str
    data: str
    state: str = WAITING
    reason: str = ""
    """Why it failed or was skipped, in one line."""
    datasets: list[dict[str, Any]] = field(default_factory=list)
    """Of each dataset: ``folder`` (relative to the batch), ``level`` of the verdict (0 train, 1 with care, 2 do not),
    ``verdict`` in words, ``reason`` against training, ``frames``."""
    attempts: list[str] = field(default_factory=list)
    """Why each attempt before the last one ended."""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_bytes: float = 0.0
    """Of the last attempt."""
    forecast: str = ""
    """Predicted time and memory, in words."""

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do for the clip."""
        return self.state in ENDS

    @property
    def verdict(self) -> str:
        """The verdicts on its datasets in words; empty where there is none."""
        return "; ".join(dict.fromkeys(str(dataset["verdict"]) for dataset in self.datasets if dataset.get("verdict")))


def read_record(output_dir: Path) -> dict[str, ClipRecord]:
    """Name -> clip, as an earlier command left it; empty where there was none, or its file cannot be read."""
    try:
        content = json.loads((output_dir / RECORD).read_text(encoding="utf-8"))
        return {clip["name"]: ClipRecord(**clip) for clip in content["clips"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def write_record(output_dir: Path, entries: Sequence[ClipRecord]) -> None:
    """Write how every clip stands. Raises OutputError."""
    write_json(output_dir / RECORD, {"version": __version__, "clips": [asdict(entry) for entry in entries]})


def report_of(job: ClipJob) -> Mapping[str, Any]:
    """What the process of a clip last reported: its ``stage``, and at its end the ``outcome``; empty: nothing yet."""
    try:
        found = json.loads(job.file(".json").read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}
