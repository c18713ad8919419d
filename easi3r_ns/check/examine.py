"""All rules of some programs, applied to one folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from . import CONSUMER_NAMES, CONSUMERS
from .consumer import Consumer, RuleResult, State, failed
from .tree import Tree

_WORST: tuple[State, ...] = ("pass", "note", "fail")


@dataclass(frozen=True)
class ReadingVerdict:
    """What one program makes of a folder."""

    name: str
    consumer: Consumer
    findings: tuple[RuleResult, ...]

    @property
    def state(self) -> State:
        """The worst of the findings."""
        return max((finding.state for finding in self.findings), key=_WORST.index, default="pass")

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        findings = [{"state": f.state, "what": f.what, "remedy": f.remedy} for f in self.findings]
        consumer = self.consumer
        return {"for": self.name, "title": consumer.title, "by": consumer.by, "state": self.state, "findings": findings}


def known_consumers() -> dict[str, Consumer]:
    """All programs by name."""
    return {entry.name: entry.load("CONSUMER") for entry in CONSUMERS}


def check_folder(folder: Path, names: Sequence[str] = (), sample: int | None = None) -> list[ReadingVerdict]:
    """What the named programs make of a folder; without names, those for which it is of the right kind.

    ``sample``: of so many frames every pixel is read; None: of all.

    Raises InputError for a path that is no folder, an unknown name, and a folder that none of them reads.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {what}: give a folder with a dataset or an export")
    unknown = [name for name in names if name not in CONSUMER_NAMES]
    if unknown:
        raise InputError(f"--for {' '.join(unknown)}: choose from {', '.join(CONSUMER_NAMES)}")
    tree, consumers = Tree(folder, sample), known_consumers()
    chosen = list(dict.fromkeys(names)) or [name for name, consumer in consumers.items() if consumer.fits(tree)]
    if not chosen:
        raise InputError(
            f"{folder} holds neither transforms.json nor transforms_train.json nor a COLMAP model (sparse/0): give the "
            "--output-dir of a run, or a folder that easi3r export wrote"
        )
    return [ReadingVerdict(name, consumers[name], tuple(_findings(consumers[name], tree))) for name in chosen]


def _findings(consumer: Consumer, tree: Tree) -> list[RuleResult]:
    try:
        return consumer.examine(tree)
    except InputError as error:
        return [failed(str(error), "mend or replace the file that the line names")]
