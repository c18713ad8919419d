"""What a finished run prints: what came out, the verdict, and what to do next."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..core.runlog import RunLog, StageRecord, duration, stage_words
from .display import wrapped

if TYPE_CHECKING:
    from ..core.scene import Scene
    from ..pipelines.parts import Part
    from ..pipelines.run import ProcessResult
    from ..report.card import ReportCard
    from ..report.verdict import Verdict

NO_NETWORK = "none: motion from optical flow, cameras from COLMAP"
_NAMES = 10
"""Columns of the names."""


def print_summary(
    result: ProcessResult,
    log: RunLog,
    console: Console,
    *,
    verbose: bool = False,
    facts: Sequence[tuple[str, str]] | None = None,
) -> None:
    """Print the results, and last the verdict and what to do next; with ``verbose`` also the cost of every stage.

    ``facts``: lines (name, value) of the results; default: those of a run.
    """
    from ..report.next_step import unjudged_step

    if verbose:
        console.print(_stage_table(log.stages))
    console.print()
    lines = [*(summary(result) if facts is None else facts), ("time", _cost(log.stages))]
    if not verbose:
        lines = [(name, value) for name, value in lines if name != "pairs"]
    for name, value in lines:
        _entry(name, value, console)
    for name, path in (("dataset", result.transforms_path.parent), *_files(result.card)):
        console.print(f"[bold]{name:<{_NAMES}}[/]{escape(str(path))}", soft_wrap=True)
    if log.warnings:
        count = "one" if len(log.warnings) == 1 else str(len(log.warnings))
        where = "above and in the report" if result.card.report else "above"
        _entry("warnings", f"{count}, shown {where}", console)
    if result.card.verdict is not None:
        _entry("verdict", _verdict_text(result.card.verdict), console)
    steps = result.card.steps or (unjudged_step(result.scene, result.transforms_path.parent),)
    for position, step in enumerate(steps):
        console.print(f"[bold]{'or' if position else 'next':<{_NAMES}}[/]{escape(step.command)}", soft_wrap=True)
        console.print(" " * _NAMES + f"[dim]{escape(wrapped(step.why, console, _NAMES))}[/]", soft_wrap=True)


def print_kept(folder: Path, console: Console) -> None:
    """Print how much the intermediate results in the folder of a dataset take, and what they are for."""
    from ..pipelines.kept import KEPT, size_of
    from ..pipelines.run import WORKSPACE

    workspace = folder / WORKSPACE
    if (workspace / KEPT).is_file():
        redo = f"easi3r redo {shlex.quote(str(folder))}"
        size = f"{size_of(workspace) / 1e6:.0f} MB in {workspace}"
        _entry("kept", f"{size}: {redo} --mask-growth 6 computes little again ({redo} --clean deletes them)", console)


def _entry(name: str, value: str, console: Console) -> None:
    console.print(f"[bold]{name:<{_NAMES}}[/]{escape(wrapped(value, console, _NAMES))}", soft_wrap=True)


def _verdict_text(verdict: Verdict) -> str:
    words = verdict.level.words.lower()
    if not verdict.against:
        return words
    more = len(verdict.against) - 1
    others = f" The report names {more} more." if more else ""
    return f"{words}: {verdict.against[0].reason}{others}"


def _stage_table(stages: Sequence[StageRecord]) -> Table:
    table = Table(title="stages", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for column in ("seconds", "CPU seconds", "peak GiB"):
        table.add_column(column, justify="right")
    for stage in stages:
        gibibytes = stage.peak_memory_bytes / 2**30
        words = escape(stage_words(stage.name))
        table.add_row(words, f"{stage.seconds:.1f}", f"{stage.cpu_seconds:.1f}", f"{gibibytes:.2f}")
    seconds, cpu = sum(s.seconds for s in stages), sum(s.cpu_seconds for s in stages)
    table.add_row("total", f"{seconds:.1f}", f"{cpu:.1f}", f"{_peak(stages):.2f}")
    return table


def _cost(stages: Sequence[StageRecord]) -> str:
    """Time and memory of the run in a line, with the stage that took longest."""
    if not stages:
        return "none"
    longest = max(stages, key=lambda stage: stage.seconds)
    return (
        f"{duration(sum(s.seconds for s in stages))}, of which {duration(longest.seconds)} to "
        f"{stage_words(longest.name)}; {_peak(stages):.1f} GiB of memory (--verbose shows every stage)"
    )


def _peak(stages: Sequence[StageRecord]) -> float:
    return max((s.peak_memory_bytes for s in stages), default=0) / 2**30


def print_parts(parts: Sequence[Part], console: Console) -> None:
    """Print the datasets of the parts of a clip with cuts."""
    console.print()
    for part in parts:
        scene = part.result.scene
        count = len(scene) + (len(scene.between) if scene.between is not None else 0)
        span = f"{scene.times[0]:.4g} to {scene.times[-1]:.4g}, {count} frames"
        _entry("part", f"{span}: {part.result.transforms_path.parent}", console)


def summary(result: ProcessResult) -> list[tuple[str, str]]:
    """The lines (name, value) of the summary of a finished run."""
    from ..core.metric import scale_in_words
    from ..core.upright import said_of

    scene = result.scene
    coverage = 100 * scene.dynamic.coverage
    share = f"{coverage.mean():.1f} % of the pixels"
    moving = {"user": f"{share} (your masks)", "none": "nothing (--no-masks)"}.get(
        scene.dynamic.source, f"{share} on average ({coverage.min():.1f} to {coverage.max():.1f})"
    )
    return [
        ("frames", f"{len(scene)} of {result.num_source_frames}, at {'x'.join(map(str, scene.pixel_map.source_wh))}"),
        *_clips(scene),
        *_between(scene),
        *([("pairs", f"{scene.provenance['num_pairs']} ({scene.provenance['graph']})")] if result.weights else []),
        ("moving", moving),
        *refined_lines(scene),
        ("focal", _focal_text(scene)),
        *_refined(scene),
        ("up", said_of(scene)),
        ("lengths", scale_in_words(scene)),
        ("points", f"{count_points(result.transforms_path)} static points to initialise training"),
        (
            "weights",
            f"{result.weights.name} (licence: {result.weights.licence})" if result.weights else _no_weights(scene),
        ),
        *_choice(scene),
        *([] if result.weights else [("depth", _stereo_text(scene))]),
        *prior_lines(scene),
    ]


def _no_weights(scene: Scene) -> str:
    name = scene.provenance["weights"]["name"]
    return NO_NETWORK if name == "none" else str(name)


def refined_lines(scene: Scene) -> list[tuple[str, str]]:
    """Which models refined the masks and found things by their names, and their licences; nothing without one."""
    lines = []
    if facts := scene.provenance.get("refined_masks"):
        words = f"masks by {facts['model']} (licence: {facts['licence']}), {facts['objects']} objects followed"
        lines.append(("refined", words))
    if facts := scene.provenance.get("named_masks"):
        found = ", ".join(f"{one['name']} in {one['frames']} frames" for one in facts["names"])
        lines.append(("by name", f"{found}; by {facts['model']} (licence: {facts['licence']})"))
    return lines


def prior_lines(scene: Scene) -> list[tuple[str, str]]:
    """What --depth-prior filled, and under which licence its weights are; nothing without one."""
    facts = scene.provenance.get("depth_prior")
    if not facts:
        return []
    filled = f"{100 * facts['shares']['prior']:.0f} % of the pixels by {facts['model']} (licence: {facts['licence']})"
    error = facts["error"]
    return [("filled", filled if error is None else f"{filled}; error where depth is known {100 * error:.1f} %")]


def _stereo_text(scene: Scene) -> str:
    from ..core.surface import measured_only

    scene, still = measured_only(scene), ~scene.dynamic.masks
    if not scene.has_depth or not still.any():
        return "none"
    return f"of what stands still, by stereo: {100 * (scene.depth[still] > 0).mean():.0f} % of its pixels"


def _choice(scene: Scene) -> list[tuple[str, str]]:
    choice = scene.provenance.get("weights_choice")
    return [("chosen", choice["line"])] if choice else []


def _clips(scene: Scene) -> list[tuple[str, str]]:
    clips = scene.provenance.get("clips") or ()
    counts = [f"{clip['joined']} of {clip['frames']} frames of {clip['name']}" for clip in clips]
    return [("clips", ", ".join(counts))] if counts else []


def _between(scene: Scene) -> list[tuple[str, str]]:
    counts = scene.provenance.get("between")
    if not counts:
        return []
    named = {"pnp": "posed", "fixed": "with the fixed camera", "interpolated": "interpolated", "left_out": "left out"}
    return [("between", ", ".join(f"{counts[key]} {word}" for key, word in named.items() if counts.get(key)))]


def _refined(scene: Scene) -> list[tuple[str, str]]:
    record = scene.provenance.get("refine") or {}
    if "why" in record:
        return [("cameras", f"the network's own: {record['why']}")]
    kept, ours = record.get(record.get("kept")), record.get("network")
    if not kept or not ours or kept == ours:
        return []
    errors = f"held-out matches fit to {kept['epipolar_px']:.2f} px, before to {ours['epipolar_px']:.2f} px"
    return [("cameras", f"of {record['kept']} (COLMAP): {errors}")]


def _files(card: ReportCard) -> list[tuple[str, Path]]:
    return [(name, path) for name, path in (("report", card.report), ("preview", card.preview)) if path is not None]


def count_points(transforms_path: Path) -> int:
    """Vertices of the static cloud that ``transforms.json`` names, by the PLY file's header; 0: it names none."""
    name = json.loads(transforms_path.read_text(encoding="utf-8")).get("ply_file_path")
    if name is None:
        return 0
    with (transforms_path.parent / name).open("rb") as file:
        for line in file:
            if line.startswith(b"element vertex"):
                return int(line.split()[2])
            if line.startswith(b"end_header"):
                break
    return 0


def _focal_text(scene: Scene) -> str:
    focals = scene.focals / scene.pixel_map.scale_xy[0]
    width, height = scene.pixel_map.source_wh
    fov = 2 * math.degrees(math.atan(width / (2 * focals.mean())))
    shortest, longest = f"{focals.min():.0f}", f"{focals.max():.0f}"
    lens = f"{shortest} px" if shortest == longest else f"{shortest} to {longest} px"
    sigma = 0.0 if scene.uncertainty is None else float(scene.uncertainty.focal.max()) / scene.pixel_map.scale_xy[0]
    lens = f"{lens} +- {sigma:.2g}" if 0 < sigma < 10 else f"{lens} +- {sigma:.0f}" if 0 < sigma < math.inf else lens
    start = scene.provenance.get("start_focal")
    began = f" (started from {start['pixels']:.0f} px, the file's {start['origin']})" if start else ""
    return f"{lens} of the {width}x{height} source, {fov:.0f} degrees across{began}"
