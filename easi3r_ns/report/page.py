"""``report.html``: one page that says whether a dataset is worth training on, and shows why.

The sections (one file each in ``sections/``) measure a scene and hand over values; ``template.html.jinja`` says what
the page looks like.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from .. import __version__
from ..core.scene import Scene
from ..storage.files import write_text
from .contents import Tile
from .measures import MeasuredScene, measure
from .next_step import Step, next_steps
from .sections.agreement import AgreementSection, agreement_section
from .sections.camera_path import CameraPathSection, camera_path_section
from .sections.depth import DepthSection, depth_section
from .sections.evidence import EvidenceSection, evidence_section
from .sections.key_figures import key_figures
from .sections.lens import LensSection, lens_section
from .sections.motion import MotionSection, motion_section
from .sections.run import RunSection, run_section
from .sections.selection import SelectionSection, selection_section
from .verdict import Verdict, judge

_OPTION = re.compile(r"(--[a-z][a-z.-]*[a-z](?: (?:dust3r|colmap|auto|none))?)")
"""A command line option in a sentence, together with a value that belongs to it."""


@dataclass(frozen=True)
class ReportPage:
    """Everything that the template shows, in the order of the page."""

    source: str
    """The clip that was given."""
    num_held_out: int
    """Frames of the scene that are kept for evaluation and not shown."""
    verdict: Verdict
    steps: tuple[Step, ...]
    """What to do next, the best first."""
    key_figures: tuple[Tile, ...]
    motion: MotionSection
    camera_path: CameraPathSection
    depth: DepthSection
    agreement: AgreementSection
    lens: LensSection
    evidence: EvidenceSection
    selection: SelectionSection | None
    run: RunSection
    dataset_version: str
    report_version: str


def write_report(scene: Scene, path: Path, dataset: Path) -> tuple[Verdict, tuple[Step, ...]]:
    """Measure ``scene``, write its report card to ``path`` (atomically); the verdict, and what to do with ``dataset``.

    The file is about one megabyte, opens from disk, loads nothing from elsewhere and runs no script; the same scene
    gives identical bytes. Timings and warnings come from the scene's provenance (``stages``, ``warnings``). Source
    images that are gone are replaced by the smaller ones of the scene.

    Raises OutputError when the disk refuses.
    """
    measured = measure(scene)
    verdict = judge(measured.measures)
    steps = next_steps(scene, measured, verdict, dataset)
    write_text(path, render_page(report_page(scene, measured, verdict, steps)))
    return verdict, steps


def report_page(scene: Scene, measured: MeasuredScene, verdict: Verdict, steps: tuple[Step, ...]) -> ReportPage:
    """The contents of all sections."""
    return ReportPage(
        source=str(scene.provenance.get("source") or scene.names[0]),
        num_held_out=len(scene) - measured.measures.num_frames,
        verdict=verdict,
        steps=steps,
        key_figures=key_figures(scene, measured),
        motion=motion_section(scene, measured),
        camera_path=camera_path_section(scene, measured),
        depth=depth_section(scene, measured),
        agreement=agreement_section(scene, measured),
        lens=lens_section(scene, measured),
        evidence=evidence_section(scene),
        selection=selection_section(scene),
        run=run_section(scene.provenance),
        dataset_version=str(scene.provenance.get("version") or __version__),
        report_version=__version__,
    )


def render_page(page: ReportPage) -> str:
    """The HTML of a page."""
    return template("template.html.jinja").render(page=page)


def split_options(text: str) -> list[tuple[str, bool]]:
    """A sentence in pieces that together are the sentence, each with whether it is a command line option."""
    return [(part, bool(_OPTION.fullmatch(part))) for part in _OPTION.split(text) if part]


@cache
def template(name: str) -> Template:
    """A page of this folder, ready to be rendered."""
    environment = Environment(
        loader=PackageLoader("easi3r_ns.report", "."),
        autoescape=True,  # by default jinja2 escapes nothing
        undefined=StrictUndefined,  # a misspelled field is an error, not an empty place
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["split_options"] = split_options
    return environment.get_template(name)
