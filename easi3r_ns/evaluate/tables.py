"""Tables of results: many clips under several rows of options, one table for each kind of ground truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .masks import MaskScore, mean_of_sequences, pooled
from .scoring import SequenceScores

NOTHING = "-"


@dataclass(frozen=True)
class Result:
    """One clip under one row of options: scores, or the reason why there are none."""

    row: str
    """Name of the options, for example 'tiny' or 'colmap'."""
    sequence: str
    truth: tuple[str, ...]
    """Which kinds of truth the clip has: 'cameras', 'fixed', 'depth', 'masks'."""
    requested: int | None = None
    """Number of frames that the run was asked to pose; None where it failed before that."""
    cpu_seconds: float | None = None
    error: str | None = None
    scores: SequenceScores | None = None


@dataclass(frozen=True)
class Column:
    """One measured value."""

    title: str
    value: Callable[[SequenceScores], float | None]
    form: str = ".3f"
    pool: Callable[[list[SequenceScores]], float] | None = None
    """How the values of several sequences are combined; None: by their mean."""


@dataclass(frozen=True)
class Section:
    """A table of formatted cells."""

    title: str
    note: str
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


_CAMERAS = (
    Column("frames", lambda s: s.trajectory.num_frames if s.trajectory else None, ".0f"),
    Column("ATE", lambda s: s.trajectory.ate if s.trajectory else None, ".4f"),
    Column("of path %", lambda s: 100 * s.trajectory.ate / s.trajectory.path_length if s.trajectory else None, ".2f"),
    Column("RPE trans", lambda s: s.trajectory.rpe_translation if s.trajectory else None, ".4f"),
    Column("RPE rot deg", lambda s: s.trajectory.rpe_rotation_deg if s.trajectory else None, ".3f"),
    Column("focal error %", lambda s: _percent(s.focal_error), "+.1f", pool=lambda g: _mean_size(g)),
)
_FIXED = (
    Column("drift, % of depth", lambda s: _percent(s.drift.relative_translation if s.drift else None), ".2f"),
    Column("rotation deg", lambda s: s.drift.rotation_deg if s.drift else None, ".2f"),
)
_DEPTH = (
    Column("AbsRel, scale", lambda s: s.depth.by_scale.abs_rel if s.depth else None),
    Column("d<1.25, scale", lambda s: s.depth.by_scale.delta if s.depth else None),
    Column("AbsRel, scale+shift", lambda s: s.depth.by_scale_and_shift.abs_rel if s.depth else None),
    Column("d<1.25, scale+shift", lambda s: s.depth.by_scale_and_shift.delta if s.depth else None),
    Column("coverage", lambda s: s.depth.coverage if s.depth else None, ".2f"),
    Column("points acc", lambda s: s.points.accuracy if s.points else None),
    Column("points comp", lambda s: s.points.completeness if s.points else None),
    Column("points dist", lambda s: s.points.distance if s.points else None),
)
_MASKS = (
    Column("JM", lambda s: pooled([s.masks.network]).jm if s.masks else None, pool=lambda g: _paper(g).jm),
    Column("JR", lambda s: pooled([s.masks.network]).jr if s.masks else None, pool=lambda g: _paper(g).jr),
    Column("JM source", lambda s: pooled([s.masks.source]).jm if s.masks else None, pool=lambda g: _standard(g).jm),
    Column("JR source", lambda s: pooled([s.masks.source]).jr if s.masks else None, pool=lambda g: _standard(g).jr),
    Column("marked %", lambda s: _percent(s.masks.predicted_coverage if s.masks else None), ".1f"),
    Column("moves %", lambda s: _percent(s.masks.true_coverage if s.masks else None), ".1f"),
)
_KINDS = (
    (
        "cameras",
        "Cameras",
        "ATE and RPE (one frame) are RMSE after a Sim(3) alignment, in the truth's unit of length, over the `frames` "
        "that have a camera; the fewer frames, the easier the task. The mean of focal errors is that of their sizes.",
        _CAMERAS,
    ),
    (
        "fixed",
        "Fixed camera",
        "All true poses are equal. Drift is the largest distance between two estimated cameras as a share of the "
        "scene's median depth; rotation is the largest angle between two.",
        _FIXED,
    ),
    (
        "depth",
        "Depth",
        "One alignment per sequence, all frames pooled. Points: mean distances in the truth's unit of length, to the "
        "nearest true point (acc), from it (comp) and pixel by pixel (dist), where the camera centres are aligned.",
        _DEPTH,
    ),
    (
        "masks",
        "Motion masks",
        "JM and JR at network resolution, frames of all sequences pooled; `source`: at source resolution, mean over "
        "sequences. A frame in which nothing moves and nothing is marked counts 1.",
        _MASKS,
    ),
)


def sections(results: Sequence[Result]) -> list[Section]:
    """One table for each kind of truth that a clip has, and one of the runs.

    A failed clip has a line in every table that its truth belongs to; the closing line of each row of options says how
    many sequences it stands for and how many failed.
    """
    found = [
        _section(title, note, columns, [r for r in results if kind in r.truth])
        for kind, title, note, columns in _KINDS
        if any(kind in r.truth for r in results)
    ]
    return [*found, _runs(results)] if results else []


def markdown(tables: Sequence[Section]) -> str:
    """The tables as GitHub markdown."""
    parts = []
    for table in tables:
        rows = [table.header, tuple("---" for _ in table.header), *table.lines]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        parts.append("\n".join([f"## {table.title}", "", *([table.note, ""] if table.note else []), *lines]))
    return "\n\n".join(parts) + "\n"


def _section(title: str, note: str, columns: Sequence[Column], results: list[Result]) -> Section:
    lines = []
    for sequence in dict.fromkeys(r.sequence for r in results):
        lines += [_line(r, columns) for r in results if r.sequence == sequence]
    for row in dict.fromkeys(r.row for r in results):
        own = [r for r in results if r.row == row]
        if len(own) > 1:
            lines.append(_summary(row, own, columns))
    return Section(title, note, ("sequence", "row", *(c.title for c in columns)), tuple(lines))


def _line(result: Result, columns: Sequence[Column]) -> tuple[str, ...]:
    if result.scores is None:
        return (result.sequence, result.row, *(["failed"] + [NOTHING] * (len(columns) - 1)))
    return (result.sequence, result.row, *(_format(c.value(result.scores), c.form) for c in columns))


def _summary(row: str, results: list[Result], columns: Sequence[Column]) -> tuple[str, ...]:
    cells = []
    for column in columns:
        group = [r.scores for r in results if r.scores is not None and column.value(r.scores) is not None]
        if not group:
            cells.append(NOTHING)
        elif column.pool is not None:
            cells.append(_format(column.pool(group), column.form))
        else:
            values = [value for value in map(column.value, group) if value is not None]
            cells.append(_format(float(np.mean(values)), column.form))
    done = max(sum(r.scores is not None and c.value(r.scores) is not None for r in results) for c in columns)
    return (f"all: {done} scored, {len(results) - done} not", row, *cells)


def _runs(results: Sequence[Result]) -> Section:
    lines = []
    for sequence in dict.fromkeys(r.sequence for r in results):
        for r in results:
            if r.sequence == sequence:
                posed = NOTHING if r.scores is None else f"{r.scores.num_posed} of {r.requested or r.scores.num_frames}"
                state = r.error or ("; ".join(r.scores.problems) if r.scores else "") or "ok"
                lines.append((r.sequence, r.row, posed, _format(r.cpu_seconds, ".0f"), state))
    failed = sum(r.error is not None for r in results)
    note = f"{len(results)} runs, {failed} failed. Posed: frames whose camera the pipeline estimated itself."
    return Section("Runs", note, ("sequence", "row", "posed", "CPU seconds", "state"), tuple(lines))


def _format(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _mean_size(group: list[SequenceScores]) -> float:
    return float(np.mean([100 * abs(s.focal_error) for s in group if s.focal_error is not None]))


def _paper(group: list[SequenceScores]) -> MaskScore:
    return pooled([s.masks.network for s in group if s.masks is not None])


def _standard(group: list[SequenceScores]) -> MaskScore:
    return mean_of_sequences([s.masks.source for s in group if s.masks is not None])
