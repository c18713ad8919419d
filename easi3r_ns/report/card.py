"""The report card of a dataset: ``report.html`` and ``preview.mp4``, written beside ``transforms.json``."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.runlog import RunLog

if TYPE_CHECKING:
    from ..core.scene import Scene
    from .next_step import Step
    from .verdict import Verdict

REPORT = "report.html"
PREVIEW = "preview.mp4"
FILES = (REPORT, PREVIEW)
GROUP = "report"
"""Name of the two files in the list of files that this package owns in a folder (see ``storage/owned.py``)."""

_PREVIEW_STAGE = "preview"


@dataclass(frozen=True)
class ReportCard:
    """What was written; None for what could not be."""

    report: Path | None = None
    preview: Path | None = None
    verdict: Verdict | None = None
    steps: tuple[Step, ...] = ()
    """What to do next, the best first; empty without a verdict."""


def write_report_card(scene: Scene, dataset: Path, log: RunLog, folder: Path | None = None) -> ReportCard:
    """Write both files, replacing those of an earlier run, and return what was written.

    ``folder`` takes them; default: that of the dataset.

    The report shows ``stages`` and ``warnings`` of the scene's provenance, and the time that the preview takes.

    Raises OutputError when a file of these names is not ours, or when the disk refuses.
    """
    folder = folder or dataset
    _claim(folder)
    preview = _preview(scene, folder, log)
    return ReportCard(folder / REPORT, preview, *_report(scene, dataset, log, folder))


def try_report_card(scene: Scene, dataset: Path, log: RunLog) -> ReportCard:
    """:func:`write_report_card` for a run whose dataset is complete: an error becomes a warning."""
    preview = verdict = None
    steps: tuple[Step, ...] = ()
    with _warning_instead(dataset, log):
        _claim(dataset)
        with _warning_instead(dataset, log):
            preview = _preview(scene, dataset, log)
        verdict, steps = _report(scene, dataset, log)
    return ReportCard(dataset / REPORT if verdict is not None else None, preview, verdict, steps)


def drop_report_card(dataset: Path) -> None:
    """Delete both files of an earlier run, if they are ours. Raises OutputError when the disk refuses."""
    from ..storage.owned import claim

    claim(dataset, (), group=GROUP)


def _claim(dataset: Path) -> None:
    from ..storage.owned import claim

    drop_report_card(dataset)  # a report of an earlier run would describe another dataset
    claim(dataset, FILES, group=GROUP)


def _preview(scene: Scene, dataset: Path, log: RunLog) -> Path:
    from .preview import write_preview

    with log.stage(_PREVIEW_STAGE, len(scene)) as advance:
        return write_preview(scene, dataset / PREVIEW, advance)


def _report(scene: Scene, dataset: Path, log: RunLog, folder: Path | None = None) -> tuple[Verdict, tuple[Step, ...]]:
    from dataclasses import asdict, replace

    from .page import write_report

    made = [asdict(stage) for stage in log.stages if stage.name == _PREVIEW_STAGE]
    stages = [*(scene.provenance.get("stages") or ()), *made]
    with log.stage("report"):
        timed = replace(scene, provenance=scene.provenance | {"stages": stages})
        return write_report(timed, (folder or dataset) / REPORT, dataset)


@contextlib.contextmanager
def _warning_instead(dataset: Path, log: RunLog) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Whatever it is, the dataset itself has passed its check, and hours may have gone into it.
        log.warn(
            f"the report card could not be written ({type(error).__name__}: {error}); the dataset does not need it, "
            f"and `easi3r report {shlex.quote(str(dataset))}` tries again"
        )
