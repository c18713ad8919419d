"""Published numbers, and ours beside them: arXiv:2503.24391 v1, Tables 1 to 5."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .masks import pooled
from .tables import NOTHING, Result, Section

SOURCE = "arXiv:2503.24391 v1"

_MASKS: Mapping[str, Mapping[str, tuple[float, float, float]]] = {
    "davis-16": {
        "DUSt3R (flow)": (42.1, 45.7, 58.5),
        "MonST3R (flow)": (40.9, 42.2, 64.3),
        "DAS3R": (41.6, 39.0, 54.2),
        "Easi3R on DUSt3R": (53.1, 60.4, 67.9),
        "Easi3R on MonST3R": (57.7, 71.6, 70.7),
    },
    "davis-17": {
        "DUSt3R (flow)": (35.2, 35.3, 48.7),
        "MonST3R (flow)": (38.6, 38.2, 56.4),
        "DAS3R": (43.5, 42.1, 57.4),
        "Easi3R on DUSt3R": (49.0, 56.4, 60.1),
        "Easi3R on MonST3R": (56.5, 68.6, 67.9),
    },
    "davis-all": {
        "DUSt3R (flow)": (35.9, 34.0, 47.6),
        "MonST3R (flow)": (36.7, 34.3, 51.9),
        "DAS3R": (43.4, 38.7, 53.9),
        "Easi3R on DUSt3R": (44.5, 49.6, 54.7),
        "Easi3R on MonST3R": (53.0, 63.4, 63.1),
    },
}
"""Set -> method -> JM, JR without SAM2 and JM with it, in percent."""
_CAMERAS: Mapping[str, Mapping[str, tuple[float, float, float]]] = {
    "dycheck": {
        "DUSt3R (flow)": (0.029, 0.021, 1.875),
        "Easi3R on DUSt3R": (0.021, 0.014, 1.092),
        "MonST3R (flow)": (0.033, 0.024, 1.501),
        "Easi3R on MonST3R": (0.030, 0.021, 1.390),
        "CUT3R": (0.029, 0.020, 1.383),
    },
    "adt": {
        "DUSt3R (flow)": (0.076, 0.030, 0.974),
        "Easi3R on DUSt3R": (0.042, 0.015, 0.655),
        "MonST3R (flow)": (0.055, 0.025, 0.776),
        "Easi3R on MonST3R": (0.039, 0.016, 0.640),
        "CUT3R": (0.084, 0.025, 0.490),
    },
    "tum-dynamics": {
        "DUSt3R (flow)": (0.071, 0.067, 3.711),
        "Easi3R on DUSt3R": (0.070, 0.061, 2.361),
        "MonST3R (flow)": (0.170, 0.155, 6.455),
        "Easi3R on MonST3R": (0.168, 0.150, 5.925),
        "CUT3R": (0.079, 0.088, 10.41),
    },
}
"""Set -> method -> ATE, RPE translation, RPE rotation in degrees; means over sequences."""
_POINTS: Mapping[str, Mapping[str, tuple[float, float, float]]] = {
    "dycheck": {
        "DUSt3R (flow)": (0.738, 1.669, 0.313),
        "Easi3R (flow)": (0.703, 1.474, 0.301),
        "CUT3R": (0.458, 1.633, 0.326),
    },
}
"""Set -> method -> means over sequences of accuracy, completeness and distance."""


@dataclass(frozen=True)
class Kind:
    """One kind of published numbers: what they measure, and what our results have for it."""

    title: str
    measures: tuple[str, str, str]
    form: str
    numbers: Mapping[str, Mapping[str, tuple[float, float, float]]]
    ours: Callable[[Sequence[Result]], tuple[float | None, ...]]
    """The three numbers of those results that could be scored."""
    score: str
    """Name of the score in :class:`~.scoring.SequenceScores`."""
    note: str


def beside(name: str, results: Sequence[Result]) -> list[Section]:
    """A table with the published numbers of the set ``name`` and a line for each of our rows; none: it has none.

    A row's numbers are those of the sequences that could be scored; the line says how many could not.
    """
    rows = list(dict.fromkeys(result.row for result in results))
    own = [(row, [result for result in results if result.row == row]) for row in rows]
    found = []
    for kind in KINDS:
        if name in kind.numbers:
            lines = [_line(method, SOURCE, values, kind.form) for method, values in kind.numbers[name].items()]
            lines += [_line(row, "here", kind.ours(ours), kind.form, counted(ours, kind)) for row, ours in own]
            title = f"{name}: published and ours" + (", points" if kind.score == "points" else "")
            found.append(Section(title, kind.note, ("", "from", *kind.measures, "sequences"), tuple(lines)))
    return found


def latex(tables: Sequence[Section]) -> str:
    """The tables as LaTeX (booktabs)."""
    parts = []
    for table in tables:
        rows = [" & ".join(map(_escaped, line)) + r" \\" for line in (table.header, *table.lines)]
        columns = "ll" + "r" * (len(table.header) - 2)
        body = "\n".join([r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule"])
        parts.append(f"% {table.title}\n\\begin{{tabular}}{{{columns}}}\n{body}\n\\end{{tabular}}\n")
    return "\n".join(parts)


def comma_separated(tables: Sequence[Section]) -> str:
    """The tables as CSV: the title of its table stands before each line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for table in tables:
        for line in (table.header, *table.lines):
            writer.writerow([table.title, *line])
    return text.getvalue()


