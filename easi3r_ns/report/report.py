"""The report card: one HTML file that says whether a dataset is worth training on, and shows why."""

from __future__ import annotations

from html import escape
from pathlib import Path

from .. import __version__
from ..core.scene import Scene
from ..storage.files import write_bytes
from .camera import agreement_section, lens_section, path_section
from .measures import Measured, measure
from .page import page
from .run import run_section
from .sections import attention_section, depth_section, key_figures, motion_section, verdict_section
from .verdict import Verdict, judge


def write_report(scene: Scene, path: Path, train_command: str) -> Verdict:
    """Measure ``scene``, write its report card to ``path`` (atomically) and return the verdict.

    The file is about one megabyte, opens from disk, asks for nothing from elsewhere and runs no script; the same scene
    gives identical bytes. Timings and warnings come from the scene's provenance (``stages``, ``warnings``). Source
    images that are gone are replaced by the smaller ones of the scene.

    Raises OutputError when the disk refuses.
    """
    measured = measure(scene)
    verdict = judge(measured.measures)
    write_bytes(path, render_report(scene, measured, verdict, train_command).encode())
    return verdict


def render_report(scene: Scene, measured: Measured, verdict: Verdict, train_command: str) -> str:
    """The HTML of the report card."""
    source = str(scene.provenance.get("source") or scene.names[0])
    body = [
        _header(scene, measured, source),
        "<main>",
        verdict_section(verdict, train_command),
        key_figures(scene, measured),
        motion_section(scene, measured),
        path_section(scene, measured),
        depth_section(scene, measured),
        agreement_section(scene, measured),
        lens_section(scene, measured),
        attention_section(scene),
        run_section(scene),
        "</main>",
        _footer(scene),
    ]
    return page(f"{source}: {verdict.level.words.lower()}", body)


def _header(scene: Scene, measured: Measured, source: str) -> str:
    held_out = len(scene) - measured.measures.num_frames
    extra = f" {held_out} more frames are held out for evaluation and not shown here." if held_out else ""
    return (
        f"<header><h1>{escape(source)}</h1><p>Report card of a dataset made by easi3r-ns. "
        f"<code>preview.mp4</code> beside this file shows the whole clip.{extra}</p></header>"
    )


def _footer(scene: Scene) -> str:
    made = str(scene.provenance.get("version") or __version__)
    return (
        "<footer><p>The verdict rests on what can be measured without training; it cannot see blur, changing light or "
        f"reflections. Dataset by easi3r-ns {escape(made)}, report by {escape(__version__)}.</p></footer>"
    )
