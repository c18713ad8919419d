"""Every published number of arXiv:2503.24391 with ours beside it, or with why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .configurations import NETWORKS, NO_MODEL, SETS, Configuration, Paper, Wish, configurations
from .peers import PREFIX, method_of
from .published import KINDS, Kind, counted
from .runs import read_results
from .tables import NOTHING, Result


@dataclass(frozen=True)
class Cell:
    """One published number, and one of ours beside it."""

    name: str
    """Of the set."""
    kind: Kind
    method: str
    measure: int
    """Position among the measures of the kind."""
    published: float | None
    row: str = NOTHING
    """Configuration of ours; the cell of a method that we do not run has none."""
    ours: float | None = None
    state: str = ""
    """How many sequences ours stands for, or why there is nothing."""

    @property
    def difference(self) -> float | None:
        """Ours less the published one."""
        return None if self.ours is None or self.published is None else self.ours - self.published


def cells(paper: Paper) -> list[Cell]:
    """Every published number of the sets of the paper, with a cell for each row of ours and each of imported results
    that stands beside it, and with one that says why where there is none; then rows of methods that it has not."""
    found: list[Cell] = []
    for name in SETS:
        results = read_results(paper.output_dir / name) if (paper.output_dir / name).is_dir() else []
        for kind in KINDS:
            for method, numbers in kind.numbers.get(name, {}).items():
                for measure, published in enumerate(numbers):
                    found += _beside(Cell(name, kind, method, measure, published), results, paper)
            if name in kind.numbers:
                found += _unpublished(name, kind, results, paper)
    return found


def _with_model(cell: Cell) -> bool:
    return cell.kind.score == "masks" and cell.measure == 2


def _beside(cell: Cell, results: Sequence[Result], paper: Paper) -> list[Cell]:
    """The cell once for each row that is its method, imported ones first."""
    imported = [_scored(cell, row, results, paper) for row in _imported(results, cell.method, _with_model(cell))]
    # The source names no network for these points; they stand beside those of DUSt3R there.
    method = "Easi3R on DUSt3R" if cell.method == "Easi3R (flow)" else cell.method
    ours = [c for c in configurations(paper.wish, cell.name) if c.method == method]
    ours = [c for c in ours if (c.refine_masks != NO_MODEL) == _with_model(cell)]
    if imported and not (ours and cell.name in paper.wish.sets):
        return imported
    if cell.name not in paper.wish.sets:
        return [replace(cell, state="not asked for (--sets)")]
    if ours:
        return imported + [_filled(cell, configuration, results, paper) for configuration in ours]
    return [replace(cell, state=_why_not(cell, paper.wish))]


def _why_not(cell: Cell, wish: Wish) -> str:
    """Why no configuration of ours is the method of a cell."""
    words = cell.method.split()
    own, network = words[0], words[-1]
    if own == "Easi3R":
        asked = network == "(flow)" or any(NETWORKS.get(weights) == network for weights in wish.weights)
        return "not asked for (--refine-masks)" if asked and _with_model(cell) else "not asked for (--weights)"
    runs_here = own in NETWORKS.values() and cell.kind.score != "masks"
    return "not asked for (--weights)" if runs_here else "not run (another method)"


def _imported(results: Sequence[Result], method: str, with_model: bool) -> list[str]:
    """Rows of imported results that are a method."""
    rows = [row for row in dict.fromkeys(result.row for result in results) if row.startswith(PREFIX)]
    return [row for row in rows if method_of(row) == (method, with_model)]


def _unpublished(name: str, kind: Kind, results: Sequence[Result], paper: Paper) -> list[Cell]:
    """Cells without a published number: of other weights, and of imported results of other methods."""
    found = []
    own = [c for c in configurations(paper.wish, name) if c.weights not in NETWORKS and c.refine_masks == NO_MODEL]
    for configuration in own if name in paper.wish.sets else ():
        cell = Cell(name, kind, configuration.method, 0, None)
        found += [_filled(replace(cell, measure=k), configuration, results, paper) for k in _measures(kind)]
    for row in dict.fromkeys(result.row for result in results if result.row.startswith(PREFIX)):
        method, with_sam2 = method_of(row)
        if method not in kind.numbers[name]:
            cell = Cell(name, kind, method, 0, None)
            measures = (2,) if with_sam2 and kind.score == "masks" else _measures(kind)
            found += [_scored(replace(cell, measure=k), row, results, paper) for k in measures]
    return found


def _measures(kind: Kind) -> tuple[int, ...]:
    return (0, 1) if kind.score == "masks" else (0, 1, 2)


def _filled(cell: Cell, configuration: Configuration, results: Sequence[Result], paper: Paper) -> Cell:
    """The cell with our number, or with why there is none."""
    cell = replace(cell, row=configuration.row)
    if cell.name in paper.missing:
        return replace(cell, state="not run (data)")
    if f"{cell.name}/{configuration.row}" in paper.missing:
        return replace(cell, state="not run (weights)")
    if not any(result.row == configuration.row for result in results):
        return replace(cell, state="not run (yet)")
    return _scored(cell, configuration.row, results, paper)


def _scored(cell: Cell, row: str, results: Sequence[Result], paper: Paper) -> Cell:
    own = [result for result in results if result.row == row]
    values = cell.kind.ours(own)
    value = values[0] if _with_model(cell) else values[cell.measure]
    state = counted(own, cell.kind) + (" (--smoke: no number to compare)" if paper.smoke else "")
    return replace(cell, row=row, ours=value, state=state)