_SPECIAL = {"\\": r"\textbackslash{}", **{letter: f"\\{letter}" for letter in "&%$#_{}"}}


def _escaped(cell: str) -> str:
    return "".join(_SPECIAL.get(letter, letter) for letter in cell)


def _line(name: str, origin: str, values: Sequence[float | None], form: str, counted: str = NOTHING) -> tuple[str, ...]:
    return (name, origin, *(NOTHING if value is None else format(value, form) for value in values), counted)


def _masks(results: Sequence[Result]) -> tuple[float | None, ...]:
    found = [result.scores.masks.network for result in results if result.scores and result.scores.masks]
    if not found:
        return (None, None, None)
    score = pooled(found)
    return (100 * score.jm, 100 * score.jr, None)


def _cameras(results: Sequence[Result]) -> tuple[float | None, ...]:
    return _means(results, "trajectory", ("ate", "rpe_translation", "rpe_rotation_deg"))


def _points(results: Sequence[Result]) -> tuple[float | None, ...]:
    return _means(results, "points", ("accuracy", "completeness", "distance"))


def _means(results: Sequence[Result], score: str, names: tuple[str, ...]) -> tuple[float | None, ...]:
    found = [getattr(result.scores, score) for result in results if result.scores is not None]
    found = [errors for errors in found if errors is not None]
    return tuple(float(np.mean([getattr(errors, name) for errors in found])) if found else None for name in names)


def counted(results: Sequence[Result], kind: Kind) -> str:
    """How many sequences the numbers of a kind stand for, and how many they lack."""
    done = sum(result.scores is not None and getattr(result.scores, kind.score) is not None for result in results)
    return f"{done} scored, {len(results) - done} failed"


KINDS = (
    Kind(
        title="Motion masks",
        measures=("JM %", "JR %", "JM with SAM2 %"),
        form=".1f",
        numbers=_MASKS,
        ours=_masks,
        score="masks",
        note="At network resolution, pooled.",
    ),
    Kind(
        title="Cameras",
        measures=("ATE", "RPE trans", "RPE rot deg"),
        form=".3f",
        numbers=_CAMERAS,
        ours=_cameras,
        score="trajectory",
        note="Means over sequences.",
    ),
    Kind(
        title="Points",
        measures=("accuracy", "completeness", "distance"),
        form=".3f",
        numbers=_POINTS,
        ours=_points,
        score="points",
        note="Means over sequences of the means over points, in the unit of the truth.",
    ),
)
"""In the order of the paper."""
