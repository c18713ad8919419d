"""Every published number of arXiv:2503.24391 with ours beside it, or with why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .configurations import NETWORKS, NO_MODEL, SETS, Configuration, Paper, Wish, configurations
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
    """Every published number of the sets of the paper, with a cell for each configuration of ours that stands beside
    it, and with one that says why where there is none."""
    found: list[Cell] = []
    for name in SETS:
        results = read_results(paper.output_dir / name) if (paper.output_dir / name).is_dir() else []
        for kind in KINDS:
            for method, numbers in kind.numbers.get(name, {}).items():
                for measure, published in enumerate(numbers):
                    cell = Cell(name, kind, method, measure, published)
                    found += _beside(cell, results, paper)
            for configuration in _unpublished(paper.wish, name, kind):
                for measure in range(2 if kind.score == "masks" else 3):
                    found.append(
                        _filled(Cell(name, kind, configuration.method, measure, None), configuration, results, paper)
                    )
    return found


def _with_model(cell: Cell) -> bool:
    return cell.kind.score == "masks" and cell.measure == 2


def _beside(cell: Cell, results: Sequence[Result], paper: Paper) -> list[Cell]:
    """The cell once for each configuration of ours that is the method of the cell."""
    if other := [r for r in paper.others.get(cell.name, ()) if r.row == cell.method]:
        return [replace(_scored(cell, other, paper), row="imported")]
    method = cell.method
    if method == "Easi3R (flow)":  # the source names no network; it stands beside DUSt3R there
        method = "Easi3R on DUSt3R"
    ours = [c for c in configurations(paper.wish, cell.name) if c.method == method]
    ours = [c for c in ours if (c.refine_masks != NO_MODEL) == _with_model(cell)]
    if cell.name not in paper.wish.sets:
        return [replace(cell, state="not asked for (--sets)")]
    if ours:
        return [_filled(cell, configuration, results, paper) for configuration in ours]
    if method.split()[-1] in NETWORKS.values():
        wanted = "--refine-masks" if _with_model(cell) else "--weights"
        return [replace(cell, state=f"not asked for ({wanted})")]
    if cell.kind.score == "masks" or method.split()[0] not in NETWORKS.values():
        return [replace(cell, state="not run (another method)")]
    return [replace(cell, state="not asked for (--weights)")]


def _unpublished(wish: Wish, name: str, kind: Kind) -> list[Configuration]:
    """Configurations with weights of which the paper has no numbers."""
    if name not in wish.sets or name not in kind.numbers:
        return []
    return [c for c in configurations(wish, name) if c.weights not in NETWORKS and c.refine_masks == NO_MODEL]


def _filled(cell: Cell, configuration: Configuration, results: Sequence[Result], paper: Paper) -> Cell:
    """The cell with our number, or with why there is none."""
    cell = replace(cell, row=configuration.row)
    if cell.name in paper.missing:
        return replace(cell, state="not run (data)")
    if f"{cell.name}/{configuration.row}" in paper.missing:
        return replace(cell, state="not run (weights)")
    own = [result for result in results if result.row == configuration.row]
    return _scored(cell, own, paper) if own else replace(cell, state="not run (yet)")


def _scored(cell: Cell, own: Sequence[Result], paper: Paper) -> Cell:
    values = cell.kind.ours(own)
    value = values[0] if _with_model(cell) else values[cell.measure]
    state = counted(own, cell.kind) + (" (--smoke: no number to compare)" if paper.smoke else "")
    return replace(cell, ours=value, state=state)
