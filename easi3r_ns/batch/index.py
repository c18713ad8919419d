"""``index.html`` of a batch: every clip with its state, verdict, picture and a link to its report, in one file."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from ..core.budget import GIB
from ..core.runlog import duration
from ..report.card import REPORT
from ..storage.files import write_text
from .jobs import FOLDER
from .record import DONE, ENDS, FAILED, SKIPPED, ClipRecord

INDEX = "index.html"
_KINDS = ("train", "care", "stop")
"""Class of a row by the level of its verdict."""


@dataclass(frozen=True)
class Row:
    """One dataset, or a clip that has none."""

    name: str
    data: str
    state: str
    reason: str
    attempts: tuple[str, ...]
    kind: str
    verdict: str = ""
    against: str = ""
    link: str = ""
    picture: str = ""
    """As a data URI."""
    frames: str = ""
    time: str = ""
    memory: str = ""


@dataclass(frozen=True)
class IndexPage:
    """What the template shows."""

    title: str
    summary: str
    rows: tuple[Row, ...]
    style: str


def write_index(output_dir: Path, entries: Sequence[ClipRecord]) -> Path:
    """Write the page, failed clips first, then by verdict from bad to good. Raises OutputError."""
    rows = [row for entry in entries for row in _rows(output_dir, entry)]
    order = {kind: position for position, kind in enumerate(("failed", "stop", "care", "train"))}
    rows.sort(key=lambda row: order.get(row.kind, len(order)))
    title = f"Batch {output_dir.resolve().name}: {len(entries)} clips"
    style = Path(__file__).with_name("index.css").read_text(encoding="utf-8")
    write_text(output_dir / INDEX, _template().render(page=IndexPage(title, summary(entries), tuple(rows), style)))
    return output_dir / INDEX


def summary(entries: Sequence[ClipRecord]) -> str:
    """How many clips have ended in which state, and what verdicts there are, in one line."""
    states = Counter(entry.state if entry.state in ENDS else "not finished" for entry in entries)
    verdicts = Counter(dataset["verdict"] for entry in entries for dataset in entry.datasets if dataset.get("verdict"))
    parts = [f"{states[state]} {state}" for state in (DONE, SKIPPED, FAILED, "not finished") if states[state]]
    found = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    return ", ".join(parts) + (f"; verdicts: {found}" if found else "")


def _rows(output_dir: Path, entry: ClipRecord) -> Iterator[Row]:
    common = (entry.name, entry.data, entry.state, entry.reason, tuple(entry.attempts))
    kind = "failed" if entry.state == FAILED else "open"
    time = duration(entry.seconds) if entry.seconds else ""
    memory = f"{entry.peak_memory_bytes / GIB:.1f} GiB" if entry.peak_memory_bytes else ""
    if not entry.datasets:
        yield Row(*common, kind, time=time, memory=memory)
    for facts in entry.datasets:
        level = facts.get("level")
        yield Row(
            str(facts["folder"]),
            *common[1:],
            kind if entry.state == FAILED or level is None else _KINDS[level],
            str(facts.get("verdict", "")),
            str(facts.get("reason", "")),
            quote(f"{facts['folder']}/{REPORT}") if facts.get("report") else "",
            _picture(output_dir, facts),
            str(facts.get("frames", "")),
            time,
            memory,
        )


def _picture(output_dir: Path, facts: dict[str, Any]) -> str:
    try:
        content = (output_dir / FOLDER / Path(str(facts["picture"])).name).read_bytes()
    except (KeyError, OSError):
        return ""
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("easi3r_ns.batch", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("index.html.jinja")
